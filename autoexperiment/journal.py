"""The ledger's file format: one checksummed JSON record a line, appended whole or not at all.

A frame is `<canonical json>\\t<crc32, 8 hex digits>\\n`. A kill in the middle of a write leaves a torn
tail: a last piece that is not a whole frame. It is moved aside on open. A frame that fails its check
with another frame behind it was not torn by a kill, and stops everything.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoexperiment import failpoint, files
from autoexperiment.errors import LabError, LedgerCorrupt, UsageError

MAX_FRAME_BYTES = 4096
_CHECK_BYTES = 10  # tab, 8 hex digits, newline

Record = dict[str, Any]


class DiskFull(LabError):
    """A record could not be written; the file was put back to its last whole record."""


def encode(record: Record) -> bytes:
    """One frame.

    Raises: UsageError: a value that is not JSON (NaN included), or more than 4096 bytes.
    """
    try:
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"A ledger record of kind {record.get('kind')!r} is not strict JSON: {error}.") from error
    blob = text.encode("ascii")
    frame = blob + b"\t%08x\n" % zlib.crc32(blob)
    if len(frame) > MAX_FRAME_BYTES:
        raise UsageError(
            f"A ledger record of kind {record.get('kind')!r} has {len(frame)} bytes; {MAX_FRAME_BYTES} are allowed. "
            "Shorten its texts; long ones belong into the run folder."
        )
    return frame


def decode(frame: bytes) -> Record:
    """The record of one whole frame. Raises: ValueError: it is not one."""
    blob, check = frame[:-_CHECK_BYTES], frame[-_CHECK_BYTES:]
    if len(frame) <= _CHECK_BYTES or check != b"\t%08x\n" % zlib.crc32(blob):
        raise ValueError("checksum does not match")
    record = json.loads(blob)
    if not isinstance(record, dict):
        raise ValueError("not an object")
    return record


@dataclass(frozen=True)
class Scan:
    """What a file holds: whole records, how many bytes they take, and the torn rest."""

    records: list[Record]
    good_bytes: int
    torn: bytes


def scan(blob: bytes, *, name: str = "ledger") -> Scan:
    """Read every whole frame.

    A bad last line counts as torn: with its newline missing it was cut short, with its newline there
    the file system kept the end of a write and lost its start.
    Raises: LedgerCorrupt: a bad frame that is not the last, or a gap in `seq`; names line and offset.
    """
    records: list[Record] = []
    start, size = 0, len(blob)
    while start < size:
        end = blob.find(b"\n", start) + 1
        frame = blob[start : end or size]
        try:
            record = decode(frame)
        except ValueError as error:
            if end in (0, size):
                return Scan(records, start, frame)
            raise _corrupt(name, len(records) + 1, start, str(error)) from None
        if record.get("seq") != len(records) + 1:
            raise _corrupt(name, len(records) + 1, start, f"its number is {record.get('seq')}")
        records.append(record)
        start = end
    return Scan(records, start, b"")


def _corrupt(name: str, line: int, offset: int, fault: str) -> LedgerCorrupt:
    return LedgerCorrupt(
        f"{name}:{line} (byte {offset}) is damaged: {fault}. Nothing was changed. "
        "Restore the file from a backup, or move it away and start another tag."
    )


def read(path: Path) -> list[Record]:
    """Every whole record, for readers that do not hold the lock; a torn tail is left alone."""
    return scan(path.read_bytes(), name=str(path)).records


class Journal:
    """An open journal of the one process that holds its lock."""

    def __init__(self, path: Path, fd: int, records: list[Record], size: int) -> None:
        self.path = path
        self.records = records
        self._fd = fd
        self._size = size
        self._fault = ""

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open for appending, creating the file; a torn tail is moved to `<name>.torn`."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        is_new = not path.exists()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if is_new:
                files.fsync_dir(path.parent)
            found = scan(path.read_bytes(), name=str(path))
            if found.torn:
                _set_aside(path, fd, found)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, found.records, found.good_bytes)

    def append(self, record: Record, *, time: str) -> Record:
        """Number, stamp and write one record; it is on the disk when this returns.

        Args: time: UTC, ISO 8601.
        Raises: DiskFull: nothing was written, and a later call may succeed. LabError: the disk failed;
            this journal takes no more records.
        """
        if self._fault:
            raise LabError(self._fault)
        whole = {**record, "seq": len(self.records) + 1, "time": time}
        frame = encode(whole)
        failpoint.reach("journal.before_write")
        self._write(frame)
        failpoint.reach("journal.written")
        self._sync()
        failpoint.reach("journal.synced")
        self._size += len(frame)
        self.records.append(whole)
        return whole

    def _write(self, frame: bytes) -> None:
        try:
            written = os.write(self._fd, frame)
        except OSError as error:
            self._roll_back()
            raise self._full(error.strerror or "write failed") from error
        if written != len(frame):
            self._roll_back()
            raise self._full("the disk took a part of it")

    def _roll_back(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            self._fault = (
                f"{self.path} could not be put back to its last record: {error.strerror}. Restart the session."
            )

    def _full(self, why: str) -> DiskFull:
        return DiskFull(
            f"A record could not be written to {self.path}: {why}. Free some space and go on; nothing is lost."
        )

    def _sync(self) -> None:
        try:
            files.fsync(self._fd)
        except OSError as error:
            # A later fsync may report success for pages that were dropped, so it proves nothing.
            self._fault = (
                f"The disk could not keep {self.path}: {error.strerror}. Check the disk, then restart the session."
            )
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise LabError(self._fault) from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _set_aside(path: Path, fd: int, found: Scan) -> None:
    torn = os.open(path.with_name(path.name + ".torn"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(torn, found.torn + b"\n")
        files.fsync(torn)
    finally:
        os.close(torn)
    failpoint.reach("journal.torn_saved")
    os.ftruncate(fd, found.good_bytes)
    files.fsync(fd)
