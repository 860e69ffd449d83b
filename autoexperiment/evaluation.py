"""What a run amounts to: its metrics, how each was obtained, and whether they can be believed.

The recipe decides who measures the primary metric: the sealed scorer, a command of the harness, the
supervisor's own clocks, or the run's words.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoexperiment import metrics as metric_files
from autoexperiment import readings
from autoexperiment.errors import LabError, Refused
from autoexperiment.files import load_json, read_plain
from autoexperiment.metrics import MetricError, MetricMissing
from autoexperiment.preparation import words
from autoexperiment.recipe import SEALED, Extractor, Recipe
from autoexperiment.sealed import SCORING_TIMEOUT_S, sealed_metric
from autoexperiment.supervisor import Ending, run_environment, supervise
from autoexperiment.surface import surface_of
from autoexperiment.trained import (
    Interrupted,
    Rejected,
    Trained,
    fresh,
    limits_of,
    rejected,
    write_tree,
)
from autoexperiment.vocabulary import Goal, Outcome, TrustLevel

REPORT_BYTES = 1_000_000
FILE_BYTES = 50_000_000
CASES = "suite_cases"
_COUNTED = {"max_steps": "num_steps", "epochs": "num_epochs"}
_WATCHED = ("line", "regex")  # readings that can be taken from a log while it grows

# name in last_run.json's "training" object -> name of the metric
_REPORTED = {
    "avg_tok_sec": "avg_tok_sec",
    "peak_memory_mb": "reported_peak_memory_mb",
    "total_steps": "num_steps",
    "total_tokens": "total_tokens",
    "training_seconds": "training_seconds",
}
_FROM_OUTSIDE = ("peak_memory_mb", "wall_s", "cpu_s", "eval_seconds", "seconds_to_target")


@dataclass(frozen=True)
class Result:
    """A run's outcome and numbers. The primary metric is there only when the outcome is ok."""

    outcome: Outcome
    reason: str
    metrics: dict[str, float] = field(default_factory=dict)
    trust: dict[str, TrustLevel] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    interruption: Ending | None = None  # of the evaluation, when that is what was stopped


# ---- what the run says of itself


def _report(work: Path) -> dict[str, Any]:
    """The recipe's own `data/last_run.json`, or {} when there is none that is sound."""
    blob = read_plain(work / "data" / "last_run.json", REPORT_BYTES)
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


def _source(extractor: Extractor, run: Trained) -> bytes:
    """The bytes that a reading is taken from. Raises: MetricMissing: the file is not there."""
    if not extractor.file:
        return metric_files.read_tail(run.paths.log)
    blob = read_plain(run.folder / extractor.file, FILE_BYTES)
    if blob is None:
        raise MetricMissing(f"The run left no file {extractor.file}. The protocol says that its number stands there.")
    return blob


def _read(name: str, extractor: Extractor, run: Trained, report: dict[str, Any]) -> tuple[float, TrustLevel]:
    """One number and how it was obtained. Raises: MetricError. Interrupted."""
    if extractor.kind == "measured":
        return _from_outside(extractor.measured, run.ending), TrustLevel.MEASURED
    if extractor.kind == "custom":
        return _ask_command(name, extractor, run), TrustLevel.RECOMPUTED
    stated = report.get("result")
    if extractor.kind == "line" and isinstance(stated, dict) and (value := _number(stated.get(name))) is not None:
        return value, TrustLevel.SELF_REPORTED
    return readings.read(extractor, _source(extractor, run), name=name), TrustLevel.SELF_REPORTED


def _from_outside(name: str, ending: Ending) -> float:
    value: float | None = getattr(ending, name)
    if value is None:
        raise MetricMissing(f"The run never reached its target, so there is no {name}.")
    return value


def _evaluate_command(command: Iterable[str], run: Trained, name: str) -> tuple[Ending, Path]:
    """Run a command of the harness, in a fresh folder with nothing of the candidate's but what the run left."""
    folder = fresh(run.paths.folder / name)
    write_tree(folder / "harness", run.plan.harness)
    where = {"RUN_LOG": str(run.paths.log), "RUN_FOLDER": str(run.folder)}
    log = run.paths.folder / f"{name}.log"
    limits = replace(limits_of(run.plan.recipe, SCORING_TIMEOUT_S), allowed_wall_s=None)
    ending = supervise(
        words(list(command)), cwd=folder / "harness", log=log, limits=limits, env=run_environment(folder, extra=where),
        signals=run.signals,
    )  # fmt: skip
    shutil.rmtree(folder)
    if ending.outcome is Outcome.INTERRUPTED:
        raise Interrupted(ending)
    return ending, log


def _ask_command(name: str, extractor: Extractor, run: Trained) -> float:
    """The number that a command of the harness prints as its last line."""
    ending, log = _evaluate_command(extractor.command, run, "measure-" + re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:80])
    if ending.outcome is not Outcome.OK:
        raise MetricMissing(f"The command that measures {name} failed: {ending.reason}. Its output: {log.name}.")
    lines = [line for line in metric_files.read_tail(log).splitlines() if line.strip()]
    if not lines:
        raise MetricMissing(f"The command that measures {name} printed nothing. Its last line must be the number.")
    return metric_files.parse_number(lines[-1].strip())


# ---- whether the run kept to the rules


def harness_files(recipe: Recipe, work: Path) -> set[str]:
    """Files in a run's folder that belong to the harness by their place, bytecode apart."""
    surface = surface_of(recipe)
    found = set()
    for above, folders, names in os.walk(work):
        folders[:] = [name for name in folders if name not in (".git", "__pycache__")]
        inside = os.path.relpath(above, work)
        paths = [name if inside == "." else f"{inside}/{name}" for name in names]
        found |= {path for path in paths if surface.is_immutable(path)}
    return found


def _check_harness(run: Trained, before: set[str]) -> None:
    """Raises: Rejected: the run changed a file of the harness, or added one."""
    surface = surface_of(run.plan.recipe)
    for name, blob in run.plan.harness.items():
        if not surface.is_held_out(name) and read_plain(run.work / name, len(blob)) != blob:
            raise rejected(Outcome.REJECTED, f"The run changed {name}, which belongs to the harness.")
    if added := harness_files(run.plan.recipe, run.work) - before:
        raise rejected(Outcome.REJECTED, f"The run added {min(added)!r} to the harness.")


def _check_stop(run: Trained, numbers: Mapping[str, float]) -> None:
    """Raises: Rejected: the run trained on past its budget, or never reached its target."""
    budget, stop = run.plan.budget, run.plan.recipe.stop
    name = {"steps": _COUNTED["max_steps"], "epochs": _COUNTED["epochs"]}.get(budget.kind)
    if name and name not in numbers and any(quantity.name == name for quantity in run.plan.recipe.secondary):
        raise rejected(Outcome.REJECTED, f"It does not say its {name}, which its budget is counted by.")
    if name and numbers.get(name, 0.0) > budget.amount:
        raise rejected(Outcome.REJECTED, f"It trained {name} {numbers[name]:g}; the budget is {budget.amount:g}.")
    if stop.kind == "until_metric" and run.ending.seconds_to_target is None:
        raise rejected(Outcome.REJECTED, f"It ended without having reached its target, {stop.target:g}.")


def _check_cases(run: Trained) -> int | None:
    """The test cases of a suite. Raises: Rejected: fewer than the baseline's. MetricError."""
    extractor = run.plan.recipe.extract
    if extractor.kind not in ("junit", "pytest_summary"):
        return None
    count = readings.cases(extractor, _source(extractor, run))
    if count is not None and run.plan.cases is not None and count < run.plan.cases:
        raise rejected(Outcome.REJECTED, f"It ran {count} test cases; the baseline ran {run.plan.cases}.")
    return count


def watched(recipe: Recipe) -> Callable[[bytes], bool] | None:
    """Whether new lines of a log show that the target is reached; None for recipes without a target.

    The number watched is the primary metric where it stands in the log, else the first secondary one that does.
    """
    target = recipe.stop.target
    if recipe.stop.kind != "until_metric" or target is None:
        return None
    known = [(recipe.metric, recipe.goal, recipe.extract), *((q.name, q.goal, q.extract) for q in recipe.secondary)]
    found = next(((n, g, e) for n, g, e in known if e.kind in _WATCHED and not e.file), None)
    if found is None:
        raise Refused("Nothing in the log can be watched for the target. Give a metric with a regex extractor.")
    name, goal, extractor = found
    latest = replace(extractor, take="last")

    def is_reached(lines: bytes) -> bool:
        try:
            value = readings.read(latest, lines, name=name)
        except MetricError:
            return False
        return value <= target if goal is Goal.MINIMIZE else value >= target

    return is_reached


# ---- all of it


def _outside(run: Trained, found: dict[str, float]) -> dict[str, float]:
    peak = max(run.ending.peak_memory_mb, found.pop("reported_peak_memory_mb", 0.0))  # a run can't talk it down
    ending = run.ending
    measured = {"peak_memory_mb": peak, "wall_s": ending.wall_s, "cpu_s": ending.cpu_s}
    if ending.seconds_to_target is not None:
        measured["seconds_to_target"] = ending.seconds_to_target
    return measured


def _secondary(run: Trained, report: dict[str, Any]) -> dict[str, float]:
    """The secondary metrics that can be read; one that can't is missing, and stops nothing."""
    found = {}
    for quantity in run.plan.recipe.secondary:
        try:
            found[quantity.name], _ = _read(quantity.name, quantity.extract, run, report)
        except MetricError:
            continue
    return found


def _primary(run: Trained, report: dict[str, Any]) -> tuple[float, TrustLevel, dict[str, Any]]:
    """Raises: Rejected. Interrupted."""
    recipe = run.plan.recipe
    own: tuple[float, TrustLevel] | None = None
    try:
        own = _read(recipe.metric, recipe.extract, run, report)
    except MetricMissing as error:
        if recipe.scoring != SEALED:
            raise rejected(Outcome.REJECTED, str(error)) from error
    except LabError as error:  # an ambiguous or malformed number is no number
        raise rejected(Outcome.REJECTED, str(error)) from error
    if recipe.scoring == SEALED:
        value, account = sealed_metric(run, own[0] if own else None)
        return value, TrustLevel.RECOMPUTED, account
    assert own is not None
    return *own, {}


def evaluate(run: Trained, *, harness_before: set[str]) -> Result:
    """The outcome and numbers of a run whose process has ended.

    Args: harness_before: the harness's files in the run's folder before the command was started.
    """
    recipe, ok = run.plan.recipe, run.ending.outcome is Outcome.OK
    report = _report(run.work) if ok else {}
    numbers = _self_reported(report)
    outside = _outside(run, numbers)
    outcome, reason, interruption = run.ending.outcome, run.ending.reason, None
    account: dict[str, Any] = {}
    trust: dict[str, TrustLevel] = {}
    try:
        if ok:
            numbers |= _secondary(run, report)
            _check_harness(run, harness_before)
            _check_stop(run, numbers)
            value, level, account = _primary(run, report)
            if (count := _check_cases(run)) is not None:
                numbers[CASES] = float(count)
            numbers[recipe.metric], trust[recipe.metric] = value, level
    except Rejected as error:
        outcome, reason, account = error.args[0], error.args[1], dict(error.evaluation or {})
    except MetricError as error:
        outcome, reason = Outcome.REJECTED, str(error)
    except Interrupted as error:
        outcome, reason, interruption = Outcome.INTERRUPTED, error.args[0].reason, error.args[0]
    numbers |= {name: value for name, value in outside.items() if name != recipe.metric or name not in numbers}
    if outcome is not Outcome.OK:
        numbers.pop(recipe.metric, None)
    if account:
        numbers["eval_seconds"] = account["eval_s"]
    levels = {name: TrustLevel.MEASURED if name in _FROM_OUTSIDE else TrustLevel.SELF_REPORTED for name in numbers}
    trust = {name: level for name, level in {**levels, **trust}.items() if name in numbers}
    return Result(outcome, reason, numbers, trust, account, interruption)
