"""What a function takes of a DataFrame: columns that exist, numbers that are numbers, rows that belong together."""

from __future__ import annotations

import numbers as kinds
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autoexperiment.errors import HarnessError, UsageError, unknown
from autoexperiment.extras import need

if TYPE_CHECKING:
    import pandas as pd


def check_columns(df: pd.DataFrame, names: str | Iterable[str], *, argument: str) -> list[str]:
    """The columns that an argument names, each of them there once; one name stands for a list of it.

    Raises: UsageError.
    """
    if not isinstance(df, need("pandas").DataFrame):
        raise UsageError(
            f"df is a {type(df).__name__}, not a DataFrame. Needed: one row for each run. "
            "Type: pandas.DataFrame(rows), or runs_frame(index)"
        )
    columns = [names] if isinstance(names, str) else list(names)
    for column in columns:
        _check(df, column, argument=argument)
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise UsageError(f"{argument} names {twice[0]!r} twice. Allowed: each column once. Leave one of them out.")
    return columns


def check_column(df: pd.DataFrame, name: str, *, argument: str) -> str:
    """As `check_columns`, for an argument that names one column."""
    if not isinstance(name, str):
        raise UsageError(f"{argument} is {name!r}. Allowed: the name of one column. For example: {argument}='loss'")
    return check_columns(df, name, argument=argument)[0]


def check_different(**arguments: str | None) -> None:
    """Raises: UsageError: two of the arguments name the same column."""
    seen: dict[str, str] = {}
    for argument, column in arguments.items():
        if column in seen:
            raise UsageError(f"{argument} and {seen[column]} are both {column!r}. Name two different columns.")
        if column is not None:
            seen[column] = argument


def _check(df: pd.DataFrame, column: str, *, argument: str) -> None:
    count = int((df.columns == column).sum())
    if count == 0:
        known = [str(name) for name in df.columns]
        raise UsageError(unknown("column", str(column), known, where=argument))
    if count > 1:
        raise UsageError(
            f"{argument}: the DataFrame has {count} columns {column!r}. Needed: one. "
            "Type: df = df.loc[:, ~df.columns.duplicated()]"
        )


def numbers(df: pd.DataFrame, column: str) -> np.ndarray:
    """A column's numbers: shape (rows,), float64, NaN where there is none; infinity is none either.

    Raises: HarnessError: a value is neither a number nor missing.
    """
    series = df[column]
    types = need("pandas").api.types
    if types.is_numeric_dtype(series.dtype) and not types.is_complex_dtype(series.dtype):
        found: np.ndarray = series.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    else:
        found = np.array([_number(value, column=column, row=row) for row, value in series.items()], dtype=np.float64)
    found[~np.isfinite(found)] = np.nan
    return found


def _number(value: object, *, column: str, row: object) -> float:
    if isinstance(value, kinds.Real | np.bool_):
        return float(value)
    if is_missing(value):
        return np.nan
    raise HarnessError(
        f"Column {column!r} holds {value!r} in row {row!r}, which is no number. Allowed: numbers, and NaN for runs "
        f"that failed. Type: df[{column!r}] = pandas.to_numeric(df[{column!r}], errors='coerce')"
    )


def is_missing(value: object) -> bool:
    """None, NaN, NaT and pandas' NA."""
    answer: Any = need("pandas").isna(value)  # an array for a list, which is a value
    return answer is True or (isinstance(answer, np.bool_) and bool(answer))


def _plain(value: Any) -> Any:
    if is_missing(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class Groups:
    """Rows with equal values. `keys`: a row for each group, first seen first; `codes`: shape (rows,), group of each."""

    keys: pd.DataFrame
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def params(self, group: int) -> dict[str, Any]:
        """A group's values by column, as plain Python; None for missing ones."""
        return {str(column): _plain(self.keys[column].iloc[group]) for column in self.keys.columns}


def group_rows(df: pd.DataFrame, columns: Sequence[str]) -> Groups:
    """Rows by their values in some columns, missing ones included; without columns, all rows are one group.

    Raises: UsageError: there are no rows. HarnessError: values that can't be compared, such as lists.
    """
    if df.empty:
        raise UsageError("The DataFrame has no rows. Needed: one row for each run. Look at what was selected: df.shape")
    if not columns:
        return Groups(df[[]].iloc[:1].reset_index(drop=True), np.zeros(len(df), dtype=np.int64))
    try:
        grouped = df.groupby(list(columns), sort=False, dropna=False, observed=True)
        codes = grouped.ngroup().to_numpy()
    except TypeError as error:
        name = next(c for c in columns if any(isinstance(value, list | dict | set) for value in df[c]))
        raise HarnessError(
            f"Column {name!r} holds lists or objects, which can't be grouped. Allowed: numbers, text, true and false. "
            f"Type: df[{name!r}] = df[{name!r}].map(str)"
        ) from error
    _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    keys = df[list(columns)].iloc[first[order]].reset_index(drop=True)
    return Groups(keys, np.argsort(order)[codes])
