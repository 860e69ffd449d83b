"""The head of a SKILL.md or an agent's file: a small part of YAML, read strictly.

The client reads broken YAML leniently and drops what it does not understand. Here everything outside this part is
refused: `key: value` with plain or quoted scalars, `>` and `|` blocks at the top level, lists as `[a, b]` or one
`- item` a line, and mappings and lists inside each other by their indentation. Runs on a bare python3.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Union  # noqa: UP035  Python 3.9 reads the alias below at run time

Value = Union[str, bool, int, List[Any], Dict[str, Any]]  # noqa: UP006, UP007

_KEY = re.compile(r"([A-Za-z][A-Za-z0-9_-]*):(?: +(.*))?$")
_BLOCK = re.compile(r"[>|][+-]?$")
_INDICATORS = "[]{}&*!|>%@`\"'#?,-:"
_SUBSET = "Allowed: 'key: value', quotes, '>-' and '|' blocks, [a, b], '- item' lines, nested mappings."


class Malformed(ValueError):
    """`line`: where, from 1; `what`: a sentence."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line, self.what, self.allowed = line, what, _SUBSET


@dataclass(frozen=True)
class Head:
    """`lines`: where each key stands, from 1; `body_line`: where the body starts."""

    values: dict[str, Value]
    lines: dict[str, int]
    body: str
    body_line: int

    def line(self, key: str) -> int:
        """Where a key stands; the first line for one that is missing."""
        return self.lines.get(key, 1)


def parse(text: str) -> Head:
    """Raises: Malformed: no head, or something outside the part of YAML that is read here."""
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        raise Malformed(1, "The file does not start with a line '---'.")
    end = next((number for number, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if end is None:
        raise Malformed(1, "The head has no closing line '---'.")
    reader = _Reader(lines[:end])
    reader.read()
    return Head(reader.values, reader.lines, "\n".join(lines[end + 1 :]), end + 2)


@dataclass
class _Reader:
    """Reads the lines of one head, top level first; `at` is the next line, from 0 with the opening one."""

    source: list[str]
    at: int = 1
    values: dict[str, Value] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def read(self) -> None:
        while self.at < len(self.source):
            line = self.source[self.at]
            if line.strip() and not line.startswith("#"):
                self._entry(line)
            else:
                self.at += 1

    def _entry(self, line: str) -> None:
        number = self.at + 1
        key, rest = _key(line, number)
        if key in self.values:
            raise Malformed(number, f"The key {key!r} stands here a second time.")
        self.at += 1
        self.lines[key] = number
        self.values[key] = self._value(rest, number)

    def _value(self, rest: str, number: int) -> Value:
        if rest and not _BLOCK.match(rest):
            return _scalar(rest, number)
        block = self._indented()
        if rest:
            return _folded(rest, [line for _, line in block])
        filled = [(place, line.rstrip()) for place, line in block if line.strip() and line.strip()[0] != "#"]
        if not filled:
            raise Malformed(number, "The key has no value.")
        return _block(filled)

    def _indented(self) -> list[tuple[int, str]]:
        """The lines below a key that are set in, with their places; tabs do not count as such."""
        found = []
        while self.at < len(self.source) and (not self.source[self.at].strip() or self.source[self.at][0] == " "):
            found.append((self.at + 1, self.source[self.at]))
            self.at += 1
        return found


def _key(line: str, number: int) -> tuple[str, str]:
    match = _KEY.match(line.rstrip())
    if match is None:
        raise Malformed(number, f"{line.strip()[:60]!r} is no 'key: value'.")
    return match.group(1), (match.group(2) or "").strip()


def _folded(sign: str, lines: list[str]) -> str:
    return (" " if sign[0] == ">" else "\n").join(line.strip() for line in lines).strip()


def _block(lines: list[tuple[int, str]]) -> Value:
    return _list(lines) if lines[0][1].strip().startswith("- ") else _mapping(lines)


def _parts(lines: list[tuple[int, str]], *, is_list: bool) -> list[list[tuple[int, str]]]:
    """The lines of each entry: one at the indentation of the first, and those that belong to it."""
    level = _level(lines[0][1])
    parts: list[list[tuple[int, str]]] = []
    for number, line in lines:
        if _level(line) < level:
            raise Malformed(number, f"{line.strip()[:60]!r} is not set in as the lines above it.")
        is_deeper = _level(line) > level or (not is_list and line.strip().startswith("- "))
        if is_deeper:
            parts[-1].append((number, line))
        else:
            parts.append([(number, line)])
    return parts


def _level(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _list(lines: list[tuple[int, str]]) -> list[Value]:
    return [_item(part) for part in _parts(lines, is_list=True)]


def _item(lines: list[tuple[int, str]]) -> Value:
    number, line = lines[0]
    text = line.strip()
    if not text.startswith("- "):
        raise Malformed(number, f"{text[:60]!r} stands in a list and is no '- item'.")
    if len(lines) > 1 or _KEY.match(text[2:].strip()):
        return _mapping([(number, line.replace("-", " ", 1)), *lines[1:]])
    return _scalar(text[2:].strip(), number)


def _mapping(lines: list[tuple[int, str]]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for (number, line), *below in _parts(lines, is_list=False):
        key, rest = _key(line.strip(), number)
        if key in found or bool(rest) == bool(below):
            raise Malformed(number, f"The nested key {key!r} is there twice, or has no value, or two.")
        found[key] = _block(below) if below else _scalar(rest, number)
    return found


def _scalar(text: str, number: int) -> Value:
    if text[0] == "[":
        return _flow(text, number)
    if text[0] in "\"'":
        return _quoted(text, number)
    text = text.split(" #")[0].rstrip()
    if text[0] in _INDICATORS or ": " in text or text.endswith(":"):
        raise Malformed(number, f"{text[:60]!r} is not plain text in YAML; quote it.")
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text


def _quoted(text: str, number: int) -> str:
    if text[0] == "'" and re.fullmatch(r"'(?:[^']|'')*'", text):
        return text[1:-1].replace("''", "'")
    try:
        made = json.loads(text)
    except ValueError:
        made = None
    if not isinstance(made, str):
        raise Malformed(number, f"{text[:60]!r} is not closed, or something stands behind the quote.")
    return made


def _flow(text: str, number: int) -> list[Value]:
    if not text.endswith("]"):
        raise Malformed(number, f"{text[:60]!r} opens a list and does not close it on this line.")
    parts = _split(text[1:-1])
    if any(not part or part[0] in "[{" for part in parts):
        raise Malformed(number, f"{text[:60]!r} has an empty or nested item.")
    return [_scalar(part, number) for part in parts]


def _split(inner: str) -> list[str]:
    """The items between commas that stand outside quotes."""
    items, quote = [""], ""
    for sign in inner:
        if sign == "," and not quote:
            items.append("")
            continue
        items[-1] += sign
        if sign in "\"'":
            quote = "" if sign == quote else quote or sign
    return [item.strip() for item in items]
