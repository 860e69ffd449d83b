"""Training in one step: linear regression solved before the first epoch, which every epoch then repeats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from autoexperiment.datasets.splits import Part, Splits
from autoexperiment.models.base import Array
from autoexperiment.models.linear import LinearRegression
from autoexperiment.training.checkpoints import State
from autoexperiment.training.curves import Row
from autoexperiment.training.scores import RegressionScores

_NUMBERS_AT_ONCE = 1 << 21  # of a chunk of rows: 16 MB as float64


class _Stopped(Exception):
    """It was asked to stop in the middle of a pass."""


class Closed:
    """A linear regression's solution; nothing changes after the first epoch."""

    def __init__(self, model: LinearRegression, splits: Splits, *, should_stop: Callable[[], bool]) -> None:
        """`should_stop`: asked after each chunk of rows."""
        self.model = model
        self._splits = splits
        self._should_stop = should_stop
        self._metrics: dict[str, float] | None = None

    def epoch(self, number: int) -> dict[str, float] | None:
        """The solution's metrics; None when it was asked to stop."""
        try:
            if self._metrics is None:
                self.model.fit_closed_form(self._chunks(self._splits.train))
                self._metrics = self._measured()
        except _Stopped:
            return None
        return self._metrics

    def _measured(self) -> dict[str, float]:
        parts = {"loss": self._splits.train, "val_loss": self._splits.val}
        return {name: self._loss(part) for name, part in parts.items() if len(part)}

    def _chunks(self, part: Part) -> Iterator[tuple[Array, Array]]:
        size = max(1, _NUMBERS_AT_ONCE // self._splits.facts.n_features)
        for chunk in part.batches(size, self.model.dtype):
            yield chunk
            if self._should_stop():
                raise _Stopped

    def _loss(self, part: Part) -> float:
        """Mean squared error."""
        scores = RegressionScores()
        for x, y in self._chunks(part):
            scores.add(y, self.model.predict_scaled(x))
        loss = scores.mse()
        return math.nan if loss is None else loss

    def is_finite(self) -> bool:
        """`fit_closed_form` refuses any other solution."""
        return True

    def state(self) -> State:
        return State({"steps": 0})

    def restore(self, arrays: Mapping[str, Array], state: State, rows: list[Row]) -> None:
        """Take the solution and its metrics from a checkpoint and the rows up to it."""
        self.model.set_arrays(arrays)
        last = {name: value for name, value in rows[-1].items() if name != "epoch"}
        self._metrics = {name: math.nan if value is None else float(value) for name, value in last.items()}
