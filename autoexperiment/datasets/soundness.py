"""What must hold of every number of a dataset that comes from outside: finite, within float32, and whole as a class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from autoexperiment.datasets.base import BaseDataset, Facts, Table, facts_of
from autoexperiment.errors import DataError

Array = np.ndarray[Any, Any]

LARGEST = float(np.finfo(np.float32).max)  # what training computes in; squares of it still fit a float64
_NUMBERS_AT_ONCE = 1 << 18  # 2 MB of float64: stays in the cache, and far below any memory limit


def slices(n_rows: int, numbers_per_row: int) -> Iterator[slice]:
    """Consecutive pieces of rows, each small enough to be computed with in the processor's cache."""
    step = max(1, _NUMBERS_AT_ONCE // max(1, numbers_per_row))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def plain(value: Any) -> Any:
    """A number of numpy's as Python's own, which JSON and `isinstance` know; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


class CheckedDataset(BaseDataset):
    """A dataset from outside, of which nothing is believed that its table does not show."""

    def facts_of(self, table: Table) -> Facts:
        """Facts of the table that this dataset loaded, without loading it again."""
        return facts_of(table, task=self.task)

    def facts(self) -> Facts:
        return self.facts_of(self.load())


def check_values(table: Table, *, name: str) -> Table:
    """Raises: DataError: NaN, infinity, or a number too large for float32; the message has row and column."""
    if table.y.dtype.kind not in "fiub":
        raise DataError(f"{name}: y holds {table.y.dtype}, not numbers. Text is a target of classifications only.")
    _check_finite(table.X, name=f"{name}: X")
    _check_finite(table.y, name=f"{name}: y")
    return table


def is_fine(numbers: Array) -> bool:
    """True if all are finite and fit a float32. NaN compares false with everything."""
    # float(): compared as a float16, the limit itself would be infinite
    return numbers.size == 0 or (float(numbers.min()) >= -LARGEST and float(numbers.max()) <= LARGEST)


def _check_finite(values: Array, *, name: str) -> None:
    if values.dtype.kind != "f":
        return
    per_row = int(np.prod(values.shape[1:]))
    for rows in slices(len(values), per_row):
        piece = values[rows]
        if not is_fine(piece):
            where = np.argwhere(~(np.abs(piece.astype(np.float64)) <= LARGEST))[0]
            value = piece[tuple(where)]
            raise DataError(
                f"{name} has the value {value} in row {rows.start + where[0]}{_column(where[1:])}, counted from 0. "
                f"Allowed: finite numbers up to {LARGEST:.3g}. Remove such rows or fill them in."
            )


def _column(where: Array) -> str:
    return f", column {', '.join(str(i) for i in where)}" if len(where) else ""


def class_numbers(y: Array, *, name: str) -> Array:
    """Targets as class numbers, shape (n,), int32: whole numbers from 0, as they are.

    Raises: DataError: not whole, negative, or not below the number of rows (which no numbering from 0 needs).
    """
    numbers = np.empty(len(y), np.int32)
    for rows in slices(len(y), 1):
        piece = y[rows] if y.dtype.kind != "f" else y[rows].astype(np.float64)  # float16 has no number of rows
        wrong = ~((piece >= 0) & (piece < max(2, len(y))) & (piece == np.floor(piece)))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{name} has the class {piece[row]} in row {rows.start + row}, counted from 0. Allowed: whole numbers "
                'from 0, below the number of rows. For other numbers set "task": "regression".'
            )
        numbers[rows] = piece
    return numbers
