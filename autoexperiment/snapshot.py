"""The identity of a project's data: one hash over every file, so that runs on other data are never compared."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from autoexperiment.errors import LabError, UsageError
from autoexperiment.files import read_json, write_json

HOME = "~/"
CHUNK = 1 << 20
_Seen = dict[str, list[int | str]]  # path -> size, mtime and ctime in ns, inode, sha256


def place(root: Path, name: str) -> Path:
    """Where a recipe's data lies: below the project, or below the user's home when it starts with `~/`."""
    return Path.home() / name.removeprefix(HOME) if name.startswith(HOME) else root / name


def _files(folder: Path) -> Iterator[Path]:
    """Every regular file at or below a place, in order; links to files count as what they lead to."""
    if not folder.is_dir():
        yield folder
        return
    for above, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(above) / name for name in sorted(names) if (Path(above) / name).is_file())


def _sha256(file: Path) -> str:
    whole = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            whole.update(chunk)
    return whole.hexdigest()


def _digest(file: Path, seen: _Seen) -> list[int | str]:
    facts = file.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise UsageError(f"{file} is data of the protocol, and not a regular file. Name files and folders of files.")
    # The time of the last change of any kind is the one that a program can't set back.
    stamp: list[int | str] = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
    known = seen.get(str(file))
    return known if known and known[:4] == stamp else [*stamp, _sha256(file)]


def content(place: Path) -> str:
    """The hash of one file, or of all regular files in a folder with their names. Raises: OSError."""
    whole = hashlib.sha256()
    for file in _files(place):
        inner = os.fspath(file.relative_to(place)) if file != place else ""
        whole.update(f"{inner}\0{_sha256(file)}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def take(root: Path, names: Sequence[str], *, cache: Path) -> str:
    """The snapshot of these files and folders, as `sha256:…`.

    Args: cache: what was hashed before; a file whose size, times and inode are the same is not read again.
    Raises: UsageError: one is missing or cannot be read.
    """
    seen: _Seen = {}
    with contextlib.suppress(LabError, ValueError):  # none yet, or a torn one
        seen = read_json(cache)
    fresh: _Seen = {}
    whole = hashlib.sha256()
    for name in sorted(names):
        start = place(root, name)
        try:
            for file in _files(start):
                fresh[str(file)] = _digest(file, seen)
                inner = os.fspath(file.relative_to(start)) if file != start else ""
                whole.update(f"{name}\0{inner}\0{fresh[str(file)][4]}\n".encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise UsageError(
                f"The data {name!r} of the protocol cannot be read: {error.strerror} ({start}). Prepare it first, "
                "or name other data in archetypeExtensions.*.autoexperiment.data."
            ) from error
    if fresh != seen:
        write_json(cache, fresh)
    return f"sha256:{whole.hexdigest()}"
