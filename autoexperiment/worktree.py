"""Files of a working tree, read and written as bytes and never through a link.

Folders are walked one by one with descriptors, so that a folder swapped for a link can't lead outside.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from autoexperiment import failpoint
from autoexperiment.errors import Refused
from autoexperiment.files import fsync

MAX_FILE_BYTES = 5_000_000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _parts(path: str) -> tuple[str, ...]:
    parts = PurePosixPath(path).parts
    is_inside = parts and parts[0] != "/" and ".." not in parts and "\0" not in path
    if not is_inside or any(part.lower() == ".git" for part in parts):
        raise Refused(f"{path!r} is not a file of the project. Allowed: a path below its top folder, outside .git.")
    return parts


def _restore(path: str) -> str:
    return f"Put it back: git restore -- {shlex.quote(path)}"


def _is_link(name: str, fd: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _enter(fd: int, name: str, path: str, *, create: bool) -> int:
    """Descriptor of a folder inside another one; the old descriptor is closed."""
    try:
        if create:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=fd)
        return os.open(name, _FOLDER, dir_fd=fd)
    except OSError as error:
        if _is_link(name, fd):
            raise Refused(
                f"{path} lies under the link {name!r}, which may lead out of the project. Allowed: plain folders. "
                f"{_restore(path)}"
            ) from error
        raise Refused(f"{path} cannot be reached: {name!r}: {error.strerror}. {_restore(path)}") from error
    finally:
        os.close(fd)


@contextmanager
def _folder_of(root: Path, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
    """Descriptor of the folder that holds a file, and the file's name in it."""
    *above, name = _parts(path)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in above:
        fd = _enter(fd, part, path, create=create)
    try:
        yield fd, name
    finally:
        os.close(fd)


def read(root: Path, path: str) -> bytes:
    """Raises: Refused: missing, a link (or under one), not a regular file, or above 5 MB."""
    with _folder_of(root, path) as (folder, name):
        try:
            # Opening a pipe for reading would wait for a writer.
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError as error:
            fault = "is a link" if _is_link(name, folder) else f"cannot be read ({error.strerror})"
            raise Refused(f"{path} {fault}. {_restore(path)}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Refused(f"{path} is not a regular file. {_restore(path)}")
    with os.fdopen(fd, "rb") as opened:
        blob = opened.read(MAX_FILE_BYTES + 1)
    if len(blob) > MAX_FILE_BYTES:
        raise Refused(f"{path} has more than {MAX_FILE_BYTES} bytes. Allowed: that many. Make it smaller.")
    return blob


def write(root: Path, path: str, blob: bytes, *, staging: Path) -> None:
    """Replace a file whole or not at all, keeping its mode; missing folders are made.

    Args: staging: where the new file is prepared. On the same disk, nothing half done ever lies in the tree.
    Raises: Refused: it lies under a link, or a folder stands in its place.
    """
    with _folder_of(root, path, create=True) as (folder, name):
        mode = _mode_of(folder, name, path)
        _write_new(staging, blob, mode, folder=None)
        failpoint.reach("candidates.file_staged")
        try:
            os.replace(staging, name, dst_dir_fd=folder)
        except OSError as error:
            staging.unlink(missing_ok=True)
            if error.errno != errno.EXDEV:
                raise
            beside = f".{name}.autoexperiment"
            _write_new(beside, blob, mode, folder=folder)
            os.replace(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)


def _mode_of(folder: int, name: str, path: str) -> int:
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return 0o644
    if stat.S_ISDIR(facts.st_mode):
        raise Refused(f"{path} is a folder now, and may hold something of yours. Move it away, then go on.")
    return stat.S_IMODE(facts.st_mode) if stat.S_ISREG(facts.st_mode) else 0o644


def _write_new(file: Path | str, blob: bytes, mode: int, *, folder: int | None) -> None:
    with suppress(FileNotFoundError):
        os.unlink(file, dir_fd=folder)
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as opened:
            opened.write(blob)
            opened.flush()
            os.fchmod(fd, mode)
            fsync(fd)
    except BaseException:
        os.unlink(file, dir_fd=folder)
        raise


def blob_id(content: bytes, *, like: str = "") -> str:
    """Git's name for these bytes, without any filter; SHA-256 when `like`, another name, has 64 digits."""
    whole = hashlib.sha256() if len(like) == 64 else hashlib.sha1(usedforsecurity=False)
    whole.update(b"blob %d\0" % len(content))
    whole.update(content)
    return whole.hexdigest()
