"""Sweeps from Python: a workflow on every point of a grid."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoexperiment.errors import LabError
from autoexperiment.files import read_json
from autoexperiment.paths import OutputPaths, RunPaths, find_root
from autoexperiment.supervisor import Signals
from autoexperiment.sweep import book, launching, work
from autoexperiment.sweep.book import Ended, Row
from autoexperiment.sweep.engine import Job, Quiet
from autoexperiment.sweep.launching import Launch, Where
from autoexperiment.sweep.points import Point
from autoexperiment.sweep.samplers import GridSampler
from autoexperiment.sweep.space import Space, Values
from autoexperiment.workflow.state import Status, StepState, WorkflowState

if TYPE_CHECKING:
    from autoexperiment.workflow.steps import Workflow

OUTPUTS = "outputs"


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
    seeds: Sequence[int] | None = None,
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
        seeds: each point is run once with each; `seed_path`: where in the configuration they go.
        name: the folder of the sweep below `outputs`; "": made of the workflow's name and the base.
        timeout_s: of each point.
        retry_failed: run points again that failed before.
        root: the workspace; None: the top of the git working tree around the current folder, else that folder.
        on_progress: called with a line for each point that ends.
    Returns: the states of the points that finished; `failed` of it holds the others.
    Raises: LabError: a path leads nowhere, a configuration is not sound: nothing was run.
    """
    root = root or find_root(Path.cwd())
    options = {
        "workflow": workflow, "input_atoms": dict(input_atoms or {}), "user": user, "seed_path": seed_path
    }  # fmt: skip
    base = _plain(base_config)
    doing = work.make("workflow", base, root=root, options=options)
    name = name or f"{workflow.name}-{launching.base_key(doing, base)[:8]}"
    folder = str(OutputPaths(Path(OUTPUTS)).experiment(name))
    where = Where(executor, address, max_parallel)
    slots = where.slots(is_clocked=doing.is_clocked)
    job = Job(
        doing, root, folder, seeds=tuple(seeds) if seeds else (None,), timeout_s=timeout_s,
        threads=launching.blas_threads(slots), retries_failed=retry_failed,
    )  # fmt: skip
    points = _points(job, param_grid)
    definition: dict[str, Any] = {
        "name": name, "work": "workflow", "base": base, "parameters": {k: list(v) for k, v in param_grid.items()},
        "seeds": list(seeds or []), "metric": "", "goal": "", "planned": len({point.key for point in points}),
    }  # fmt: skip
    launch = Launch(job, definition, lambda: GridSampler(_space(param_grid)), where, is_resumed=True)
    observer = _Told(on_progress, definition["planned"]) if on_progress else Quiet()
    await _in_thread(lambda signals: launching.run(launch, observer=observer, signals=signals))
    return _states(launch, points, workflow)


def _plain(config: Any) -> dict[str, Any]:
    """A configuration as JSON values by step."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return dataclasses.asdict(config)
    return dict(config)


def _space(grid: Mapping[str, Sequence[Any]]) -> Space:
    return Space({path: Values(tuple(values)) for path, values in grid.items()})


def _points(job: Job, grid: Mapping[str, Sequence[Any]]) -> list[Point]:
    """All points of a grid. Raises: LabError: one of them is not sound."""
    space = _space(grid)
    return [point for index in range(space.size or 0) for point in job.points(index + 1, space.at(index))]


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


def _states(launch: Launch, points: Sequence[Point], workflow: Workflow) -> SweepStates:
    ended = book.read(launch.paths).ended
    states = [_state(launch.job.root, point, ended[point.key], workflow) for point in points]
    finished = [state for state in states if state.status is Status.FINISHED]
    failed = [state for state in states if state.status is not Status.FINISHED]
    return SweepStates(finished, failed, launch.paths.folder)


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
