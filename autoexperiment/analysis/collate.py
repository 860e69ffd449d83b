"""What the evaluations of a sweep's points gave, as one DataFrame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoexperiment.analysis.layout import Sheet
from autoexperiment.errors import HarnessError, UsageError, unknown
from autoexperiment.workflow.state import Status, StepState, WorkflowState

if TYPE_CHECKING:
    import pandas as pd

SKIPPED = "stats"  # what an evaluation says about itself beside its metrics


@dataclass(frozen=True)
class _Row:
    """One task of one state; task None: a state without results."""

    state: WorkflowState
    task: str | None
    metrics: Mapping[str, Any]
    error: str


async def collate_sweep_evals(
    sweep_states: Iterable[WorkflowState],
    eval_step_name: str,
    metrics: str | Sequence[str] | None = None,
    eval_atom_key: str = "eval_results",
) -> pd.DataFrame:
    """A row for each point and each task that it was evaluated on.

    Args:
        sweep_states: what `run_sweep` returned, the points that failed included; or any states.
        eval_step_name: the step that evaluates.
        metrics: one, several, or None for all of them.
        eval_atom_key: the output of that step that holds {task: {metric: value}}.
    Returns: the swept parameters (short names where no other column could be meant, dotted otherwise; lists as JSON text),
        `seed` where there are seeds, `task`, the metrics (NaN where a task has none), `status`, `error` ("" for none).
        A point that failed, was stopped or has not run is one row without task, NaN in its metrics.
    Raises: UsageError: no states, an unknown step, output or metric. HarnessError: the output is not of that form.
    """
    wanted = _wanted(metrics)
    states = _states(sweep_states)
    _check_step(states, eval_step_name)
    rows = [row for state in states for row in _rows(state, eval_step_name, eval_atom_key)]
    has_seeds = any(state.seed is not None for state in states)
    return Sheet(
        params=[row.state.params for row in rows],
        metrics=[row.metrics for row in rows],
        metric_names=_chosen(rows, wanted),
        before={},
        between={
            **({"seed": [row.state.seed for row in rows]} if has_seeds else {}),
            "task": [row.task for row in rows],
        },
        after={"status": [str(row.state.status) for row in rows], "error": [row.error for row in rows]},
    ).frame()


def _wanted(metrics: str | Sequence[str] | None) -> list[str] | None:
    if metrics is None:
        return None
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"metrics is {metrics!r}. Allowed: one name, several different ones, or None for all. "
            "For example: metrics=['accuracy']"
        )
    return names


def _states(sweep_states: Iterable[WorkflowState]) -> list[WorkflowState]:
    """The states, and those that failed beside them where the list knows of some."""
    if not isinstance(sweep_states, Iterable):
        raise UsageError(
            f"sweep_states is a {type(sweep_states).__name__}, not a list of WorkflowState. "
            "Type: sweep_states=await run_sweep(…)"
        )
    states = [*sweep_states, *getattr(sweep_states, "failed", ())]
    if not states:
        raise UsageError("sweep_states is empty. Needed: one state or more. Give it what run_sweep returned.")
    for place, state in enumerate(states):
        if not isinstance(state, WorkflowState):
            raise UsageError(
                f"sweep_states[{place}] is a {type(state).__name__}, not a WorkflowState. "
                "Of a state.json, type: WorkflowState.from_json(json.loads(text))"
            )
    return states


def _check_step(states: Sequence[WorkflowState], name: str) -> None:
    """A state without any step is of a point that never began, and says nothing about the workflow's steps."""
    for state in states:
        if state.steps:
            state.step(name)


def _rows(state: WorkflowState, step_name: str, key: str) -> list[_Row]:
    step = next((step for step in state.steps if step.name == step_name), None)
    if state.status is not Status.FINISHED or step is None or step.status is not Status.FINISHED:
        return [_Row(state, None, {}, _error(state, step_name, step))]
    return [_Row(state, task, values, state.error) for task, values in _results(step, key).items()]


def _error(state: WorkflowState, step_name: str, step: StepState | None) -> str:
    """Why there are no results, in one sentence; also where nothing went wrong."""
    said = state.error or (step.error if step else "")
    how = "was not begun" if step is None else f"is {step.status}"
    return said or f"The workflow is {state.status}; its step {step_name!r} {how}."


def _results(step: StepState, key: str) -> dict[str, dict[str, Any]]:
    if key not in step.outputs:
        raise UsageError(
            f"{unknown('output', str(key), step.outputs, where=f'step {step.name!r}')} "
            f"Type: eval_atom_key={next(iter(step.outputs), 'eval_results')!r}"
        )
    tasks = step.outputs[key]
    if not (isinstance(tasks, Mapping) and tasks and all(isinstance(values, Mapping) for values in tasks.values())):
        raise HarnessError(
            f"Output {key!r} of step {step.name!r} is {repr(tasks)[:80]}. Needed: an object of tasks, each with its "
            'metrics. For example: {"hello_world": {"accuracy": 0.95}}'
        )
    return {task: {name: v for name, v in values.items() if name != SKIPPED} for task, values in tasks.items()}


def _chosen(rows: Sequence[_Row], wanted: list[str] | None) -> list[str]:
    """The metrics that become columns, in the order wanted, else as first met."""
    known = list(dict.fromkeys(name for row in rows for name in row.metrics))
    tasks = ", ".join(dict.fromkeys(repr(row.task) for row in rows if row.task is not None))
    for name in wanted or ():
        if name not in known and tasks:
            raise UsageError(f"{unknown('metric', name, known, where=f'task {tasks}')} Type: metrics={known[:1]!r}")
    return known if wanted is None else wanted
