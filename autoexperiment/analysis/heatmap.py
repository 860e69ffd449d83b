"""A metric over two parameters: a cell for each pair, with its mean and how many runs it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autoexperiment.analysis.columns import check_column, check_different, is_missing
from autoexperiment.analysis.keywords import known_keywords
from autoexperiment.analysis.scale import CATEGORY, CENTURY, Scale, scale_of
from autoexperiment.analysis.table import compute_ci_df
from autoexperiment.analysis.words import plain
from autoexperiment.errors import UsageError
from autoexperiment.extras import need

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MOST_LEVELS = 40
NOT_RUN, FAILED = "not run", "failed"
ELSEWHERE = {
    "x": "x_col",
    "y": "y_col",
    "values": "value_col",
    "value": "value_col",
    "aggregation": "What is shown is the mean of the runs. For another: df.pivot_table(aggfunc=…)",
}


@known_keywords(ELSEWHERE)
def plot_sweep_heatmap(df: pd.DataFrame, x_col: str, y_col: str, value_col: str, *, title: str | None = None) -> Figure:
    """The mean of a metric for each pair of two parameters' values.

    Returns: a matplotlib Figure, with `savefig`. A cell says its mean and its number of runs; hatched ones have no number:
        "failed" where runs were made, "not run" where none was. Colours are logarithmic for positive means that span two
        decades or more.
    Raises: UsageError: a column that is none, more than 40 values of a parameter. HarnessError: values that don't fit.
    """
    for argument, column in (("x_col", x_col), ("y_col", y_col), ("value_col", value_col)):
        check_column(df, column, argument=argument)
    check_different(x_col=x_col, y_col=y_col, value_col=value_col)
    x, y = _axis(df, x_col), _axis(df, y_col)
    table = compute_ci_df(df, value_col, [x_col, y_col])
    size = (2.6 + 0.95 * len(x.levels), 1.9 + 0.62 * len(y.levels))
    figure = need("matplotlib.figure").Figure(figsize=size, layout="constrained")
    _draw(figure, x, y, table, value_col)
    figure.axes[0].set_title(plain(title if title is not None else f"{value_col} by {x_col} and {y_col}"), wrap=True)
    return figure  # type: ignore[no-any-return]


def _axis(df: pd.DataFrame, column: str) -> Scale:
    scale = scale_of(df, column, wanted=CATEGORY)
    if len(scale.levels) > MOST_LEVELS:
        raise UsageError(
            f"Column {column!r} has {len(scale.levels)} values. Allowed in a heatmap: {MOST_LEVELS}. "
            f"Put them in bins, df[{column!r}] = pandas.cut(df[{column!r}], 10).astype(str), or use plot_sweep_metric"
        )
    return scale


def _draw(figure: Any, x: Scale, y: Scale, table: pd.DataFrame, value_col: str) -> None:
    means, counts, missing = (_spread(table, column, x, y) for column in ("mean", "count", "missing"))
    axes = figure.add_subplot()
    axes.patch.set(facecolor="#f3f3f3", edgecolor="#c4c4c4", hatch="////", linewidth=0)
    edges = [np.arange(len(scale.levels) + 1) - 0.5 for scale in (x, y)]
    mesh = axes.pcolormesh(
        *edges, np.ma.masked_invalid(means), cmap="viridis", norm=colour_norm(means), edgecolors="white", linewidth=1.5
    )
    x.draw(axes, "x")
    y.draw(axes, "y")
    _annotate(axes, mesh, means, counts, missing)
    if np.isfinite(means).any():
        figure.colorbar(mesh, ax=axes, label=plain(f"mean {value_col}"))


def _spread(table: pd.DataFrame, column: str, x: Scale, y: Scale) -> np.ndarray:
    """A column of the table as a grid: shape (y levels, x levels), NaN where the table has no row."""
    grid = np.full((len(y.levels), len(x.levels)), np.nan)
    for across, up, value in zip(table[x.name], table[y.name], table[column], strict=True):
        at = tuple(int(s.place(None if is_missing(v) else v)) for s, v in ((y, up), (x, across)))
        grid[at] = value
    return grid


def colour_norm(means: np.ndarray) -> Any:
    """Colours for means (NaN: none): logarithmic for positive ones that span two decades or more."""
    found = means[np.isfinite(means)]
    colours = need("matplotlib.colors")
    if len(found) and found.min() > 0 and found.max() / found.min() >= CENTURY:
        return colours.LogNorm(found.min(), found.max())
    return colours.Normalize(*((found.min(), found.max()) if len(found) else (0, 1)))


def _annotate(axes: Any, mesh: Any, means: np.ndarray, counts: np.ndarray, missing: np.ndarray) -> None:
    for (up, across), mean in np.ndenumerate(means):
        count, failed = float(counts[up, across]), float(missing[up, across])
        text, colour, box = _cell_text(float(mean), count, failed), "#24292f", None
        if np.isfinite(mean):
            colour = _readable(mesh.cmap(mesh.norm(mean)))
        else:
            box = {"facecolor": "#f3f3f3", "edgecolor": "none", "pad": 1.5}
        axes.text(across, up, text, ha="center", va="center", fontsize=9, color=colour, bbox=box)


def _cell_text(mean: float, count: float, failed: float) -> str:
    if np.isnan(count):
        return NOT_RUN
    if count == 0:
        return f"{FAILED}\n0 of {failed:g}"
    return f"{mean:#.4g}".rstrip(".") + "\n" + (f"{count:g} of {count + failed:g}" if failed else f"n={count:g}")


def _readable(colour: tuple[float, float, float, float]) -> str:
    """Black or white, whichever stands out more on a colour. Source: WCAG 2.2, relative luminance and contrast."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), linear))
    return "black" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "white"
