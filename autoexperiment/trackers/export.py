"""A sweep's results in another program's format: a file, or all points in a tracker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from autoexperiment.errors import HarnessError, UsageError, unknown
from autoexperiment.sweep.exports import write_csv, write_parquet
from autoexperiment.trackers.base import TRACKERS, Row
from autoexperiment.trackers.tracker import make_tracker

Curves = Iterable[Mapping[str, Any]]

FILES: dict[str, Callable[[Iterable[Row], Path], None]] = {"csv": write_csv, "parquet": write_parquet}
FORMATS = (*FILES, *TRACKERS)


def export(
    rows: Iterable[Row],
    format: str,
    path: Path,
    *,
    sweep_name: str = "sweep",
    facts: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
    curves_of: Callable[[Row], Curves] | None = None,
) -> None:
    """Write the rows to a file, or bring a tracker up to date; points that it has already are left alone.

    Args:
        format: one of FORMATS.
        path: the file; of a tracker: the folder that `make_tracker` takes.
        sweep_name, facts, options, curves_of: for trackers only: as in `Tracker.begin`, `make_tracker` and
            `Tracker.ended`.
    Raises: UsageError: there is no such format or option. HarnessError: it can't be written, or a library is missing.
    """
    if format not in FORMATS:
        raise UsageError(f"{unknown('format', format, FORMATS)} For example: mlx sweep export NAME --format csv")
    if format in FILES:
        FILES[format](rows, path)
        return
    faults: list[str] = []
    tracker = make_tracker(format, folder=path, options=options or {}, say=faults.append, patience_s=None)
    tracker.begin(sweep_name, facts or {})
    try:
        for row in rows:
            tracker.ended(row, curves_of(row) if curves_of else ())
    finally:
        tracker.close()
    if faults:
        raise HarnessError(faults[0])
