"""Which pictures show a sweep: by how many of its parameters vary, and whether their values were listed or drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoexperiment.analysis.columns import group_rows
from autoexperiment.analysis.curves import plot_sweep_metric
from autoexperiment.analysis.effects import effect_sizes, plot_main_effects
from autoexperiment.analysis.heatmap import MOST_LEVELS, plot_sweep_heatmap
from autoexperiment.analysis.layout import check_one_task, metric_of, params_of
from autoexperiment.analysis.scatter import plot_sweep_scatter
from autoexperiment.analysis.sweeps import RUNG, lowest_rung
from autoexperiment.errors import HarnessError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def sweep_report_figures(
    df: pd.DataFrame,
    metric: str,
    *,
    param_cols: str | Sequence[str] | None = None,
    confidence: float = 0.95,
    method: str = "t",
) -> dict[str, Figure]:
    """The pictures that fit a sweep.

    One parameter: `plot_sweep_metric`, with a line for each rung of successive halving. Two: `plot_sweep_heatmap`, or
    `plot_sweep_scatter` where values were drawn from ranges. More: that of the two with the largest effect, and
    `plot_main_effects` of all. Of successive halving, pictures of two parameters and more show the lowest rung: there, all
    trials were given the same.
    Args:
        param_cols: None: the parameters that the frame was made with, but for seeds. Those with one value are left out.
        confidence, method: of the intervals over one parameter.
    Returns: figures by a name that can be a file's, without an ending.
    Raises: UsageError: a column that is none, a frame of several tasks. HarnessError: no parameter varies.
    """
    metric, columns = metric_of(df, metric), params_of(df, param_cols)
    check_one_task(df, columns)
    start = lowest_rung(df)
    params = [column for column in columns if len(group_rows(start, [column])) > 1]
    if not params:
        raise HarnessError(
            "No parameter of the sweep has two values, so there is nothing to draw. Needed: one that varies. "
            "The numbers themselves: mlx sweep results"
        )
    if len(params) == 1:
        by = RUNG if RUNG in df.columns else None
        figure = plot_sweep_metric(df, params[0], metric, group_col=by, confidence=confidence, method=method)
        return {_file_name(params[0]): figure}
    return _of_several(start, metric, params)


def _of_several(df: pd.DataFrame, metric: str, params: Sequence[str]) -> dict[str, Figure]:
    if len(params) == 2:
        return {_file_name(*params): _of_two(df, metric, params[0], params[1], among="")}
    first, second = list(effect_sizes(df, metric, param_cols=params))[:2]
    return {
        _file_name(first, second): _of_two(df, metric, first, second, among=", all others together"),
        "main_effects": plot_main_effects(df, metric, params, title=f"{metric} by each parameter, all others together"),
    }


def _of_two(df: pd.DataFrame, metric: str, first: str, second: str, *, among: str) -> Figure:
    plot = plot_sweep_heatmap if _is_listed(df, first, second) else plot_sweep_scatter
    figure: Figure = plot(df, first, second, metric, title=f"{metric} by {first} and {second}{among}")
    return figure


def _is_listed(df: pd.DataFrame, first: str, second: str) -> bool:
    """Whether two parameters make up a grid of which at least half the cells were run."""
    levels = [len(group_rows(df, [column])) for column in (first, second)]
    cells = len(group_rows(df, [first, second]))
    return max(levels) <= MOST_LEVELS and levels[0] * levels[1] <= 2 * cells


def _file_name(*columns: str) -> str:
    return "_by_".join(re.sub(r"[^\w.-]+", "_", column).strip("._") or "parameter" for column in columns)
