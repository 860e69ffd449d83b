"""Which commands look into every file of a folder, and which of them leave the runs' logs out."""

from __future__ import annotations

import fnmatch
import re

import places
import programs
from shell import Word, words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LOG_NAMES = (places.LOG, "evaluation.log")
_FEEDS = re.compile(r"\bxargs\b|\$\(|`|<\(|\bread\b")
_IGNORED_NAMES = re.compile(r"\bls-files\b.*\s(?:-[a-z]*[oi]|--others|--ignored)")


def is_search(name: str, args: Sequence[Word]) -> bool:
    options = [word.text for word in args if word.text.startswith("-")]
    if name in programs.ALWAYS_SEARCH:
        return True
    letters = "rRa" if name in ("cp", "scp") else "rRd" if name in programs.GREPS else "rR"
    return programs.has_flag(options, letters, "--recursive", "--dereference-recursive", "--archive", "--directories")


def skips_logs(name: str, args: Sequence[Word]) -> bool:
    options = [word.text for word in args if word.text.startswith("-")]
    if name in ("rg", "ag"):
        return not any(
            re.match(r"-[a-zA-Z]*u|--no-ignore|--unrestricted|-[a-zA-Z]*[aU]$", option) for option in options
        )
    for option in options:
        head, _, value = option.partition("=")
        value = value.strip("/")
        if head == "--exclude-dir" and value == places.OUTPUTS:
            return True
        if head == "--include" and value and not _matches_log(value):
            return True
    return False


def _matches_log(pattern: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for name in _LOG_NAMES)


def find_skips_logs(words: Sequence[str]) -> bool:
    values = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-name", "-iname")]
    has_other_ways = not set(words).isdisjoint(words_of("-o -or ! -not ,"))
    return bool(values) and not has_other_ways and not any(_matches_log(value) for value in values)


def feeds_a_reader(line: str) -> bool:
    """Whether names that a command prints may become the files that another one on the line shows."""
    return bool(_FEEDS.search(line)) and not programs.SHOWERS.isdisjoint(re.findall(r"[\w-]+", line))


def lists_ignored(line: str) -> bool:
    return bool(_IGNORED_NAMES.search(line))
