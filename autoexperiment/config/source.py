"""The text of a configuration as plain values, with the line of each: JSON and YAML alike.

Parsing is bounded before it begins (size) and while it goes on (depth, number of values), so that no file can take
long or much memory.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoexperiment.errors import ConfigError

MOST_BYTES = 10_000_000
MOST_VALUES = 100_000
MOST_DEPTH = 64
MOST_DIGITS = 400
FORMATS = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}
Place = tuple[str | int, ...]

_NULL = ("", "~", "null", "Null", "NULL")
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


class Malformed(ValueError):
    """Text that is not of its format, or more of it than is allowed. `line` and `column` count from 1; 0: unknown."""

    def __init__(self, reason: str, *, line: int = 0, column: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.line, self.column = reason, line, column

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.reason}" if self.line else self.reason


@dataclass(frozen=True)
class Node:
    """A value in a text.

    Attributes:
        value: the plain value: dict, list, str, int, float, bool or None.
        line: where it begins, from 1.
        size: number of values in it, itself included; what an alias repeats counts again.
        items: of an object or a list: key or position -> (its line, its value).
    """

    value: Any
    line: int
    size: int = 1
    items: Mapping[str | int, tuple[int, Node]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A text that was read. `faults`: (line, sentence) of what is readable and yet wrong: keys that stand twice."""

    name: str
    root: Node
    faults: tuple[tuple[int, str], ...] = ()

    def line(self, place: Place) -> int:
        """The line of a place, or of the innermost thing around it that is there."""
        line, node = self.root.line, self.root
        for part in place:
            if part not in node.items:
                break
            line, node = node.items[part]
        return line


def read_source(path: Path) -> Source:
    """The configuration file at `path`.

    Raises: ConfigError: it is missing, too large, of another format, or not what its suffix says.
    """
    shown = printable(str(path))
    text = _read_text(path, shown)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(
            f"Unsupported configuration file format: {printable(path.suffix) or 'none'} ({shown})\n"
            f"Supported formats: {', '.join(FORMATS)}"
        )
    return parse_source(text, kind, name=shown, title=f"in configuration file: {shown}")


def parse_source(text: str, kind: str, *, name: str, title: str = "in the configuration") -> Source:
    """A configuration's text.

    Args:
        kind: "json" or "yaml".
        name: what a place in it is called: `name:line`.
    Raises: ConfigError: the text is not of its format.
    """
    try:
        root, faults = _reader(kind)(text)
    except Malformed as error:
        raise ConfigError(f"Invalid {kind.upper()} {title}\nError: {error}") from None
    return Source(name, root, tuple(faults))


def _reader(kind: str) -> Callable[[str], tuple[Node, list[tuple[int, str]]]]:
    """YAML's parser is imported for YAML only: it takes 30 ms."""
    if kind == "json":
        from autoexperiment.config.json_source import read_json

        return read_json
    from autoexperiment.config.yaml_source import read_yaml

    return read_yaml


def _read_text(path: Path, shown: str) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"Configuration file is not a file: {shown}\nPlease provide a valid config file path.")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in the name
        raise ConfigError(f"Configuration file not found: {shown}\nPlease provide a valid config file path.") from None
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration file {shown}: {error.strerror}.") from error
    if len(content) > MOST_BYTES:
        raise ConfigError(
            f"Configuration file too large: {shown} has more than {MOST_BYTES // 1_000_000} MB. "
            "Data belong into files of their own, named by dataset.path."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"Configuration file is not UTF-8 text: {shown}\n"
            f"Error: line {line}: byte 0x{content[error.start]:02x}. Save the file as UTF-8."
        ) from None


def printable(text: str, limit: int = 200) -> str:
    """Text of a user for a message: one bounded line without what a terminal acts on or does not show."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return cut if cut.isprintable() else repr(cut)[1:-1]


def plain_scalar(text: str) -> Any:
    """The value of unquoted text by the core schema of YAML 1.2: `1e-3` is a number, `yes`, `1:30` and dates are text.

    Source: yaml.org/spec/1.2.2, 10.3.2.
    Raises: Malformed: a number of too many digits.
    """
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        return whole_number(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def whole_number(text: str) -> int:
    """Raises: Malformed: more digits than any field can hold; reading them would take long."""
    if len(text) > MOST_DIGITS:
        raise Malformed(f"a number of {len(text)} digits. Allowed: up to {MOST_DIGITS}")
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


class Tally:
    """What bounds the reading of one text: values so far, and how deep they stand."""

    def __init__(self) -> None:
        self.values = 0
        self.depth = 0

    def count(self, more: int = 1) -> None:
        """Raises: Malformed: too many values in all."""
        self.values += more
        if self.values > MOST_VALUES:
            raise Malformed(f"more than {MOST_VALUES} values; what an alias repeats counts each time")

    def __enter__(self) -> None:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise Malformed(f"objects and lists stand more than {MOST_DEPTH} deep in each other")

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


def twice(key: str, line: int, first: int) -> tuple[int, str]:
    """The fault of a key that an object has two times."""
    return line, f"Key {printable(key, 60)!r} stands twice, first in line {first}. Keep one of them"
