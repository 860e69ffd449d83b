"""Train a candidate once, score it in a separate process, and say what happened.

Nothing here decides or records: a trial goes from bytes to an immutable `Run` in its own folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoexperiment import metrics as metric_files
from autoexperiment.budget import Budget
from autoexperiment.errors import LabError
from autoexperiment.files import load_json
from autoexperiment.measure.scorer import Score, ScoreRequest
from autoexperiment.paths import RunPaths
from autoexperiment.recipe import PYTHON, SEALED, Recipe
from autoexperiment.run import Run
from autoexperiment.supervisor import Ending, Limits, run_environment, supervise
from autoexperiment.vocabulary import Outcome, TrustLevel

STARTUP_FACTOR = 1.5  # a run may take this times the baseline's own start-up …
STARTUP_SLACK_S = 2.0  # … and this much longer, before its training counts as longer than the budget
MISMATCH = 1e-3  # how far the recipe's own number may lie from the scorer's, in the metric's unit
SCORING_TIMEOUT_S = 1800.0
REPORT_BYTES = 1_000_000
CHECKPOINT_BYTES = 20_000_000_000
CHECKPOINT_FILES = ("model.safetensors", "config.json")

# name in last_run.json's "training" object -> name of the metric
_REPORTED = {
    "avg_tok_sec": "avg_tok_sec",
    "peak_memory_mb": "reported_peak_memory_mb",
    "total_steps": "num_steps",
    "total_tokens": "total_tokens",
    "training_seconds": "training_seconds",
}


@dataclass(frozen=True)
class TrialPlan:
    """Everything that fixes one run.

    Attributes:
        candidate, harness: bytes of the mutable and of the immutable files, by path.
        data: the prepared dataset's folder, or None when the recipe brings its own data.
        startup_s: the baseline's measured time outside training, or None while that is being measured.
        kernels: compiled CPU kernels to start from; compiling them anew takes half a minute.
        provenance: copied into the run's record.
    """

    recipe: Recipe
    budget: Budget
    candidate: Mapping[str, bytes]
    harness: Mapping[str, bytes]
    seed: int
    data: Path | None = None
    startup_s: float | None = None
    kernels: Path | None = None
    provenance: Mapping[str, Any] | None = None


def _materialise(folder: Path, plan: TrialPlan) -> None:
    """Write candidate and harness files into a folder that did not exist before."""
    folder.mkdir(parents=True)
    for name, blob in {**plan.candidate, **plan.harness}.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(blob)


def allowed_wall_s(budget: Budget, startup_s: float | None) -> float | None:
    """Longest wall time a run may take from exec to exit, or None when nothing bounds it but the hard timeout."""
    if budget.seconds is None or startup_s is None:
        return None
    return budget.seconds + STARTUP_FACTOR * startup_s + STARTUP_SLACK_S


def _variables(plan: TrialPlan) -> dict[str, str]:
    variables = {"SEED": str(plan.seed), **plan.budget.environment()}
    if plan.data is not None:
        variables["AUTOEXPERIMENT_DATA"] = str(plan.data)
    if plan.recipe.scoring == SEALED:
        variables["AUTOEXPERIMENT_SKIP_EVAL"] = "1"
    return variables


def _train(plan: TrialPlan, paths: RunPaths, on_tick: Callable[[float], None] | None) -> Ending:
    command = [sys.executable if word == PYTHON else word for word in plan.recipe.command]
    limits = Limits(plan.budget.hard_timeout_s, allowed_wall_s=allowed_wall_s(plan.budget, plan.startup_s))
    environment = run_environment(paths.folder, extra=_variables(plan))
    return supervise(command, cwd=paths.work, log=paths.log, limits=limits, env=environment, on_tick=on_tick)


def _read_untrusted(path: Path, limit: int) -> bytes | None:
    """Bytes of a regular file that the run wrote, or None; never follows a link, never reads a pipe."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        facts = os.fstat(fd)
        return file.read() if stat.S_ISREG(facts.st_mode) and facts.st_size <= limit else None


def _report(paths: RunPaths) -> dict[str, Any]:
    """The recipe's own `data/last_run.json`, or {} when there is none that is sound."""
    blob = _read_untrusted(paths.reported, REPORT_BYTES)
    try:
        value = load_json(blob) if blob is not None else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < float("inf") else None


def _self_reported(report: dict[str, Any]) -> dict[str, float]:
    training = report.get("training")
    training = training if isinstance(training, dict) else {}
    found = {ours: _number(training.get(theirs)) for theirs, ours in _REPORTED.items()}
    return {name: value for name, value in found.items() if value is not None and value >= 0}


def _own_number(recipe: Recipe, report: dict[str, Any], log: Path) -> float | None:
    """The metric as the recipe itself states it: from its report file, else from its output block."""
    result = report.get("result")
    if isinstance(result, dict) and (value := _number(result.get(recipe.metric))) is not None:
        return value
    try:
        return metric_files.extract_line(metric_files.read_tail(log), recipe.metric)
    except metric_files.MetricMissing:
        return None


def _check_checkpoint(paths: RunPaths) -> str:
    """Why the checkpoint can't be scored, or "" when both of its files are regular and of sane size."""
    for name in CHECKPOINT_FILES:
        file = paths.checkpoint / name
        try:
            facts = file.lstat()
        except OSError:
            return f"The run left no checkpoint: {name} is missing."
        if not stat.S_ISREG(facts.st_mode) or not 0 < facts.st_size <= CHECKPOINT_BYTES:
            return f"The checkpoint's {name} is not a regular file of a sane size."
    return ""


def _score(plan: TrialPlan, paths: RunPaths) -> tuple[Score | None, Ending]:
    """Run the scorer under the supervisor, on fresh copies of every file but the checkpoint."""
    folder = paths.folder / "evaluation"
    _materialise(folder / "candidate", plan)
    _materialise(folder / "harness", TrialPlan(plan.recipe, plan.budget, {}, plan.harness, plan.seed))
    module = Path(plan.recipe.mutable[0]).stem
    request = ScoreRequest(str(folder / "harness"), str(folder / "candidate"), str(paths.checkpoint), module)
    request.save(folder / "request.json")
    result = folder / "result.json"
    command = [sys.executable, "-m", "autoexperiment.measure.scorer", str(folder / "request.json"), str(result)]
    environment = run_environment(folder, extra=_variables(plan))  # a home that the training never saw
    ending = supervise(
        command, cwd=folder, log=paths.folder / "evaluation.log", limits=Limits(SCORING_TIMEOUT_S), env=environment
    )
    score = Score.load(result) if ending.outcome is Outcome.OK and result.exists() else None
    shutil.rmtree(folder)
    return score, ending


_SCORE_OUTCOME = {"crashed": Outcome.CRASHED, "nonfinite": Outcome.DIVERGED, "shape": Outcome.REJECTED}


@dataclass(frozen=True)
class _Primary:
    """The primary metric of one run with its outcome; `value` is None unless the outcome is ok."""

    outcome: Outcome
    reason: str
    value: float | None = None
    trust: TrustLevel = TrustLevel.SELF_REPORTED
    evaluation: Mapping[str, Any] | None = None
    interruption: Ending | None = None  # of the scorer, when that is what was stopped


def _sealed_metric(plan: TrialPlan, paths: RunPaths, own: float | None) -> _Primary:
    if fault := _check_checkpoint(paths):
        return _Primary(Outcome.REJECTED, fault)
    score, ending = _score(plan, paths)
    if score is None:
        if ending.outcome is Outcome.INTERRUPTED:
            return _Primary(Outcome.INTERRUPTED, ending.reason, interruption=ending)
        return _Primary(Outcome.REJECTED, f"The evaluation failed: {ending.reason or 'no result'}")
    account = asdict(score)
    if score.problem:
        return _Primary(_SCORE_OUTCOME[score.problem], score.message, evaluation=account)
    assert score.val_bpb is not None
    if own is not None and abs(own - score.val_bpb) > MISMATCH:
        reason = f"The recipe states {plan.recipe.metric} {own:.6f}, the scorer measured {score.val_bpb:.6f}."
        return _Primary(Outcome.REJECTED, reason, evaluation=account)
    return _Primary(Outcome.OK, "", score.val_bpb, TrustLevel.RECOMPUTED, account)


def _measure(plan: TrialPlan, paths: RunPaths, report: dict[str, Any]) -> _Primary:
    try:
        own = _own_number(plan.recipe, report, paths.log)
    except LabError as error:  # an ambiguous or malformed number is no number
        return _Primary(Outcome.REJECTED, str(error))
    if plan.recipe.scoring == SEALED:
        return _sealed_metric(plan, paths, own)
    if own is None:
        return _Primary(Outcome.REJECTED, f"The run printed no {plan.recipe.metric}.")
    return _Primary(Outcome.OK, "", own)


def _measured_metrics(plan: TrialPlan, ending: Ending, report: dict[str, Any], primary: _Primary) -> dict[str, float]:
    found = _self_reported(report)
    peak = max(ending.peak_memory_mb, found.pop("reported_peak_memory_mb", 0.0))  # a run can't talk it down
    found |= {"peak_memory_mb": peak, "wall_s": ending.wall_s, "cpu_s": ending.cpu_s}
    if primary.value is not None:
        found[plan.recipe.metric] = primary.value
    if primary.evaluation:
        found["eval_seconds"] = primary.evaluation["eval_s"]
    return found


_FROM_OUTSIDE = ("peak_memory_mb", "wall_s", "cpu_s", "eval_seconds")


def run_trial(plan: TrialPlan, paths: RunPaths, *, on_tick: Callable[[float], None] | None = None) -> Run:
    """Train and score one candidate in `paths.folder`, which must be new; writes `run.json` there."""
    _materialise(paths.work, plan)
    known = copy_kernels(plan.kernels, paths.kernels)
    ending = _train(plan, paths, on_tick)
    report = _report(paths) if ending.outcome is Outcome.OK else {}
    if ending.outcome is Outcome.OK:
        primary = _measure(plan, paths, report)
    else:
        primary = _Primary(ending.outcome, ending.reason)
    numbers = _measured_metrics(plan, ending, report, primary)
    trust = dict.fromkeys(numbers, TrustLevel.SELF_REPORTED) | {
        name: TrustLevel.MEASURED for name in _FROM_OUTSIDE if name in numbers
    }
    trust[plan.recipe.metric] = primary.trust
    run = Run(
        outcome=primary.outcome,
        reason=primary.reason,
        seed=plan.seed,
        metrics=numbers,
        trust={name: level for name, level in trust.items() if name in numbers},
        ending=(primary.interruption or ending).to_json(),
        evaluation=dict(primary.evaluation or {}),
        provenance={
            **(plan.provenance or {}),
            "files": _hashes(plan),
            "budget": str(plan.budget),
            "new_kernels": _count(paths.kernels) - known,
        },
    )
    run.save(paths)
    return run


def copy_kernels(source: Path | None, target: Path) -> int:
    """Copy compiled kernels, if there are any; returns the number of files then in `target`."""
    if source is not None and source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    return _count(target)


def _count(folder: Path) -> int:
    return sum(file.is_file() for file in folder.rglob("*"))


def _hashes(plan: TrialPlan) -> dict[str, str]:
    return {n: hashlib.sha256(b).hexdigest() for n, b in sorted({**plan.candidate, **plan.harness}.items())}


def discard_weights(paths: RunPaths) -> None:
    """Free the disk of a run that was not kept: its record, log and report stay, its work folder goes."""
    blob = _read_untrusted(paths.reported, REPORT_BYTES)
    if blob is not None:
        paths.kept_report.write_bytes(blob)
    shutil.rmtree(paths.work, ignore_errors=True)
