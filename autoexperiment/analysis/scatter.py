"""A metric over two parameters whose values were drawn, not listed: a dot for each configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autoexperiment.analysis.columns import check_column, check_different, is_missing
from autoexperiment.analysis.curves import GREY, MISSING, RUNS
from autoexperiment.analysis.heatmap import ELSEWHERE, colour_norm
from autoexperiment.analysis.keywords import known_keywords
from autoexperiment.analysis.scale import Scale, scale_of
from autoexperiment.analysis.table import compute_ci_df
from autoexperiment.analysis.words import plain
from autoexperiment.extras import need

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@known_keywords(ELSEWHERE)
def plot_sweep_scatter(df: pd.DataFrame, x_col: str, y_col: str, value_col: str, *, title: str | None = None) -> Figure:
    """The mean of a metric at each pair of two parameters' values, as the colour of a dot there.

    Returns: a matplotlib Figure, with `savefig`. Crosses are pairs of which no run has a number.
    Raises: UsageError: a column that is none. HarnessError: values that don't fit.
    """
    for argument, column in (("x_col", x_col), ("y_col", y_col), ("value_col", value_col)):
        check_column(df, column, argument=argument)
    check_different(x_col=x_col, y_col=y_col, value_col=value_col)
    table = compute_ci_df(df, value_col, [x_col, y_col])
    figure = need("matplotlib.figure").Figure(figsize=(7.5, 5.2), layout="constrained")
    axes = figure.add_subplot()
    _draw(figure, axes, table, (scale_of(df, x_col), scale_of(df, y_col)), value_col)
    axes.set_title(plain(title if title is not None else f"{value_col} by {x_col} and {y_col}"), wrap=True)
    return figure  # type: ignore[no-any-return]


def _draw(figure: Any, axes: Any, table: pd.DataFrame, scales: tuple[Scale, Scale], value_col: str) -> None:
    for scale, letter in zip(scales, "xy", strict=True):
        scale.draw(axes, letter)
    x, y = (_places(table, scale) for scale in scales)
    means, has = table["mean"].to_numpy(), (table["count"] > 0).to_numpy()
    dots = axes.scatter(
        x[has],
        y[has],
        c=means[has],
        s=55,
        cmap="viridis",
        norm=colour_norm(means),
        edgecolors="white",
        lw=0.6,
        gid=RUNS,
    )
    if not has.all():
        axes.scatter(x[~has], y[~has], marker="x", color=GREY, s=40, gid=MISSING, label="no run has a number")
        figure.legend(loc="outside lower center", fontsize=9, frameon=False)
    if has.any():
        figure.colorbar(dots, ax=axes, label=plain(f"mean {value_col}"))
    axes.grid(alpha=0.25)
    axes.margins(0.06)


def _places(table: pd.DataFrame, scale: Scale) -> np.ndarray:
    return np.array([scale.place(None if is_missing(v) else v) for v in table[scale.name]], dtype=float)
