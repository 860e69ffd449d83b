"""What a folder holds, as one hash: bounded, and quick the second time."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from autoexperiment import snapshot
from autoexperiment.errors import UsageError
from autoexperiment.paths import ProjectPaths

MOST_FILES = 10_000
MOST_BYTES = 100_000_000_000
REMEMBERED_BYTES = 32_000_000  # of a folder: with more, what was hashed is written down
BYTECODE = "__pycache__"

_Digest = Callable[[str, tuple[int, ...]], str]


def is_looked_into(folder: Path, *, root: Path) -> bool:
    """Whether a folder may count by its content: not one that holds the workspace, or all of its outputs."""
    place, outputs = folder.resolve(), ProjectPaths(root).outputs.resolve()
    return not outputs.is_relative_to(place)


def content(folder: Path, *, root: Path, digest: _Digest) -> str:
    """The hash of all regular files below a folder with their names; links count as what they lead to, bytecode not.

    Args: digest: hashes a file, by its path and its `stamp`.
    Raises: UsageError: it holds too much, or can't be gone through.
    """
    try:
        files, size = _listed(folder)
        if size > REMEMBERED_BYTES:
            memory = ProjectPaths(root).outputs / ".cache" / "folders" / f"{_sha256(os.fsencode(folder))[:20]}.json"
            return snapshot.take(folder, [f"./{name}" for name in files], cache=memory)
    except OSError as error:
        raise UsageError(f"Cannot go through the folder {folder}, which a configuration names: {error}.") from error
    lines = [f"{name}\0{_digest(folder / name, facts, digest)}\n" for name, facts in sorted(files.items())]
    return _sha256("".join(lines).encode("utf-8", "surrogateescape"))


def _listed(folder: Path) -> tuple[dict[str, tuple[int, ...]], int]:
    """The stamp of each regular file by name, and the bytes of all. Raises: UsageError: too many."""
    files: dict[str, tuple[int, ...]] = {}
    size = 0
    for file in _files(folder):
        facts = file.stat()
        if stat.S_ISREG(facts.st_mode):
            files[file.relative_to(folder).as_posix()] = stamp(facts)
            size += facts.st_size
        if len(files) > MOST_FILES or size > MOST_BYTES:
            raise UsageError(
                f"The folder {folder} holds more than {MOST_FILES} files or {MOST_BYTES // 10**9} GB. A folder that a "
                "configuration names counts by its content. Name a smaller one, or pack it into one file and name that."
            )
    return files, size


def _digest(file: Path, facts: tuple[int, ...], digest: _Digest) -> str:
    try:
        return digest(str(file), facts)
    except OSError as error:  # a step can't read it either
        return f"error {error.errno}"


def stamp(facts: os.stat_result) -> tuple[int, ...]:
    """What differs when a file was changed; the time of the last change of any kind can't be set back."""
    return facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder; a folder that several links lead to is gone into once."""
    seen = set()
    for above, folders, names in os.walk(folder, followlinks=True):
        place = Path(above).stat()
        if (place.st_dev, place.st_ino) in seen:
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if name != BYTECODE)
        yield from (Path(above, name) for name in sorted(names) if Path(above, name).exists())


def _sha256(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()
