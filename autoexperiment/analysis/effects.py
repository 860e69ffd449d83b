"""Each parameter by itself, however the configurations were chosen: how much it moves a metric, and a panel that shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autoexperiment.analysis.columns import check_column, check_columns, group_rows, is_missing, numbers
from autoexperiment.analysis.curves import COLOURS, GREY, MEANS, MISSING, RUNS
from autoexperiment.analysis.intervals import scaled
from autoexperiment.analysis.scale import Scale, scale_of
from autoexperiment.analysis.words import metric_label, plain
from autoexperiment.errors import UsageError
from autoexperiment.extras import need

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MOST_LEVELS = 8  # beyond that, numbers are put in classes
CLASSES = 5


def classes_of(df: pd.DataFrame, column: str) -> np.ndarray:
    """The level of each row, from 0, shape (rows,): its value; of a number with more than 8 values, its fifth of the rows.

    Numbers that are equal are in one class, so that classes need not be equally large.
    """
    groups = group_rows(df, [column])
    if len(groups) <= MOST_LEVELS or scale_of(df, column).is_category:
        return groups.codes
    values = numbers(df, column)
    edges = np.quantile(values, np.arange(1, CLASSES) / CLASSES)
    codes: np.ndarray = np.unique(np.searchsorted(edges, values, side="left"), return_inverse=True)[1]
    return codes


def effect_sizes(df: pd.DataFrame, metric: str, *, param_cols: str | Sequence[str]) -> dict[str, float]:
    """How much of a metric's variance each parameter explains by itself, largest first.

    Unlike `parameter_importance` it needs no full grid, and says nothing of how parameters work together.
    Returns: ε² by column: about 0, at times below it, for what has no effect, 1 for what explains all; NaN, last, where there
        are no more runs with a number than levels. Runs without a number do not count.
    Source: Kelley 1935, "An unbiased correlation ratio measure".
    """
    metric = check_column(df, metric, argument="metric")
    columns = check_columns(df, param_cols, argument="param_cols")
    values = numbers(df, metric)
    sizes = {column: _epsilon_squared(values, classes_of(df, column)) for column in columns}
    return dict(sorted(sizes.items(), key=lambda item: (math.isnan(item[1]), -item[1])))


def _epsilon_squared(values: np.ndarray, codes: np.ndarray) -> float:
    has = np.isfinite(values)
    found, levels = scaled(values[has])[0], np.unique(codes[has], return_inverse=True)[1]
    n, k = len(found), levels.max(initial=-1) + 1
    if n <= k or np.ptp(found) == 0:
        return math.nan
    means = np.bincount(levels, found) / np.bincount(levels)
    within, total = np.sum((found - means[levels]) ** 2), np.sum((found - found.mean()) ** 2)
    return float(1 - (within / (n - k)) / (total / (n - 1)))


def plot_main_effects(
    df: pd.DataFrame, y_col: str, param_cols: str | Sequence[str], *, title: str | None = None
) -> Figure:
    """A metric over each parameter by itself, all others together: a panel for each.

    Returns: a matplotlib Figure, with `savefig`. Dots are the runs; lines join the means of the runs at each value, or, for a
        number with more than 8 values, of each fifth of the runs. Crosses on the lower edge are runs without a number.
    Raises: UsageError: a column that is none. HarnessError: values that don't fit.
    """
    y_col = check_column(df, y_col, argument="y_col")
    columns = check_columns(df, param_cols, argument="param_cols")
    if not columns:
        raise UsageError("param_cols is empty. Needed: one parameter or more. For example: param_cols=['depth']")
    wide = min(len(columns), 3 if len(columns) != 4 else 2)
    tall = -(-len(columns) // wide)
    figure = need("matplotlib.figure").Figure(figsize=(1.5 + 3.7 * wide, 0.9 + 3.2 * tall), layout="constrained")
    first = None
    for place, column in enumerate(columns):
        axes = figure.add_subplot(tall, wide, place + 1, sharey=first)
        first = first or axes
        _draw(axes, df, column, y_col)
        axes.set_ylabel(plain(metric_label(y_col)) if place % wide == 0 else "")
    figure.suptitle(plain(title if title is not None else f"{y_col} by each parameter"))
    _add_legend(figure, has_missing=bool(np.isnan(numbers(df, y_col)).any()))
    return figure  # type: ignore[no-any-return]


def _draw(axes: Any, df: pd.DataFrame, column: str, y_col: str) -> None:
    scale, values, codes = scale_of(df, column), numbers(df, y_col), classes_of(df, column)
    scale.draw(axes, "x")
    places = np.array([scale.place(None if is_missing(value) else value) for value in df[column]], dtype=float)
    has = np.isfinite(values)
    axes.plot(places[has], values[has], ls="", marker=".", ms=6, mew=0, alpha=0.45, color=COLOURS[0], gid=RUNS)
    axes.plot(
        places[~has], np.full((~has).sum(), 0.03), ls="", marker="x", ms=6, mew=1.4, color=COLOURS[1], gid=MISSING,
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip
    _draw_means(axes, scale, places[has], values[has], codes[has])
    axes.grid(alpha=0.25)
    axes.margins(x=0.08, y=0.12)
    if not has.any():
        axes.text(0.5, 0.5, "no run has a number", transform=axes.transAxes, ha="center", color=GREY)


def _draw_means(axes: Any, scale: Scale, places: np.ndarray, values: np.ndarray, codes: np.ndarray) -> None:
    levels = np.unique(codes)
    across = np.array([np.median(places[codes == level]) for level in levels])
    means = np.array([values[codes == level].mean() for level in levels])
    order = np.argsort(across)
    axes.plot(
        across[order], means[order], color=COLOURS[0], marker="o", ms=5.5, lw=1.4, ls="" if scale.is_category else "-",
        gid=MEANS,
    )  # fmt: skip


def _add_legend(figure: Any, *, has_missing: bool) -> None:
    line = need("matplotlib.lines").Line2D
    marks = [
        line([], [], color=COLOURS[0], marker="o", ms=5.5, lw=1.4, label="mean of the runs there"),
        line([], [], color=COLOURS[0], marker=".", ms=6, ls="", alpha=0.6, label="one run"),
    ]
    if has_missing:
        marks.append(line([], [], color=COLOURS[1], marker="x", ms=6, mew=1.4, ls="", label="run without a number"))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=9, frameon=False)
