"""Running a point once, whoever asks for it and however often: the process that runs it leaves its result behind."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from autoexperiment import failpoint
from autoexperiment.errors import LabError, Locked
from autoexperiment.files import Lock, dump_json, load_json, read_plain
from autoexperiment.paths import RunPaths, SweepPaths, new_run
from autoexperiment.supervisor import Signals
from autoexperiment.sweep import work
from autoexperiment.sweep.points import Order, Result
from autoexperiment.vocabulary import RunStatus

RESULT_BYTES = 10_000_000
LOOK_S = 0.5
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def run_once(order: Order, *, signals: Signals | None = None, retried: str | None = None) -> Result:
    """Run a point in a new run directory, or give the result that it has already.

    While another process runs it, its result is waited for. One that was interrupted has no result.
    Args:
        signals: as of `supervise`.
        retried: `run_dir` of the failed result that a retry takes the place of: any other is the retry's own; None: of
            the one that is there now.
    Raises: OSError: the machine, not the point: nothing was measured.
    """
    paths, key = SweepPaths(Path(order.root) / order.folder), order.point.key
    retried = run_dir_of(paths, key) if retried is None else retried
    lock = _wait_for(paths.point_lock(key), signals)
    if lock is None:
        return Result(RunStatus.INTERRUPTED, reason="It was stopped before it began.")
    with lock:
        known = result_of(paths, key)
        if known is None or (order.is_retry and not known.is_ok and known.run_dir == retried):
            known = _run(order, paths, signals)
        lock.path.unlink(missing_ok=True)  # who waits for it finds the result
    return known


def _wait_for(path: Path, signals: Signals | None) -> Lock | None:
    """The lock at a path, once it is free; None: a signal came first."""
    while not (signals and signals.received):
        try:
            lock = Lock(path).acquire(timeout_s=LOOK_S)
        except Locked:
            continue
        if _is_at(lock, path):
            return lock
        lock.release()  # its holder has removed the file meanwhile: it keeps nobody out
    return None


def _is_at(lock: Lock, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fd), path.stat())
    except FileNotFoundError:
        return False


def _run(order: Order, paths: SweepPaths, signals: Signals | None) -> Result:
    run = new_run(paths.folder, datetime.now())
    failpoint.reach("sweep.run_made")
    began = time.monotonic()
    try:
        found = work.run_point(order, run, signals=signals)
    except LabError as error:
        found = Result(RunStatus.FAILED, reason=str(error))
    _refuse_fault_of_disk(found, run)
    place = os.path.relpath(run.folder, order.root)
    result = replace(found, run_dir=place, seconds=time.monotonic() - began).sound()
    failpoint.reach("sweep.point_ended")
    if result.status is not RunStatus.INTERRUPTED:
        _leave(paths.result(order.point.key), result)
        failpoint.reach("sweep.result_left")
    return result


def _refuse_fault_of_disk(found: Result, run: RunPaths) -> None:
    """Raises: OSError: a point failed because its disk is full or may not be written, as the next one would."""
    if found.status is RunStatus.FAILED:
        for number in DISK_FAULTS:
            if os.strerror(number) in found.reason:
                raise OSError(number, os.strerror(number), str(run.folder))


def _leave(path: Path, result: Result) -> None:
    """Whole or not at all, though not safe from a power cut: without it the point is run again."""
    temporary = path.with_name(f".{path.name}.tmp")  # the point's lock is held, so nobody else writes it
    temporary.write_text(dump_json(result.to_json(), indent=None) + "\n")
    os.replace(temporary, path)


def result_of(paths: SweepPaths, key: str) -> Result | None:
    """The result that the process which ran a point left, or None."""
    blob = read_plain(paths.result(key), RESULT_BYTES)
    try:
        return None if blob is None else Result.from_json(load_json(blob))
    except (ValueError, TypeError, KeyError):
        return None


def run_dir_of(paths: SweepPaths, key: str) -> str:
    """Where the result that a point has was measured; "" if it has none."""
    known = result_of(paths, key)
    return known.run_dir if known else ""
