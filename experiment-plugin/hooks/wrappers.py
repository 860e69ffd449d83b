"""Programs that run another program: where their own options end and the other one's words begin."""

from __future__ import annotations

import re

from programs import Denied
from shell import Word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Short options without a value, those with one, long ones of either kind, and how many operands come first.
_OPTIONS: dict[str, tuple[str, str, str, str, int]] = {
    "builtin": ("", "", "", "", 0),
    "busybox": ("", "", "", "", 0),
    "caffeinate": ("dimsu", "tw", "", "", 0),
    "chronic": ("ev", "", "", "", 0),
    "command": ("pvV", "", "", "", 0),
    "doas": ("nLs", "uC", "", "", 0),
    "env": ("i0v", "u", "--ignore-environment --null --debug", "--unset", 0),
    "exec": ("cl", "a", "", "", 0),
    "gtimeout": ("fpv", "ks", "--foreground --preserve-status --verbose", "--kill-after --signal", 1),
    "ionice": ("t", "cn", "", "", 0),
    "nice": ("0123456789", "n", "", "--adjustment", 0),
    "nohup": ("", "", "", "", 0),
    "setsid": ("cfw", "", "--fork --wait --ctty", "", 0),
    "stdbuf": ("", "ioe", "", "--input --output --error", 0),
    "sudo": ("AbEHknPSsi", "ugpCT", "--non-interactive --preserve-env --login --set-home", "--user --group", 0),
    "time": ("pv", "fo", "--verbose --portability", "--format --output", 0),
    "timeout": ("fpv", "ks", "--foreground --preserve-status --verbose", "--kill-after --signal", 1),
    "unbuffer": ("p", "", "", "", 0),
    "xargs": ("0rtxpo", "IinLlPsdEa", "--null --no-run-if-empty --verbose", "--replace --max-args --max-procs", 0),
}
_UV_RUN = (
    "--no-sync --frozen --locked --offline --quiet -q --isolated --no-project --active --exact -v --all-extras --no-dev",
    "--with --python -p --extra --group --project --directory --env-file --package --with-requirements --no-group",
)
NAMES = frozenset((*_OPTIONS, "uv", "uvx"))
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


def inner(name: str, args: Sequence[Word]) -> tuple[list[Word], list[Word]]:
    """The assignments in front of the other program, and its words; none when it runs none.

    Raises: Denied: an option is unknown, so that the other program can't be found.
    """
    if name in ("uv", "uvx"):
        return [], _uv(name, list(args))
    if name == "command" and args and re.fullmatch(r"-p?[vV]", args[0].text):
        return [], []
    flags, valued, long_flags, long_valued, operands = _OPTIONS[name]
    words = _skip_options(name, list(args), flags, valued, [long_flags.split(), long_valued.split()])
    assignments = []
    while name in ("env", "sudo", "doas") and words and _ASSIGNMENT.match(words[0].text):
        assignments.append(words.pop(0))
    return assignments, words[operands:]


def _skip_options(name: str, words: list[Word], flags: str, valued: str, long: list[list[str]]) -> list[Word]:
    long_flags, long_valued = long
    while words and words[0].text.startswith("-") and words[0].text != "-":
        text = words.pop(0).text
        if text == "--":
            break
        if text.startswith("--"):
            head, has_value, _ = text.partition("=")
            if head in long_valued and not has_value:
                words = words[1:]
            elif head not in long_flags and head not in long_valued:
                raise _unknown(name, text)
        else:
            words = words[_values(name, text, flags, valued) :]
    return words


def _values(name: str, text: str, flags: str, valued: str) -> int:
    """How many words behind a cluster of short options belong to it: 0 or 1."""
    for index, letter in enumerate(text[1:], 1):
        if letter in valued:
            optional = name == "xargs" and letter in "il"
            return int(index == len(text) - 1 and not optional)
        if letter not in flags:
            raise _unknown(name, text)
    return 0


def _unknown(name: str, option: str) -> Denied:
    return Denied(
        f"What {name} {option} would run can't be told. Run the command without {name}, or without that option."
    )


def _check_uv(words: list[Word]) -> None:
    """Raises: Denied: the command changes which packages the project runs with."""
    action = next((word.text for word in words if word.text[:1] != "-"), "")
    if action in ("add", "remove", "sync", "lock", "init", "venv"):
        raise Denied(
            f"uv {action} would change the project's packages, and all experiments run with the same ones. "
            "Use what is installed: uv run FILE"
        )


def _uv(name: str, words: list[Word]) -> list[Word]:
    if name == "uv":
        if not words or words[0].text != "run":
            _check_uv(words)
            return []
        words = words[1:]
    flags, valued = (group.split() for group in _UV_RUN)
    while words and words[0].text.startswith("-"):
        text = words.pop(0).text
        head, has_value, _ = text.partition("=")
        if head in ("-m", "--module"):
            return []
        if head in valued and not has_value:
            words = words[1:]
        elif head not in flags and head not in valued:
            raise _unknown(name, text)
    return words
