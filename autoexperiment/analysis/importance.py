"""Which parameters matter: the variance of a metric over a grid, divided among the parameters and the seed noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoexperiment.analysis.columns import Groups, check_column, check_columns, group_rows, numbers
from autoexperiment.analysis.intervals import Moments, moments, scaled
from autoexperiment.analysis.words import params_text, plural
from autoexperiment.errors import HarnessError, UsageError
from autoexperiment.extras import need

if TYPE_CHECKING:
    import pandas as pd

NOISE, HIGHER = "seed noise", "higher interactions"
COLUMNS = ("parameter", "share", "corrected_share", "degrees_of_freedom", "p_value")


@dataclass(frozen=True)
class _Grid:
    """A cell for each combination of levels. `means`: shape (levels of the first parameter, …); `facts`: by cell, flat."""

    means: np.ndarray
    facts: Moments

    @property
    def within(self) -> float:
        """Variance of the runs around their cells' means, each cell counting the same."""
        return float(np.mean(self._squares / self.facts.count))

    @property
    def noise(self) -> float:
        """Unbiased variance of one run, from the cells that have several; NaN when none has."""
        return float(self._squares.sum()) / self.freedom if self.freedom else math.nan

    @property
    def freedom(self) -> int:
        return int(self.facts.count.sum()) - self.means.size

    @property
    def runs(self) -> float:
        """Cells times the harmonic mean of their runs: the number of runs where all cells have equally many."""
        return float(self.means.size**2 / np.sum(1 / self.facts.count))

    @property
    def _squares(self) -> np.ndarray:
        found: np.ndarray = np.nan_to_num(self.facts.sd) ** 2 * (self.facts.count - 1)
        return found


@dataclass(frozen=True)
class _Part:
    """A share of the variance between cells. `variance`: in squared units of the metric."""

    name: str
    variance: float
    freedom: int


def parameter_importance(df: pd.DataFrame, metric: str, *, param_cols: str | Sequence[str]) -> pd.DataFrame:
    """Functional ANOVA over a full grid: what share of the metric's variance each parameter and each pair explains.

    Every cell of the grid counts the same, however many of its runs have a number, so that runs which failed shift
    nothing; with equally many runs in each cell this is the classical analysis of variance.
    Args: param_cols: the parameters, not the seed; each combination of their values needs a run with a number.
    Returns: a row for each parameter (most important first), each pair ("a x b"), "higher interactions" (three parameters
        or more) and "seed noise". `share` sums to 1. `corrected_share` (ω²) too, after the noise's contribution to each
        has been taken off: about 0, and below it as often as above, for what has no effect. `p_value`: of an F test
        against the noise, exact for equally many runs. Without replicates the noise can't be told from the highest
        interaction: `corrected_share`, `p_value` and the noise's row are NaN.
    Raises: UsageError: a column that is none. HarnessError: combinations without a run; nothing varies.
    Source: Hutter, Hoos & Leyton-Brown 2014 (functional ANOVA); Hays 1963 (ω²).
    """
    metric = check_column(df, metric, argument="metric")
    columns = check_columns(df, param_cols, argument="param_cols")
    if not columns:
        raise UsageError(
            "param_cols is empty. Needed: one parameter or more. For example: param_cols=['learning_rate']"
        )
    grid = _grid(df, metric, columns)
    if grid.means.var() + grid.within == 0:
        raise HarnessError(
            f"All runs have the same {metric!r}, so there is nothing to explain. Look at: df[{metric!r}]"
        )
    return _table(grid, _parts(grid.means, columns))


def _grid(df: pd.DataFrame, metric: str, columns: Sequence[str]) -> _Grid:
    axes = [group_rows(df, [column]) for column in columns]
    shape = tuple(len(axis) for axis in axes)
    values, _ = scaled(numbers(df, metric))
    if math.prod(shape) > np.isfinite(values).sum():
        raise HarnessError(_gaps(math.prod(shape), "", columns))
    cells = np.ravel_multi_index(tuple(axis.codes for axis in axes), shape)
    facts = moments(values, cells, math.prod(shape))
    if len(empty := np.flatnonzero(facts.count == 0)):
        raise HarnessError(_gaps(math.prod(shape), f", the first: {_cell(axes, empty[0], shape)}", columns))
    return _Grid(facts.mean.reshape(shape), facts)


def _cell(axes: Sequence[Groups], cell: int, shape: tuple[int, ...]) -> str:
    params = [axis.params(int(at)) for axis, at in zip(axes, np.unravel_index(cell, shape), strict=True)]
    return params_text({name: value for param in params for name, value in param.items()})


def _gaps(cells: int, example: str, columns: Sequence[str]) -> str:
    return (
        f"The runs are no full grid of {', '.join(columns)}: of {plural(cells, 'combination')}, some have no run with a "
        f"number{example}. Needed: one run or more of each. Run what is missing, leave out a parameter, or leave out a "
        f"value: df[df[{columns[0]!r}] != …]"
    )


def _parts(means: np.ndarray, columns: Sequence[str]) -> list[_Part]:
    """The variance between cells, by parameter, by pair, and the rest."""
    rank = means.ndim
    mains = [_effect(means, (axis,)) for axis in range(rank)]
    parts = [_Part(name, float(e.var()), e.size - 1) for name, e in zip(columns, mains, strict=True)]
    parts.sort(key=lambda part: -part.variance)
    for a, b in itertools.combinations(range(rank), 2):
        effect = _effect(means, (a, b)) - mains[a] - mains[b]
        freedom = (means.shape[a] - 1) * (means.shape[b] - 1)
        parts.append(_Part(f"{columns[a]} x {columns[b]}", float(np.mean(effect**2)), freedom))
    if rank > 2:
        rest = float(means.var()) - math.fsum(part.variance for part in parts)
        # a difference of sums: below zero by rounding only
        parts.append(_Part(HIGHER, max(rest, 0.0), means.size - 1 - sum(part.freedom for part in parts)))
    return parts


def _effect(means: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Means over all other axes, around the grand mean; the averaged axes stay, with length 1."""
    others = tuple(axis for axis in range(means.ndim) if axis not in axes)
    found: np.ndarray = means.mean(axis=others, keepdims=True) - means.mean()
    return found


def _table(grid: _Grid, parts: Sequence[_Part]) -> pd.DataFrame:
    between, noise = float(grid.means.var()), grid.noise
    total = between + grid.within
    corrected_total = between - (grid.means.size - 1) * noise / grid.runs + noise
    rows = [
        (
            part.name,
            part.variance / total,
            (part.variance - part.freedom * noise / grid.runs) / corrected_total,
            part.freedom,
            _p_value(part, grid),
        )
        for part in parts
    ]
    within = grid.within / total if grid.freedom else math.nan
    rows.append((NOISE, within, noise / corrected_total, grid.freedom, math.nan))
    table: pd.DataFrame = need("pandas").DataFrame(rows, columns=list(COLUMNS))
    return table


def _p_value(part: _Part, grid: _Grid) -> float:
    """Of the F test of a part against the noise; NaN where no noise was seen, or the part can't vary."""
    if not (part.freedom and grid.noise > 0):
        return math.nan
    ratio = part.variance * grid.runs / part.freedom / grid.noise
    return float(need("scipy.special").fdtrc(part.freedom, grid.freedom, ratio))
