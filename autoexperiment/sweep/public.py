"""Sweeps from Python: a workflow on every point of a grid."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
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
from autoexperiment.sweep.points import Point, Result
from autoexperiment.sweep.states import SweepStates
from autoexperiment.sweep.workflows import metrics_of
from autoexperiment.vocabulary import RunStatus
from autoexperiment.workflow import atoms, loading
from autoexperiment.workflow.state import Status, StepState, WorkflowState

if TYPE_CHECKING:
    from autoexperiment.workflow.steps import Workflow


class _Told(Quiet):
    """Passes each point's end on as a line. A listener that fails is told no more: it must not end the sweep."""

    def __init__(self, say: Callable[[str], None], planned: int) -> None:
        self._say: Callable[[str], None] | None = say
        self._planned, self._count = planned, 0

    def ended(self, row: Row) -> None:
        self._count += 1
        values = ", ".join(f"{path}={value}" for path, value in row["params"].items())
        why = f": {row['reason']}" if row["reason"] else ""
        self.note(f"{self._count} of {self._planned}: {values} {row['status']} in {row['seconds']:.1f} s{why}")

    def note(self, text: str) -> None:
        try:
            if self._say:
                self._say(text)
        except Exception:
            self._say = None


async def run_sweep(
    workflow: Workflow | str,
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
    use_cache: bool = True,
    root: str | Path | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> SweepStates:
    """Run a workflow on every combination of values, each in a process of its own.

    What was run before is not run again: the same call goes on where it was stopped, a larger grid adds its points.
    A point that fails ends nothing; Ctrl-C keeps what is done.

    Args:
        workflow: the workflow, or "module:name" of one.
        base_config: the workflow's configuration: its dataclass, or a mapping by step.
        param_grid: values by dot path into the configuration.
        input_atoms: what the workflow is given from outside, by name: JSON values, or `pathlib.Path`.
        max_parallel: points side by side; None: as many as there are cores, one on a GPU.
        executor: "local", or "dask" with the `address` of a scheduler.
        seeds: each point is run once with each, n for 1 to n; `seed_path`: where in the configuration they go.
        name: of the sweep: its folder below `outputs`; "": made of the workflow's name and the base.
        timeout_s: of each point.
        retry_failed: run points again that failed before.
        use_cache: leave out steps of new points that were done before, for other points, with all the same.
        root: the workspace; None: the top of the git working tree around the current folder, else that folder.
        on_progress: called with a line for each point that ends, from another thread.
    Returns: the states of the points that finished; `failed` of it holds the others. Combinations that differ in what
        decides nothing (a label) are one point, and one state.
    Raises: LabError: a path leads nowhere, a configuration is not sound: nothing was run.
    """
    root = _workspace(root)
    workflow = loading.load_workflow(workflow, root=root) if isinstance(workflow, str) else workflow
    base = _plain(base_config)
    _check_mapping("param_grid", param_grid)
    options = {"input_atoms": atoms.encoded(dict(input_atoms or {})), "user": user, "use_cache": use_cache}
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
    if not is_object:
        _check_mapping("base_config", config)
    plain: dict[str, Any] = _json(dataclasses.asdict(config) if is_object else dict(config))
    return plain


def _check_mapping(argument: str, given: Any) -> None:
    if not isinstance(given, Mapping):
        raise UsageError(f"{argument} is {given!r}. Allowed: a mapping; of a configuration also its dataclass.")


def _workspace(given: str | Path | None) -> Path:
    root = find_root(Path.cwd()) if given is None else Path(given).absolute()
    if not root.is_dir():
        raise UsageError(f"root is {str(given)!r}, and there is no such folder. Name the workspace, or leave it out.")
    return root


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
    """Let a sweep go on beside the event loop; when this task ends before it, wait until its points have been ended."""
    signals = Signals()
    with _heeded(signals):
        thread = asyncio.ensure_future(asyncio.to_thread(act, signals))
        try:
            await asyncio.shield(thread)
        except asyncio.CancelledError:
            signals.end()
            await asyncio.wait([thread])
            raise


@contextlib.contextmanager
def _heeded(signals: Signals) -> Iterator[None]:
    """Ctrl-C ends the points as well, also where the loop that it ends does not cancel its tasks."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield
        return

    def heed(number: int, frame: FrameType | None) -> None:
        signals.end()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, heed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _states(plan: SweepPlan, workflow: Workflow) -> SweepStates:
    """A state for each point that was wanted; trials that differ in a label only are one point."""
    job, paths = plan.launch.job, plan.launch.paths
    ended = book.read(paths).ended
    states = [_state(job.root, point, ended.get(point.key), workflow) for point in plan.listed]
    finished = [state for state in states if state.status is Status.FINISHED]
    failed = [state for state in states if state.status is not Status.FINISHED]
    return SweepStates(finished, failed, paths.folder)


def _state(root: Path, point: Point, ended: Ended | None, workflow: Workflow) -> WorkflowState:
    """The state that a point's process left, with the parameters of this sweep. The book has the last word."""
    result = ended.result if ended else Result(RunStatus.FAILED, reason="It was not run: its code or data changed.")
    state, fault = _left(RunPaths(root / result.run_dir)), ""
    if state is None:
        steps = tuple(StepState(step.name) for step in workflow.steps)
        state = WorkflowState(workflow.name, point.config, steps, run_dir=result.run_dir)
        fault = f"{result.run_dir}/state.json is gone or damaged; its metrics are in the book: mlx sweep results"
    elif any(result.metrics.get(name) != value for name, value in metrics_of(state).items()):
        fault = f"{result.run_dir}/state.json says other metrics than the book. See: mlx sweep results"
    if not result.is_ok or fault:
        state = dataclasses.replace(state, status=Status.FAILED, error=result.reason or fault or state.error)
    params = {path: value for path, value in point.params.items() if path not in workflow.labels}
    return dataclasses.replace(state, params=params, seed=point.seed)


def _left(run: RunPaths) -> WorkflowState | None:
    try:
        return WorkflowState.from_json(read_json(run.state))
    except (LabError, OSError, ValueError, TypeError, KeyError):
        return None
