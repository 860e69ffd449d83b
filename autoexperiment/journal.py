"""The file format of the ledger, and of a sweep's book: one checksummed JSON record a line, appended whole or not at all.

A frame is `<canonical json>\\t<crc32, 8 hex digits>\\n`. Each frame is on the disk before the next is
written, so a kill or a power cut can spoil the last one only. What it can leave there is a *torn tail*
(`_is_torn`), which is moved aside on open. Anything else that fails its check is damage, and stops
everything: nothing that was acknowledged is ever dropped silently.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoexperiment import failpoint, files
from autoexperiment.errors import LabError, LedgerCorrupt, UsageError

MAX_FRAME_BYTES = 16_384  # holds the longest texts that are recorded, every character escaped
_CHECK_BYTES = 10  # tab, 8 hex digits, newline
_SECTOR_BYTES = 512  # the smallest unit that a disk writes whole
_START_OF_FRAME = re.compile(rb"\{[\x20-\x7e]*(?:\t[0-9a-f]{0,8})?")
_HOLE = re.compile(rb"\0+")

Record = dict[str, Any]


class DiskFull(LabError):
    """A record could not be written; the file was put back to its last whole record."""


@dataclass(frozen=True)
class Kind:
    """What messages call a journal and what belongs to it, and what they tell the user to do.

    Attributes:
        name: of the file. `owner`: of what its records are about.
        again: the command with which to go on once the disk has room. `look`: the one that says what is running.
        anew: how to go on without the file.
        is_private: whether nobody else may read it; if not, it is as the umask has it.
    """

    name: str
    owner: str
    again: str
    look: str
    anew: str
    is_private: bool = True

    @property
    def file_mode(self) -> int:
        return 0o600 if self.is_private else 0o666


LEDGER = Kind("ledger", "session", again="mlx loop run", look="mlx loop status", anew="start another tag")


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


# Made once: json.dumps and json.loads with options build a new one for every record.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def encode(record: Record, *, kind: Kind = LEDGER) -> bytes:
    """One frame.

    Raises: UsageError: a value that is not JSON (NaN included), or more than 16,384 bytes.
    """
    try:
        blob = _ENCODER.encode(record).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"A {kind.name} record of kind {record.get('kind')!r} is not strict JSON: {error}. "
            "Allowed: text, finite numbers, true, false, null, lists and objects of these."
        ) from error
    frame = blob + b"\t%08x\n" % zlib.crc32(blob)
    if len(frame) > MAX_FRAME_BYTES:
        raise UsageError(
            f"A {kind.name} record of kind {record.get('kind')!r} has {len(frame)} bytes; {MAX_FRAME_BYTES} are allowed. "
            "Shorten its texts; long ones belong into the run folder."
        )
    return frame


def decode(frame: bytes) -> Record:
    """The record of one whole frame. Raises: ValueError: it is not one."""
    blob = frame[:-_CHECK_BYTES]
    if frame[-_CHECK_BYTES:] != b"\t%08x\n" % zlib.crc32(blob):
        raise ValueError("its checksum does not match")
    try:
        record = _DECODER.decode(blob.decode("ascii"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError("it is not an object")
    return record


@dataclass(frozen=True)
class Scan:
    """What a file holds: whole records, how many bytes they take, and the torn rest."""

    records: list[Record]
    good_bytes: int
    torn: bytes


def scan(blob: bytes, *, name: str = "ledger", kind: Kind = LEDGER) -> Scan:
    """Read every whole frame of a file's bytes. `name`: what messages call the file.

    Raises: LedgerCorrupt: a bad frame that is not a torn tail, or a gap in `seq`; names line and offset.
    """

    def corrupt(fault: str) -> LedgerCorrupt:
        return _corrupt(name, len(records) + 1, start, fault, is_last=end == size, anew=kind.anew)

    records: list[Record] = []
    start, size = 0, len(blob)
    while start < size:
        end = blob.find(b"\n", start) + 1 or size
        frame = blob[start:end]
        try:
            record = decode(frame)
        except ValueError as error:
            if end == size and _is_torn(frame, start):
                return Scan(records, start, frame)
            raise corrupt(str(error)) from None
        if record.get("seq") != len(records) + 1:
            raise corrupt(f"its number is {record.get('seq')}")
        records.append(record)
        start = end
    return Scan(records, start, b"")


def _is_torn(piece: bytes, offset: int) -> bool:
    """Whether one interrupted write of a frame can have left these bytes at the end of a file.

    A kill leaves a strict beginning of a frame: no newline, and no check sum that does not match. A power
    cut may also leave sectors unwritten, which then read as zeros from one sector border (or the frame's
    start) to another (or the end). A changed byte of a whole frame has neither shape.
    """
    if len(piece) > MAX_FRAME_BYTES:
        return False
    holes = [match.span() for match in _HOLE.finditer(piece)]
    if holes:
        return all(
            (first == 0 or (offset + first) % _SECTOR_BYTES == 0)
            and (end == len(piece) or (offset + end) % _SECTOR_BYTES == 0)
            for first, end in holes
        )
    text, _, check = piece.partition(b"\t")
    return bool(_START_OF_FRAME.fullmatch(piece)) and (len(check) < 8 or check == b"%08x" % zlib.crc32(text))


def _corrupt(name: str, line: int, offset: int, fault: str, *, is_last: bool, anew: str) -> LedgerCorrupt:
    remedy = f"Restore the file from a backup, or move it away and {anew}."
    if is_last:
        file, kept = shlex.quote(name), shlex.quote(f"{name}.damaged")
        remedy = f"To go on without this last record: mv {file} {kept} && head -c {offset} {kept} > {file}"
    return LedgerCorrupt(f"{name}:{line}:{offset} (byte {offset}) is damaged: {fault}. Nothing was changed. {remedy}")


def read(path: Path, *, kind: Kind = LEDGER) -> list[Record]:
    """Every whole record, for readers that do not hold the lock; a torn tail is left alone.

    Raises: UsageError: no such file, or it can't be read. LedgerCorrupt.
    """
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read the {kind.name} {path}: {error.strerror}.") from error
    return scan(blob, name=str(path), kind=kind).records


class Journal:
    """An open journal of the one process that holds its lock. `count` records are on the disk."""

    def __init__(self, path: Path, fd: int, *, count: int, size: int, kind: Kind = LEDGER) -> None:
        self.path = path
        self._kind = kind
        self.count = count
        self._fd = fd
        self._size = size
        self._fault = ""

    @classmethod
    def open(cls, path: Path, *, kind: Kind = LEDGER) -> tuple[Journal, list[Record]]:
        """Open for appending, creating the file; a torn tail is moved to `<name>.torn`.

        Returns: the journal and the records that it holds already, all of them safe on the disk.
        Raises: LedgerCorrupt. LabError: the folder or the disk refuses.
        """
        try:
            _make_folder(path.parent)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, kind.file_mode)
        except OSError as error:
            raise LabError(
                f"The {kind.name} {path} cannot be opened: {error.strerror}. Make its folder writable."
            ) from error
        try:
            found = scan(_read_all(fd), name=str(path), kind=kind)
            if found.torn:
                _set_aside(path, fd, found, mode=kind.file_mode)
            # A killed writer may not have come to its own fsync, and what is read here is acted upon.
            files.fsync(fd)
            files.fsync_dir(path.parent)
        except OSError as error:
            os.close(fd)
            raise LabError(
                f"The {kind.name} {path} cannot be repaired: {error.strerror}. Check the disk's space."
            ) from error
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, count=len(found.records), size=found.good_bytes, kind=kind), found.records

    def append(self, record: Record, *, time: str, accept: Callable[[Record], None] | None = None) -> Record:
        """Number, stamp and write one record; it is on the disk when this returns.

        Args:
            time: UTC, ISO 8601.
            accept: called with the record as a reader will see it; nothing is written if it raises.
        Raises: UsageError: not a record. DiskFull: nothing was written, and a later call may succeed.
            LabError: the disk failed, or somebody else wrote; this journal takes no more records.
        """
        if self._fault:
            raise LabError(self._fault)
        frame = encode({**record, "seq": self.count + 1, "time": time}, kind=self._kind)
        whole = decode(frame)
        if accept is not None:
            accept(whole)
        self._check_alone()
        # Stays for good if an exception of any kind (Ctrl-C) leaves it open whether the record is there.
        self._fault = (
            f"An append to {self.path} was interrupted, so it takes no more records. Restart the {self._kind.owner}."
        )
        failpoint.reach("journal.before_write")
        self._write(frame)
        failpoint.reach("journal.written")
        self._sync()
        failpoint.reach("journal.synced")
        self._size += len(frame)
        self.count += 1
        self._fault = ""
        return whole

    def _check_alone(self) -> None:
        """Two writers would number their records alike; a deleted file would swallow them."""
        facts = os.fstat(self._fd)
        if facts.st_nlink == 0:
            self._fault = (
                f"{self.path} was deleted while it was open. Restart the {self._kind.owner} from a backup of it."
            )
        elif facts.st_size != self._size:
            self._fault = (
                f"{self.path} has {facts.st_size} bytes and this process left it at {self._size}: another process writes "
                f"to it. Restart the {self._kind.owner} when no other runs: {self._kind.look}"
            )
        if self._fault:
            raise LabError(self._fault)

    def _write(self, frame: bytes) -> None:
        try:
            written = os.write(self._fd, frame)
        except OSError as error:
            self._roll_back()
            raise self._full(error.strerror or "write failed") from error
        if written != len(frame):
            self._roll_back()
            raise self._full(f"the disk took {written} of {len(frame)} bytes")

    def _roll_back(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)
            self._fault = ""
        except OSError as error:
            self._fault = (
                f"{self.path} could not be put back to its last record: {error.strerror}. "
                f"Restart the {self._kind.owner}."
            )

    def _full(self, why: str) -> DiskFull:
        return DiskFull(
            f"A record could not be written to {self.path}: {why}. What was recorded before is safe. "
            f"Free some space on that disk and go on: {self._kind.again}"
        )

    def _sync(self) -> None:
        try:
            files.fsync(self._fd)
        except OSError as error:
            # A later fsync may report success for pages that were dropped, so it proves nothing.
            self._fault = (
                f"The disk could not keep {self.path}: {error.strerror}. "
                f"Check the disk, then restart the {self._kind.owner}."
            )
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise LabError(self._fault) from error

    def close(self) -> None:
        """Safe to call twice; the journal takes no more records."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._fault = self._fault or f"{self.path} is closed. Open the {self._kind.owner} again."


def _make_folder(folder: Path) -> None:
    """Create a private folder and its parents, each of them safe on the disk."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    files.fsync_dir(folder.parent)


def _read_all(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()


def _set_aside(path: Path, fd: int, found: Scan, *, mode: int) -> None:
    """Move the torn tail to a file of its own; a kill in between only copies it there twice."""
    torn = os.open(path.with_name(path.name + ".torn"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)
    try:
        if os.write(torn, found.torn + b"\n") != len(found.torn) + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        files.fsync(torn)
    finally:
        os.close(torn)
    failpoint.reach("journal.torn_saved")
    os.ftruncate(fd, found.good_bytes)
