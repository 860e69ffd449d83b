"""The experiment harness: run a configuration, go on with a run that was stopped, evaluate a checkpoint.

Every run is one child process under the supervisor. Its numbers come from its own files; how it ended comes
from the supervisor; `run.json`, `summary.json` and the history's index are written here, when it is known.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from autoexperiment import __version__, history, machine, trainer
from autoexperiment.errors import HarnessError, Locked, unknown
from autoexperiment.files import Lock, read_json, write_json
from autoexperiment.paths import FINAL_CHECKPOINT, OutputPaths, RunPaths, find_root, new_run
from autoexperiment.planning import ExperimentPlan, make_plan
from autoexperiment.run import Run
from autoexperiment.supervisor import Ending
from autoexperiment.training.request import EVALUATE, TRAIN, Request
from autoexperiment.vocabulary import Outcome, RunStatus, TrustLevel

if TYPE_CHECKING:
    from autoexperiment.config import ExperimentConfig

LOOK_S = 2.0  # a reader of the history may touch a run's lock for a moment
SPLITS = ("train", "val", "test")


class Observer(Protocol):
    """What a front end hears while an experiment is run or a checkpoint evaluated."""

    def begun(self, plan: ExperimentPlan, run: RunPaths) -> None: ...
    def heard(self, word: str, text: str) -> None: ...


class Quiet:
    """An observer that shows nothing."""

    def begun(self, plan: ExperimentPlan, run: RunPaths) -> None: ...
    def heard(self, word: str, text: str) -> None: ...


@dataclass
class _Listening:
    """Passes on what the training process says, and keeps its last complaint, and whether it came to its end."""

    observer: Observer
    complaint: str = ""
    is_done: bool = False

    def heard(self, word: str, text: str) -> None:
        if word in ("error", "diverged"):
            self.complaint = text
        self.is_done = word == "done"
        self.observer.heard(word, text)

    def outcome(self, ending: Ending) -> Outcome:
        """How the process ended. That the machine slept meanwhile changes no number: none depends on a clock."""
        if ending.exit_code == 0 and self.is_done:
            return Outcome.OK
        if ending.outcome is Outcome.CRASHED and ending.exit_code == trainer.STOPPED:
            return Outcome.INTERRUPTED
        return Outcome.CRASHED if ending.outcome is Outcome.OK else ending.outcome

    def reason(self, ending: Ending) -> str:
        """Why it did not end well, in a sentence."""
        unfinished = "The process ended before its work did: code of the dataset has ended it."
        return self.complaint or ending.reason or unfinished


def run_experiment(
    config: ExperimentConfig, dry_run: bool = False, *, root: Path | None = None, observer: Observer | None = None
) -> dict[str, Any]:
    """Run one experiment to its end, whatever that is.

    Args:
        root: the workspace; None: the top of the git working tree around the current folder, else that folder.
    Returns: the run's summary: `experiment`, `status`, `epochs` (completed ones), `final_metrics`, `run_dir`,
        `checkpoint_dir`, `metrics_dir`, and `reason` unless it was completed. With `dry_run`: `experiment`,
        `status` "dry_run", `config`, `data` and `output_dir`; nothing is run.
    Raises: ConfigError, HarnessError: it can't be run; nothing was written.
    """
    plan = make_plan(config, root=root or find_root(Path.cwd()))
    return describe_plan(plan) if dry_run else run_plan(plan, observer=observer)


def describe_plan(plan: ExperimentPlan) -> dict[str, Any]:
    """What a dry run answers."""
    facts = plan.facts
    return {
        "experiment": plan.config.name,
        "status": "dry_run",
        "output_dir": str(plan.outputs.root),
        "data": {"task": facts.task, "rows": facts.n_rows, "shape": list(facts.shape), "classes": facts.n_classes},
        "config": plan.json,
    }


def run_plan(plan: ExperimentPlan, *, observer: Observer | None = None) -> dict[str, Any]:
    """As `run_experiment`, of a plan that was made before."""
    from autoexperiment import datasets

    observer = observer or Quiet()
    datasets.fetch(plan.json["dataset"], root=plan.root, say=lambda line: observer.heard("note", line))
    now = datetime.now()
    run = new_run(plan.outputs.experiment(plan.config.name), now)
    with Lock(run.lock).acquire(timeout_s=LOOK_S):
        write_json(run.config, plan.json)
        history.record_run(plan.outputs, run, status=RunStatus.RUNNING, created_at=now)
        return _train(plan, run, observer, is_resumed=False)


def resume(
    run_dir: Path, *, config: ExperimentConfig | None = None, observer: Observer | None = None
) -> dict[str, Any]:
    """Go on with a run that was stopped or killed, from its last complete checkpoint; returns its summary.

    The end is byte for byte that of a run that was never stopped. A completed run is left as it is.

    Args: config: must be the run's own; None: taken from the run.
    Raises: HarnessError: there is no such run, it is going on, it diverged, or `config` is another one.
    """
    observer = observer or Quiet()
    run = RunPaths(_run_folder(run_dir))
    own = load_config(run)
    if config is not None and config.to_json() != own.to_json():
        raise HarnessError(
            f"The configuration differs from that of {run_dir}: {', '.join(_differing(config, own))}. A run keeps its "
            "configuration. Leave --config and --set out to go on with it, or --resume to start another run."
        )
    plan = make_plan(own, root=_root_of(run, own))
    lock = Lock(run.lock)
    try:
        lock.acquire(timeout_s=LOOK_S)
    except Locked as error:
        raise HarnessError(f"{run_dir} is going on in another process. Wait for its end.") from error
    with lock:
        if done := _ended_for_good(run):
            observer.heard("note", "This run is completed already: there is nothing to go on with.")
            return done
        history.record_run(OutputPaths(run.folder.parent.parent), run, status=RunStatus.RUNNING)
        return _train(plan, run, observer, is_resumed=True)


def _ended_for_good(run: RunPaths) -> dict[str, Any] | None:
    """The summary of a completed run, or None. Raises: HarnessError: it diverged, and would again."""
    summary = read_json(run.summary) if run.summary.exists() else {}
    if summary.get("status") == RunStatus.DIVERGED:
        raise HarnessError(
            f"{run.folder} diverged: {summary.get('reason')} It would do so again. Start another run with a smaller "
            "training.learning_rate."
        )
    return summary if summary.get("status") == RunStatus.COMPLETED else None


def _root_of(run: RunPaths, config: ExperimentConfig) -> Path:
    """The workspace that a run was made in: its folder without what the configuration says of it.

    A run that was moved out of its place belongs to the workspace around the current folder.
    """
    place = Path(os.path.normpath(config.output.directory), config.name, run.folder.name)
    if run.folder.parts[-len(place.parts) :] == place.parts:
        return Path(*run.folder.parts[: -len(place.parts)])
    return find_root(Path.cwd())


def _differing(one: ExperimentConfig, other: ExperimentConfig) -> list[str]:
    a, b = one.to_json(), other.to_json()
    return [name for name in a if a[name] != b[name]]


def _train(plan: ExperimentPlan, run: RunPaths, observer: Observer, *, is_resumed: bool) -> dict[str, Any]:
    """Let the training process work in a run's folder, then write down how it ended."""
    from autoexperiment.training import curves

    observer.begun(plan, run)
    listening = _Listening(observer)
    request = Request(TRAIN, str(plan.root), plan.json, str(run.folder), resume=is_resumed)
    timeout_s = plan.config.training.timeout_s
    ending = trainer.run(request, folder=run.folder, log=run.log, heard=listening.heard, timeout_s=timeout_s)
    outcome = listening.outcome(ending)
    final = curves.last_row(run)
    record = _record(plan, outcome, listening.reason(ending), ending, final or {})
    record.save(run)
    status = RunStatus.of(outcome)
    if not plan.config.output.save_logs and status is not RunStatus.FAILED:
        run.log.unlink(missing_ok=True)
    summary = _summary(plan, run, status, record.reason, final)
    write_json(run.summary, summary)
    history.record_run(OutputPaths(run.folder.parent.parent), run, status=status, final_metrics=final)
    if ending.stop_signal is not None and status is RunStatus.COMPLETED:
        observer.heard("note", f"Stopped when it had been completed already: {run.folder}")
        raise KeyboardInterrupt  # whoever asked for an end gets one: what was to come next is not run
    return summary


def _record(plan: ExperimentPlan, outcome: Outcome, reason: str, ending: Ending, final: dict[str, Any]) -> Run:
    told = {name: float(value) for name, value in final.items() if name != "epoch" and value is not None}
    seen = {"wall_s": ending.wall_s, "cpu_s": ending.cpu_s, "peak_memory_mb": ending.peak_memory_mb}
    return Run(
        outcome=outcome,
        reason="" if outcome is Outcome.OK else reason,
        seed=plan.config.training.seed,
        metrics={**told, **seen},
        trust={**dict.fromkeys(told, TrustLevel.SELF_REPORTED), **dict.fromkeys(seen, TrustLevel.MEASURED)},
        ending=ending.to_json(),
        provenance={
            "version": __version__,
            "machine": machine.facts(),
            "budget": f"epochs:{plan.config.training.epochs}",
        },
    )


def _summary(
    plan: ExperimentPlan, run: RunPaths, status: RunStatus, reason: str, final: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "experiment": plan.config.name,
        "status": str(status),
        "epochs": final["epoch"] if final else 0,
        "final_metrics": final,
        "run_dir": str(run.folder),
        "checkpoint_dir": str(run.checkpoints),
        "metrics_dir": str(run.metrics),
        **({"reason": reason} if reason else {}),
    }


# ---- evaluating a checkpoint


def _run_folder(run_dir: Path) -> Path:
    """Raises: HarnessError: this is no folder of a run of the harness."""
    folder = Path(run_dir)
    if not folder.exists():
        raise HarnessError(f"Run directory not found: {run_dir}. List the runs: mlx history list")
    if not folder.is_dir():
        raise HarnessError(f"Run directory is a file: {run_dir}. Name the folder that holds config.json.")
    run = RunPaths(folder.resolve())
    if not run.config.is_file():
        what = (
            "This is a run of the loop: its numbers stand in run.json. See: mlx loop log"
            if run.record.is_file()
            else "Name the folder that 'mlx run-experiment' printed. List the runs: mlx history list"
        )
        raise HarnessError(f"{run_dir} has no config.json, so it is no run of the harness. {what}")
    return run.folder


def load_config(run: RunPaths) -> ExperimentConfig:
    """A run's own configuration. Raises: ConfigError: it was damaged."""
    from autoexperiment.config import ConfigLoader

    return ConfigLoader.load_from_file(run.config)


@dataclass(frozen=True)
class EvaluationPlan:
    """A checkpoint that is ready to be evaluated, on the plan's dataset. `is_own`: the run was trained on it."""

    run: RunPaths
    plan: ExperimentPlan
    checkpoint: str
    split: str
    metrics: tuple[str, ...]
    is_own: bool

    @property
    def result(self) -> Path:
        """Where the answer is kept: beside the checkpoint; another dataset's under a name of its own."""
        import hashlib

        from autoexperiment.files import dump_json

        other = (
            ""
            if self.is_own
            else "." + hashlib.sha256(dump_json(self.plan.json["dataset"], indent=None).encode()).hexdigest()[:8]
        )
        return self.run.checkpoints / f"{self.checkpoint}.{self.split}{other}.json"


def plan_evaluation(
    run_dir: Path,
    checkpoint_name: str = FINAL_CHECKPOINT,
    *,
    config: ExperimentConfig | None = None,
    split: str = "test",
    metrics: Sequence[str] | None = None,
) -> EvaluationPlan:
    """Look at everything that an evaluation needs. Raises: ConfigError, DataError, HarnessError."""
    from autoexperiment.training import checkpoints, scores

    if split not in SPLITS:
        raise HarnessError(unknown("split", split, SPLITS))
    run = RunPaths(_run_folder(run_dir))
    own = load_config(run)
    checkpoint = checkpoints.find(run, checkpoint_name)
    dataset = (config or own).dataset
    plan = make_plan(own.model_copy(update={"dataset": dataset}), root=_root_of(run, own))
    known = scores.known(plan.facts.task)
    for name in metrics or ():
        if name not in known:
            raise HarnessError(unknown(f"metric of a {plan.facts.task}", name, known))
    is_own = plan.json["dataset"] == own.to_json()["dataset"]
    return EvaluationPlan(run, plan, checkpoint.name, split, tuple(metrics or ()), is_own)


def run_evaluation(
    run_dir: Path,
    checkpoint_name: str = FINAL_CHECKPOINT,
    *,
    config: ExperimentConfig | None = None,
    split: str = "test",
    metrics: Sequence[str] | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Compute metrics of a checkpoint on one part of a dataset, without training.

    Args:
        checkpoint_name: "checkpoint_final", "checkpoint_epoch_10", or an epoch's number.
        config: its dataset is used instead of the run's own.
        split: "train", "val" or "test"; the parts are those that the run was trained with.
        metrics: names; None: all that the task has.
    Returns: `metrics` by name, and what they are of: `experiment`, `checkpoint`, `epoch`, `split`, `n_rows`, `dataset`,
        `trust`, and `saved` (the file beside the checkpoint that holds the same).
    Raises: ConfigError, DataError, HarnessError.
    """
    wanted = plan_evaluation(run_dir, checkpoint_name, config=config, split=split, metrics=metrics)
    return evaluate_plan(wanted, observer=observer)


def evaluate_plan(wanted: EvaluationPlan, *, observer: Observer | None = None) -> dict[str, Any]:
    """As `run_evaluation`, of a plan that was made before."""
    listening = _Listening(observer or Quiet())
    with tempfile.TemporaryDirectory(prefix="autoexperiment-") as name:
        folder = Path(name)
        request = Request(
            EVALUATE, str(wanted.plan.root), wanted.plan.json, str(wanted.run.folder), result=str(folder / "answer.json"),
            checkpoint=wanted.checkpoint, split=wanted.split, metrics=wanted.metrics,
        )  # fmt: skip
        ending = trainer.run(request, folder=folder, log=folder / "run.log", heard=listening.heard)
        outcome = listening.outcome(ending)
        if outcome is Outcome.INTERRUPTED:
            raise KeyboardInterrupt
        if outcome is not Outcome.OK:
            raise HarnessError(f"The evaluation failed: {listening.reason(ending)}")
        answer = read_json(Path(request.result))
    result = {
        "experiment": wanted.plan.config.name,
        **answer,
        "dataset": wanted.plan.json["dataset"],
        "trust": str(TrustLevel.RECOMPUTED),
        "saved": str(wanted.result),
    }
    write_json(wanted.result, result)
    return result
