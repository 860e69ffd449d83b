"""The metrics of a run, epoch by epoch: metrics.ndjson as they come, metrics.json and metrics.md as views of it.

A row is `{"epoch": 1, "loss": 0.5, …}`; NaN and infinity are null. The bytes are a function of the rows alone.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoexperiment import failpoint, files
from autoexperiment.errors import HarnessError
from autoexperiment.metrics import read_tail, whole_lines
from autoexperiment.paths import RunPaths
from autoexperiment.untrusted import line

Row = dict[str, float | int | None]
PAUSE_S = 1.0  # between two writings of the views while the run goes on
GROWTH = 1.1  # and by how much the rows have grown: all writings together stay linear in the rows
NAME_LIMIT = 200
NO_NUMBER = "null"
_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*[]<>&!|#"})


def row_of(epoch: int, metrics: Mapping[str, float]) -> Row:
    """A row as it is kept: what is not a finite number is null."""
    return {"epoch": epoch, **{name: value if math.isfinite(value) else None for name, value in metrics.items()}}


@dataclass(frozen=True)
class Past:
    """The rows of the epochs that count, as the bytes of their lines in metrics.ndjson."""

    lines: bytes = b""

    @property
    def rows(self) -> list[Row]:
        return [files.load_json(text) for text in self.lines.splitlines()]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.lines).hexdigest()


def past(run: RunPaths, *, epoch: int, sha256: object) -> Past | None:
    """The rows of the first `epoch` epochs; None when they are not, byte for byte, what had this hash."""
    try:
        with open(_stream(run), "rb") as file:
            kept = Past(b"".join(text for _, text in zip(range(epoch), file, strict=False)))
    except OSError:
        return None
    return kept if kept.sha256 == sha256 else None


def last_row(run: RunPaths) -> Row | None:
    """The row of the last epoch that ended, or None; half a line that a kill left does not count."""
    lines = whole_lines(read_tail(_stream(run)))
    with suppress(ValueError, IndexError):
        row: Row = files.load_json(lines[-1])
        return row
    return None


def _stream(run: RunPaths) -> Path:
    return run.metrics / "metrics.ndjson"


@dataclass
class Curves:
    """The writer of a run's metrics.

    metrics.ndjson has each row as soon as its epoch has ended. The views are written by `publish`, and by `refresh`
    when the rows have grown by a tenth and a second has passed since the last time.
    """

    run: RunPaths
    name: str
    clock: Callable[[], float] = time.monotonic
    rows: list[Row] = field(default_factory=list)
    _hash: Any = field(default_factory=hashlib.sha256)
    _fd: int = -1
    _shown: int = 0
    _shown_at: float = 0.0

    @classmethod
    def begin(
        cls, run: RunPaths, name: str, *, after: Past = Past(), clock: Callable[[], float] = time.monotonic
    ) -> Curves:
        """Start with the rows of `after`; whatever else stands in the files goes.

        Raises: HarnessError: the files can't be written.
        """
        curves = cls(run, name, clock, after.rows, hashlib.sha256(after.lines))
        with _faults_named(run):
            files.write_atomic(_stream(run), after.lines)
            curves._fd = os.open(_stream(run), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        failpoint.reach("metrics begun")
        curves.publish()
        return curves

    @property
    def sha256(self) -> str:
        """Of the rows so far, as `past` asks for it."""
        return str(self._hash.hexdigest())

    def add(self, row: Row) -> None:
        """Raises: HarnessError: the row can't be written; no part of it stays in the file."""
        blob = files.dump_json(row, indent=None).encode() + b"\n"
        with _faults_named(self.run):
            _append(self._fd, blob)
        self._hash.update(blob)
        self.rows.append(row)
        failpoint.reach("metrics row")

    def sync(self) -> None:
        """Make the rows so far survive a power cut."""
        with _faults_named(self.run):
            files.fsync(self._fd)

    def refresh(self) -> None:
        """Write the views again if it is time for it."""
        has_grown = len(self.rows) >= self._shown * GROWTH and len(self.rows) > self._shown
        if has_grown and self.clock() - self._shown_at >= PAUSE_S:
            self.publish()

    def publish(self) -> None:
        """Write the views."""
        with _faults_named(self.run):
            files.write_atomic(self.run.metrics / "metrics.json", as_json(self.name, self.rows))
            failpoint.reach("metrics.json")
            files.write_atomic(self.run.metrics / "metrics.md", as_markdown(self.name, self.rows))
        failpoint.reach("metrics.md")
        self._shown, self._shown_at = len(self.rows), self.clock()

    def close(self) -> None:
        """Write the views a last time; no row can follow."""
        try:
            self.publish()
            self.sync()
        finally:
            os.close(self._fd)
            self._fd = -1


def _append(fd: int, blob: bytes) -> None:
    """Append all of it or nothing."""
    size = os.fstat(fd).st_size
    try:
        written = os.write(fd, blob)
        while written < len(blob):
            written += os.write(fd, blob[written:])
    except OSError:
        os.ftruncate(fd, size)
        raise


class _faults_named:
    """Turns an OSError into an error that says which run's metrics could not be written."""

    def __init__(self, run: RunPaths) -> None:
        self.run = run

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise HarnessError(
                f"The metrics in {self.run.metrics} can't be written: {error.strerror}. They need a folder that "
                f"exists, is writable and has room. Make room, then type: {resume_command(self.run)}"
            ) from error


def resume_command(run: RunPaths) -> str:
    """What to type to go on with a run."""
    return f"mlx run-experiment --resume {run.folder}"


def again_command(run: RunPaths) -> str:
    """What to type to start another run of the same configuration."""
    return f"mlx run-experiment --config {run.config}"


def as_json(name: str, rows: Sequence[Row]) -> str:
    """metrics.json: a line for each epoch."""
    lines = ",\n".join(f"    {files.dump_json(row, indent=None)}" for row in rows)
    body = f"[\n{lines}\n  ]" if rows else "[]"
    return f'{{\n  "experiment": {files.dump_json(name)},\n  "metrics": {body}\n}}\n'


def as_markdown(name: str, rows: Sequence[Row]) -> str:
    """metrics.md: a table of all epochs, and the last one's metrics."""
    return "\n".join(_markdown(line(name, NAME_LIMIT).translate(_SPECIAL), rows)) + "\n"


def _markdown(title: str, rows: Sequence[Row]) -> Iterator[str]:
    yield f"# Metrics Summary: {title}"
    yield ""
    if not rows:
        yield "No epoch was completed."
        return
    names = [name for name in rows[0] if name != "epoch"]
    yield f"| {' | '.join(['Epoch', *names])} |"
    yield "|---" * (len(names) + 1) + "|"
    for row in rows:
        yield f"| {' | '.join([str(row['epoch']), *(number(row.get(name)) for name in names)])} |"
    yield ""
    yield "## Final Metrics"
    yield ""
    for name in names:
        yield f"- **{name}**: {number(rows[-1].get(name))}"


def number(value: float | int | None) -> str:
    """Six decimals; in scientific notation where they would show nothing but zeros, or a row of digits."""
    if value is None:
        return NO_NUMBER
    is_plain = value == 0 or 1e-6 <= abs(value) < 1e9
    return f"{value:.6f}" if is_plain else f"{value:.6e}"
