"""A shell command line taken apart: which simple commands it runs, and what their words say before any expansion.

It knows quoting, substitutions, redirections and here-documents of POSIX shells and bash. Constructs that an
agent has little use for (functions, `case`, arrays) it refuses, as it refuses everything it does not understand.
"""

from __future__ import annotations

import itertools
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_OPERATORS = re.compile(r"&>>|&>|&&|&|\|\||\|&|\||;;|;|\(|\)|<<<|<<-|<<|<&|<>|<|>>|>&|>\||>|\n")
_REDIRECTIONS = frozenset(("&>>", "&>", "<<<", "<<-", "<<", "<&", "<>", "<", ">>", ">&", ">|", ">"))
_ENDS = frozenset(" \t\n;&|()<>")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_SUM = re.compile(r"\((?:[\w\s+*/%<>=!&|^~?:,()-]|\$\w)*\)")
_ANSI = {"n": "\n", "t": "\t", "\\": "\\", "'": "'"}


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


class Unparsable(Exception):
    """The line can't be taken apart; `args[0]` says what is in the way."""


class Word:
    """One word.

    Attributes:
        text: without its quotes; expansions stand in it as they were written.
        expands: it holds a variable or a substitution, so that only the shell knows what it becomes.
        globs: it holds an unquoted wildcard or braces, and may become several words.
        scripts: command lines inside it that are run to make it.
    """

    def __init__(self) -> None:
        self.text = ""
        self.expands = False
        self.globs = False
        self.scripts: list[str] = []

    @property
    def is_plain(self) -> bool:
        return not (self.expands or self.globs)


def plain(text: str) -> Word:
    """A word that stands for exactly this text."""
    word = Word()
    word.text = text
    return word


class Command:
    """A simple command. `before`: the operator in front of it, "(" also where a subshell begins."""

    def __init__(self, before: str) -> None:
        self.before = before
        self.words: list[Word] = []
        self.assignments: list[Word] = []
        self.redirections: list[tuple[str, Word]] = []
        self.documents: list[Word] = []

    @property
    def is_empty(self) -> bool:
        return not (self.words or self.assignments or self.redirections)

    @property
    def reads_pipe(self) -> bool:
        return self.before in ("|", "|&")

    def all_words(self) -> list[Word]:
        return [*self.assignments, *self.words, *(word for _, word in self.redirections), *self.documents]


_KEYWORDS = words_of("if then else elif fi do done while until ! { } time")
_UNKNOWN = words_of("case esac function coproc select")
OPEN, CLOSE = "(", ")"


def parse(line: str) -> list[Command | str]:
    """The simple commands of a line in order, with OPEN and CLOSE where a subshell begins and ends.

    Raises: Unparsable.
    """
    return _Parser(line).run()


class _Parser:
    def __init__(self, line: str) -> None:
        self._lexer = _Lexer(line)
        self._found: list[Command | str] = []
        self._depth = 0
        self._command = Command("")

    def run(self) -> list[Command | str]:
        for token in self._lexer.tokens():
            if isinstance(token, Word):
                self._add(token)
            elif self._is_in_test():
                self._add_sign(token)
            elif token in _REDIRECTIONS:
                self._redirect(token)
            else:
                self._separate(token)
        if self._is_in_test():
            raise Unparsable("a '[[' without its ']]'")
        self._end("")
        if self._depth:
            raise Unparsable("a '(' without its ')'")
        return self._found

    def _is_in_test(self) -> bool:
        """Whether the words stand between `[[` and `]]`, where signs compare."""
        words = self._command.words
        return bool(words) and words[0].text == "[[" and all(word.text != "]]" for word in words)

    def _add_sign(self, token: str) -> None:
        if token in ("\n", ";", "&", ";;"):
            raise Unparsable("a '[[' without its ']]'")
        self._command.words.append(plain(token))

    def _add(self, word: Word) -> None:
        command = self._command
        if command.before == CLOSE:
            raise Unparsable("a word behind ')'")
        is_bare = word.is_plain and not command.words
        if is_bare and word.text in _UNKNOWN:
            raise Unparsable(f"the keyword {word.text!r}")
        if is_bare and not command.assignments and word.text in _KEYWORDS:
            return
        if not command.words and _ASSIGNMENT.match(word.text):
            command.assignments.append(word)
        else:
            command.words.append(word)

    def _redirect(self, operator: str) -> None:
        target = self._lexer.redirection_target(operator)
        if operator in ("<<", "<<-"):
            self._lexer.expect_document(self._command, target, strips_tabs=operator == "<<-")
        else:
            self._command.redirections.append((operator, target))

    def _separate(self, operator: str) -> None:
        if operator == OPEN:
            if not self._command.is_empty or self._command.before == CLOSE:
                raise Unparsable("a '(' behind a word")
            if self._lexer.skip_sum():
                self._command.words.append(plain(":"))
                return
            self._depth += 1
            self._found.append(OPEN)
            self._command = Command(OPEN)
        elif operator == CLOSE:
            self._end(CLOSE)
            self._depth -= 1
            if self._depth < 0:
                raise Unparsable("a ')' without its '('")
            self._found.append(CLOSE)
        elif operator == ";;":
            raise Unparsable("a ';;'")
        else:
            self._end(operator)

    def _end(self, operator: str) -> None:
        if not self._command.is_empty:
            self._found.append(self._command)
        elif operator == "\n" and self._command.before != CLOSE:
            return  # a line end behind an operator changes nothing
        self._command = Command(operator)


class _Lexer:
    def __init__(self, text: str) -> None:
        if "\0" in text:
            raise Unparsable("a NUL character")
        self.text = text
        self.at = 0
        self._waiting: list[tuple[Command, _Document]] = []

    def tokens(self) -> Iterator[Word | str]:
        while True:
            self._skip_blanks()
            if self.at >= len(self.text):
                if self._waiting:
                    raise Unparsable("a here-document without its end")
                return
            yield self._next()

    def _skip_blanks(self) -> None:
        while self.at < len(self.text):
            if self.text.startswith("\\\n", self.at):
                self.at += 2
            elif self.text[self.at] in " \t":
                self.at += 1
            elif self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            else:
                return

    def _next(self) -> Word | str:
        if self.text[self.at] in "<>" and self.text.startswith("(", self.at + 1):
            return self.word()
        operator = _OPERATORS.match(self.text, self.at)
        if operator is None:
            return self._word_or_descriptor()
        self.at = operator.end()
        if operator[0] == "\n":
            self._read_documents()
        return operator[0]

    def _word_or_descriptor(self) -> Word | str:
        """A word, or the operator behind a descriptor's number: the 2 of `2>` says nothing about where it leads."""
        number = re.compile(r"\d+(?=[<>])").match(self.text, self.at)
        if number:
            self.at = number.end()
            return self._next()
        return self.word()

    def skip_sum(self) -> bool:
        """Pass over the rest of a `((…))` that calculates, when its first '(' has just been read."""
        if self.text[self.at : self.at + 1] != "(":
            return False
        end = _closing(self.text, self.at - 1)
        is_sum = _is_arithmetic(self.text[self.at : end])
        self.at = end + 1 if is_sum else self.at
        return is_sum

    def redirection_target(self, operator: str) -> Word:
        self._skip_blanks()
        word = self.word()
        if not (word.text or word.expands) and operator not in ("<<<", "<<", "<<-"):
            raise Unparsable(f"a {operator!r} without its file")
        return word

    # ---- words

    def word(self) -> Word:
        word, start = Word(), self.at
        while self.at < len(self.text):
            sign = self.text[self.at]
            if sign in "<>" and self.at == start and self.text.startswith("(", self.at + 1):
                self.at += 1
                self._substitution(word)
            elif sign in _ENDS:
                break
            else:
                self._piece(word, sign)
        word.globs = word.globs and self.text[start : self.at] not in ("[", "[[", "{", "{}")
        return word

    def _piece(self, word: Word, sign: str) -> None:
        if sign == "\\":
            escaped = self.text[self.at + 1 : self.at + 2]
            word.text += "" if escaped == "\n" else escaped
            self.at += 2
        elif sign == "'":
            word.text += self._until("'")
        elif sign == '"':
            self.at += 1
            self._double_quoted(word)
        elif sign == "`":
            self._backticks(word)
        elif sign == "$":
            self._dollar(word, is_quoted=False)
        else:
            word.globs = word.globs or sign in "*?[{"
            word.text += sign
            self.at += 1

    def _until(self, quote: str) -> str:
        end = self.text.find(quote, self.at + 1)
        if end < 0:
            raise Unparsable(f"a {quote} without its other half")
        inside = self.text[self.at + 1 : end]
        self.at = end + 1
        return inside

    def _double_quoted(self, word: Word, *, is_document: bool = False) -> None:
        while self.at < len(self.text):
            sign = self.text[self.at]
            if sign == '"' and not is_document:
                self.at += 1
                return
            if sign == "\\" and self.text[self.at + 1 : self.at + 2] in ('"', "$", "`", "\\", "\n"):
                escaped = self.text[self.at + 1]
                word.text += "" if escaped == "\n" else escaped
                self.at += 2
            elif sign == "`":
                self._backticks(word)
            elif sign == "$":
                self._dollar(word, is_quoted=True)
            else:
                word.text += sign
                self.at += 1
        if not is_document:
            raise Unparsable('a " without its other half')

    def _dollar(self, word: Word, *, is_quoted: bool) -> None:
        following = self.text[self.at + 1 : self.at + 2]
        if following == "(":
            self.at += 1
            self._substitution(word)
        elif following == "{":
            self._braced(word)
        elif following == "'" and not is_quoted:
            self.at += 1
            self._ansi_quoted(word)
        elif following == '"' and not is_quoted:
            self.at += 2
            self._double_quoted(word)
        else:
            word.expands = word.expands or following.isalnum() or following in tuple("_@*#?-$!")
            word.text += "$"
            self.at += 1

    def _braced(self, word: Word) -> None:
        end = self.text.find("}", self.at)
        inside = self.text[self.at : end + 1]
        if end < 0 or any(sign in inside for sign in "`'\"\\") or inside.count("$") > 1:
            raise Unparsable("a '${' with more than a name in it")
        word.expands = True
        word.text += inside
        self.at = end + 1

    def _ansi_quoted(self, word: Word) -> None:
        self.at += 1
        while (sign := self.text[self.at : self.at + 1]) != "'":
            escaped = self.text[self.at + 1 : self.at + 2]
            if not sign or (sign == "\\" and escaped not in _ANSI):
                raise Unparsable("a $'…' with more than \\n, \\t, \\\\ and \\' in it")
            word.text += _ANSI[escaped] if sign == "\\" else sign
            self.at += 2 if sign == "\\" else 1
        self.at += 1

    def _backticks(self, word: Word) -> None:
        end = self.at + 1
        while self.text[end : end + 1] != "`":
            if end >= len(self.text):
                raise Unparsable("a ` without its other half")
            end += 2 if self.text[end] == "\\" else 1
        raw = self.text[self.at + 1 : end]
        word.scripts.append(re.sub(r"\\([$`\\])", r"\1", raw))
        self._mark_substituted(word, end + 1)

    def _substitution(self, word: Word) -> None:
        end = _closing(self.text, self.at)
        inside = self.text[self.at + 1 : end]
        if not _is_arithmetic(inside):
            word.scripts.append(inside)
        self._mark_substituted(word, end + 1)

    def _mark_substituted(self, word: Word, end: int) -> None:
        word.expands = True
        word.text += "$(…)"
        self.at = end

    # ---- here-documents

    def expect_document(self, command: Command, delimiter: Word, *, strips_tabs: bool) -> None:
        if delimiter.expands or not delimiter.text:
            raise Unparsable("a here-document whose end is no plain word")
        before = self.text[: self.at]
        is_literal = before.endswith(("'", '"')) or "\\" in before.rsplit("<<", 1)[1]
        self._waiting.append((command, _Document(delimiter.text, is_literal=is_literal, strips_tabs=strips_tabs)))

    def _read_documents(self) -> None:
        for command, document in self._waiting:
            body = self._body(document)
            command.documents.append(plain(body) if document.is_literal else _Lexer(body).document())
        self._waiting = []

    def document(self) -> Word:
        """The whole text, expanded as a here-document is."""
        word = Word()
        self._double_quoted(word, is_document=True)
        return word

    def _body(self, document: _Document) -> str:
        lines: list[str] = []
        while self.at < len(self.text):
            end = self.text.find("\n", self.at)
            line = self.text[self.at :] if end < 0 else self.text[self.at : end]
            self.at = min(self.at + len(line) + 1, len(self.text))
            if (line.lstrip("\t") if document.strips_tabs else line) == document.end:
                return "\n".join(lines)
            lines.append(line)
        raise Unparsable(f"a here-document without its {document.end!r}")


class _Document:
    """A here-document that begins on the next line. `is_literal`: nothing in it is expanded."""

    def __init__(self, end: str, *, is_literal: bool, strips_tabs: bool) -> None:
        self.end = end
        self.is_literal = is_literal
        self.strips_tabs = strips_tabs


def _is_arithmetic(inside: str) -> bool:
    """Whether what stands in `$(…)` is the inner half of a `$((…))` that calculates and runs nothing."""
    if not _SUM.fullmatch(inside):
        return False
    depths = itertools.accumulate((sign == "(") - (sign == ")") for sign in inside[1:-1])
    return min(depths, default=0) >= 0


_DOCUMENT = re.compile(r"<<(-?)[ \t]*(?:'([^'\n]+)'|\"([^\"\n]+)\"|\\?([A-Za-z_][\w.-]*))")


def _closing(text: str, at: int) -> int:
    """Index of the ')' that belongs to the '(' at an index; quotes, nested ones and here-documents are passed over."""
    depth, waiting = 0, []
    while at < len(text):
        sign = text[at]
        document = _DOCUMENT.match(text, at) if sign == "<" and text[at - 1] != "<" else None
        if document:
            waiting.append((document[2] or document[3] or document[4], bool(document[1])))
            at = document.end() - 1
        elif sign == "\n":
            at = _behind_documents(text, at, waiting)
            waiting = []
        elif sign == "\\":
            at += 1
        elif sign in "'\"`":
            at = _quote_end(text, at)
        elif sign in "()":
            depth += 1 if sign == "(" else -1
            if depth == 0:
                return at
        at += 1
    raise Unparsable("a '$(' without its ')'")


def _behind_documents(text: str, at: int, waiting: list[tuple[str, bool]]) -> int:
    """Index of the line end of the last line of some here-documents that begin behind the line end at an index."""
    for end, strips_tabs in waiting:
        while True:
            start, at = at + 1, text.find("\n", at + 1)
            line = text[start : at if at >= 0 else len(text)]
            if (line.lstrip("\t") if strips_tabs else line) == end:
                break
            if at < 0:
                raise Unparsable(f"a here-document without its {end!r}")
        if at < 0:
            return len(text)
    return at


def _quote_end(text: str, at: int) -> int:
    """Index of the quote that closes the one at an index."""
    quote = text[at]
    at += 1
    while at < len(text):
        if text[at] == quote:
            return at
        if quote == '"' and text.startswith("$(", at):
            at = _closing(text, at + 1)
        elif text[at] == "\\" and quote != "'":
            at += 1
        at += 1
    raise Unparsable(f"a {quote} without its other half")
