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
    "f1_score": Goal.MAXIMIZE,
    "perplexity": Goal.MINIMIZE,
}


def known_goal(metric: str) -> Goal | None:
    """Which direction of a metric is better, of any part of the data (`test_accuracy`); None for one that is not known."""
    from autoexperiment.metrics import METRICS

    if metric in METRICS:
        return METRICS[metric].goal
    return GOALS.get(metric) or GOALS.get(metric.removeprefix("val_").removeprefix("test_"))
