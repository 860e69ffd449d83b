"""Tables as text: CSV with commas, semicolons or tabs, read strictly and in pieces.

The first line with anything in it decides. The separator is the one that cuts it into the most cells. It holds
names if none of its cells is a number and at least one is a word; otherwise it is the first row. Cells may be quoted
and may have spaces around them; empty lines are skipped. Everything but a number in ASCII digits (sign, point,
exponent) is refused, with its line and column, except in the target column of a classification.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from autoexperiment.datasets.soundness import LARGEST, is_fine
from autoexperiment.datasets.tables import NUMERIC, Rows, number_of
from autoexperiment.errors import DataError, unknown

Array = np.ndarray[Any, Any]

_SEPARATORS = ("\t", ";", ",")
_NO_NAMES = {"", "nan", "inf", "+inf", "-inf", "infinity", "-infinity", "na", "n/a", "null", "none"}
_CELLS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class _Layout:
    separator: str
    names: tuple[str, ...]  # empty: the file has no line of names
    width: int

    def column(self, number: int) -> str:
        return f"column {self.names[number]!r}" if self.names else f"column {number}"


@dataclass
class _Piece:
    """Rows as text, and the line of the file that each ends on."""

    rows: list[list[str]]
    lines: list[int]


def read(path: Path, *, target: str | int | None, has_labels: bool) -> Iterator[Rows]:
    """The rows of a file, a bounded number at a time.

    Args:
        target: a column's name, its number from 0, or None for the last one.
        has_labels: give the targets as text.
    Raises: DataError: with the line and the column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            layout = _layout(file, path)
            number = _target(layout, target, path)
            file.seek(0)
            for piece in _pieces(file, layout, path):
                yield _parsed(piece, layout, number, path=path, has_labels=has_labels)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error.reason}). Save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path} is not sound CSV: {error}. Look for a quote that is not closed.") from error
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error


def _reader(file: TextIO, separator: str) -> Any:
    return csv.reader(file, delimiter=separator, strict=True, skipinitialspace=True)


def _layout(file: TextIO, path: Path) -> _Layout:
    rows = {separator: _first_row(file, separator) for separator in _SEPARATORS}
    separator = max(rows, key=lambda key: len(rows[key]))
    first = rows[separator]
    if not first:
        raise DataError(f"{path} has no rows. At least one row of numbers is needed.")
    if len(first) < 2:
        raise DataError(
            f"{path} has one column only: {first[0][:60]!r}. Needed: at least one feature and the target, separated by "
            "commas, semicolons or tabs."
        )
    return _Layout(separator, tuple(cell.strip() for cell in first) if _is_names(first) else (), len(first))


def _first_row(file: TextIO, separator: str) -> list[str]:
    """Nothing if the file has no row, or none that this separator cuts where its quotes allow it."""
    file.seek(0)
    try:
        return next((row for row in _reader(file, separator) if row), [])
    except csv.Error:
        return []


def _is_names(row: Sequence[str]) -> bool:
    has_number = any(number_of(cell) is not None for cell in row)
    return not has_number and any(cell.strip().lower() not in _NO_NAMES for cell in row)


def _target(layout: _Layout, target: str | int | None, path: Path) -> int:
    return target_column(target, names=layout.names, width=layout.width, where=str(path))


def target_column(target: str | int | None, *, names: Sequence[str], width: int, where: str) -> int:
    """The number of the target's column. Raises: DataError: there is no such column, or more than one."""
    if target is None:
        return width - 1
    if isinstance(target, int):
        if 0 <= target < width:
            return target
        raise DataError(f"Target column {target} is not in {where}. Allowed: 0 to {width - 1}, or null for the last.")
    if not names:
        raise DataError(f"{where} has no names of columns, so no column {target!r}. Give the target's number, from 0.")
    if target not in names:
        raise DataError(unknown("target column", target, names[:50], where=where))
    if names.count(target) > 1:
        raise DataError(f"{where} has {names.count(target)} columns {target!r}. Give the target's number, from 0.")
    return names.index(target)


def _pieces(file: TextIO, layout: _Layout, path: Path) -> Iterator[_Piece]:
    reader = _reader(file, layout.separator)
    if layout.names:
        next(row for row in reader if row)
    most = max(1, _CELLS_AT_ONCE // layout.width)
    piece = _Piece([], [])
    for row in reader:
        if not row:
            continue
        if len(row) != layout.width:
            raise DataError(
                f"{path}, line {reader.line_num} has {len(row)} cells. Needed: {layout.width}, as in the first line."
            )
        piece.rows.append(row)
        piece.lines.append(reader.line_num)
        if len(piece.rows) == most:
            yield piece
            piece = _Piece([], [])
    if piece.rows:
        yield piece


def _parsed(piece: _Piece, layout: _Layout, target: int, *, path: Path, has_labels: bool) -> Rows:
    if not has_labels:
        numbers = _numbers(piece, range(layout.width), layout, path)
        return Rows(np.delete(numbers, target, axis=1), np.ascontiguousarray(numbers[:, target]))
    labels = [row.pop(target).strip() for row in piece.rows]
    if "" in labels:
        raise _missing(path, piece.lines[labels.index("")], layout.column(target))
    columns = [number for number in range(layout.width) if number != target]
    return Rows(_numbers(piece, columns, layout, path), labels)


def _numbers(piece: _Piece, columns: Sequence[int], layout: _Layout, path: Path) -> Array:
    """The cells as float64, shape (n_rows, n_columns); `columns` are their numbers in the file."""
    cells = list(chain.from_iterable(piece.rows))
    if not "".join(cells).encode().translate(None, NUMERIC + b" "):
        try:
            numbers = np.fromiter(map(float, cells), np.float64, count=len(cells))
        except ValueError:
            raise _fault(piece, columns, layout, path) from None
        if is_fine(numbers):
            return numbers.reshape(len(piece.rows), -1)
    raise _fault(piece, columns, layout, path)


def _fault(piece: _Piece, columns: Sequence[int], layout: _Layout, path: Path) -> DataError:
    """The first cell that is not a number, which there is."""
    for line, row in zip(piece.lines, piece.rows, strict=True):
        for number, cell in zip(columns, row, strict=True):
            if not cell.strip():
                return _missing(path, line, layout.column(number))
            value = number_of(cell)
            if value is None or abs(value) > LARGEST:
                return _no_number(path, line, layout.column(number), cell)
    raise AssertionError(f"{path}: no cell at fault in lines {piece.lines[0]} to {piece.lines[-1]}")


def _missing(path: Path, line: int, column: str) -> DataError:
    return DataError(f"{path}, line {line}, {column} is empty. Every cell is needed: remove such rows or fill them in.")


def _no_number(path: Path, line: int, column: str, cell: str) -> DataError:
    return DataError(
        f"{path}, line {line}, {column} holds {cell[:60]!r}. Allowed: finite numbers such as -1.5e3, up to {LARGEST:.3g}; "
        'names only in the target column of "task": "classification".'
    )
