"""A metric over a parameter: every run as a dot, the means with the same intervals as the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autoexperiment.analysis.columns import (
    check_column,
    check_columns,
    check_different,
    is_missing,
    numbers,
)
from autoexperiment.analysis.keywords import known_keywords
from autoexperiment.analysis.scale import Scale, scale_of
from autoexperiment.analysis.table import compute_ci_df
from autoexperiment.analysis.words import metric_label, percent, plain, value_text
from autoexperiment.errors import UsageError
from autoexperiment.extras import need

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Okabe & Ito 2008, without the yellow, which is too pale for lines on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MOST_LINES = 40
MARKERS, DASHES = "osD^vPX*", ("-", "--", ":", "-.")
GREY = "#57606a"
RUNS, MEANS, MISSING = "runs", "means", "missing"  # ids of the artists, in an SVG too
ELSEWHERE = {
    "x": "x_col",
    "color": "group_col",
    "error_bars": "The bars are the table's confidence intervals; a single run has none.",
    "facet_col": "Draw one figure for each value: df[df['name'] == value]",
    "facet_row": "Draw one figure for each value: df[df['name'] == value]",
}


@dataclass(frozen=True)
class _Look:
    """What all panels of a figure share."""

    scale: Scale
    group_col: str | None
    groups: tuple[Any, ...]
    confidence: float
    method: str
    seed: int

    @property
    def step(self) -> float:
        """From one series to the next, in points: bars at the same value stand side by side."""
        return min(8.0, 40 / len(self.groups))

    def offset(self, place: int) -> float:
        """Of a series from its true place, in points."""
        return (place - (len(self.groups) - 1) / 2) * self.step


@known_keywords({**ELSEWHERE, "y": "y_col"})
def plot_sweep_metric(
    df: pd.DataFrame,
    x_col: str,
    y_col: str,
    *,
    title: str | None = None,
    group_col: str | None = None,
    x_scale: str = "auto",
    confidence: float = 0.95,
    method: str = "t",
    seed: int = 0,
) -> Figure:
    """One metric over one parameter.

    Args:
        group_col: a line of its own for each value of a second parameter, which has 40 at most.
        x_scale: "linear", "log" or "category"; "auto" goes by the values.
        confidence, method, seed: of the intervals, as in `compute_ci_df`.
    Returns: a matplotlib Figure, with `savefig`. Runs without a number are crosses on the lower edge.
    Raises: UsageError: a column or word that is none. HarnessError: values that don't fit.
    """
    y_col = check_column(df, y_col, argument="y_col")
    look = _look(df, x_col, [y_col], group_col, x_scale, confidence, method, seed)
    figure = need("matplotlib.figure").Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    table = _draw(axes, df, y_col, look)
    axes.set_title(plain(title if title is not None else f"{y_col} by {x_col}"))
    _add_legend(figure, [table], look)
    return figure  # type: ignore[no-any-return]


@known_keywords({**ELSEWHERE, "y": "y_cols", "y_col": "y_cols"})
def plot_sweep_metrics(
    df: pd.DataFrame,
    x_col: str,
    y_cols: Sequence[str],
    *,
    title: str | None = None,
    group_col: str | None = None,
    x_scale: str = "auto",
    confidence: float = 0.95,
    method: str = "t",
    seed: int = 0,
) -> Figure:
    """Several metrics over one parameter, a panel with its own scale for each; else as `plot_sweep_metric`."""
    columns = check_columns(df, y_cols, argument="y_cols")
    if not columns:
        raise UsageError("y_cols is empty. Needed: one metric or more. For example: y_cols=['loss', 'val_loss']")
    look = _look(df, x_col, columns, group_col, x_scale, confidence, method, seed)
    wide = min(len(columns), 3 if len(columns) != 4 else 2)
    tall = -(-len(columns) // wide)
    figure = need("matplotlib.figure").Figure(figsize=(1.5 + 4.3 * wide, 0.9 + 3.6 * tall), layout="constrained")
    panels = [figure.add_subplot(tall, wide, place + 1) for place in range(len(columns))]
    tables = [_draw(axes, df, column, look) for axes, column in zip(panels, columns, strict=True)]
    figure.suptitle(plain(title if title is not None else f"{', '.join(columns)} by {x_col}"))
    _add_legend(figure, tables, look)
    return figure  # type: ignore[no-any-return]


def _look(
    df: pd.DataFrame,
    x_col: str,
    y_cols: Sequence[str],
    group_col: str | None,
    x_scale: str,
    confidence: float,
    method: str,
    seed: int,
) -> _Look:
    x_col = check_column(df, x_col, argument="x_col")
    for y_col in y_cols:
        check_different(x_col=x_col, y_col=y_col, group_col=group_col)
    levels: tuple[Any, ...] = (None,)
    if group_col is not None:
        levels = scale_of(df, check_column(df, group_col, argument="group_col")).levels
        if len(levels) > MOST_LINES:
            raise UsageError(
                f"Column {group_col!r} has {len(levels)} values. Allowed as group_col: {MOST_LINES}. "
                f"Put them in bins, df[{group_col!r}] = pandas.cut(df[{group_col!r}], 5).astype(str), or leave it out."
            )
    return _Look(scale_of(df, x_col, wanted=x_scale), group_col, levels, confidence, method, seed)


def _draw(axes: Any, df: pd.DataFrame, y_col: str, look: _Look) -> pd.DataFrame:
    """Fill a panel; returns the table that it shows."""
    look.scale.draw(axes, "x")
    by = [look.scale.name] + ([look.group_col] if look.group_col is not None else [])
    table = compute_ci_df(df, y_col, by, confidence=look.confidence, method=look.method, seed=look.seed)
    for place, (means, runs) in enumerate(_series(table, df, look)):
        artists = [*_draw_means(axes, means, place, look), *_draw_missing(axes, means, place, look)]
        _shift(axes, artists, look.offset(place))
        if (means["count"] > 1).any():
            _shift(axes, _draw_runs(axes, runs, y_col, place, look), look.offset(place) + look.step / 2)
    axes.set_ylabel(plain(metric_label(y_col)))
    axes.grid(alpha=0.25)
    axes.margins(x=0.08, y=0.12)
    if look.scale.is_category:
        axes.set_xlim(-0.5, len(look.scale.levels) - 0.5)
    if not table["count"].sum():
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no run has a number", transform=axes.transAxes, ha="center", color=GREY)
    return table


def _series(table: pd.DataFrame, df: pd.DataFrame, look: _Look) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """The table's rows and the runs of each line."""
    if look.group_col is None:
        yield table, df
        return
    for level in look.groups:
        yield tuple(  # type: ignore[misc]
            frame[frame[look.group_col].isna() if level is None else frame[look.group_col] == level]
            for frame in (table, df)
        )


def _shift(axes: Any, artists: Iterable[Any], points: float) -> None:
    """Move what is drawn sideways, after it has set the limits of the axes by its true place."""
    moved = need("matplotlib.transforms").ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)
    for artist in artists:
        artist.set_transform(artist.get_transform() + moved)


def _places(frame: pd.DataFrame, look: _Look) -> np.ndarray:
    values = frame[look.scale.name]
    return np.array([look.scale.place(None if is_missing(value) else value) for value in values], dtype=float)


def _draw_runs(axes: Any, runs: pd.DataFrame, y_col: str, place: int, look: _Look) -> list[Any]:
    return axes.plot(  # type: ignore[no-any-return]
        _places(runs, look), numbers(runs, y_col), ls="", marker=".", ms=5, mew=0, alpha=0.45,
        color=COLOURS[place % len(COLOURS)], gid=RUNS,
    )  # fmt: skip


def _draw_means(axes: Any, means: pd.DataFrame, place: int, look: _Look) -> list[Any]:
    found = means[means["count"] > 0]
    x = _places(found, look)
    order = np.argsort(x, kind="stable")
    colour, lower, upper = COLOURS[place % len(COLOURS)], found["lower_bound"], found["upper_bound"]
    # around its middle, not around the mean: a bootstrap's interval need not hold the mean
    bars = axes.errorbar(
        x, ((lower + upper) / 2).to_numpy(), yerr=((upper - lower) / 2).to_numpy(), fmt="none", ecolor=colour,
        elinewidth=1.3, capsize=3.5,
    )  # fmt: skip
    lines = axes.plot(
        x[order], found["mean"].to_numpy()[order], color=colour, marker=MARKERS[place % len(MARKERS)], ms=5.5,
        ls="" if look.scale.is_category else DASHES[place // len(COLOURS) % len(DASHES)], lw=1.4,
        gid=MEANS, label=plain(value_text(look.groups[place])),
    )  # fmt: skip
    return [*lines, *bars.get_children()]


def _draw_missing(axes: Any, means: pd.DataFrame, place: int, look: _Look) -> list[Any]:
    """A cross on the lower edge where runs have no number, with how many there are if several."""
    failed = means[means["missing"] > 0]
    x, at_edge, colour = _places(failed, look), axes.get_xaxis_transform(), COLOURS[place % len(COLOURS)]
    artists = axes.plot(
        x, np.full(len(x), 0.03), ls="", marker="x", ms=6, mew=1.6, color=colour, transform=at_edge, gid=MISSING
    )
    for at, count in zip(x, failed["missing"], strict=True):
        if count > 1:
            artists.append(
                axes.text(at, 0.055, f"{count}", transform=at_edge, ha="center", va="bottom", fontsize=8, color=colour)
            )
    return artists  # type: ignore[no-any-return]


def _add_legend(figure: Any, tables: Sequence[pd.DataFrame], look: _Look) -> None:
    """What the marks mean, below the panels; the lines' names, if there are several, beside them."""
    line = need("matplotlib.lines").Line2D
    marks = [line([], [], color=GREY, marker="o", ms=5.5, lw=1.3, label="one run")]
    if any((table["count"] > 1).any() for table in tables):
        marks[0].set_label(f"mean, {percent(look.confidence)} interval ({look.method})")
        marks.append(line([], [], color=GREY, marker=".", ms=5, ls="", alpha=0.6, label="one run"))
    if any(table["missing"].any() for table in tables):
        marks.append(line([], [], color=GREY, marker="x", ms=6, mew=1.6, ls="", label="run without a number"))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=9, frameon=False)
    if look.group_col is not None:
        series = [artist for artist in figure.axes[0].lines if artist.get_gid() == MEANS]
        figure.legend(handles=series, loc="outside right upper", title=plain(look.group_col), fontsize=9, frameon=False)
