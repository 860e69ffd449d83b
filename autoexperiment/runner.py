"""The experiment harness: run a configuration, go on with a run that was stopped, evaluate a checkpoint.

Every run is one child process under the supervisor. Its numbers come from its own files; how it ended comes
from the supervisor; `run.json`, `summary.json` and the history's entry are written here, when it is known.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoexperiment import __version__, history, machine, trainer
from autoexperiment.errors import HarnessError, Locked
from autoexperiment.evaluations import run_evaluation
from autoexperiment.files import remove_folder, write_json
from autoexperiment.kept import KeptRun, open_run
from autoexperiment.paths import OutputPaths, RunPaths, find_root, new_run
from autoexperiment.planning import ExperimentPlan, PlacedConfig, make_plan
from autoexperiment.run import Run
from autoexperiment.supervisor import Ending, Signals
from autoexperiment.trainer import Listening, Observer, Quiet
from autoexperiment.training.request import TRAIN, Request
from autoexperiment.vocabulary import Outcome, RunStatus, TrustLevel

if TYPE_CHECKING:
    from autoexperiment.config import ExperimentConfig

__all__ = ["describe_plan", "resume", "run_evaluation", "run_experiment", "run_plan"]


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
    _check_kind(config)
    plan = make_plan(config, root=root or find_root(Path.cwd()))
    return describe_plan(plan) if dry_run else run_plan(plan, observer=observer)


def _check_kind(config: object) -> None:
    """Raises: HarnessError: this is a path or a mapping, not a configuration that was loaded."""
    from autoexperiment.config import ExperimentConfig

    if not isinstance(config, ExperimentConfig):
        raise HarnessError(
            f"run_experiment takes an ExperimentConfig, not a {type(config).__name__}. Load it first: "
            "ConfigLoader.load_from_file(path), or ConfigLoader.load_from_dict(mapping)."
        )


def describe_plan(plan: ExperimentPlan) -> dict[str, Any]:
    """What a dry run answers."""
    facts = plan.facts
    return {
        "experiment": plan.config.name,
        "status": "dry_run",
        "output_dir": str(plan.outputs.root),
        "data": {
            "task": facts.task,
            "rows": facts.n_rows,
            "shape": list(facts.shape),
            "classes": facts.n_classes,
            "parts": plan.parts,
            "to_fetch": plan.to_fetch,
        },
        "config": plan.json,
    }


def run_plan(plan: ExperimentPlan, *, observer: Observer | None = None) -> dict[str, Any]:
    """As `run_experiment`, of a plan that was made before."""
    from autoexperiment import datasets

    observer = observer or Quiet()
    datasets.fetch(plan.json["dataset"], root=plan.root, say=lambda line: observer.heard("note", line))
    now = datetime.now()
    run = _make_place(plan, now)
    with history.hold(run):
        history.record_run(plan.outputs, run, status=RunStatus.RUNNING, created_at=now)
        return _train(plan, run, observer, outputs=plan.outputs)


def _make_place(plan: ExperimentPlan, now: datetime) -> RunPaths:
    """A run directory with its configuration, or nothing."""
    run: RunPaths | None = None
    try:
        run = new_run(plan.outputs.experiment(plan.config.name), now)
        write_config(plan, run)
    except OSError as error:
        if run is not None:
            remove_folder(run.folder)
        raise HarnessError(
            f"No run can be made in {plan.outputs.root}: {error.strerror}. It must be writable and have room. "
            "Make room, or choose another output.directory; then start again."
        ) from error
    return run


def write_config(plan: PlacedConfig, run: RunPaths) -> None:
    """Write down what a run is of, before it begins."""
    write_json(run.config, plan.json)


def resume(
    run_dir: str | Path, *, config: ExperimentConfig | None = None, observer: Observer | None = None
) -> dict[str, Any]:
    """Go on with a run that was stopped or killed, from its last complete checkpoint; returns its summary.

    The end is byte for byte that of a run that was never stopped. A completed run is left as it is.

    Args: config: must be the run's own; None: taken from the run.
    Raises: HarnessError: there is no such run, it is going on, it diverged, or `config` is another one.
    """
    observer, kept = observer or Quiet(), open_run(run_dir)
    if config is not None and (other := _differing(config, kept.config)):
        raise HarnessError(
            f"The configuration differs from that of {run_dir}: {', '.join(other)}. A run keeps its configuration. "
            "Leave --config and --set out to go on with it, or --resume to start another run."
        )
    plan = make_plan(kept.config, root=kept.root)
    try:
        lock = history.hold(kept.paths)
    except Locked as error:
        raise HarnessError(f"{run_dir} is going on in another process. Wait for its end.") from error
    with lock:
        return _go_on(plan, kept, observer)


def _go_on(plan: ExperimentPlan, kept: KeptRun, observer: Observer) -> dict[str, Any]:
    run = kept.paths
    if done := _ended_for_good(plan, run):
        observer.heard("note", "This run is completed already: there is nothing to go on with.")
        return done
    if kept.outputs is None:
        observer.heard("note", "This run lies outside the place that its configuration names: no history lists it.")
    else:
        history.record_run(kept.outputs, run, status=RunStatus.RUNNING)
    for of_before in (run.summary, run.record):  # a kill from here on leaves nothing that speaks of the end
        of_before.unlink(missing_ok=True)
    return _train(plan, run, observer, outputs=kept.outputs, is_resumed=True)


def _ended_for_good(plan: ExperimentPlan, run: RunPaths) -> dict[str, Any] | None:
    """The summary of a completed run, or None. Raises: HarnessError: it diverged, and would again."""
    from autoexperiment.training import curves

    before = history.read_object(run.summary)
    if before.get("status") == RunStatus.DIVERGED:
        raise HarnessError(
            f"{run.folder} diverged ({before.get('reason')}), and would do so again. Start another run with a smaller "
            "training.learning_rate."
        )
    if before.get("status") != RunStatus.COMPLETED:
        return None
    return _summary(plan, run, RunStatus.COMPLETED, "", curves.last_row(run))


def _differing(one: ExperimentConfig, other: ExperimentConfig) -> list[str]:
    a, b = one.to_json(), other.to_json()
    return [name for name in a if a[name] != b[name]]


def train(
    plan: PlacedConfig,
    run: RunPaths,
    *,
    signals: Signals,
    observer: Observer | None = None,
    threads: int | None = None,
    timeout_s: float | None = None,
    is_resumed: bool = False,
) -> tuple[Run, dict[str, Any]]:
    """Let the training process work in a run's folder, whose lock the caller holds, and write down how it ended.

    Args:
        threads: of its BLAS; None: as usual.
        timeout_s: besides the configuration's own.
    Returns: what run.json and summary.json hold.
    """
    listening = Listening(observer or Quiet())
    request = Request(TRAIN, str(plan.root), plan.json, str(run.folder), resume=is_resumed)
    ending = trainer.run(
        request, folder=run.folder, log=run.log, heard=listening.heard, signals=signals, threads=threads,
        timeout_s=min(filter(None, (timeout_s, plan.config.training.timeout_s)), default=None),
    )  # fmt: skip
    return _write_down(plan, run, listening, ending, threads=threads or trainer.blas_threads())


def _train(
    plan: ExperimentPlan, run: RunPaths, observer: Observer, *, outputs: OutputPaths | None, is_resumed: bool = False
) -> dict[str, Any]:
    """Let the training process work in a run's folder, then write down how it ended.

    Args: outputs: where the run is entered in a history; None: nowhere.
    Raises: KeyboardInterrupt: it was completed, and somebody asked for an end meanwhile: nothing is to come next.
    """
    with Signals().watched() as signals:
        observer.begun(plan, run)
        _, summary = train(plan, run, signals=signals, observer=observer, is_resumed=is_resumed)
        if outputs is not None:
            status = RunStatus(summary["status"])
            history.record_run(outputs, run, status=status, final_metrics=summary["final_metrics"])
    if signals.received and summary["status"] == RunStatus.COMPLETED:
        observer.heard("note", f"Stopped when it had been completed already: {run.folder}")
        raise KeyboardInterrupt
    return summary


def _write_down(
    plan: PlacedConfig, run: RunPaths, listening: Listening, ending: Ending, *, threads: int
) -> tuple[Run, dict[str, Any]]:
    """Write run.json and summary.json; returns both."""
    from autoexperiment.training import curves

    final = curves.last_row(run)
    is_finished = final is not None and final["epoch"] == plan.config.training.epochs
    outcome = listening.outcome(ending, is_finished=is_finished)
    status = RunStatus.of(outcome)
    record = _record(plan, outcome, listening.reason(ending), ending, final or {}, threads=threads)
    summary = _summary(plan, run, status, record.reason, final)
    record.save(run)
    write_json(run.summary, summary)
    if not plan.config.output.save_logs and status is not RunStatus.FAILED:
        run.log.unlink(missing_ok=True)
    return record, summary


def _record(
    plan: PlacedConfig, outcome: Outcome, reason: str, ending: Ending, final: dict[str, Any], *, threads: int
) -> Run:
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
            "machine": {**machine.facts(), "blas_threads": threads},
            "budget": f"epochs:{plan.config.training.epochs}",
        },
    )


def _summary(
    plan: PlacedConfig, run: RunPaths, status: RunStatus, reason: str, final: dict[str, Any] | None
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
