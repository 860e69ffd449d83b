"""The desk: a throw-away copy of the project in which one headless agent works. Only a candidate's bytes leave it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autoexperiment import worktree
from autoexperiment.errors import Refused
from autoexperiment.failure import clean
from autoexperiment.files import remove_folder, unlock_folder
from autoexperiment.index import LINK, SUBMODULE
from autoexperiment.session import Session

NAMED = 8  # files that a message names


@dataclass(frozen=True)
class Found:
    """What an agent left on the desk.

    Attributes:
        files: the mutable files.
        forbidden: what it did to any other file, as "prepare.py (changed)".
    """

    files: dict[str, bytes]
    forbidden: tuple[str, ...] = ()


def lay_out(session: Session) -> Path:
    """A new desk with the incumbent's files, the harness and all else that is committed; no hold-out, no git."""
    desk = session.paths.desk
    clear(session)
    desk.mkdir(parents=True)
    session.lay_out(session.head)(desk)
    return desk


def clear(session: Session) -> None:
    """Remove the desk, whatever an agent made of it."""
    remove_folder(session.paths.desk)


def look(session: Session) -> Found:
    """Read what lies on the desk, following no link."""
    desk, surface = session.paths.desk, session.surface
    if not desk.is_dir() or desk.is_symlink():
        return Found({}, ("the folder itself (removed)",))
    unlock_folder(desk)
    tree = session.repository.tree_files(session.head).items()
    before = {path: entry for path, entry in tree if entry[0] != SUBMODULE and not surface.is_held_out(path)}
    present = set(_paths(desk))
    files, forbidden = {}, [f"{path} (removed)" for path in before.keys() - present if not surface.is_mutable(path)]
    added = []
    for path in present:
        if surface.is_mutable(path):
            try:
                files[path] = worktree.read(desk, path)
            except Refused as error:
                forbidden.append(str(error).partition(". ")[0])
        elif path not in before:
            added.append(path)
        elif _is_changed(desk, path, before[path]):
            forbidden.append(f"{path} (changed)")
    ignored = session.repository.ignored([*files, *added])
    forbidden += [f"{path} (added)" for path in added if path not in ignored and not _is_droppings(path)]
    kept = {p: blob for p, blob in files.items() if p in before or not (p in ignored or _is_droppings(p))}
    return Found(kept, tuple(sorted(forbidden)))


def _paths(desk: Path) -> Iterator[str]:
    """Everything on the desk but folders, relative to it."""
    for folder, names, files in os.walk(desk):
        here = Path(folder)
        for name in (*files, *(name for name in names if (here / name).is_symlink())):
            yield str((here / name).relative_to(desk))


def _is_changed(desk: Path, path: str, entry: tuple[str, str]) -> bool:
    mode, blob = entry
    place = desk / path
    if place.is_symlink():
        return worktree.blob_id(os.fsencode(place.readlink()), like=blob) != blob
    try:
        return mode == LINK or worktree.blob_id(worktree.read(desk, path), like=blob) != blob
    except Refused:
        return True


def _is_droppings(path: str) -> bool:
    """What tools leave behind by themselves: caches and hidden folders."""
    return any(part.startswith(".") or part == "__pycache__" for part in path.split("/"))


def describe(forbidden: tuple[str, ...]) -> str:
    """Forbidden changes as one line."""
    more = f" and {len(forbidden) - NAMED} more" if len(forbidden) > NAMED else ""
    return ", ".join(clean(name, 200) for name in forbidden[:NAMED]) + more
