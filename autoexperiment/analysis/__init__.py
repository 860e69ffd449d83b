"""Statistics and pictures of many runs: any DataFrame with a row for each run, parameters and metrics in its columns."""

from __future__ import annotations

from autoexperiment.analysis.best import BestConfig, Standing, best_config
from autoexperiment.analysis.curves import plot_sweep_metric, plot_sweep_metrics
from autoexperiment.analysis.frame import runs_frame
from autoexperiment.analysis.heatmap import plot_sweep_heatmap
from autoexperiment.analysis.importance import parameter_importance
from autoexperiment.analysis.table import compute_ci_df

__all__ = [
    "BestConfig",
    "Standing",
    "best_config",
    "compute_ci_df",
    "parameter_importance",
    "plot_sweep_heatmap",
    "plot_sweep_metric",
    "plot_sweep_metrics",
    "runs_frame",
]
