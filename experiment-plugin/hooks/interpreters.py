"""Interpreters: which of their words is a program, and which names stand in a program."""

from __future__ import annotations

import re

import programs
from shell import Word, words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PYTHON = re.compile(r"(?:python|pypy)[0-9.]*")
OTHERS = words_of("Rscript bun deno lua node osascript perl php ruby tclsh")
_INLINE = re.compile(r"-[a-zA-Z0]*[eErp]|--(?:eval|print)")
_IN_PLACE = re.compile(r"-[a-zA-Z0]*i")


class Call:
    """`edited`: files that are edited in place. `is_inline`: a program stands among the words, or comes as input."""

    def __init__(self, edited: Sequence[Word], *, is_inline: bool) -> None:
        self.edited = edited
        self.is_inline = is_inline


def other_call(name: str, args: Sequence[Word]) -> Call:
    """What an interpreter other than python is to do."""
    options, operands = programs.split(args)
    is_in_place = name in ("perl", "ruby") and any(_IN_PLACE.match(option) for option in options)
    is_inline = not operands or any(_INLINE.match(option) for option in options)
    return Call(operands if is_in_place else [], is_inline=is_inline)


def python_call(args: Sequence[Word]) -> tuple[str, list[Word]]:
    """What python is to run, as "code", "module", "input", "script" or "nothing", and the words from there on."""
    words = list(args)
    while words:
        word = words.pop(0)
        text = word.text
        if text == "-":
            return "input", words
        if text in ("-V", "-VV", "--version", "-h", "--help"):
            return "nothing", []
        if not text.startswith("-"):
            return "script", [word, *words]
        for index, letter in enumerate(text[1:], 1):
            if letter in "cm" and not text.startswith("--"):
                rest = [programs.tail(word, text[: index + 1])] if text[index + 1 :] else []
                kind = "code" if letter == "c" else "module"
                return (kind, [*rest, *words]) if rest or words else ("nothing", [])
            if letter in "WX":
                words = words if text[index + 1 :] else words[1:]
                break
    return "input", []


def names_in(code: str) -> list[str]:
    """What may be a file's name in a program: quoted texts, and words with a dot or a slash in them."""
    quoted = [match[2] for match in re.finditer(r"(['\"])(.{1,500}?)\1", code)]
    words = [word for word in re.findall(r"[\w~./-]+", code) if "." in word or "/" in word]
    return [name for name in dict.fromkeys([*quoted, *words]) if name.strip("./-~ ") and "\0" not in name]
