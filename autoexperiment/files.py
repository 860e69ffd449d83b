"""Whole-or-absent file writes, strict JSON, and the one lock that all writers use."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import shutil
import stat
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from autoexperiment.errors import Locked, UsageError


def fsync(fd: int) -> None:
    """Push a file's bytes to the disk itself (on macOS plain fsync stops at the drive's cache)."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def fsync_dir(path: Path) -> None:
    """Make the creation or renaming of entries in a directory survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Replace a file so that a reader sees the old content or the new one, never a part.

    The temporary file lies beside the target and is removed on failure (a full disk included); one that
    a killed process left is removed by the next write.
    """
    blob = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(blob)
            file.flush()
            fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder with all it holds, also what its owner locked; whatever else is in its place; or nothing."""
    if path.is_dir() and not path.is_symlink():
        unlock_folder(path)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def unlock_folder(path: Path) -> None:
    """Give ourselves back the right to look into a folder and those below, and to remove what they hold."""
    path.chmod(0o700)
    for here, names, _ in os.walk(path):
        for place in (Path(here) / name for name in names):
            if not place.is_symlink():
                place.chmod(0o700)


def open_plain(path: Path) -> BinaryIO:
    """A regular file to read; never follows a link, never waits on a pipe. Raises: OSError: it is something else."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return os.fdopen(fd, "rb")


def read_plain(path: Path, limit: int) -> bytes | None:
    """Bytes of a regular file of at most `limit` bytes, or None; never follows a link, never waits on a pipe."""
    try:
        with open_plain(path) as file:
            return file.read(limit) if os.fstat(file.fileno()).st_size <= limit else None
    except OSError:
        return None


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files of `path` whose writers are dead."""
    for rest in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = rest.name.split(".")[-2]
        if pid.isdigit() and not _is_alive(int(pid)):
            rest.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def dump_json(value: Any, *, indent: int | None = 2) -> str:
    """Strict JSON: NaN and infinity are refused, keys keep their order."""
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=True)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON with a final newline, whole or not at all."""
    write_atomic(path, dump_json(value) + "\n")


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def load_json(text: str | bytes) -> Any:
    """Parse strict JSON; `NaN`, `Infinity` and `-Infinity` raise ValueError."""
    return json.loads(text, parse_constant=_refuse_constant)


def read_json(path: Path) -> Any:
    """Parse a strict JSON file.

    Raises: UsageError: missing, unreadable or not JSON; the message names the file.
    """
    try:
        return load_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}.") from error


class Lock:
    """An exclusive `flock`: the kernel releases it when the holder dies, so it is never stale.

    The file holds the holder's pid and start time for the message of whoever finds it taken.
    """

    def __init__(self, path: Path, *, fd: int = -1) -> None:
        """`fd`: an already locked descriptor inherited from the process that handed the lock over."""
        self.path = path
        self.fd = fd

    def acquire(self, *, timeout_s: float = 0.0) -> Lock:
        """Take the lock, waiting up to `timeout_s` seconds.

        Raises: Locked: somebody else holds it; the message names the pid.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.read(fd, 200).decode("ascii", "replace").split("\n")[0]
                    os.close(fd)
                    raise Locked(
                        f"Another process is using {self.path.parent.name} (pid {holder or 'unknown'}). "
                        "One loop at a time is allowed. Wait with 'mlx loop wait' or end it with 'mlx loop stop'."
                    ) from None
                time.sleep(0.02)
        self.fd = fd
        self.sign()
        return self

    def sign(self) -> None:
        """Write this process's pid into the file (also after taking over an inherited lock)."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back; safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Lock:
        return self if self.fd >= 0 else self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock_holder(path: Path) -> int | None:
    """Pid of the process that holds a lock now, or None when it is free."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(fd, 200).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else -1
    finally:
        os.close(fd)
    return None
