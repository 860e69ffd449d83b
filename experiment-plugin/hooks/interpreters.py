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
# Letters that take the rest of their cluster, or the next word, for a program, and those that take a value.
_CODE_LETTERS = {"perl": "eE", "ruby": "e", "node": "ep", "bun": "ep", "lua": "e", "php": "rBRE", "Rscript": "e"}
_VALUE_LETTERS = {"perl": "iMmIxFCD", "ruby": "iIrFCKTWEx", "lua": "l", "php": "cdfz", "node": "r"}
_LONG_CODE = ("--eval", "--print", "--execute")


class Call:
    """`edited`: files that are edited in place. `codes`: the programs among the words; `is_input`: it comes as input."""

    def __init__(self) -> None:
        self.suffix: str | None = None
        self.codes: list[Word] = []
        self.operands: list[Word] = []

    @property
    def edited(self) -> list[Word]:
        if self.suffix is None:
            return []
        return [*self.operands, *(_suffixed(word, self.suffix) for word in self.operands if self.suffix)]

    @property
    def is_input(self) -> bool:
        return not (self.codes or self.operands)


def other_call(name: str, args: Sequence[Word]) -> Call:
    """What an interpreter other than python is to do."""
    call, words = Call(), list(args)
    while words:
        word = words.pop(0)
        if len(word.text) < 2 or word.text[0] != "-":
            call.operands.append(word)
            if not call.codes:  # a script's own words follow
                call.operands += words
                break
        elif word.text.startswith(_LONG_CODE):
            head, has_value, _ = word.text.partition("=")
            call.codes += [programs.tail(word, f"{head}=")] if has_value else words[:1]
            words = words if has_value else words[1:]
        elif not word.text.startswith("--"):
            words = _cluster(call, name, word, words)
    return call


def _cluster(call: Call, name: str, word: Word, words: list[Word]) -> list[Word]:
    """Take in a cluster of short options; returns the words behind it and its program."""
    for index, letter in enumerate(word.text[1:], 1):
        rest = word.text[index + 1 :]
        if letter in _CODE_LETTERS.get(name, "eE"):
            call.codes += [programs.tail(word, word.text[: index + 1])] if rest else words[:1]
            return words if rest else words[1:]
        if letter == "i" and name in ("perl", "ruby"):
            call.suffix = rest
            return words
        if letter in _VALUE_LETTERS.get(name, ""):
            return words
    return words


def _suffixed(word: Word, suffix: str) -> Word:
    changed = programs.tail(word, "")
    changed.text += suffix
    return changed


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


# What changes a file or starts a program somewhere in python code; other languages are always taken to do so.
_CHANGES = re.compile(
    r"""\bopen\([^()]*(?:\([^()]*\)[^()]*)*,\s*(?:mode\s*=\s*)?['"][rbtU]*[wax+]|
    \b(?:write\w*|unlink|remove\w*|rename\w*|rmtree|rmdir|mkdir|makedirs|move|copy\w*|truncate|chmod|chown|link|symlink\w*|
    touch|dump|save\w*|to_csv|to_json|to_parquet|tofile|hardlink_to|extract\w*|fdopen|exec|eval|getattr|__import__)\s*\(|
    \bos\.(?:replace|open)\b|\.replace\([^,()]*\)|\binplace\s*=""",
    re.X,
)
_OPENED = re.compile(r"""\bopen\(\s*(['"])(.{1,500}?)\1\s*,\s*(?:mode\s*=\s*)?['"][rbtU]*[wax+]""")
_WRITTEN_PATH = re.compile(r"""\bPath\(\s*(['"])(.{1,500}?)\1\s*\)\.(?:write_|touch|unlink|rename|rmdir|mkdir)""")
_REMOVED = re.compile(
    r"""\b(?:rmtree|unlink|remove|removedirs|rmdir|truncate|mkdir|makedirs|rmSync|unlinkSync|writeFileSync)\(?\s*(['"])(.{1,500}?)\1"""
)
_STARTS = re.compile(
    r"\b(?:subprocess|Popen|check_call|check_output|os\.(?:system|popen|exec\w*|spawn\w*|posix_spawn\w*)|pty\.spawn"
    r"|child_process|execSync|spawnSync|execFile\w*)\b"
)
_STARTS_ELSEWHERE = re.compile(r"\b(?:system|exec|popen|spawn|shell_exec|passthru)\b|\bqx\b|`")
_TEXT = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
_TEXTS = re.compile(rf"{_TEXT}(?:\s*,\s*{_TEXT})*|`[^`]*`|\bqx\s*[{{(\[/|]([^)}}\]/|]*)")
_WORD = re.compile(_TEXT)


def changes_files(name: str, code: str) -> bool:
    """Whether a program may change files, as far as its words tell."""
    return not PYTHON.fullmatch(name) or bool(_CHANGES.search(code)) or starts_programs(name, code)


def written_in(code: str) -> list[str]:
    """The names in a program that it opens for writing, makes or removes, also of files that are not there yet."""
    return [match[2] for rule in (_OPENED, _WRITTEN_PATH, _REMOVED) for match in rule.finditer(code)]


def starts_programs(name: str, code: str) -> bool:
    rules = [_STARTS] if PYTHON.fullmatch(name) else [_STARTS, _STARTS_ELSEWHERE]
    return any(rule.search(code) for rule in rules)


def texts_in(code: str) -> list[list[str]]:
    """What may be a command in a program: its texts, those of one list together."""
    return [_group(match[0], match[1] or "") for match in _TEXTS.finditer(code)]


def _group(found: str, quoted: str) -> list[str]:
    texts = [text[1:-1] for text in _WORD.findall(found)]
    return texts or [quoted or found.strip("`")]
