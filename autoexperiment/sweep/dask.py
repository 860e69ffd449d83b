"""Points on several machines: orders go to a cluster of dask.distributed that is there already.

All machines see the workspace under the same path, on a file system whose locks hold between them: runs, locks and
results lie in it. So a point whose worker died is run again elsewhere, and of two workers that were given one point,
the second takes over the result of the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoexperiment.errors import LabError, Refused
from autoexperiment.extras import need
from autoexperiment.files import lock_holder
from autoexperiment.paths import SweepPaths
from autoexperiment.supervisor import Signals
from autoexperiment.sweep.crew import ANSWER_S, LOOK_S, Crew, run_order
from autoexperiment.sweep.once import run_dir_of
from autoexperiment.sweep.points import Order, Result
from autoexperiment.sweep.pool import Done
from autoexperiment.vocabulary import RunStatus

if TYPE_CHECKING:
    from autoexperiment.sweep.launching import Where

CONNECT_S = 10.0  # of waiting for a scheduler; less if dask's own configuration says so
RETURN_S = 60.0  # of waiting for one that was there; the same
MOST_LOSSES = 5  # of a point, before it is one that failed; each takes a worker with it, or the scheduler


@dataclass(frozen=True)
class _Sent:
    """An order that the cluster has. `workers`: those that may run it."""

    future: Any
    workers: frozenset[str]


class DaskExecutor:
    """Gives orders to the workers of a cluster; each of their threads runs one point.

    An order that the cluster loses is given again: whoever began it leaves its result, and nothing is run twice.
    """

    def __init__(self, where: Where, folder: Path, signals: Signals, *, say: Callable[[str], None]) -> None:
        """Args: folder: the sweep's, whose lock this process holds, and which every worker must see under this path.

        Raises: LabError: no scheduler answers, or a worker that is there can't run these points.
        """
        self._where, self._signals, self._say = where, signals, say
        self._paths = SweepPaths(folder)
        self._ended: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._orders: dict[str, Order] = {}  # given and not answered, by key
        self._retried: dict[str, str] = {}  # where what they had before was measured
        self._sent: dict[str, _Sent] = {}
        self._losses: Counter[str] = Counter()
        self._told: set[str] = set()
        self._known: set[str] = set()  # workers that were there when it was last said
        self._looked_at = self._answered_at = time.monotonic()
        self._is_stopping = self._is_gone = False
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(_hushed())
        self._patience_s = min(RETURN_S, _own_patience())
        self._client: Any = None
        try:
            self._client = self._connect()
            self._crew = Crew(self._client, self._paths)
            self._wait_for_workers()
        except BaseException:
            self.close()
            raise

    # ---- scheduler and workers

    def _connect(self) -> Any:
        distributed = need("distributed")
        address, patience_s = self._where.address, min(CONNECT_S, self._patience_s)
        try:
            asyncio.run(asyncio.wait_for(_find_scheduler(address), patience_s))  # a client that fails hangs at its end
            return distributed.Client(address, timeout=self._patience_s, set_as_default=False, name="autoexperiment")
        except Exception as error:  # also what a server of another kind makes of it
            raise LabError(
                f"No dask scheduler answers at {address}. Start one ('dask scheduler' here, 'dask worker ADDRESS' on each "
                "machine), and give the address that it prints: --dask tcp://HOST:8786"
            ) from error

    def _wait_for_workers(self) -> None:
        """Raises: Refused: one of those that are there first can't run these points."""
        self._look()
        if not self._crew.there:
            self._say(f"The scheduler at {self._where.address} has no workers yet; waiting for the first.")
        give_up_at = None
        while not self._signals.received and not (self._crew.there and self._crew.is_known):
            time.sleep(LOOK_S / 10)
            self._look()
            if self._crew.there:
                give_up_at = give_up_at or time.monotonic() + CONNECT_S
                if self._crew.fit and time.monotonic() > give_up_at:
                    break
        for fault in self._crew.faults.values():
            raise Refused(fault)
        self._known = set(self._crew.fit)

    def _look(self) -> None:
        """Find out who is there. Raises: LabError: the scheduler is gone for good."""
        self._looked_at = time.monotonic()
        try:
            if self._client.status == "running":
                self._crew.look()
                self._answered_at = time.monotonic()
                return
        except (OSError, TimeoutError):
            pass
        away_s = time.monotonic() - self._answered_at
        if self._client.status == "closed" or away_s > self._patience_s + ANSWER_S:
            self._is_gone = True
            raise self._gone()
        self._say_once(f"The scheduler at {self._where.address} does not answer; waiting for it.")

    def _gone(self) -> LabError:
        return LabError(
            f"The dask scheduler at {self._where.address} is gone. Every point that ended is recorded. Start it and its "
            "workers again, then go on: --resume"
        )

    def _tell(self) -> None:
        """Say what changed among the workers."""
        now = self._crew.fit.keys()
        for worker in sorted(now - self._known):
            self._say(f"Worker {worker} has joined.")
        for worker in sorted(self._known - now):
            self._say(f"Worker {worker} has left. What it ran is run again by another.")
        if self._known and not now:
            self._say("No worker is left; waiting for the next.")
        self._known = set(now)
        for fault in self._crew.faults.values():
            self._say_once(f"It is left out: {fault}")

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._say(text)

    @property
    def slots(self) -> int:
        """At least one: an order waits where there is no worker."""
        threads = sum(self._crew.fit.values())
        return max(1, min(threads, self._where.max_parallel or threads))

    # ---- orders

    def submit(self, order: Order) -> None:
        key = order.point.key
        self._orders[key], self._retried[key] = order, run_dir_of(self._paths, key)
        self._send()

    def _send(self) -> None:
        """Give the cluster the orders that it does not have, or that workers could run now which joined later."""
        fit = frozenset(self._crew.fit)
        for key, sent in list(self._sent.items()):
            is_lost = not sent.workers & fit
            if is_lost or (fit - sent.workers and not self._has_begun(key)):
                self._sent.pop(key).future.release()
                self._losses[key] += is_lost
        if not fit or self._client.status != "running":
            return
        for key in [key for key in self._orders if key not in self._sent]:
            future = self._client.submit(
                run_order, self._orders[key].to_json(), self._retried[key], key=f"{key}/{uuid.uuid4().hex[:8]}",
                pure=False, workers=sorted(fit), allow_other_workers=False,
            )  # fmt: skip
            self._sent[key] = _Sent(future, fit)
            future.add_done_callback(lambda done, key=key: self._ended.put((key, done)))

    def _has_begun(self, key: str) -> bool:
        return lock_holder(self._paths.point_lock(key)) is not None

    def wait(self, timeout_s: float) -> Sequence[Done]:
        if self._signals.received:
            self.stop()
        if time.monotonic() - self._looked_at > LOOK_S:
            self._look()
            self._tell()
            self._send()
        if left := self._given_up() if self._is_stopping else self._worn_out():
            return left
        try:
            key, future = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return ()
        if key not in self._sent or self._sent[key].future is not future:
            return ()  # one that was given again meanwhile
        del self._sent[key]
        answer = self._answer(future)
        self._losses[key] += answer is None
        return () if answer is None else ((self._orders.pop(key), answer),)

    def _given_up(self) -> list[Done]:
        """When all is to end: what no worker will answer for, or all of it, if a second signal came."""
        is_all = len(self._signals.received) > 1
        keys = [key for key in self._orders if is_all or key not in self._sent]
        stopped = Result(RunStatus.INTERRUPTED, reason="It was stopped.")
        return [(self._orders.pop(key), stopped) for key in keys]

    def _worn_out(self) -> list[Done]:
        """What has been lost so often that it may be what ends its workers."""
        keys = [key for key in self._orders if self._losses[key] > MOST_LOSSES]
        reason = f"It was lost {MOST_LOSSES + 1} times: its workers died, or the cluster did."
        return [(self._orders.pop(key), Result(RunStatus.FAILED, reason=reason)) for key in keys]

    def _answer(self, future: Any) -> Result | OSError | None:
        """What a worker answered; None: it is to be asked again. Raises: LabError: the worker is broken."""
        try:
            error = future.exception(timeout=ANSWER_S) if future.status == "error" else None
            if future.status == "finished":
                return Result.from_json(future.result(timeout=ANSWER_S))
        except Exception:  # the answer was lost on its way
            return None
        if error is None or isinstance(error, OSError):
            return error
        if isinstance(error, need("distributed").KilledWorker):
            return Result(RunStatus.FAILED, reason=f"Every worker that ran it died: {error}")
        raise LabError(
            f"A worker could not run a point: {type(error).__name__}: {error}. Mend it, then go on: --resume"
        ) from error

    def stop(self) -> None:
        """What a worker still runs when the scheduler is gone goes on: its result is there when the sweep goes on."""
        if not self._is_stopping and not self._is_gone:
            self._is_stopping = True
            self._paths.stop_request.touch()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            if self._client is not None:
                self._client.close(timeout=ANSWER_S)
        if not self._sent:  # else there may be somebody who has not seen it yet
            self._paths.stop_request.unlink(missing_ok=True)
        self._quiet.close()


async def _find_scheduler(address: str) -> None:
    """Raises: of all kinds: there is none."""
    distributed = need("distributed")
    secrets = distributed.Security().get_connection_args("client")
    async with distributed.rpc(address, connection_args=secrets) as found:
        if (await found.identity())["type"] != "Scheduler":
            raise LabError(f"{address} is no scheduler.")


def _own_patience() -> float:
    """What dask's own configuration allows for connecting."""
    import dask

    found: float = dask.utils.parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
    return found


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep dask's own log out of the terminal: what a person must know of it, the sweep says."""
    need("distributed")
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("distributed", "tornado")]
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
