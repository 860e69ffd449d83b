"""A sweep's results as one table in a file: CSV, which every program reads, or Parquet, which keeps the types.

A row for each point, failed ones included. What is missing is empty in CSV and null in Parquet, and so is a number that
is not finite. The bytes are a function of the rows alone.
"""

from __future__ import annotations

import io
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoexperiment import files
from autoexperiment.errors import HarnessError
from autoexperiment.extras import need
from autoexperiment.naming import SEED, free_names, short_names, well_formed
from autoexperiment.untrusted import line

Row = Mapping[str, Any]

BEFORE = {"number": int, "trial": int, "rung": int}  # what stands left of the parameters
BETWEEN = {"seed": int}
AFTER = {"status": str, "reason": str, "seconds": float, "run_dir": str}
FACTS: dict[str, type] = {**BEFORE, **BETWEEN, **AFTER}
REASON_LIMIT = 1000
TRUST = "trust."
# What a spreadsheet takes for the start of a formula (OWASP, "CSV Injection"), the wide forms of East Asian keyboards too.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
GUARD = "'"
ACTIVE = {"Cc", "Cf", "Zl", "Zp"}  # Unicode's categories of what a terminal or an editor acts upon


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """UTF-8, commas, one line end `\\n` a row. Text that a spreadsheet would calculate has `'` before it.

    Control characters but tab and line end, and those that turn the direction of writing, are escaped as in JSON. Lists are
    JSON text, true and false are written so, and floats with all digits that they need.
    Raises: HarnessError: the file can't be written; what was there stays.
    """
    columns = tabulate(rows)
    table = [map(_cell, (column.name for column in columns))]
    table += [map(_cell, values) for values in zip(*(column.values for column in columns), strict=True)]
    _write(path, "".join(",".join(map(_quoted, row)) + "\n" for row in table).encode())


def write_parquet(rows: Iterable[Row], path: Path) -> None:
    """Each column has one type: integers, floats, text or booleans; one of several kinds or of lists is JSON text.

    Raises: HarnessError: pyarrow is not installed, or the file can't be written; what was there stays.
    """
    arrow, parquet = need("pyarrow"), need("pyarrow.parquet")
    columns = tabulate(rows)
    table = arrow.Table.from_arrays([_array(arrow, column) for column in columns], [column.name for column in columns])
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    _write(path, sink.getvalue())


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        values: one for each row: None, finite numbers, booleans, text, or lists and objects of these.
        kind: what it holds where no value tells; None: not known before.
    """

    name: str
    values: list[Any]
    kind: type | None = None


def tabulate(rows: Iterable[Row]) -> list[Column]:
    """Columns of one length: number, trial, rung, parameters, seed, metrics, status, reason, seconds, run_dir, and for
    each metric how it was obtained, as `trust.NAME`. Parameters stand under their last name where it is unambiguous; a
    swept seed is the column `seed` of a sweep without replicates."""
    rows = list(rows)
    metrics = free_names(_keys(rows, "metrics"), FACTS, prefix="metric.")
    trusts = free_names([f"{TRUST}{name}" for name in _keys(rows, "trust")], metrics.values(), prefix=TRUST)
    has_seeds = any(row.get(SEED) is not None for row in rows)
    facts = [name for name in FACTS if name != SEED or has_seeds]
    params = short_names(_keys(rows, "params"), [*facts, *metrics.values(), *trusts.values()])
    return [
        *(_fact(rows, name) for name in BEFORE),
        *(_part(rows, "params", path, name) for path, name in params.items()),
        *(_fact(rows, name) for name in BETWEEN if name not in params.values()),
        *(_part(rows, "metrics", metric, name, float) for metric, name in metrics.items()),
        *(_fact(rows, name) for name in AFTER),
        *(_part(rows, "trust", metric.removeprefix(TRUST), name, str) for metric, name in trusts.items()),
    ]


def _fact(rows: Sequence[Row], name: str) -> Column:
    values = [plain(row.get(name)) for row in rows]
    if name == "reason":
        values = [line(value or "", REASON_LIMIT) for value in values]
    return Column(name, values, FACTS[name])


def _part(rows: Sequence[Row], part: str, key: str, name: str, kind: type | None = None) -> Column:
    return Column(name, [plain(row[part].get(key)) for row in rows], kind)


def _keys(rows: Sequence[Row], part: str) -> dict[str, None]:
    return dict.fromkeys(name for row in rows for name in row[part])


def plain(value: Any) -> Any:
    """A value without NaN, infinity and halves of characters, however deep they stand."""
    if isinstance(value, str):
        return well_formed(str(value))
    if isinstance(value, Mapping):
        return {well_formed(str(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return _guarded(_escaped(value))
    if isinstance(value, bool | list | dict):
        return _escaped(_json(value))
    return "" if value is None else repr(value)


def _escaped(text: str) -> str:
    """Text that does nothing to whoever prints it, and differs where the texts differed."""
    if text.isprintable():
        return text
    return "".join(_escape(c) if c not in "\t\n" and unicodedata.category(c) in ACTIVE else c for c in text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _quoted(text: str) -> str:
    """As RFC 4180 has it."""
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text


def _guarded(text: str) -> str:
    return GUARD + text if text.startswith(FORMULA_STARTS) else text


def _array(arrow: Any, column: Column) -> Any:
    values = column.values
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present} or {column.kind or str}
    if kinds in ({bool}, {str}):
        return arrow.array(values, arrow.bool_() if kinds == {bool} else arrow.string())
    if kinds == {int} and column.kind is not float and all(map(_is_int64, present)):
        return arrow.array(values, arrow.int64())
    if kinds <= {int, float} and all(map(_is_float64, present)):
        return arrow.array([None if value is None else float(value) for value in values], arrow.float64())
    return arrow.array([None if value is None else _json(value) for value in values], arrow.string())


def _is_int64(number: int) -> bool:
    return -(2**63) <= number < 2**63


def _is_float64(number: float) -> bool:
    """Whether a float holds it exactly: beyond 2**53 it can't tell two neighbouring integers apart."""
    return isinstance(number, float) or abs(number) <= 2**53


def _write(path: Path, blob: bytes) -> None:
    try:
        files.write_atomic(path, blob)
    except OSError as error:
        raise HarnessError(
            f"The results can't be written to {path}: {error.strerror or error}. Allowed: a file in a folder that is "
            "writable and has room. What was there before is unchanged. Name another place: --to FILE"
        ) from error
