"""Means with their confidence intervals, a row for each configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autoexperiment.analysis.columns import check_column, check_columns, group_rows, numbers
from autoexperiment.analysis.intervals import intervals, moments
from autoexperiment.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("mean", "lower_bound", "upper_bound", "count", "confidence", "missing")


def compute_ci_df(
    df: pd.DataFrame,
    value_col: str,
    group_cols: str | Sequence[str],
    *,
    confidence: float = 0.95,
    method: str = "t",
    seed: int = 0,
) -> pd.DataFrame:
    """The mean of a metric and its confidence interval, for each group of runs.

    Args:
        df: a row for each run; NaN and infinity in `value_col` are runs that failed.
        group_cols: what tells groups apart; a missing parameter is a value like others. []: all rows are one group.
        method: "t" (Student, ddof=1), "wilson" (values 0 and 1, a row for each trial) or "bca" (bootstrap).
        seed: of the bootstrap.
    Returns: a row for each group, first seen first: the group columns, then `mean`, `lower_bound`, `upper_bound`
        (NaN for fewer than two runs, or beyond the largest float; not cut to any range), `count` (runs with a number),
        `confidence`, and `missing` (runs without one).
    Raises: UsageError: a column, method, confidence or seed that is none. HarnessError: values that don't fit.
    """
    value_col = check_column(df, value_col, argument="value_col")
    columns = check_columns(df, group_cols, argument="group_cols")
    _check_names(columns, value_col)
    groups, values = group_rows(df, columns), numbers(df, value_col)
    facts = moments(values, groups.codes, len(groups))
    bounds = intervals(values, groups.codes, facts, method=method, confidence=confidence, seed=seed)
    table = groups.keys
    found: tuple[Any, ...] = (facts.mean, *bounds, facts.count, float(confidence), facts.missing)
    for name, column in zip(COLUMNS, found, strict=True):
        table[name] = column
    return table


def _check_names(group_cols: Sequence[str], value_col: str) -> None:
    if value_col in group_cols:
        raise UsageError(f"group_cols names {value_col!r}, which is value_col. Group by parameters, not by the metric.")
    if taken := [column for column in group_cols if column in COLUMNS]:
        raise UsageError(
            f"group_cols names {taken[0]!r}, a column of the result. Allowed: any other name. "
            f"Type: df.rename(columns={{{taken[0]!r}: {taken[0] + '_of_run'!r}}})"
        )
