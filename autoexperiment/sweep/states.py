"""The states of a sweep's points: a list of those that finished, which knows of those that failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self, SupportsIndex, overload

from autoexperiment.workflow.state import WorkflowState


class SweepStates(list[WorkflowState]):
    """The states of the points that finished, in the grid's order. `failed`: those of the others, in the same order.

    A slice, a copy and a sum keep all that failed; a sum with another sweep's states has those of both, and the folder of
    the left one.
    """

    def __init__(self, finished: Iterable[WorkflowState], failed: Sequence[WorkflowState], folder: Path) -> None:
        super().__init__(finished)
        self.failed = list(failed)
        self.folder = folder

    @overload
    def __getitem__(self, at: SupportsIndex) -> WorkflowState: ...

    @overload
    def __getitem__(self, at: slice) -> Self: ...

    def __getitem__(self, at: SupportsIndex | slice) -> WorkflowState | Self:
        found = super().__getitem__(at)
        return self._with(found) if isinstance(found, list) else found

    def __add__(self, others: Any) -> Self:  # type: ignore[override]
        return self._with([*self, *others], _failed(others)) if isinstance(others, list) else NotImplemented

    def __radd__(self, others: Any) -> Self:
        return self._with([*others, *self]) if isinstance(others, list) else NotImplemented

    def __iadd__(self, others: Iterable[WorkflowState]) -> Self:  # type: ignore[override, misc]
        self.failed += _failed(others)
        return super().__iadd__(others)

    def copy(self) -> Self:
        return self._with(self)

    def _with(self, finished: Iterable[WorkflowState], more_failed: Sequence[WorkflowState] = ()) -> Self:
        return type(self)(finished, [*self.failed, *more_failed], self.folder)


def _failed(states: object) -> list[WorkflowState]:
    return list(states.failed) if isinstance(states, SweepStates) else []
