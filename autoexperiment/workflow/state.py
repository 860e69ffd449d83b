"""How far a workflow has come: its configuration, and for each step how it ended and what it gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from autoexperiment.errors import UsageError, unknown


class Status(StrEnum):
    """Of a workflow, and of each of its steps."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class StepState:
    """One step.

    Attributes:
        config: the step's own configuration.
        outputs: JSON values by name; files are given by path relative to the workspace's root.
        attempts: how often it was tried; 0 for one that was not, or whose outputs were known already.
        is_cached: its outputs were known from an equal step before.
        started_at: UTC, ISO 8601; "" before it has begun.
        seconds: wall time of all attempts.
        error: why it failed, one sentence; "" otherwise.
    """

    name: str
    status: Status = Status.PENDING
    config: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 0
    is_cached: bool = False
    started_at: str = ""
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class WorkflowState:
    """A workflow on one configuration.

    Attributes:
        config: the whole configuration, by step.
        steps: in the workflow's order.
        params: the values, by dot path, that a sweep set in `config`; empty outside of a sweep.
        seed: the sweep's replicate; None outside of one.
        user: who ran it.
        run_dir: where its files are, relative to the workspace's root.
        error: why it failed, one sentence; "" otherwise.
    """

    workflow: str
    config: Mapping[str, Any]
    steps: tuple[StepState, ...]
    status: Status = Status.PENDING
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    user: str = ""
    run_dir: str = ""
    error: str = ""

    def step(self, name: str) -> StepState:
        """Raises: UsageError: the workflow has no such step."""
        for step in self.steps:
            if step.name == name:
                return step
        raise UsageError(unknown("step", name, [step.name for step in self.steps], where=f"workflow {self.workflow!r}"))

    @property
    def outputs(self) -> dict[str, Any]:
        """What all finished steps gave, by name."""
        return {name: value for step in self.steps for name, value in step.outputs.items()}

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    def with_step(self, step: StepState) -> WorkflowState:
        """The state with one step brought up to date."""
        return replace(self, steps=tuple(step if old.name == step.name else old for old in self.steps))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WorkflowState:
        steps = tuple(StepState(**{**step, "status": Status(step["status"])}) for step in value["steps"])
        return cls(**{**value, "steps": steps, "status": Status(value["status"])})
