"""Which direction is better, for every number that the experiment harness writes."""

from __future__ import annotations

from autoexperiment.vocabulary import Goal

GOALS: dict[str, Goal] = {
    "loss": Goal.MINIMIZE,
    "val_loss": Goal.MINIMIZE,
    "accuracy": Goal.MAXIMIZE,
    "val_accuracy": Goal.MAXIMIZE,
    "mse": Goal.MINIMIZE,
    "rmse": Goal.MINIMIZE,
    "mae": Goal.MINIMIZE,
    "r2": Goal.MAXIMIZE,
    "log_loss": Goal.MINIMIZE,
    "f1": Goal.MAXIMIZE,
}
