"""Strict JSON (RFC 8259) with the line of each value, and errors in the words of whoever wrote it."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]

from autoexperiment.config.source import Malformed, Node, Tally, twice, whole_number

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORD = re.compile(r"[-+]?[A-Za-z_0-9.][A-Za-z_0-9.+-]*")
_CONSTANTS = {"true": True, "false": False, "null": None}


def read_json(text: str) -> tuple[Node, list[tuple[int, str]]]:
    """The value of a text, and the faults that did not keep it from being read. Raises: Malformed."""
    reader = _Reader(text)
    node, end = reader.value(reader.skip(0))
    if end < len(text):
        reader.refuse("more text after the end of the configuration", end)
    return node, reader.faults


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tally = Tally()
        self.faults: list[tuple[int, str]] = []
        self._ends = [match.start() for match in re.finditer("\n", text)]

    def line(self, at: int) -> int:
        return bisect_left(self._ends, at) + 1

    def refuse(self, reason: str, at: int) -> None:
        line = self.line(at)
        raise Malformed(reason, line=line, column=at - (self._ends[line - 2] if line > 1 else -1))

    def skip(self, at: int) -> int:
        """The next character that is no white space."""
        end = _SPACE.match(self.text, at).end()  # type: ignore[union-attr]
        if self.text.startswith(("//", "/*", "#"), end):
            self.refuse(
                "JSON has no comments. Remove it, or save the configuration as .yaml and begin comments with #", end
            )
        return end

    def value(self, at: int) -> tuple[Node, int]:
        """The value that begins at `at`, and where the next thing after it begins."""
        try:
            self.tally.count()
            node, end = self._value(at)
        except Malformed as error:
            if not error.line:
                self.refuse(error.reason, at)
            raise
        return node, self.skip(end)

    def _value(self, at: int) -> tuple[Node, int]:
        first = self.text[at : at + 1]
        if first == "{":
            return self._container(at, "}", self._object)
        if first == "[":
            return self._container(at, "]", self._list)
        if first == '"':
            text, end = self._string(at)
            return Node(text, self.line(at)), end
        word = _WORD.match(self.text, at)
        if word and word[0] in _CONSTANTS:
            return Node(_CONSTANTS[word[0]], self.line(at)), word.end()
        number = _NUMBER.match(self.text, at)
        if number and word and number.end() == word.end():
            is_whole = not (number[1] or number[2])
            return Node(whole_number(number[0]) if is_whole else float(number[0]), self.line(at)), number.end()
        self.refuse(_no_value(first, word[0] if word else ""), at)
        raise AssertionError

    def _string(self, at: int) -> tuple[str, int]:
        try:
            found: tuple[str, int] = scanstring(self.text, at + 1, True)
        except JSONDecodeError as error:
            reason = "this text has no closing quotation mark" if "Unterminated" in error.msg else (
                "this text goes over the end of its line, or has a control character or a wrong \\ in it")  # fmt: skip
            self.refuse(reason, at if "Unterminated" in error.msg else error.pos)
        return found

    def _container(self, at: int, end: str, read: Callable[[int], tuple[Node, int]]) -> tuple[Node, int]:
        with self.tally:
            node, stop = read(self.skip(at + 1))
        if self.text[stop : stop + 1] != end:
            self.refuse(_not_closed(self.text[stop : stop + 1], end), stop)
        return Node(node.value, self.line(at), node.size, node.items), stop + 1

    def _object(self, at: int) -> tuple[Node, int]:
        items: dict[str | int, tuple[int, Node]] = {}
        while self.text[at : at + 1] != "}":
            if self.text[at : at + 1] != '"':
                self.refuse("a key in double quotation marks is needed here", at)
            line = self.line(at)
            key, end = self._string(at)
            at = self.skip(end)
            if self.text[at : at + 1] != ":":
                self.refuse(f"a colon is needed between the key {key[:60]!r} and its value", at)
            node, at = self.value(self.skip(at + 1))
            if key in items:
                self.faults.append(twice(key, line, items[key][0]))
            items[key] = line, node
            if self.text[at : at + 1] != ",":
                break
            at = self._after_comma(at, "}")
        return _node({key: node.value for key, (_, node) in items.items()}, items), at

    def _list(self, at: int) -> tuple[Node, int]:
        items: dict[str | int, tuple[int, Node]] = {}
        while self.text[at : at + 1] != "]":
            line = self.line(at)
            node, at = self.value(at)
            items[len(items)] = line, node
            if self.text[at : at + 1] != ",":
                break
            at = self._after_comma(at, "]")
        return _node([node.value for _, node in items.values()], items), at

    def _after_comma(self, at: int, end: str) -> int:
        following = self.skip(at + 1)
        if self.text[following : following + 1] == end:
            self.refuse(f"no comma is allowed before {end!r}. Remove it", at)
        return following


def _node(value: object, items: dict[str | int, tuple[int, Node]]) -> Node:
    return Node(value, 0, 1 + sum(node.size for _, node in items.values()), items)


def _no_value(first: str, word: str) -> str:
    if not first:
        return "the text ends where a value is needed"
    if first == "'":
        return "text stands in double quotation marks, not in single ones"
    if word.lstrip("+-") in ("NaN", "Infinity"):
        return f"{word} is not JSON. Write a number, or leave the field out"
    if word:
        hint = {"True": "true", "False": "false", "None": "null"}.get(word, f'"{word[:60]}"')
        return f"{word[:60]!r} is not JSON. Write numbers such as 0.001 or 1e-3, and text in quotation marks: {hint}"
    return f"{first!r} stands where a value is needed"


def _not_closed(found: str, end: str) -> str:
    if not found:
        return f"the text ends where {end!r} is needed"
    return f"a comma or {end!r} is needed here, not {found!r}"
