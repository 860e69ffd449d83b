"""Where points are run: on this machine, a fixed number side by side, each a process under the supervisor."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from autoexperiment.supervisor import Signals
from autoexperiment.sweep.once import run_once
from autoexperiment.sweep.points import Order, Result

Done = tuple[Order, Result | Exception]  # an error: something kept the point from being run


class Executor(Protocol):
    """Runs orders."""

    @property
    def slots(self) -> int:
        """How many side by side, now."""
        ...

    def submit(self, order: Order) -> None: ...

    def wait(self, timeout_s: float) -> Sequence[Done]:
        """Points that have ended, after at most `timeout_s`. Raises: LabError: nothing can be run any more."""
        ...

    def stop(self) -> None:
        """Tell everything that runs to end; it is still waited for."""
        ...

    def close(self) -> None: ...


class LocalExecutor:
    """Threads of this process, each of which watches over one point's process."""

    def __init__(self, slots: int, signals: Signals) -> None:
        """Args: signals: a signal in it ends the points that run, and keeps others from being started."""
        self.slots = slots
        self._signals = signals
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="sweep")
        self._ended: queue.SimpleQueue[tuple[Order, Future[Result]]] = queue.SimpleQueue()

    def submit(self, order: Order) -> None:
        future = self._threads.submit(run_once, order, signals=self._signals)
        future.add_done_callback(lambda done: self._ended.put((order, done)))

    def wait(self, timeout_s: float) -> Sequence[Done]:
        try:
            order, future = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return ()
        error = future.exception()
        return ((order, error if isinstance(error, Exception) else future.result()),)

    def stop(self) -> None:
        self._signals.end()

    def close(self) -> None:
        self._threads.shutdown()
