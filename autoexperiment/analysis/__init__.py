"""Statistics and pictures of many runs: any DataFrame with a row for each run, parameters and metrics in its columns."""

from __future__ import annotations

from autoexperiment.analysis.best import BestConfig, Standing, best_config
from autoexperiment.analysis.collate import collate_sweep_evals
from autoexperiment.analysis.curves import plot_sweep_metric, plot_sweep_metrics
from autoexperiment.analysis.effects import effect_sizes, plot_main_effects
from autoexperiment.analysis.frame import runs_frame
from autoexperiment.analysis.heatmap import plot_sweep_heatmap
from autoexperiment.analysis.importance import parameter_importance
from autoexperiment.analysis.pictures import sweep_report_figures
from autoexperiment.analysis.scatter import plot_sweep_scatter
from autoexperiment.analysis.sweeps import best_of_sweep, sweep_frame
from autoexperiment.analysis.table import compute_ci_df

__all__ = [
    "BestConfig",
    "Standing",
    "best_config",
    "best_of_sweep",
    "collate_sweep_evals",
    "compute_ci_df",
    "effect_sizes",
    "parameter_importance",
    "plot_main_effects",
    "plot_sweep_heatmap",
    "plot_sweep_metric",
    "plot_sweep_metrics",
    "plot_sweep_scatter",
    "runs_frame",
    "sweep_frame",
    "sweep_report_figures",
]
