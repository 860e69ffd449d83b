"""Globs as git reads them in a `:(top,glob)` pathspec: which paths of a project a rule is about.

`*`, `?` and `[…]` never take a slash; `**/`, `/**/` and `/**` take any folders. A glob also stands for
everything below a folder of exactly its name. Bytes are matched, as git does: `é` is two.
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

_SLASH = ord("/")
_ALL = frozenset(range(256))
_NO_SLASH = _ALL - {_SLASH}
_WILD = re.compile(rb"[*?[\\]")
_STARS = re.compile(rb"\*+")
_MAX_NODES = 1000  # a hostile glob has exponentially many; they are made again when a path needs them

_GRAPH = frozenset(range(0x21, 0x7F))
_ALNUM = frozenset((string.ascii_letters + string.digits).encode())
_CLASSES = {
    b"alnum": _ALNUM,
    b"alpha": frozenset(string.ascii_letters.encode()),
    b"blank": frozenset(b" \t"),
    b"cntrl": frozenset(range(0x20)) | {0x7F},
    b"digit": frozenset(string.digits.encode()),
    b"graph": _GRAPH,
    b"lower": frozenset(string.ascii_lowercase.encode()),
    b"print": _GRAPH | {0x20},
    b"punct": _GRAPH - _ALNUM,
    b"space": frozenset(b" \t\n\r"),  # git's own list: no vertical tab, no form feed
    b"upper": frozenset(string.ascii_uppercase.encode()),
    b"xdigit": frozenset(string.hexdigits.encode()),
}


class _Unusable(ValueError):
    """`args[0]`: why, as a sentence."""


def matches(glob: str, path: str) -> bool:
    """Whether a glob is about a file. One that `fault` refuses is about none.

    Args: path: relative to the project's root, with forward slashes.
    """
    pattern = _compiled(glob)
    return pattern is not None and pattern.matches(os.fsencode(path))


def any_matches(globs: Sequence[str], path: str) -> bool:
    """Whether one of the globs is about a file."""
    return any(matches(glob, path) for glob in globs)


def fault(glob: str) -> str:
    """Why a glob can't be used, as a sentence, or ""."""
    try:
        _parse(glob)
    except _Unusable as unusable:
        return str(unusable)
    return ""


@lru_cache(maxsize=1024)
def _compiled(glob: str) -> _Pattern | None:
    try:
        return _parse(glob)
    except _Unusable:
        return None


def _parse(glob: str) -> _Pattern:
    _check(glob)
    literal = os.fsencode(glob)
    wild = _WILD.search(literal)
    if wild is None:
        return _Pattern(literal, literal, None)
    # Git compares the part before the first wildcard first, and so `a**/b` holds a real `**/` for it.
    prefix, rest = literal[: wild.start()], literal[wild.start() :]
    tokens = _tokens(rest)
    if literal.endswith(b"/"):
        raise _Unusable("It ends with '/' after a wildcard, which matches no file; end it with '/**'.")
    return _Pattern(literal, prefix, _Machine(tokens))


def _check(glob: str) -> None:
    """Raises: _Unusable: git would refuse it or read it as something else than a path below the top folder."""
    if not glob:
        raise _Unusable("It is empty; '**' stands for every file.")
    if any(ord(sign) < 0x20 or ord(sign) == 0x7F for sign in glob):
        raise _Unusable("It holds a control character.")
    try:
        os.fsencode(glob)
    except UnicodeEncodeError:
        raise _Unusable("It holds half of a character (a lone surrogate), which no file name can.") from None
    if glob[0] == "/":
        raise _Unusable("It is absolute; write it relative to the project's top folder.")
    if glob[0] in "!:":
        raise _Unusable(f"It starts with {glob[0]!r}, which would turn it into a command for git.")
    for part in glob.removesuffix("/").split("/"):
        if part in ("", ".", ".."):
            raise _Unusable(f"It has the part {part!r}; write it as git lists files, such as 'src/model.py' or '**'.")


# ---- the wildcards


@dataclass(frozen=True)
class _Token:
    """Takes one of its bytes or, when it has `skips`, any number of them; then the reading goes on that far behind."""

    takes: frozenset[int]
    skips: tuple[int, ...] = ()


def _tokens(rest: bytes) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while at < len(rest):
        sign = rest[at : at + 1]
        if stars := _STARS.match(rest, at):
            tokens += _star(rest, *stars.span())
            at = stars.end()
        elif sign == b"?":
            tokens.append(_Token(_NO_SLASH))
            at += 1
        elif sign == b"[":
            takes, at = _set(rest, at + 1)
            tokens.append(_Token(takes))
        else:
            taken, at = _escaped(rest, at)
            tokens.append(_Token(frozenset({taken})))
    return tokens


def _star(rest: bytes, start: int, end: int) -> list[_Token]:
    after = rest[end : end + 2]
    is_bounded = (start == 0 or rest[start - 1] == _SLASH) and (after in (b"", b"\\/") or after[0] == _SLASH)
    if end - start == 1 or not is_bounded:
        return [_Token(_NO_SLASH, skips=(1,))]
    folders = _Token(_ALL, skips=(1,))
    # `**/` may be nothing at all: not the first of the two tokens, nor the slash behind them.
    return [_Token(frozenset(), skips=(1, 3)), folders] if after[:1] == b"/" else [folders]


def _escaped(rest: bytes, at: int) -> tuple[int, int]:
    """The byte at a place, or after a backslash the one behind it; and the place after it."""
    at += rest[at : at + 1] == b"\\"
    if at >= len(rest):
        raise _Unusable("It ends with a backslash that escapes nothing.")
    return rest[at], at + 1


def _set(rest: bytes, at: int) -> tuple[frozenset[int], int]:
    """The bytes of a `[…]`, and the place after it. Args: at: the place after the bracket."""
    negated = rest[at : at + 1] in (b"!", b"^")
    first = at = at + negated
    found: set[int] = set()
    previous: int | None = None
    while at == first or rest[at : at + 1] != b"]":
        if at >= len(rest):
            raise _Unusable("It has a '[' without its ']'; write '\\[' for the sign itself.")
        named = _named(rest, at)
        if named is not None:
            found |= named[0]
            previous, at = None, named[1]
        elif rest[at] == ord("-") and previous is not None and rest[at + 1 : at + 2] not in (b"", b"]"):
            last, at = _escaped(rest, at + 1)
            found |= set(range(previous, last + 1))
            previous = None
        else:
            previous, at = _escaped(rest, at)
            found.add(previous)
    return (_ALL - found if negated else frozenset(found)) - {_SLASH}, at + 1


def _named(rest: bytes, at: int) -> tuple[frozenset[int], int] | None:
    """The bytes of a `[:name:]` inside a `[…]` and the place after it; None when there is none."""
    end = rest.find(b"]", at + 2)
    if rest[at : at + 2] != b"[:" or rest[max(at + 2, end - 1) : end] != b":":
        return None
    name = rest[at + 2 : end - 1]
    if name not in _CLASSES:
        known = ", ".join(known.decode() for known in _CLASSES)
        raise _Unusable(f"It has the unknown class [:{os.fsdecode(name)}:]; known are {known}.")
    return _CLASSES[name], end + 1


# ---- matching


@dataclass(frozen=True)
class _Pattern:
    """A glob's own bytes, those before its first wildcard, and what matches the rest."""

    literal: bytes
    prefix: bytes
    machine: _Machine | None

    def matches(self, path: bytes) -> bool:
        if path.startswith(self.literal):
            following = path[len(self.literal) : len(self.literal) + 1]
            if following in (b"", b"/") or self.literal.endswith(b"/"):
                return True
        if self.machine is None or not path.startswith(self.prefix):
            return False
        return self.machine.accepts(path[len(self.prefix) :])


@dataclass(frozen=True, eq=False)
class _Node:
    """Places in the list of tokens that may be reached at once, and the nodes after each byte seen so far."""

    places: frozenset[int]
    is_end: bool
    after: dict[int, _Node] = field(default_factory=dict)


class _Machine:
    """An automaton over tokens. It follows all their readings at once, and so never goes back in a path."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._nodes: dict[frozenset[int], _Node] = {}

    def accepts(self, text: bytes) -> bool:
        node = self._node({0})
        for byte in text:
            node = node.after.get(byte) or self._grow(node, byte)
            if not node.places:
                return False
        return node.is_end

    def _grow(self, node: _Node, byte: int) -> _Node:
        reached = set()
        for place in node.places:
            if place < len(self._tokens) and byte in self._tokens[place].takes:
                reached.add(place if self._tokens[place].skips else place + 1)
        node.after[byte] = self._node(reached)
        return node.after[byte]

    def _node(self, places: set[int]) -> _Node:
        """The node of these places and of those that are reached from them without a byte."""
        todo = list(places)
        while todo:
            place = todo.pop()
            if place < len(self._tokens):
                skipped = {place + skip for skip in self._tokens[place].skips} - places
                places |= skipped
                todo.extend(skipped)
        if len(self._nodes) > _MAX_NODES:
            self._nodes.clear()
        key = frozenset(places)
        return self._nodes.setdefault(key, _Node(key, len(self._tokens) in key))
