"""Parquet files, read in pieces. pyarrow is imported here, and only when there is such a file to read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from autoexperiment.datasets.delimited import target_column
from autoexperiment.datasets.soundness import LARGEST, is_fine
from autoexperiment.datasets.tables import Rows
from autoexperiment.errors import DataError

Array = np.ndarray[Any, Any]

_CELLS_AT_ONCE = 1 << 18


def read(path: Path, *, target: str | int | None, has_labels: bool) -> Iterator[Rows]:
    """The rows of a file, a bounded number at a time; arguments and errors as those of `delimited.read`."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"Reading {path.name} needs pyarrow, which is not installed. Type: pip install 'autoexperiment[parquet]'"
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(names) < 2:
                raise DataError(f"{path} has {len(names)} columns. Needed: at least one feature and the target.")
            column = target_column(target, names=names, width=len(names), where=str(path))
            yield from _rows(file, path, column=column, has_labels=has_labels)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} has text that is not UTF-8 ({error.reason}). Write it again as text in UTF-8."
        ) from error
    except (arrow.ArrowException, OSError, OverflowError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def _rows(file: Any, path: Path, *, column: int, has_labels: bool) -> Iterator[Rows]:
    """Batches in which each column has a plain numeric type, or the target has text."""
    names = file.schema_arrow.names
    start = 0
    for batch in file.iter_batches(batch_size=max(1, _CELLS_AT_ONCE // len(names))):
        if not len(batch):
            continue
        x = np.empty((len(batch), len(names) - 1))
        features = (i for i in range(len(names)) if i != column)
        for i, number in enumerate(features):
            x[:, i] = _numbers(batch.column(number), f"{path}, column {names[number]!r}", start)
        where = f"{path}, column {names[column]!r}"
        y = (_labels if has_labels else _numbers)(batch.column(column), where, start)
        yield Rows(x, y)
        start += len(batch)


def _numbers(values: Any, where: str, start: int) -> Array:
    """A column's values as float64, shape (n,). `start`: number of the first of these rows."""
    import pyarrow as arrow

    kind = values.type
    if not (arrow.types.is_integer(kind) or arrow.types.is_floating(kind) or arrow.types.is_boolean(kind)):
        raise DataError(
            f"{where} has the type {kind}. Allowed: integers, floating-point numbers and booleans; "
            'text only in the target column of "task": "classification".'
        )
    _refuse_nulls(values, where, start)
    numbers = np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
    if not is_fine(numbers):
        row = int(np.argmin(np.abs(numbers) <= LARGEST))
        raise DataError(
            f"{where} holds {numbers[row]} in row {start + row}, counted from 0. "
            f"Allowed: finite numbers up to {LARGEST:.3g}. Remove such rows or fill them in."
        )
    return numbers


def _labels(values: Any, where: str, start: int) -> Any:
    """Text as it is, stripped; anything else as numbers."""
    import pyarrow as arrow

    if arrow.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not (arrow.types.is_string(values.type) or arrow.types.is_large_string(values.type)):
        return _numbers(values, where, start)
    _refuse_nulls(values, where, start)
    labels = [label.strip() for label in values.to_pylist()]
    if "" in labels:
        raise DataError(f"{where} is empty in row {start + labels.index('')}, counted from 0. Every cell is needed.")
    return labels


def _refuse_nulls(values: Any, where: str, start: int) -> None:
    if values.null_count:
        row = values.is_null().to_pylist().index(True)
        raise DataError(
            f"{where} has no value in row {start + row}, counted from 0. Every cell is needed: remove such rows or "
            "fill them in."
        )
