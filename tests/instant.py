"""Sweeps whose points are computed at once, in place of trainings: everything else of a sweep is real."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autoexperiment import dotpaths
from autoexperiment.config.sweep_document import SweepConfig
from autoexperiment.config.sweep_loader import load_sweep_dict
from autoexperiment.errors import UsageError
from autoexperiment.paths import RunPaths
from autoexperiment.supervisor import Signals
from autoexperiment.sweep import work
from autoexperiment.sweep.points import Order, Result
from autoexperiment.vocabulary import RunStatus

BASE: dict[str, Any] = {
    "dataset": {"name": "synthetic_regression", "params": {"n_samples": 100, "n_features": 5}},
    "model": {"name": "mlp", "params": {"layer_sizes": [5, 8, 1]}},
    "training": {"epochs": 1},
}
RATE, EPOCHS = "training.learning_rate", "training.epochs"


@dataclass(frozen=True)
class Instant:
    """A rate of 9 and above fails. Of rate 5 the process of the sweep gets a SIGINT. A text is refused."""

    base: Mapping[str, Any]
    options: Mapping[str, Any]
    kind: str = "experiment"
    metric: str = "val_loss"

    def resolve(self, params: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
        if isinstance(params.get(RATE), str):
            raise UsageError("This is no rate.")
        return dotpaths.replaced(self.base, {**params, "training.seed": seed})

    def identity(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"training": {name: value for name, value in config["training"].items() if name != "batch_size"}}

    def is_clocked(self, config: Mapping[str, Any]) -> bool:
        return False

    def expected_s(self, config: Mapping[str, Any]) -> float | None:
        """One second, and one for each epoch."""
        return 1.0 + float(config["training"]["epochs"])


def make(base: Mapping[str, Any], *, root: Path, options: Mapping[str, Any]) -> Instant:
    return Instant(base, options)


def perform(order: Order, run: RunPaths, *, signals: Signals | None) -> Result:
    rate = order.point.params.get(RATE, 0.0)
    if rate == 5:
        os.kill(os.getpid(), signal.SIGINT)
    if rate >= 9:
        return Result(RunStatus.FAILED, reason="Its rate is too high.")
    metrics = {"val_loss": rate, "wall_s": 0.1, "a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    return Result(RunStatus.COMPLETED, metrics, dict.fromkeys(metrics, "measured"))


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the points of experiments be computed here."""
    monkeypatch.setitem(work.WORKS, "experiment", __name__)


def sweep_of(**fields: Any) -> SweepConfig:
    return load_sweep_dict({"name": "s", "base": BASE, "metric": "val_loss", "max_parallel": 1, **fields})
