"""Training by gradients: one network, one optimizer, one epoch at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from autoexperiment.datasets.base import CLASSIFICATION
from autoexperiment.datasets.splits import Splits
from autoexperiment.errors import DataError
from autoexperiment.models.base import Array
from autoexperiment.models.losses import mx  # after the BLAS
from autoexperiment.models.network import Network
from autoexperiment.training.checkpoints import State
from autoexperiment.training.curves import Row
from autoexperiment.training.feed import Feed, shuffled
from autoexperiment.training.flat import Layout
from autoexperiment.training.optimizers import RULES
from autoexperiment.training.replay import Step, replayed

_NUMBERS_AT_ONCE = 1 << 22  # what one batch of a validation pass may hold: 16 MB
_FEW_CORES = 2
_LOSSES_AT_ONCE = 1024  # batches between two readings of the losses


class Descent:
    """A network on its way. `epoch` and `restore` change it; `state` and `model.arrays()` say where it is."""

    def __init__(
        self, model: Network, splits: Splits, training: Mapping[str, Any], *, should_stop: Callable[[], bool]
    ) -> None:
        """
        Args:
            training: of the configuration: batch_size, learning_rate, optimizer, seed.
            should_stop: asked after each batch.
        """
        self.model = model
        self._training = training
        self._should_stop = should_stop
        self._is_classification = splits.facts.task == CLASSIFICATION
        self._n_train, self._n_val = len(splits.train), len(splits.val)
        self._train = Feed(splits.train, n_features=splits.facts.n_features)
        self._val = Feed(splits.val, n_features=splits.facts.n_features)
        self._layout = Layout(model.shapes())
        self._rule = RULES[training["optimizer"]]
        self._gradient = mx.value_and_grad(self._loss)
        self._decay = self._decay_of(model)
        self._replay: Step | None = None
        self._evaluate = mx.async_eval if _has_room() else mx.eval
        self._flat = mx.array(self._layout.flatten(model.initial()))
        self._slots: tuple[mx.array, ...] = tuple(mx.zeros_like(self._flat) for _ in range(self._rule.n_slots))
        self._steps = 0

    def _decay_of(self, model: Network) -> tuple[mx.array, ...]:
        """The gradient of the penalty, l2_regularization * sum(w²) / n_train, is this times the parameters."""
        if not model.l2_regularization:
            return ()
        pace = 2 * model.l2_regularization / self._n_train
        return (mx.array(self._layout.mask(model.penalised()) * np.float32(pace)),)

    def _loss(self, flat: mx.array, x: mx.array, y: mx.array) -> tuple[mx.array, mx.array]:
        """Mean loss of a batch, and how many of its rows are right (0 in a regression)."""
        raw = self.model.forward(self._layout.views(flat), x)
        correct = self.model.correct(raw, y) if self._is_classification else mx.array(0)
        return self.model.loss(raw, y), correct

    def epoch(self, number: int) -> dict[str, float] | None:
        """Train one epoch; its metrics, or None when it was asked to stop and the epoch does not count."""
        order = shuffled(self._n_train, seed=self._training["seed"], epoch=number)
        tally = _Tally()
        for x, y in self._train.batches(order, self._training["batch_size"]):
            self._step(x, y, tally)
            if self._should_stop():
                return None
        return {**self._named(tally, ""), **self._validate()}

    def _step(self, x: mx.array, y: mx.array, tally: _Tally) -> None:
        self._steps += 1
        scalars = map(mx.array, self._rule.scalars(self._steps, self._training["learning_rate"]))
        given = (x, y, self._flat, *self._slots, *scalars, *self._decay)
        made = self._function(len(y), given)(*given)
        self._evaluate(made)
        loss, correct, self._flat, *slots = made
        self._slots = tuple(slots)
        tally.add(len(y), loss, correct)

    def _function(self, n_rows: int, given: Sequence[mx.array]) -> Step:
        """`_advance` for a batch of so many rows; only whole batches are worth a replay."""
        if n_rows != min(self._training["batch_size"], self._n_train):
            return self._advance
        if self._replay is None:
            self._replay = replayed(self._advance, *given)
        return self._replay

    def _advance(self, x: mx.array, y: mx.array, flat: mx.array, *rest: mx.array) -> tuple[mx.array, ...]:
        """One step, as a pure function: (loss, correct, parameters, *slots). `rest`: slots, scalars, decay if any."""
        (loss, correct), gradient = self._gradient(flat, x, y)
        slots, scalars = rest[: self._rule.n_slots], rest[self._rule.n_slots :]
        if self._decay:
            gradient = gradient + rest[-1] * flat
        return loss, correct, *self._rule.update(flat, gradient, slots, scalars)

    def _validate(self) -> dict[str, float]:
        """Metrics of the validation part; none without one."""
        if not self._n_val:
            return {}
        tally = _Tally()
        size = max(1, _NUMBERS_AT_ONCE // self.model.numbers_per_row())
        for x, y in self._val.batches(np.arange(self._n_val), size):
            loss, correct = self._loss(self._flat, x, y)
            mx.eval(loss, correct)
            tally.add(len(y), loss, correct)
        return self._named(tally, "val_")

    def _named(self, tally: _Tally, prefix: str) -> dict[str, float]:
        loss, accuracy = tally.means()
        named = {f"{prefix}loss": loss}
        return {**named, f"{prefix}accuracy": accuracy} if self._is_classification else named

    def is_finite(self) -> bool:
        """Whether every parameter is a number."""
        return bool(mx.all(mx.isfinite(self._flat)).item())

    def state(self) -> State:
        """Brings `model` up to date as well."""
        self.model.set_arrays(self._layout.split(np.array(self._flat)))
        slots = np.stack([np.array(slot) for slot in self._slots]) if self._slots else None
        return State({"steps": self._steps}, slots)

    def restore(self, arrays: Mapping[str, Array], state: State, rows: list[Row]) -> None:
        """Go on from a checkpoint.

        Args: arrays: the model's, from the checkpoint.
        Raises: DataError: the state is not one of this model and this optimizer.
        """
        steps, slots = state.facts.get("steps"), state.slots
        given = (0, self._layout.size) if slots is None else slots.shape
        if type(steps) is not int or steps < 1 or given != (self._rule.n_slots, self._layout.size):
            raise DataError(
                f"The training state has {given[0]} x {given[1]} numbers after {steps!r} steps. Needed for "
                f"{self._training['optimizer']}: {self._rule.n_slots} x {self._layout.size}, after 1 step or more."
            )
        self.model.set_arrays(arrays)
        self._flat = mx.array(self._layout.flatten(arrays))
        self._slots = () if slots is None else tuple(mx.array(slot) for slot in slots)
        self._steps = steps


def _has_room() -> bool:
    """Whether preparing a step while the one before it is computed pays. Either way gives the same bytes.

    On 2 cores it made an epoch 1.4 times as fast when they were idle, and 1.3 times as slow when others used them.
    """
    return mx.default_device() == mx.Device(mx.gpu) or (os.cpu_count() or 1) > _FEW_CORES


class _Tally:
    """Sums over an epoch's batches, in float64; read from the device now and then."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, mx.array, mx.array]] = []
        self._rows, self._loss, self._correct = 0, 0.0, 0.0

    def add(self, n: int, loss: mx.array, correct: mx.array) -> None:
        """`loss`: mean over n rows; `correct`: so many of them."""
        self._waiting.append((n, loss, correct))
        if len(self._waiting) >= _LOSSES_AT_ONCE:
            self._read()

    def _read(self) -> None:
        if not self._waiting:
            return
        rows, losses, correct = zip(*self._waiting, strict=True)
        self._rows += sum(rows)
        self._loss += float(np.array(mx.stack(list(losses))).astype(np.float64) @ np.array(rows, np.float64))
        self._correct += float(np.array(mx.stack(list(correct))).sum())
        self._waiting = []

    def means(self) -> tuple[float, float]:
        """Mean loss and share of right rows; NaN without rows."""
        self._read()
        return (self._loss / self._rows, self._correct / self._rows) if self._rows else (math.nan, math.nan)
