"""Points that are workflows: one process does all steps of a workflow, and `state.json` says how far it has come."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from autoexperiment import __version__, dotpaths, history, machine, trainer
from autoexperiment.clocks import duration
from autoexperiment.ending import Ending, Limits
from autoexperiment.errors import UsageError
from autoexperiment.files import remove_folder, write_json
from autoexperiment.paths import RunPaths, cache_home
from autoexperiment.run import Run
from autoexperiment.supervisor import Signals, run_environment, supervise
from autoexperiment.sweep.points import Order, Result, finite
from autoexperiment.sweep.work import check_options
from autoexperiment.vocabulary import Outcome, RunStatus, TrustLevel
from autoexperiment.workflow import atoms, loading
from autoexperiment.workflow.identity import Identity
from autoexperiment.workflow.request import Request
from autoexperiment.workflow.running import begun, ended_early, load_state, save_state
from autoexperiment.workflow.state import Status, WorkflowState
from autoexperiment.workflow.steps import Workflow

OPTIONS = ("workflow", "input_atoms", "user", "seed_path", "use_cache")
STATS = "stats"  # of an evaluation's samples: beside the metrics, and none itself


@dataclass
class WorkflowWork:
    """Configurations of one workflow. `base`: by step, with every default, but not checked: a sweep may complete it."""

    kind: ClassVar[str] = "workflow"
    metric: ClassVar[str] = ""

    workflow: Workflow
    base: Mapping[str, Any]
    seed_path: str
    identities: Identity
    options: Mapping[str, Any]

    def is_clocked(self, config: Mapping[str, Any]) -> bool:
        return self.workflow.is_clocked is not None and self.workflow.is_clocked(config)

    def resolve(self, params: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
        values = dict(params)
        if seed is not None:
            if not self.seed_path:
                raise UsageError(
                    f"Where a seed goes in the configuration of workflow {self.workflow.name!r} is not known. Name the dot "
                    "path, seed_path='train.seed' for example, or leave the seeds out."
                )
            if self.seed_path in values:
                raise UsageError(f"{self.seed_path!r} is a parameter and the seeds' place. Leave one of them out.")
            values[self.seed_path] = seed
        config = self.workflow.checked(dotpaths.replaced(self.base, values))
        self.identities.read(config)
        return config

    def identity(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return self.identities.of(config)

    def expected_s(self, config: Mapping[str, Any]) -> float | None:
        return None


def make(base: Mapping[str, Any], *, root: Path, options: Mapping[str, Any]) -> WorkflowWork:
    """The work on a base configuration.

    Args:
        base: by step; or an object of the workflow's configuration.
        options: `workflow`: "module:attribute", or the Workflow itself; `input_atoms`: JSON values, and files or
            folders as pathlib.Path or as {"path": …}; `user`; `seed_path`: where a replicate's seed goes, if not where
            the workflow says; `use_cache`: whether steps that were done before are left out.
    """
    check_options(options, OPTIONS)
    loading.extend_path([str(root)])  # what the configuration names counts, wherever this program was started
    workflow, reference = _workflow(options.get("workflow"), root)
    plain = atoms.encoded(options.get("input_atoms") or {})
    told = {
        "workflow": reference,
        "input_atoms": plain,
        "user": options.get("user") or "",
        "use_cache": options.get("use_cache", True),
        "trust": str(workflow.trust),
        "path": loading.search_path(),
        "name": workflow.name,
        "steps": [step.name for step in workflow.steps],
    }
    given = atoms.checked(workflow, plain, root=root)
    seed_path = options.get("seed_path") or workflow.seed_path
    return WorkflowWork(workflow, workflow.filled(base), seed_path, Identity(workflow, given, root), told)


def _workflow(given: Any, root: Path) -> tuple[Workflow, str]:
    """A workflow, and the words by which another process imports it."""
    if isinstance(given, Workflow):
        loading.check_importable(given)
        return given, loading.reference_of(given)
    if isinstance(given, str) and given:
        return loading.load_workflow(given, root=root), given
    raise UsageError(f'The workflow is {given!r}. Needed: a Workflow, or the words "module:name" for one.')


# ---- a point's run


def perform(order: Order, run: RunPaths, *, signals: Signals | None) -> Result:
    """Do all steps in a process of its own."""
    write_json(run.config, {"workflow": order.options["workflow"], "config": order.point.config})
    with history.hold(run):
        ending = _supervised(order, run, signals or Signals())
        state = _settled(order, run, ending)
        record = _record(order, state, ending)
        record.save(run)
    trust = {name: str(level) for name, level in record.trust.items()}
    metrics = {**metrics_of(state), **record.metrics} if record.outcome is Outcome.OK else {}
    return Result(RunStatus.of(record.outcome), metrics, trust, record.reason)


def _supervised(order: Order, run: RunPaths, signals: Signals) -> Ending:
    state_home = {name: os.environ[name] for name in ("XDG_STATE_HOME",) if name in os.environ}
    threads = {"OPENBLAS_NUM_THREADS": str(order.threads or trainer.blas_threads())}
    environment = run_environment(run.folder, extra={"AUTORESEARCH_CACHE": str(cache_home()), **state_home, **threads})
    asked = run.private / "request.json"  # which may be longer than a command line
    _request(order, run).save(asked)
    try:
        return supervise(
            [sys.executable, "-P", "-m", "autoexperiment.workflow.child", str(asked)],
            cwd=Path(order.root), log=run.log, limits=Limits(order.timeout_s or trainer.NO_TIMEOUT_S), env=environment,
            signals=signals,
        )  # fmt: skip
    finally:
        remove_folder(run.private)


def _request(order: Order, run: RunPaths) -> Request:
    options, point = order.options, order.point
    return Request(
        options["workflow"], point.config, order.root, str(run.folder.resolve()), options["input_atoms"],
        options["user"], tuple(options["path"]), point.params, point.seed, options["use_cache"], options["name"],
        tuple(options["steps"]), point.key,
    )  # fmt: skip


def _settled(order: Order, run: RunPaths, ending: Ending) -> WorkflowState:
    """The state that the process left; one that it left unfinished is brought to its end."""
    point = order.point
    try:
        state = load_state(run)
    except UsageError:
        place = os.path.relpath(run.folder, order.root)
        nothing = begun(order.options["name"], point.config, steps=order.options["steps"], run_dir=place)
        state = replace(nothing, params=point.params, seed=point.seed, user=order.options["user"])
    is_late = ending.outcome is Outcome.TIMED_OUT and state.status is not Status.FINISHED
    if is_late or state.status in (Status.PENDING, Status.RUNNING):
        is_stopped = ending.outcome is Outcome.INTERRUPTED
        state = ended_early(state, Status.INTERRUPTED if is_stopped else Status.FAILED, _why(order, ending))
        save_state(run, state)
    return state


def _why(order: Order, ending: Ending) -> str:
    if ending.outcome is Outcome.TIMED_OUT and order.timeout_s:
        return f"It took longer than {duration(order.timeout_s)}, which timeout_s allows."
    return ending.reason or "Code of a step has ended the process."


def _outcome(state: WorkflowState, ending: Ending) -> Outcome:
    """What the process says of itself counts when its work was done; how it ended, when it was not."""
    if state.status is Status.FINISHED and ending.outcome is not Outcome.REJECTED:
        return Outcome.OK
    if state.status is Status.INTERRUPTED:
        return Outcome.INTERRUPTED
    return Outcome.CRASHED if ending.outcome is Outcome.OK else ending.outcome


def _record(order: Order, state: WorkflowState, ending: Ending) -> Run:
    outcome = _outcome(state, ending)
    told = {name: float(value) for name, value in metrics_of(state).items() if value is not None}
    seen = {"wall_s": ending.wall_s, "cpu_s": ending.cpu_s, "peak_memory_mb": ending.peak_memory_mb}
    return Run(
        outcome=outcome,
        reason="" if outcome is Outcome.OK else state.error or ending.reason,
        seed=order.point.seed,
        metrics={**told, **seen} if outcome is Outcome.OK else seen,
        trust={
            **dict.fromkeys(told if outcome is Outcome.OK else (), TrustLevel(order.options["trust"])),
            **dict.fromkeys(seen, TrustLevel.MEASURED),
        },
        ending=ending.to_json(),
        provenance={
            "version": __version__,
            "machine": {**machine.facts(), "blas_threads": order.threads or trainer.blas_threads()},
            "workflow": order.options["workflow"],
            "sweep": order.folder,
            "point": order.point.number,
            "key": order.point.key,
        },
    )


def metrics_of(state: WorkflowState) -> dict[str, float | None]:
    """The metrics among the outputs of a workflow: by name if they are of one task, else by `task.metric`.

    What several outputs say of a task has the output's name before it.
    """
    outputs = [item for step in state.steps for item in step.outputs.items()]
    found = [(output, task, metrics) for output, value in outputs for task, metrics in _tasks(value)]
    if len(found) == 1:
        return found[0][2]
    said = [(output, f"{task}.{name}", value) for output, task, metrics in found for name, value in metrics.items()]
    often = Counter(name for _, name, _ in said)
    return {name if often[name] == 1 else f"{output}.{name}": value for output, name, value in said}


def _tasks(output: Any) -> Iterator[tuple[str, dict[str, float | None]]]:
    """The tasks of an output of the form {task: {metric: number}}; nothing of any other."""
    if not isinstance(output, dict) or not all(isinstance(inner, dict) for inner in output.values()):
        return
    found = {task: {k: v for k, v in inner.items() if k != STATS} for task, inner in output.items()}
    if all(metrics and all(map(_is_metric, metrics.values())) for metrics in found.values()):
        yield from ((task, {k: finite(v) for k, v in metrics.items()}) for task, metrics in found.items())


def _is_metric(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
