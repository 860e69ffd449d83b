"""From what is to be run to a sweep that goes on: its book, its executor, and the record of what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from autoexperiment import machine
from autoexperiment.errors import LabError, Refused, UsageError, unknown
from autoexperiment.files import lock_holder
from autoexperiment.paths import SweepPaths
from autoexperiment.supervisor import Signals
from autoexperiment.sweep import tallies
from autoexperiment.sweep.book import Book, Contents, going_on, read
from autoexperiment.sweep.engine import Engine, Job, Observer, Quiet
from autoexperiment.sweep.points import key_of
from autoexperiment.sweep.pool import Executor, LocalExecutor
from autoexperiment.sweep.samplers import Sampler
from autoexperiment.sweep.work import Work
from autoexperiment.threads import cores, usual

LOCAL, DASK = "local", "dask"
EXECUTORS = (LOCAL, DASK)


@dataclass(frozen=True)
class Where:
    """Where points are run.

    Attributes:
        executor: one of EXECUTORS. `address`: of dask's scheduler.
        max_parallel: points side by side; None: as many as suits machine and work, or as the cluster's workers take.
    """

    executor: str = LOCAL
    address: str = ""
    max_parallel: int | None = None

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise UsageError(unknown("executor", self.executor, EXECUTORS))
        if (self.executor == DASK) != bool(self.address):
            raise UsageError(
                "executor 'dask' and the address of its scheduler go together. Type: --dask tcp://10.0.0.1:8786, or in "
                "Python: executor='dask', address='tcp://10.0.0.1:8786'"
            )
        if self.max_parallel is not None and (type(self.max_parallel) is not int or self.max_parallel < 1):
            raise UsageError(f"max_parallel is {self.max_parallel!r}. Allowed: a whole number, 1 or more.")

    def fitted(self, *, is_clocked: bool) -> Where:
        """With `max_parallel` as it suits this machine, where points run here and nobody has said how many side by side.

        One on a GPU, which all processes share, and where results depend on how fast the machine is meanwhile.
        """
        if self.max_parallel is not None or self.executor == DASK:
            return self
        is_one = is_clocked or machine.facts()["device"] != "cpu"
        return replace(self, max_parallel=1 if is_one else cores())


def blas_threads(slots: int | None) -> int | None:
    """BLAS threads of each of `slots` processes side by side; None: as usual for one alone, or on a cluster."""
    return None if slots in (None, 1) else max(1, min(usual(), cores() // slots))


@dataclass(frozen=True)
class Launch:
    """A sweep that is ready to be run.

    Attributes:
        job: what is run. `definition`: the same as plain JSON, for sweep.json.
        new_sampler: makes the sampler, as it is before anything was asked.
        is_resumed: whether results that are there already are wanted; without it they are refused.
    """

    job: Job
    definition: Mapping[str, Any]
    new_sampler: Callable[[], Sampler]
    where: Where = Where()
    is_resumed: bool = False

    @property
    def paths(self) -> SweepPaths:
        return SweepPaths(self.job.root / self.job.folder)

    @cached_property
    def base(self) -> str:
        """The identity of what all points start from: the base configuration, code and data."""
        return base_key(self.job.work, self.definition["base"])


def run(
    launch: Launch,
    *,
    observer: Observer | None = None,
    signals: Signals | None = None,
    opened: Callable[[], None] | None = None,
) -> bool:
    """Run what is left of a sweep; False: Ctrl-C, or another signal, stopped it.

    Args:
        signals: those that the caller watches already.
        opened: called when nothing stands against it any more, before the first point is run.
    Raises: Refused: there are results of another sweep, or of this one and `is_resumed` is false. Locked. LabError.
    """
    observer = observer or Quiet()
    with (signals or Signals()).watched() as signals, Book.open(launch.paths) as book:
        check(launch, book.contents)
        launch.paths.stop_request.unlink(missing_ok=True)
        executor = _executor(launch, signals, observer)
        try:
            wanted = {**launch.definition, "slots": executor.slots}
            book.begin(launch.paths, wanted, base=launch.base)
            if opened:
                opened()
            engine = Engine(
                launch.job, new_sampler=launch.new_sampler, book=book, executor=executor, signals=signals,
                observer=observer,
            )  # fmt: skip
            is_done = engine.run()
        finally:
            executor.close()
        if is_done:
            done = tallies.run(launch.job, engine.begun, book.contents.ended)
            book.define(launch.paths, {**wanted, **done.to_json([rung.resource for rung in launch.job.rungs])})
        return is_done


def contents(paths: SweepPaths) -> Contents:
    """What the book of a sweep says that may be there already. Raises: Locked: another process runs it just now."""
    if lock_holder(paths.lock) is not None:
        raise going_on(paths)
    return read(paths) if paths.book.exists() else Contents()


def base_key(work: Work, base: Mapping[str, Any]) -> str:
    """The identity of what all points of some work start from."""
    try:
        whole = work.identity(work.resolve({}, None))
    except LabError:  # sound only with the parameters that a sweep sets; code and data count all the same
        try:
            whole = work.identity(base)
        except (LabError, LookupError, TypeError):
            whole = {"base": base}
    return key_of(work.kind, whole)


def check(launch: Launch, known: Contents) -> None:
    """Raises: Refused: the book has results that these can't go with, or that nobody asked to go on with."""
    folder = launch.paths.folder
    if known.ended and not launch.is_resumed:
        raise Refused(
            f"The sweep in {folder} has {len(known.ended)} points already. Go on with it: --resume. Or give this one "
            "another name."
        )
    if known.ended and known.base != launch.base:
        raise Refused(
            f"The sweep in {folder} started from another base: its configuration, code or data changed, so that its "
            f"{len(known.ended)} points can't be compared with new ones. Put that back, or give this one another name."
        )


def _executor(launch: Launch, signals: Signals, observer: Observer) -> Executor:
    if launch.where.executor == DASK:
        from autoexperiment.sweep.dask import DaskExecutor

        return DaskExecutor(launch.where, launch.paths.folder, signals, say=observer.note)
    return LocalExecutor(launch.where.max_parallel or 1, signals)
