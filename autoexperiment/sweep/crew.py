"""The workers of a dask cluster: what runs on them, and which of them can run the points of a sweep."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoexperiment import __version__
from autoexperiment.extras import need
from autoexperiment.files import lock_holder
from autoexperiment.paths import SweepPaths
from autoexperiment.supervisor import Signals
from autoexperiment.sweep.once import run_once
from autoexperiment.sweep.points import Order
from autoexperiment.threads import usual

ANSWER_S = 5.0  # of waiting for a scheduler that is there
LOOK_S = 0.5
NUMBERS = ("numpy", "mlx")  # libraries whose version decides what comes out


def run_order(order: Mapping[str, Any], retried: str) -> dict[str, Any]:
    """Run a point; called on a worker, with JSON and answering with JSON. Args: retried: as of `run_once`."""
    wanted, signals = Order.from_json(order), Signals()
    wanted = replace(wanted, threads=threads_here(wanted.threads, need("distributed").get_worker().state.nthreads))
    try:
        with _stopped_by(SweepPaths(Path(wanted.root) / wanted.folder).stop_request, signals):
            return run_once(wanted, signals=signals, retried=retried).to_json()
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error} on {platform.node()}", error.filename) from error


def threads_here(wanted: int | None, points: int) -> int:
    """BLAS threads of a point on this machine, which runs so many points side by side.

    As many as on the sweep's own machine, on which numbers depend to the last bit, unless there are too few cores here.
    """
    from autoexperiment.sweep.launching import blas_threads

    share = blas_threads(points) or usual()
    return share if wanted is None else min(wanted, share)


@contextlib.contextmanager
def _stopped_by(request: Path, signals: Signals) -> Iterator[None]:
    """End what runs meanwhile as soon as a file is there."""
    over = threading.Event()

    def look() -> None:
        while not request.exists():
            if over.wait(LOOK_S):
                return
        signals.end()

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def facts(lock: str) -> dict[str, Any]:
    """What must be so on every worker: `versions` by the name of what must be the same, and how it sees the sweep's folder.

    Args: lock: the file of the sweep's lock; `holder` is the process that holds it as seen from there.
    """
    place = Path(lock)
    is_writable = os.access(place.parent, os.W_OK) and os.access(place, os.R_OK | os.W_OK)
    holder = lock_holder(place) if is_writable else None
    return {"versions": _versions(), "has_lock": place.is_file(), "is_writable": is_writable, "holder": holder}


def _versions() -> dict[str, str]:
    found = {"autoexperiment": __version__, "Python": platform.python_version()}
    for name in NUMBERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def fault_of(worker: str, found: object, here: Mapping[str, Any], folder: Path) -> str:
    """Why a worker can't run the points of a sweep; "" if it can.

    Args: found: what `facts` says there, or its error; whatever another version of it says. here: what it says here.
    """
    same, share = "Install the same on all machines.", "or leave this worker out"
    if not isinstance(found, dict) or found.keys() != here.keys():
        said = f": {type(found).__name__}: {found}" if isinstance(found, BaseException) else ""
        return f"Worker {worker} can't run this version of autoexperiment, {__version__}{said}. {same}"
    for name, version in here["versions"].items():
        if (other := found["versions"].get(name)) != version:
            return f"Worker {worker} has {name} {other}; here it is {version}. {same}"
    if not found["has_lock"]:
        return (
            f"Worker {worker} does not see {folder}. All machines need the workspace under the same path: share it (NFS, "
            f"for example), {share}."
        )
    if not found["is_writable"]:
        return f"Worker {worker} can't write to {folder}. Let it run as a user who may, {share}."
    if found["holder"] != here["holder"]:
        return (
            f"Worker {worker} does not see the lock of this sweep in {folder}: it sees another folder there, or locks do "
            f"not hold between the machines, so that points could be run twice. Share the workspace with locks, {share}."
        )
    return ""


class Crew:
    """The workers of a cluster.

    Attributes:
        fit: threads by address, of those that can run points.
        faults: why the others can't, by address.
    """

    def __init__(self, client: Any, paths: SweepPaths) -> None:
        self.fit: dict[str, int] = {}
        self.faults: dict[str, str] = {}
        self.there: dict[str, int] = {}
        self._client, self._paths = client, paths
        self._here = facts(str(paths.lock))
        self._asked: set[str] = set()
        self._answers: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()

    def look(self) -> None:
        """Find out who is there now. Raises: OSError, TimeoutError: the scheduler does not answer."""
        there = self._client.sync(self._client.scheduler.ncores, workers=None, callback_timeout=ANSWER_S)
        self.there = dict(there)
        for worker in sorted(self.there.keys() - self._asked):
            self._asked.add(worker)  # a worker that hangs must not hold up the others
            threading.Thread(target=self._ask, args=(worker,), daemon=True).start()
        self._take_answers()
        self._asked &= self.there.keys()
        self.fit = {worker: threads for worker, threads in self.there.items() if worker in self.fit}
        self.faults = {worker: fault for worker, fault in self.faults.items() if worker in self.there}

    @property
    def is_known(self) -> bool:
        """Whether all that are there have answered."""
        return self.there.keys() == self.fit.keys() | self.faults.keys()

    def _ask(self, worker: str) -> None:
        try:
            answers = self._client.run(facts, str(self._paths.lock), workers=[worker], on_error="return")
            self._answers.put((worker, answers[worker]))
        except Exception as error:
            self._answers.put((worker, error))

    def _take_answers(self) -> None:
        while not self._answers.empty():
            worker, found = self._answers.get()
            if isinstance(found, need("distributed").comm.CommClosedError):  # not of its making
                self._asked.discard(worker)
            elif fault := fault_of(worker, found, self._here, self._paths.folder):
                self.faults[worker] = fault
            else:
                self.fit[worker] = 0
