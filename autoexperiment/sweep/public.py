"""Sweeps from Python: a workflow on every point of a grid."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoexperiment.config.sweep_loader import load_sweep_dict
from autoexperiment.errors import LabError, UsageError
from autoexperiment.files import read_json
from autoexperiment.paths import RunPaths, find_root
from autoexperiment.supervisor import Signals
from autoexperiment.sweep import book, launching, plans, work
from autoexperiment.sweep.book import Ended, Row
from autoexperiment.sweep.engine import Quiet
from autoexperiment.sweep.launching import Where
from autoexperiment.sweep.plans import SweepPlan
from autoexperiment.sweep.points import Point
from autoexperiment.sweep.space import Space
from autoexperiment.workflow import atoms, loading
from autoexperiment.workflow.state import Status, StepState, WorkflowState

if TYPE_CHECKING:
    from autoexperiment.workflow.steps import Workflow


class SweepStates(list[WorkflowState]):
    """The states of the points that finished, in the grid's order. `failed`: those of the others, in the same order."""

    def __init__(self, finished: Sequence[WorkflowState], failed: Sequence[WorkflowState], folder: Path) -> None:
        super().__init__(finished)
        self.failed = list(failed)
        self.folder = folder


class _Told(Quiet):
    """Passes each point's end on as a line."""

    def __init__(self, say: Callable[[str], None], planned: int) -> None:
        self._say, self._planned, self._count = say, planned, 0

    def ended(self, row: Row) -> None:
        self._count += 1
        values = ", ".join(f"{path}={value}" for path, value in row["params"].items())
        why = f": {row['reason']}" if row["reason"] else ""
        self._say(f"{self._count} of {self._planned}: {values} {row['status']} in {row['seconds']:.1f} s{why}")

    def note(self, text: str) -> None:
        self._say(text)


async def run_sweep(
    workflow: Workflow,
    base_config: Any,
    param_grid: Mapping[str, Sequence[Any]],
    input_atoms: Mapping[str, Any] | None = None,
    user: str = "",
    *,
    max_parallel: int | None = None,
    executor: str = "local",
    address: str = "",
    seeds: Sequence[int] | int | None = None,
    seed_path: str = "",
    name: str = "",
    timeout_s: float | None = None,
    retry_failed: bool = False,
    root: Path | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> SweepStates:
    """Run a workflow on every combination of values, each in a process of its own.

    What was run before is not run again: the same call goes on where it was stopped, a larger grid adds its points.
    A point that fails ends nothing; Ctrl-C keeps what is done.

    Args:
        base_config: the workflow's configuration: its dataclass, or a mapping by step.
        param_grid: values by dot path into the configuration.
        input_atoms: what the workflow is given from outside, by name: JSON values, or `pathlib.Path`.
        max_parallel: points side by side; None: as many as there are cores, one on a GPU.
        executor: "local", or "dask" with the `address` of a scheduler.
        seeds: each point is run once with each, n for 1 to n; `seed_path`: where in the configuration they go.
        name: of the sweep: its folder below `outputs`; "": made of the workflow's name and the base.
        timeout_s: of each point.
        retry_failed: run points again that failed before.
        root: the workspace; None: the top of the git working tree around the current folder, else that folder.
        on_progress: called with a line for each point that ends.
    Returns: the states of the points that finished; `failed` of it holds the others. Combinations that differ in what
        decides nothing (a label) are one point, and one state.
    Raises: LabError: a path leads nowhere, a configuration is not sound: nothing was run.
    """
    root = root or find_root(Path.cwd())
    base = _plain(base_config)
    options = {"input_atoms": atoms.encoded(dict(input_atoms or {})), "user": user}
    wanted = {
        "name": name or _usual_name(workflow, base, {**options, "seed_path": seed_path}, root),
        "work": f"workflow:{loading.reference_of(workflow)}",
        "base": base,
        "parameters": {path: {"values": _values(path, values)} for path, values in param_grid.items()},
        "seeds": _json(seeds),
        "seed_paths": [seed_path] if seed_path else None,
        "timeout_s": timeout_s,
        "options": options,
    }
    plan = plans.make_plan(
        load_sweep_dict(wanted), root=root, where=Where(executor, address, max_parallel), is_resumed=True,
        retries_failed=retry_failed,
    )  # fmt: skip
    observer = _Told(on_progress, plan.points) if on_progress else Quiet()
    await _in_thread(lambda signals: launching.run(plan.launch, observer=observer, signals=signals))
    return _states(plan, workflow)


def _usual_name(workflow: Workflow, base: Mapping[str, Any], options: Mapping[str, Any], root: Path) -> str:
    """A sweep's folder: the same for the same workflow, base and atoms."""
    doing = work.make("workflow", base, root=root, options={**options, "workflow": workflow})
    return f"{workflow.name}-{launching.base_key(doing, base)[:8]}"


def _plain(config: Any) -> dict[str, Any]:
    """A configuration as JSON values by step."""
    is_object = dataclasses.is_dataclass(config) and not isinstance(config, type)
    plain: dict[str, Any] = _json(dataclasses.asdict(config) if is_object else dict(config))
    return plain


def _json(value: Any) -> Any:
    """NumPy's numbers, bools and arrays as plain ones, tuples as lists; anything else as it is."""
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _values(path: str, values: Any) -> list[Any]:
    """Raises: UsageError: these are no values to go through one by one."""
    plain = _json(values)
    if not isinstance(plain, list):
        raise UsageError(f"The values of {path!r} are {values!r}. Allowed: a list of values. For example: [0.1, 0.01]")
    return plain


async def _in_thread(act: Callable[[Signals], bool]) -> None:
    """Let a sweep go on beside the event loop; when this task is cancelled, wait until its points have been ended."""
    signals = Signals()
    thread = asyncio.ensure_future(asyncio.to_thread(act, signals))
    try:
        await asyncio.shield(thread)
    except asyncio.CancelledError:
        signals.end()
        await asyncio.wait([thread])
        raise


def _states(plan: SweepPlan, workflow: Workflow) -> SweepStates:
    """A state for each point that was wanted; trials that differ in a label only are one point."""
    job, paths, space = plan.launch.job, plan.launch.paths, Space.of(plan.config.parameters)
    trials = [space.at(index) for index in range(space.size or 0)]
    points: dict[str, Point] = {}
    for number, params in enumerate(trials, start=1):
        for point in job.points(number, params):
            points.setdefault(point.key, point)
    ended = book.read(paths).ended
    states = [_state(job.root, point, ended[point.key], workflow) for point in points.values()]
    finished = [state for state in states if state.status is Status.FINISHED]
    failed = [state for state in states if state.status is not Status.FINISHED]
    return SweepStates(finished, failed, paths.folder)


def _state(root: Path, point: Point, ended: Ended, workflow: Workflow) -> WorkflowState:
    """The state that a point's process left, with the parameters of this sweep."""
    result = ended.result
    try:
        state = WorkflowState.from_json(read_json(RunPaths(root / result.run_dir).state))
    except (LabError, OSError, ValueError, TypeError, KeyError):
        steps = tuple(StepState(step.name) for step in workflow.steps)
        state = WorkflowState(workflow.name, point.config, steps, run_dir=result.run_dir)
    if not result.is_ok:
        state = dataclasses.replace(state, status=Status.FAILED, error=state.error or result.reason)
    return dataclasses.replace(state, params=point.params, seed=point.seed)
