"""The little languages that stand in a word: what a sed or an awk script reads, and whether it does more than print."""

from __future__ import annotations

import re

from shell import words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Forbidden(Exception):
    """The script writes a file or runs a command. `args[0]`: which part of it."""


class _Malformed(Exception):
    """No sed script, as far as can be told."""


# ---- sed

_PLAIN_SED = frozenset("=dDgGhHnNpPxzFlqQL}")
_TEXT_SED = frozenset("aic")
_LABEL_SED = frozenset(":btTv")
_EXPANSION = re.compile(r"\$\(…\)|\$\{\w+\}|\$\w{2,}")
_SED_FLAGS = re.compile(r"[gpiImM0-9]*")
_RANGE = re.compile(r"[0-9~+$, \t]*")


def read_by_sed(script: str) -> list[str]:
    """The files that a sed script reads. Raises: Forbidden.

    Seds do not agree on whether a slash in brackets ends a pattern, so both readings must be harmless.
    """
    script = _EXPANSION.sub("1", script)
    found: list[str] = []
    faults = 0
    for keeps_brackets in (False, True):
        try:
            found += _Sed(script, keeps_brackets=keeps_brackets).run()
        except _Malformed:
            faults += 1
    if faults == 2:
        raise Forbidden("it can't be taken apart")
    return found


class _Sed:
    def __init__(self, text: str, *, keeps_brackets: bool) -> None:
        self.text = text
        self.at = 0
        self.keeps_brackets = keeps_brackets
        self.read: list[str] = []

    def run(self) -> list[str]:
        while self._skip(" \t\n;{"):
            self._address()
            self._command()
        return self.read

    def _skip(self, signs: str) -> bool:
        while self.at < len(self.text) and self.text[self.at] in signs:
            self.at += 1
        return self.at < len(self.text)

    def _sign(self) -> str:
        return self.text[self.at : self.at + 1]

    def _address(self) -> None:
        while True:
            before = self.at
            self.at = _RANGE.match(self.text, self.at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self._sign() in ("/", "\\"):
                self.at += self._sign() == "\\"
                self._delimited()
                self._skip("IM")
            if self.at == before:
                break
        self._skip("! \t")

    def _delimited(self) -> None:
        """Pass over a text between two of the sign that stands here; the second is left behind, too."""
        sign = self._sign()
        if not sign or sign in "\n\\":
            raise _Malformed
        self.at += 1
        self._until(sign)

    def _until(self, sign: str) -> None:
        while self._sign() != sign:
            if self._sign() in ("", "\n"):
                raise _Malformed
            if self._sign() == "[" and self.keeps_brackets:
                self.at += 2 + (self.text[self.at + 1 : self.at + 2] == "^")
                self.at = self.text.find("]", self.at)
                if self.at < 0:
                    raise _Malformed
            self.at += 2 if self._sign() == "\\" else 1
        self.at += 1

    def _command(self) -> None:
        letter = self._sign()
        if not letter or letter == "{":
            return
        self.at += 1
        if letter in _PLAIN_SED:
            self._skip("0123456789 \t")
            if self._sign() not in ("", ";", "\n", "}", "#"):
                raise _Malformed
        elif letter in _TEXT_SED:
            self._pass_text()
        elif letter in _LABEL_SED:
            self.at = _first(self.text, self.at, ";\n}")
        elif letter == "#":
            self.at = _first(self.text, self.at, "\n")
        elif letter in "rR":
            end = _first(self.text, self.at, "\n")
            self.read += [self.text[self.at : end].strip(), self.text[self.at : end].strip().rstrip("} ;")]
            self.at = end
        elif letter in "sy":
            self._substitution(letter)
        elif letter in "wWe":
            raise Forbidden(f"the command {letter}")
        else:
            raise _Malformed

    def _substitution(self, letter: str) -> None:
        sign = self._sign()
        self._delimited()
        self.keeps_brackets, kept = False, self.keeps_brackets
        self._until_many(sign)
        self.keeps_brackets = kept
        if letter == "s":
            self.at = _SED_FLAGS.match(self.text, self.at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if self._sign() and self._sign() in "we":
                raise Forbidden(f"the flag {self._sign()}")
        self._skip(" \t")
        if self._sign() not in ("", ";", "\n", "}", "#"):
            raise _Malformed

    def _until_many(self, sign: str) -> None:
        """As `_until`, of a replacement, which may go over several lines."""
        while self._sign() != sign:
            if not self._sign():
                raise _Malformed
            self.at += 2 if self._sign() == "\\" else 1
        self.at += 1

    def _pass_text(self) -> None:
        while self.at < len(self.text) and self._sign() != "\n":
            self.at += 2 if self._sign() == "\\" else 1


def _first(text: str, at: int, signs: str) -> int:
    """Index of the first of some signs from an index on, or the text's end."""
    return next((i for i in range(at, len(text)) if text[i] in signs), len(text))


# ---- awk

_AWK_PIECE = re.compile(r'"(?:\\.|[^"\\\n])*"|#[^\n]*|[A-Za-z_]\w*|[\d.]+|\s+|.', re.S)
_AWK_REGEX = re.compile(r"/(?:\\.|\[\^?\]?[^]\n]*\]|[^/\\\n[])+/")
_BEFORE_REGEX = words_of("print printf return in case getline")


def read_by_awk(script: str) -> list[str]:
    """The texts in an awk script, each of which may be a file's name. Raises: Forbidden."""
    pieces = list(_awk_pieces(script))
    _check_awk(pieces)
    return [piece[1:-1] for piece in pieces if piece[:1] == '"' and len(piece) > 2]


def _awk_pieces(script: str) -> Iterable[str]:
    """The script's words and signs without comments and blanks; a pattern is the one piece `//`."""
    at, before = 0, ""
    while at < len(script):
        pattern = _AWK_REGEX.match(script, at)
        if pattern and (before in _BEFORE_REGEX or before in tuple("(,{};!&|~\n=<>+-*%?:") or not before):
            at, piece = pattern.end(), "//"
        else:
            piece = _AWK_PIECE.match(script, at)[0]  # type: ignore[index]  # its last choice matches anything
            at += len(piece)
            if "\n" in piece and piece.isspace():
                piece = "\n"
            elif piece.isspace() or piece[0] == "#":
                continue
        before = piece
        yield piece


def _check_awk(pieces: list[str]) -> None:
    depth, prints = 0, False
    for index, piece in enumerate(pieces):
        following = pieces[index + 1] if index + 1 < len(pieces) else ""
        if piece == "system" or (piece == "@" and following in ("include", "load")):
            raise Forbidden(piece)
        if piece == "|":
            if "|" not in (following, pieces[index - 1] if index else ""):
                raise Forbidden("the pipe")
        elif piece in ("print", "printf"):
            depth, prints = 0, True
        elif piece in (";", "\n", "}", "{"):
            prints = False
        elif piece in ("(", ")"):
            depth += 1 if piece == "(" else -1
        elif piece == ">" and prints and not depth and following not in ('"/dev/stderr"', '"/dev/stdout"'):
            raise Forbidden("the redirection")
