"""Workflows of named, typed steps, and sweeps over their configurations. A name is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoexperiment.sweep.public import run_sweep
    from autoexperiment.sweep.states import SweepStates
    from autoexperiment.workflow.running import load_state, run_workflow
    from autoexperiment.workflow.state import Status, StepState, WorkflowState
    from autoexperiment.workflow.steps import Context, Retries, Step, Workflow
    from autoexperiment.workflow.train_and_evaluate import TrainAndEvaluateConfig, train_and_evaluate_workflow

__all__ = [
    "Context",
    "Retries",
    "Status",
    "Step",
    "StepState",
    "SweepStates",
    "TrainAndEvaluateConfig",
    "Workflow",
    "WorkflowState",
    "load_state",
    "run_sweep",
    "run_workflow",
    "train_and_evaluate_workflow",
]

_HOME = {
    "Context": "workflow.steps",
    "Retries": "workflow.steps",
    "Step": "workflow.steps",
    "Workflow": "workflow.steps",
    "Status": "workflow.state",
    "StepState": "workflow.state",
    "WorkflowState": "workflow.state",
    "load_state": "workflow.running",
    "run_workflow": "workflow.running",
    "TrainAndEvaluateConfig": "workflow.train_and_evaluate",
    "train_and_evaluate_workflow": "workflow.train_and_evaluate",
    "SweepStates": "sweep.states",
    "run_sweep": "sweep.public",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"autoexperiment.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
