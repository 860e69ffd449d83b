"""The constants at the top of a recipe: `NAME = value  # meaning | search: range`, read and rewritten as text.

Ranges, which make a constant searchable: `0.01..0.3`, `0.01..0.3 log`, `1..8 int`, or choices `a, b, c` (Python literals).
A value may differ by device: `DEPTH = pick(cpu=2, gpu=4)`; then the running device's keyword is the value.
"""

from __future__ import annotations

import ast
import io
import math
import re
import tokenize
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoexperiment.errors import UsageError, unknown

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
    line: int
    start: int
    end: int


@dataclass(frozen=True)
class Searchable(Constant):
    """A constant with the values that a search may give it."""

    range: Range


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


def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"The recipe does not parse, so there is nothing to search: {error}.") from error


def _located(name: str, node: ast.expr, lines: list[str]) -> Constant | None:
    """The constant whose value this literal is; None when it is no literal, or longer than a line."""
    value = _literal(ast.unparse(node))
    if value is None or node.lineno != node.end_lineno:
        return None
    line = lines[node.lineno - 1].encode()
    start, end = (len(line[:column].decode()) for column in (node.col_offset, node.end_col_offset or 0))
    return Constant(name, value, node.lineno, start, end)


def find(source: str, *, device: str) -> list[Searchable]:
    """Every searchable constant at a module's top level, in order.

    Args:
        device: "cpu" or "gpu": which keyword of a `pick(...)` counts.
    Raises: UsageError: the source does not parse, or a declared range is malformed.
    """
    tree, ranges, lines = _parsed(source), _comments(source), source.split("\n")
    found = []
    for statement in tree.body:
        if not isinstance(statement, ast.Assign) or statement.lineno not in ranges:
            continue
        target, node = statement.targets[0], _value_node(statement.value, device)
        constant = _located(target.id, node, lines) if isinstance(target, ast.Name) else None
        if constant is None:
            raise UsageError(f"Line {statement.lineno} declares a search range, but its value is not a plain literal.")
        found.append(Searchable(**vars(constant), range=parse_range(ranges[statement.lineno])))
    return found


def plain(source: str, *, device: str) -> list[Constant]:
    """Every constant at a module's top level that can be set, in order: searchable or not.

    That is a name in upper case with a truth value, a number or a text, assigned once in the whole module.
    Args: device: "cpu" or "gpu": which keyword of a `pick(...)` counts.
    Raises: UsageError: the source does not parse.
    """
    tree, lines = _parsed(source), source.split("\n")
    stores = Counter(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    found = (_located(name, _value_node(node, device), lines) for name, node in _assigned(tree))
    return [c for c in found if c and c.name.isupper() and stores[c.name] == 1 and type(c.value) in _TYPES]


def _assigned(tree: ast.Module) -> list[tuple[str, ast.expr]]:
    """Name and value of every plain assignment at the top level."""
    pairs = []
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            targets: list[ast.expr] = statement.targets
        else:
            targets = [statement.target] if isinstance(statement, ast.AnnAssign) else []
        value = getattr(statement, "value", None)
        if len(targets) == 1 and isinstance(targets[0], ast.Name) and value is not None:
            pairs.append((targets[0].id, value))
    return pairs


_TYPES = {bool: "True or False", int: "a whole number", float: "a finite number", str: "a text"}


def checked(constant: Constant, value: Any, *, where: str) -> Any:
    """A value as the kind of value that the constant has: a whole number is fine where a float stands, not the reverse.

    Raises: UsageError: it is of another kind. `where`: the file, for the message.
    """
    kind = type(constant.value)
    if kind is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise UsageError(
            f"{constant.name} = {value!r} does not fit {where}, where {constant.value!r} stands. "
            f"Allowed: {_TYPES[kind]}. Type another value."
        )
    return value


def rewritten(source: str, found: Sequence[Constant], values: Mapping[str, Any], *, where: str) -> str:
    """The source with some constants set, each exactly; the text of one that has its value already stays as it is.

    Args:
        found: what `plain` found in this source.
        values: by name.
        where: the file, for messages.
    Raises: UsageError: an unknown name, or a value of another kind.
    """
    known = {constant.name: constant for constant in found}
    changes = []
    for name, value in values.items():
        if name not in known:
            near = f" Did you mean {name.upper()!r}?" if name.upper() in known else ""
            raise UsageError(unknown("constant", name, known, where=where) + near)
        new = checked(known[name], value, where=where)
        if new != known[name].value:
            changes.append((known[name], repr(new)))
    for constant, text in sorted(changes, key=lambda change: (change[0].line, change[0].start), reverse=True):
        source = _put(source, constant, text)
    return source


def replace(source: str, constant: Constant, value: Any) -> str:
    """The source with one constant's text replaced by `write_value`'s; every other byte stays."""
    return _put(source, constant, write_value(value))


def _put(source: str, constant: Constant, text: str) -> str:
    lines = source.split("\n")
    line = lines[constant.line - 1]
    lines[constant.line - 1] = line[: constant.start] + text + line[constant.end :]
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
