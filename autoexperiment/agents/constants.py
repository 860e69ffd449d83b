"""The searchable constants of a recipe: `NAME = value  # meaning | search: range`, read and rewritten as text.

Ranges: `0.01..0.3`, `0.01..0.3 log`, `1..8 int`, or choices `a, b, c` (Python literals).
A value may differ by device: `DEPTH = pick(cpu=2, gpu=4)`; then the running device's keyword is the value.
"""

from __future__ import annotations

import ast
import io
import math
import re
import tokenize
from dataclasses import dataclass
from typing import Any

from autoexperiment.errors import UsageError

_RANGE = re.compile(r"(?P<lo>[-+.\deE]+)\s*\.\.\s*(?P<hi>[-+.\deE]+)(?:\s+(?P<kind>log|int))?")
_MARK = "search:"


@dataclass(frozen=True)
class Range:
    """The values that a constant may take. `kind` is "uniform", "log", "int" or "choice"."""

    kind: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Any, ...] = ()

    def contains(self, value: Any) -> bool:
        return value in self.choices if self.kind == "choice" else self.low <= value <= self.high


@dataclass(frozen=True)
class Constant:
    """One constant. `line` counts from 1; `start` and `end` are columns of the value's text in it."""

    name: str
    value: Any
    range: Range
    line: int
    start: int
    end: int


def parse_range(text: str) -> Range:
    """Read a range. Raises: UsageError: it is not one of the four forms, or its bounds are reversed."""
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        choices = _literal(f"({text},)")
        if not isinstance(choices, tuple) or len(choices) < 2:
            raise UsageError(
                f"{text!r} is not a search range. Allowed: '0.01..0.3', '0.01..0.3 log', '1..8 int', or two or more choices."
            )
        return Range("choice", choices=choices)
    low, high, kind = float(match["lo"]), float(match["hi"]), match["kind"] or "uniform"
    if not low < high or (kind == "log" and low <= 0):
        raise UsageError(
            f"{text!r} is not a search range: the lower bound must be below the upper, and above 0 for log."
        )
    return Range(kind, low, high)


_POWER = re.compile(r"(\d{1,4}) ?\*\* ?(\d{1,2})")


def _literal(text: str) -> Any:
    """The value of a literal, or of a power of integers such as 2**16; None for anything else."""
    if match := _POWER.fullmatch(text.strip()):
        return int(match[1]) ** int(match[2])
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _comments(source: str) -> dict[int, str]:
    """Search ranges as text, by line number."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.rpartition(_MARK)[2].strip()
        for token in tokens
        if token.type == tokenize.COMMENT and _MARK in token.string
    }


def _value_node(node: ast.expr, device: str) -> ast.expr:
    """The literal that holds the value on this device."""
    if isinstance(node, ast.Call):
        return next((k.value for k in node.keywords if k.arg == device), node)
    return node


def find(source: str, *, device: str) -> list[Constant]:
    """Every searchable constant at a module's top level, in order.

    Args:
        device: "cpu" or "gpu": which keyword of a `pick(...)` counts.
    Raises: UsageError: the source does not parse, or a declared range is malformed.
    """
    try:
        tree, ranges = ast.parse(source), _comments(source)
    except (SyntaxError, tokenize.TokenError, ValueError) as error:
        raise UsageError(f"The recipe does not parse, so there is nothing to search: {error}.") from error
    lines = source.split("\n")
    found = []
    for statement in tree.body:
        if not isinstance(statement, ast.Assign) or statement.lineno not in ranges:
            continue
        target, node = statement.targets[0], _value_node(statement.value, device)
        value = _literal(ast.unparse(node))
        if not isinstance(target, ast.Name) or value is None or node.lineno != node.end_lineno:
            raise UsageError(f"Line {statement.lineno} declares a search range, but its value is not a plain literal.")
        line = lines[node.lineno - 1].encode()
        start, end = (len(line[:column].decode()) for column in (node.col_offset, node.end_col_offset or 0))
        found.append(Constant(target.id, value, parse_range(ranges[statement.lineno]), node.lineno, start, end))
    return found


def replace(source: str, constant: Constant, value: Any) -> str:
    """The source with one constant's text replaced; every other byte stays."""
    lines = source.split("\n")
    line = lines[constant.line - 1]
    lines[constant.line - 1] = line[: constant.start] + write_value(value) + line[constant.end :]
    return "\n".join(lines)


def write_value(value: Any) -> str:
    """A value as source text: floats with three significant digits."""
    if isinstance(value, float):
        return repr(float(f"{value:.3g}"))
    return repr(value)


def clamp(value: float, bounds: Range) -> float | int:
    """A number inside the range, rounded as it would be written."""
    inside = min(max(value, bounds.low), bounds.high)
    return round(inside) if bounds.kind == "int" else float(f"{inside:.3g}")


def like(value: Any, present: Any) -> Any:
    """A drawn number as the kind of number that the constant holds: whole ones stay whole."""
    is_whole = isinstance(present, int) and not isinstance(present, bool) and isinstance(value, float)
    return round(value) if is_whole else value


def scale(bounds: Range) -> tuple[float, float]:
    """Lower and upper bound on the scale that steps are taken on (natural log for "log")."""
    return (math.log(bounds.low), math.log(bounds.high)) if bounds.kind == "log" else (bounds.low, bounds.high)
