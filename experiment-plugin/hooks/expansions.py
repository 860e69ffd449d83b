"""What a word may become when the shell expands it, as far as a line and the environment tell."""

from __future__ import annotations

import glob
import itertools
import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_TEXTS_LIMIT = 64
_MATCHES_LIMIT = 10_000
_ROUNDS = 4  # of variables in variables
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_INNER_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
WILD = re.compile(r"[*?\[]")


class TooMany(Exception):
    """A wildcard stands for more files than can be looked at. `args[0]`: the word."""


def substituted(text: str, variables: Mapping[str, Sequence[str]]) -> list[str]:
    """A text with its variables' values; those that nobody knows stay as they are written."""
    texts = [text]
    for _ in range(_ROUNDS):
        texts = list(dict.fromkeys(itertools.islice(_one_round(texts, variables), _TEXTS_LIMIT)))
    return texts


def _one_round(texts: Sequence[str], variables: Mapping[str, Sequence[str]]) -> Iterable[str]:
    for text in texts:
        known = next(((m, v) for m in _VARIABLE.finditer(text) if (v := _values(m[1] or m[2], variables))), None)
        if known is None:
            yield text
        else:
            match, values = known
            yield from (text[: match.start()] + value + text[match.end() :] for value in values)


def _values(name: str, variables: Mapping[str, Sequence[str]]) -> Sequence[str]:
    inherited = os.environ.get(name)
    return [*variables.get(name, ()), *([inherited] if inherited else [])]


def unbraced(text: str) -> list[str]:
    """A text with its innermost braces and then the outer ones taken apart: `{a,b}.py` is `a.py` and `b.py`."""
    texts = [text]
    for _ in range(_ROUNDS):
        texts = list(itertools.islice(itertools.chain.from_iterable(map(_without_one, texts)), _TEXTS_LIMIT))
    return texts


def _without_one(text: str) -> list[str]:
    match = _INNER_BRACES.search(text)
    if match is None:
        return [text]
    choices = match[1].split(",", _TEXTS_LIMIT)
    return [text[: match.start()] + choice + text[match.end() :] for choice in choices]


def matches(path: str, root: str) -> list[str]:
    """The files that a path's wildcards match.

    Raises: TooMany: they are too many, or `**` would go through everything outside of a folder.
    """
    pattern = path.replace("[^", "[!")
    is_deep = "**" in pattern.split("/")
    above = os.path.realpath(WILD.split(pattern)[0].rpartition("/")[0] or "/")
    if is_deep and not (above + "/").startswith(root.rstrip("/") + "/"):
        raise TooMany(path)
    found = list(itertools.islice(glob.iglob(pattern, recursive=is_deep), _MATCHES_LIMIT + 1))
    if len(found) > _MATCHES_LIMIT:
        raise TooMany(path)
    return found
