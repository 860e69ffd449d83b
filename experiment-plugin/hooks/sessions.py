"""Which loop sessions a folder belongs to, found by reading a few small files: no git, no other process.

A session is active in a working tree when the branch that is checked out is the session's and its handover
lies in the state folder.
"""

from __future__ import annotations

import json
import os
import re
import sys

TYPE_CHECKING = False  # typing takes longer to import than all the rest of this
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

IDENTITY = "autoexperiment-id"
HANDOVER = "handover.json"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_REF = "ref: refs/heads/"
_REFTABLE = ".invalid"  # what HEAD says where branches are not files


class Unreadable(Exception):
    """A session seems to be active, and what it allows can't be read."""


class Active:
    """A session and the working tree in which it was found."""

    def __init__(self, root: str, folder: str, handover: dict[str, Any]) -> None:
        self.root = root
        self.folder = folder
        self.handover = handover

    @property
    def tag(self) -> str:
        return str(self.handover["tag"])

    @property
    def stop_requested_at(self) -> float:
        """Seconds since 1970 of the last stop request that nobody has taken up yet, or 0.0."""
        try:
            return os.stat(os.path.join(self.folder, "stop")).st_mtime
        except OSError:
            return 0.0


def state_home() -> str:
    """The folder for state, as the program itself finds it."""
    override = os.environ.get("XDG_STATE_HOME")
    if override:
        return os.path.join(override, "autoexperiment")
    below = ("Library", "Application Support") if sys.platform == "darwin" else (".local", "state")
    return os.path.join(os.path.expanduser("~"), *below, "autoexperiment")


def trees_around(path: str) -> list[str]:
    """Every git working tree that a path lies in, the innermost first."""
    folder = os.path.realpath(path)
    found: list[str] = []
    while True:
        if os.path.lexists(os.path.join(folder, ".git")):
            found.append(folder)
        above = os.path.dirname(folder)
        if above == folder:
            return found
        folder = above


def active_at(paths: Iterable[str]) -> list[Active]:
    """The sessions active around any of some paths. Raises: Unreadable."""
    roots: list[str] = []
    for path in paths:
        roots += [root for root in trees_around(path) if root not in roots]
    return [session for root in roots for session in _active_in(root)]


def _active_in(root: str) -> list[Active]:
    folder = _git_folder(root)
    branch = _branch(folder)
    state = _state_of(_common(folder)) if branch else ""
    if not state:
        return []
    found = []
    for tag in sorted(_names(state)):
        file = os.path.join(state, tag, HANDOVER)
        handover = _read_handover(file, tag, branch)
        if handover is not None and _is_about(handover, branch, root):
            found.append(Active(root, os.path.dirname(file), handover))
    return found


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_about(handover: dict[str, Any], branch: str, root: str) -> bool:
    return bool(handover["root"] == root if branch == _REFTABLE else handover["branch"] == branch)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _git_folder(root: str) -> str:
    """The git folder of a working tree: `.git`, or where that file points."""
    place = os.path.join(root, ".git")
    if os.path.isdir(place):
        return place
    try:
        text = _read(place)
    except OSError:
        return place
    return os.path.normpath(os.path.join(root, text.partition("gitdir:")[2].strip()))


def _common(folder: str) -> str:
    """The folder that all worktrees of a repository share."""
    try:
        return os.path.normpath(os.path.join(folder, _read(os.path.join(folder, "commondir")).strip()))
    except OSError:
        return folder


def _branch(folder: str) -> str:
    try:
        head = _read(os.path.join(folder, "HEAD")).strip()
    except OSError:
        return ""
    return head[len(_REF) :] if head.startswith(_REF) else ""


def _state_of(common: str) -> str:
    """The state folder of a repository, or "" when it never had a session or is a copy of one that had."""
    try:
        line = _read(os.path.join(common, IDENTITY)).rstrip("\n")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    name, _, recorded = line.partition("\t")
    if not _NAME.fullmatch(name):
        raise Unreadable(f"{os.path.join(common, IDENTITY)} names no state folder")
    return "" if _is_copy(name, recorded, common) else os.path.join(state_home(), name)


def _is_copy(name: str, recorded: str, common: str) -> bool:
    if not recorded or os.path.realpath(recorded) == os.path.realpath(common):
        return False
    try:
        return _read(os.path.join(recorded, IDENTITY)).startswith(f"{name}\t")
    except OSError:
        return False


_LISTS = ("mutable", "forbidden", "immutable", "hold_out", "views", "own")


def _read_handover(file: str, tag: str, branch: str) -> dict[str, Any] | None:
    """A session's handover, or None. Raises: Unreadable: it is damaged, and may be the branch's own."""
    try:
        value: dict[str, Any] = json.loads(_read(file))
        _check(value)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if tag in branch or branch == _REFTABLE:
            raise Unreadable(f"{file} can't be read ({type(error).__name__}: {error})") from error
        return None
    return value


def _check(value: dict[str, Any]) -> None:
    """Raises: ValueError, KeyError, TypeError: not a handover of a version that this reads."""
    if value["version"] != 1:
        raise ValueError(f"version {value['version']!r:.20}")
    surface = value["surface"]
    lists = [*(surface[name] for name in _LISTS), value["protected"], value["secret"]]
    words = [value[name] for name in ("tag", "branch", "root", "over", "briefing")]
    for item in [surface["prefix"], *words, *(word for words in lists for word in words)]:
        if type(item) is not str:
            raise TypeError(f"{item!r:.80} is no text")
    if type(value["decided"]) is not int:
        raise TypeError("decided is no number")
