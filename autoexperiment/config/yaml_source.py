"""YAML with the line of each value: the core schema of YAML 1.2, merge keys (`<<`), and nothing that makes objects.

It is built from PyYAML's events, not from its constructors: what a tag or an alias does is decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from autoexperiment.config.source import Malformed, Node, Tally, plain_scalar, printable, twice

Items = dict[str | int, tuple[int, Node]]
_PREFIX = "tag:yaml.org,2002:"
_SCALARS = {"int": int, "float": float, "bool": bool, "null": type(None)}
_MERGE = "<<"


def read_yaml(text: str) -> tuple[Node, list[tuple[int, str]]]:
    """The value of a text, and the faults that did not keep it from being read. Raises: Malformed."""
    reader = _Reader(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    try:
        return reader.document(), reader.faults
    except yaml.MarkedYAMLError as error:
        raise _malformed(error, text) from None
    except yaml.reader.ReaderError:
        raise _unreadable(text) from None


def _malformed(error: yaml.MarkedYAMLError, text: str) -> Malformed:
    reason = printable(" ".join(filter(None, (error.problem, error.context))))
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Malformed(reason)
    if "".join(text.split("\n")[mark.line : mark.line + 1])[mark.column : mark.column + 1] == "\t":
        reason = "a tab stands where only spaces are allowed. Indent with spaces"
    return Malformed(reason, line=mark.line + 1, column=mark.column + 1)


def _unreadable(text: str) -> Malformed:
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if found is None:
        return Malformed("a character that YAML does not allow")
    before = text[: found.start()]
    reason = f"the character U+{ord(found[0]):04X} is not allowed in YAML"
    return Malformed(reason, line=before.count("\n") + 1, column=len(before.rpartition("\n")[2]) + 1)


class _Reader:
    def __init__(self, events: Iterator[Any]) -> None:
        self.events = events
        self.tally = Tally()
        self.faults: list[tuple[int, str]] = []
        self.anchors: dict[str, Node | None] = {}  # None: its own value is still being read

    def document(self) -> Node:
        next(self.events)  # the stream begins
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return Node(None, 1)
        node = self.node(next(self.events))
        next(self.events)  # the document ends
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            self.refuse("a second document begins. Write several experiments as one list", event)
        return node

    def refuse(self, reason: str, event: Any) -> None:
        mark = event.start_mark
        raise Malformed(reason, line=mark.line + 1, column=mark.column + 1)

    def node(self, event: Any) -> Node:
        """The value that begins with an event; the events up to its end are used up."""
        try:
            return self._alias(event) if isinstance(event, yaml.AliasEvent) else self._anchored(event)
        except Malformed as error:
            if not error.line:
                self.refuse(error.reason, event)
            raise

    def _alias(self, event: Any) -> Node:
        shown = printable(event.anchor, 60)
        if event.anchor not in self.anchors:
            raise Malformed(f"the alias *{shown} has no anchor &{shown} before it")
        node = self.anchors[event.anchor]
        if node is None:
            raise Malformed(f"the alias *{shown} stands inside of what it repeats")
        self.tally.count(node.size)
        return node

    def _anchored(self, event: Any) -> Node:
        self.tally.count()
        if event.anchor:
            self.anchors[event.anchor] = None
        node = self._read(event)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _read(self, event: Any) -> Node:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            return Node(_scalar(event), line)
        is_list = isinstance(event, yaml.SequenceStartEvent)
        if event.tag not in (None, "!", _PREFIX + ("seq" if is_list else "map")):
            raise Malformed(_wrong_tag(event.tag))
        with self.tally:
            items = self._list() if is_list else self._mapping()
        values: object = (
            [n.value for _, n in items.values()] if is_list else {k: n.value for k, (_, n) in items.items()}
        )
        return Node(values, line, 1 + sum(node.size for _, node in items.values()), items)

    def _list(self) -> Items:
        items: Items = {}
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items[len(items)] = event.start_mark.line + 1, self.node(event)
        return items

    def _mapping(self) -> Items:
        own: Items = {}
        merged: Items = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key, line = self._key(event), event.start_mark.line + 1
            following = next(self.events)
            node = self.node(following)
            if key == _MERGE and event.implicit[0]:
                merged |= {k: entry for k, entry in self._merged(node, following).items() if k not in merged}
                continue
            if key in own:
                self.faults.append(twice(key, line, own[key][0]))
            own[key] = line, node
        return merged | own

    def _key(self, event: Any) -> str:
        """The text of a key, whatever it looks like: `on`, `1` and `null` are text there."""
        if not isinstance(event, yaml.ScalarEvent):
            self.refuse("a key must be text", event)
        self.tally.count()
        if event.anchor:
            self.anchors[event.anchor] = Node(event.value, event.start_mark.line + 1)
        return str(event.value)

    def _merged(self, node: Node, event: Any) -> Items:
        """What `<<: *base` or `<<: [*first, *second]` brings in; the first wins."""
        sources = [item for _, item in node.items.values()] if isinstance(node.value, list) else [node]
        found: Items = {}
        for source in sources:
            if not isinstance(source.value, dict):
                self.refuse("what stands after <<: must be an object, or a list of objects", event)
            self.tally.count(source.size)
            found |= {key: entry for key, entry in source.items.items() if key not in found}
        return found


def _scalar(event: Any) -> Any:
    tag = event.tag or ""
    if tag in ("!", _PREFIX + "str") or (not tag and not event.implicit[0]):
        return event.value
    value = plain_scalar(event.value)
    if not tag:
        return value
    wanted = _SCALARS.get(tag.removeprefix(_PREFIX)) if tag.startswith(_PREFIX) else None
    if wanted is None:
        raise Malformed(_wrong_tag(tag))
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is wanted:
        return value
    raise Malformed(f"{printable(event.value, 60)!r} is no {tag.removeprefix(_PREFIX)}, as its tag says")


def _wrong_tag(tag: str) -> str:
    return (
        f"the tag {printable(tag.replace(_PREFIX, '!!'), 60)} is not allowed: a configuration holds plain values only"
    )
