"""A run's training from its first epoch, or from a checkpoint, to its end: metrics and checkpoints as it goes.

An epoch counts when its row is in the metrics. A checkpoint names the rows that led to it by their hash, and only
one whose rows are still there is gone on from, so that a resumed run ends with the bytes of one that never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from autoexperiment import models
from autoexperiment.datasets.fingerprints import Fingerprint
from autoexperiment.datasets.splits import Splits
from autoexperiment.errors import DataError, HarnessError
from autoexperiment.failure import DIVERGED_EXIT
from autoexperiment.models.base import Array, Model
from autoexperiment.models.linear import LinearRegression
from autoexperiment.models.network import Network
from autoexperiment.paths import RunPaths
from autoexperiment.training import checkpoints, curves
from autoexperiment.training.checkpoints import Checkpoint, State
from autoexperiment.training.closed import Closed
from autoexperiment.training.curves import Curves, Past, Row

INTERRUPTED_EXIT = 130


class Trainer(Protocol):
    """What trains a model, an epoch at a time."""

    @property
    def model(self) -> Model:
        """Its arrays are those of the last call of `state`."""

    def epoch(self, number: int) -> dict[str, float] | None:
        """The metrics of the next epoch; None when it was asked to stop and the epoch does not count."""

    def is_finite(self) -> bool: ...

    def state(self) -> State: ...

    def restore(self, arrays: Mapping[str, Array], state: State, rows: list[Row]) -> None:
        """Raises: DataError: the state does not fit."""


@dataclass(frozen=True)
class End:
    """How a training process ends: its last line and its exit code."""

    line: str
    exit_code: int = 0


@dataclass(frozen=True)
class Plan:
    """What of a configuration says how long to train and what to keep."""

    name: str
    epochs: int
    frequency: int  # 0: no checkpoints

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Plan:
        output = config["output"]
        frequency = output["checkpoint_frequency"] if output["save_checkpoints"] else 0
        return cls(config["name"], config["training"]["epochs"], frequency)

    def is_due(self, epoch: int) -> bool:
        return self.frequency > 0 and epoch % self.frequency == 0


def trainer_of(
    model: Network, splits: Splits, training: Mapping[str, Any], *, should_stop: Callable[[], bool]
) -> Trainer:
    """The trainer of a model, which takes over the scaling of the data. MLX is imported for gradients only."""
    model.scaling = splits.train.scaling
    if isinstance(model, LinearRegression) and not model.use_gradient_descent:
        return Closed(model, splits, should_stop=should_stop)
    from autoexperiment.training.descent import Descent

    return Descent(model, splits, training, should_stop=should_stop)


def train(
    trainer: Trainer,
    run: RunPaths,
    plan: Plan,
    *,
    data: Fingerprint,
    resume: bool,
    say: Callable[[str], object],
    should_stop: Callable[[], bool],
) -> End:
    """Train to the end of the plan.

    Args:
        data: of what the trainer has; every checkpoint says it.
        resume: go on from the newest sound checkpoint; without one, start anew.
        say: told the lines of the run's log.
        should_stop: asked between epochs; the trainer asks by itself within one.
    Raises: HarnessError: metrics or a checkpoint can't be written; the data is not what it was before a resume.
    """
    start, past = _resumed(trainer, run, plan, data=data, say=say) if resume else (None, Past())
    training = _Training(trainer, run, plan, data, Curves.begin(run, plan.name, after=past), say, should_stop)
    say("metrics: ready")
    if start:
        say(f"note: resumed from {start.name}, after epoch {start.epoch} of {plan.epochs}")
    elif resume:
        say("note: there is no checkpoint to go on from: training begins with the first epoch")
    try:
        end = training.go_on(start)
    except BaseException:
        with suppress(HarnessError):  # the first failure is the one to tell
            training.curves.close()
        raise
    training.curves.close()
    return end


def _resumed(
    trainer: Trainer, run: RunPaths, plan: Plan, *, data: Fingerprint, say: Callable[[str], object]
) -> tuple[Checkpoint | None, Past]:
    """Put the trainer where the newest usable checkpoint left it. Raises: HarnessError: that one had other data."""
    kept = Past()

    def use(checkpoint: Checkpoint) -> None:
        nonlocal kept
        checkpoints.check_final(checkpoint, n_epochs=plan.epochs)
        state = checkpoints.load_state(checkpoint)
        if checkpoints.data_of(state, where=checkpoint.folder) != data:
            raise _other_data(run)  # no DataError: earlier checkpoints have the same fault
        past = curves.past(run, epoch=checkpoint.epoch, sha256=state.facts.get("metrics_sha256"))
        if past is None:
            raise DataError(f"metrics.ndjson does not have the rows of its {checkpoint.epoch} epochs any more.")
        saved = models.load(checkpoint.folder)
        if saved.config() != trainer.model.config():
            raise DataError("it is of another model than the one in config.json.")
        trainer.restore(saved.arrays(), state, past.rows)
        kept = past

    return checkpoints.latest(run, say=say, use=use), kept


def _other_data(run: RunPaths) -> HarnessError:
    return HarnessError(
        f"The data changed since {run.folder} was started: its rows, its targets, or how they are split. A run has one "
        f"dataset from its first epoch to its last. Put the data back as it was and type: {curves.resume_command(run)}, "
        f"or start another run on the new data: {curves.again_command(run)}"
    )


@dataclass(frozen=True)
class _Training:
    trainer: Trainer
    run: RunPaths
    plan: Plan
    data: Fingerprint
    curves: Curves
    say: Callable[[str], object]
    should_stop: Callable[[], bool]

    def go_on(self, start: Checkpoint | None) -> End:
        """Train the epochs after `start`."""
        for epoch in range(start.epoch + 1 if start else 1, self.plan.epochs + 1):
            metrics = None if self.should_stop() else self.trainer.epoch(epoch)
            if metrics is None:
                return End(f"interrupted: after epoch {epoch - 1} of {self.plan.epochs}", INTERRUPTED_EXIT)
            self._keep(epoch, metrics)
            if fault := _divergence(metrics, epoch, self.trainer):
                return End(f"diverged: {fault}", DIVERGED_EXIT)
            if self.plan.is_due(epoch):
                self._save(epoch)
        if self.plan.frequency and not (start and start.is_final):
            self._save(self.plan.epochs, final=True)
        return End(f"done: {self.plan.epochs} epochs")

    def _keep(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.curves.add(curves.row_of(epoch, metrics))
        self.curves.refresh()
        words = ", ".join(f"{name} {_shown(value)}" for name, value in metrics.items())
        self.say(f"epoch {epoch}/{self.plan.epochs}: {words}")

    def _save(self, epoch: int, *, final: bool = False) -> None:
        self.curves.sync()
        state = self.trainer.state()
        kept = {"metrics_sha256": self.curves.sha256, "data": self.data.to_json()}
        state = replace(state, facts={**state.facts, **kept})
        checkpoints.save(self.run, epoch, model=self.trainer.model, state=state, final=final)


def _divergence(metrics: Mapping[str, float], epoch: int, trainer: Trainer) -> str:
    """Why an epoch is the last one; empty when it is sound. A validation loss alone may be infinite."""
    if not math.isfinite(metrics["loss"]):
        return f"loss is {metrics['loss']} in epoch {epoch}"
    return "" if trainer.is_finite() else f"a parameter is not a finite number after epoch {epoch}"


def _shown(value: float) -> str:
    return curves.number(value) if math.isfinite(value) else str(value)
