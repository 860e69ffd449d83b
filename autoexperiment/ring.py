"""Start the ranks of one run that several processes share, and end all of them when one fails.

MLX's ring takes its place from two variables: MLX_HOSTFILE, a JSON list with the addresses at which each rank listens,
and MLX_RANK. A rank that waits for the others in `mx.distributed.init` waits for ever, and MLX's own launcher ends
with 0 when a rank has failed; both are seen to here. Nothing in the ring asks who connects: it belongs on a machine or
in a network of one's own.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autoexperiment import threads
from autoexperiment.ending import Ending
from autoexperiment.errors import Refused
from autoexperiment.files import write_json
from autoexperiment.hosts import Hosts
from autoexperiment.supervisor import Limits, Signals, supervise
from autoexperiment.vocabulary import Outcome, RunStatus

PATIENCE_S = 2.0  # with a rank whose end cost the others their connection, or that may yet be seen to join
TICK_S = 0.2
MOST_LISTED = 8
_JOINING = (
    'Every rank must call mx.distributed.init(strict=True, backend="ring"), or print "rank 0 of 2" when it has joined by '
    "itself."
)
_JOINED = re.compile(rb"rank (\d{1,6}) of (\d{1,6})\b")
_LOST = "connection to a peer was lost"  # MLX's words
_CODES = {Outcome.TIMED_OUT: 124, Outcome.INTERRUPTED: 130}

OnLine = Callable[[bytes], None]


def check_backend(distributed: Any) -> None:
    """`distributed`: the module mlx.core.distributed. Raises: Refused: this build of MLX has no ring."""
    if not distributed.is_available("ring"):
        raise Refused(
            "This build of MLX has no ring. Linux and macOS builds have one. Type: pip install --upgrade mlx, "
            "or train with one process: python train.py"
        )


@dataclass(frozen=True)
class Job:
    """What is started. `ranks`: those on this machine. `log_dir` gets a log of each, and the hosts."""

    command: tuple[str, ...]
    hosts: Hosts
    ranks: tuple[int, ...]
    cwd: Path
    log_dir: Path
    timeout_s: float
    join_s: float

    def log(self, rank: int) -> Path:
        return self.log_dir / f"rank_{rank}.log"

    @property
    def hostfile(self) -> Path:
        return (self.log_dir / "hosts.json").resolve()

    def environment(self, rank: int, caller: Mapping[str, str]) -> dict[str, str]:
        """The caller's, and a rank's place in the ring; a single process gets none. The ranks here share the cores."""
        kept = {name: value for name, value in caller.items() if name not in ("MLX_HOSTFILE", "MLX_RANK")}
        if threads.given() is None:
            kept["OPENBLAS_NUM_THREADS"] = str(max(1, threads.usual() // len(self.ranks)))
        place = {"MLX_HOSTFILE": str(self.hostfile), "MLX_RANK": str(rank)} if self.hosts.size > 1 else {}
        return {**kept, "PYTHONUNBUFFERED": "1", **place}


@dataclass(frozen=True)
class Member:
    """How one rank ended.

    Attributes:
        has_joined: whether it was seen to; None: it ended well before it could be seen, and nobody waited for it.
    """

    rank: int
    ending: Ending
    has_joined: bool | None

    @property
    def is_stopped(self) -> bool:
        """Whether it was ended because of another one, or by the user."""
        return self.ending.stop_signal is not None

    @property
    def has_failed(self) -> bool:
        return not self.is_stopped and (self.exit_code != 0 or self.has_joined is False)

    @property
    def lost_a_peer(self) -> bool:
        """Whether its failure comes from another one's."""
        return self.has_failed and self.ending.failure is not None and _LOST in self.ending.failure.message

    @property
    def exit_code(self) -> int:
        """As a shell has it: 128 and the signal that killed it, 124 after a timeout."""
        if self.ending.outcome is Outcome.TIMED_OUT:
            return _CODES[Outcome.TIMED_OUT]
        if self.ending.exit_code is not None:
            return self.ending.exit_code
        return 128 + self.ending.signal if self.ending.signal else 1

    @property
    def reason(self) -> str:
        """Why it failed, in a sentence; "" when it did not."""
        if not self.has_failed:
            return ""
        if self.exit_code == 0:
            return f"It ended without having joined the others. {_JOINING}"
        if self.lost_a_peer:
            return "It lost the connection to another rank, which has ended. The log of that one says why."
        if self.ending.signal == signal.SIGKILL and self.ending.outcome is not Outcome.TIMED_OUT:
            return "It was killed (SIGKILL), by somebody or by the system for want of memory."
        return self.ending.reason or f"It ended with {self.exit_code}."


@dataclass(frozen=True)
class RingEnding:
    """How all ranks of this machine ended.

    Attributes:
        members: by rank.
        first_failed: the rank that failed first, or None; one that only lost another comes after that other.
        exit_code: its exit code; 130 when the user stopped the ranks, 1 when they did not come together.
        warning: what is not known of ranks that ended well; "" if nothing.
    """

    status: RunStatus
    members: tuple[Member, ...]
    first_failed: int | None
    reason: str
    exit_code: int
    warning: str = ""

    def to_json(self, job: Job) -> dict[str, Any]:
        return {
            "status": str(self.status),
            "exit_code": self.exit_code,
            "reason": self.reason,
            "warning": self.warning,
            "size": job.hosts.size,
            "first_failed": self.first_failed,
            "log_dir": str(job.log_dir),
            "ranks": [_member_json(member, job) for member in self.members],
        }


def _member_json(member: Member, job: Job) -> dict[str, Any]:
    return {
        "rank": member.rank,
        "address": job.hosts.places[member.rank][0],
        "has_joined": member.has_joined,
        "is_stopped": member.is_stopped,
        "exit_code": member.exit_code,
        "reason": member.reason,
        "seconds": round(member.ending.wall_s, 3),
        "peak_memory_mb": round(member.ending.peak_memory_mb, 1),
        "log": str(job.log(member.rank)),
    }


def listed(words: Sequence[object]) -> str:
    """Words with commas between; of many, the first."""
    more = f" and {len(words) - MOST_LISTED} more" if len(words) > MOST_LISTED else ""
    return ", ".join(map(str, words[:MOST_LISTED])) + more


class _Group:
    """What the threads that watch the ranks share."""

    def __init__(self, job: Job, signals: Signals) -> None:
        self.job, self.signals = job, signals
        self.joined: set[int] = set(job.ranks) if job.hosts.size == 1 else set()
        self.denied: set[int] = set()  # they say that they are in another group, or alone
        self.running = set(job.ranks)
        self.ended: list[Member] = []
        self.fault = ""
        self._changed = threading.Condition()

    def join(self, rank: int) -> None:
        with self._changed:
            self.joined.add(rank)
            self._changed.notify_all()

    def add(self, rank: int, ending: Ending) -> None:
        """Note the end of a rank. A failed one ends the others; if it failed because of one of them, that one first."""
        with self._changed:
            self.running.discard(rank)
            self._changed.notify_all()
            member = Member(rank, ending, self._has_joined(rank, ending))
            self.ended.append(member)
            self._changed.notify_all()
            if member.lost_a_peer:
                self._changed.wait_for(self._knows_cause, PATIENCE_S)
        if member.has_failed:
            self.signals.end()

    def _has_joined(self, rank: int, ending: Ending) -> bool | None:
        """Joining is looked for every TICK_S, so that a short program may never be seen to join. One that ends well is
        believed unless others still wait for it."""
        if rank in self.joined or rank in self.denied or ending.outcome is not Outcome.OK:
            return rank in self.joined
        return None if self._changed.wait_for(lambda: self.running <= self.joined, PATIENCE_S) else False

    def _knows_cause(self) -> bool:
        return len(self.ended) == len(self.job.ranks) or any(m.has_failed and not m.lost_a_peer for m in self.ended)

    def give_up(self) -> None:
        """End all, because the ranks do not come together."""
        missing = listed([rank for rank in self.job.ranks if rank not in self.joined])
        self.fault = (
            f"Rank {missing} did not find the others within {self.job.join_s:g} s. All {self.job.hosts.size} ranks must "
            "be started, and be able to reach each other at the addresses of the hosts. Allow more time with --join-s."
        )
        self.signals.end()

    def verdict(self) -> RingEnding:
        members = tuple(sorted(self.ended, key=lambda member: member.rank))
        failed = sorted((m for m in self.ended if m.has_failed), key=lambda member: member.lost_a_peer)
        if self.fault:
            return RingEnding(RunStatus.FAILED, members, None, self.fault, 1)
        if failed:
            first, outcome = failed[0], failed[0].ending.outcome
            status = RunStatus.of(outcome if first.exit_code else Outcome.CRASHED)
            return RingEnding(status, members, first.rank, first.reason, first.exit_code or 1)
        if any(member.is_stopped for member in members):
            return RingEnding(
                RunStatus.INTERRUPTED, members, None, "The ranks were stopped.", _CODES[Outcome.INTERRUPTED]
            )
        return RingEnding(RunStatus.COMPLETED, members, None, "", 0, _warning(members))


def _warning(members: Sequence[Member]) -> str:
    """One that was seen to join shows that the program joins: it was the rank before it that has found it."""
    if any(member.has_joined for member in members):
        return ""
    return f"No rank here was seen to join the others: each ended too soon, or did the whole work alone. {_JOINING}"


class _Watched:
    """One rank while it runs: whether it has joined, and its lines for whoever wants them."""

    def __init__(self, group: _Group, rank: int, on_line: OnLine | None) -> None:
        self.group, self.rank, self.on_line, self.pid = group, rank, on_line, 0

    def started(self, pid: int) -> None:
        self.pid = pid

    def line(self, text: bytes) -> bool:
        match = _JOINED.match(text)
        if match and (int(match[1]), int(match[2])) == (self.rank, self.group.job.hosts.size):
            self.group.join(self.rank)
        elif match:
            self.group.denied.add(self.rank)
        if self.on_line:
            self.on_line(text)
        return False

    def tick(self, elapsed_s: float) -> None:
        if self.rank in self.group.joined:
            return
        if self.pid and is_connected(self.pid, self.group.job.hosts.ports(self.rank)):
            self.group.join(self.rank)
        elif elapsed_s > self.group.job.join_s:
            self.group.give_up()

    def run(self) -> None:
        job, signals = self.group.job, self.group.signals
        ending = supervise(
            job.command, cwd=job.cwd, log=job.log(self.rank), limits=Limits(job.timeout_s), until=self.line,
            env=job.environment(self.rank, os.environ), on_start=self.started, on_tick=self.tick, tick_s=TICK_S,
            signals=signals,
        )  # fmt: skip
        self.group.add(self.rank, ending)


def is_connected(pid: int, ports: Sequence[int]) -> bool:
    """Whether a process or one below it has been reached at one of these ports: the rank before it has found it."""
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        found = [c for one in family for c in one.net_connections("tcp4") if c.raddr]  # also one whose peer has ended
    except (psutil.Error, OSError):
        return False
    return any(connection.laddr.port in ports for connection in found)


def launch(job: Job, *, on_line: OnLine | None = None, signals: Signals | None = None) -> RingEnding:
    """Run a command as several ranks, to the end of all of them; no process of any is left.

    Args:
        on_line: told the lines of the first of the ranks here, with their ends, in a thread.
        signals: those that the caller watches; None: they are watched here.
    Raises: UsageError, Refused: a rank can't have its place, or its log can't be written; nothing is started.
    """
    for rank in job.ranks:
        job.hosts.check_rank(rank)
    job.log_dir.mkdir(parents=True, exist_ok=True)
    write_json(job.hostfile, [list(place) for place in job.hosts.places])
    with (signals or Signals()).watched() as signals, ThreadPoolExecutor(len(job.ranks)) as pool:
        group = _Group(job, signals)
        watched = [_Watched(group, rank, on_line if rank == job.ranks[0] else None) for rank in job.ranks]
        runs = [pool.submit(partial(_guarded, one)) for one in watched]
        for run in runs:
            run.result()
    return group.verdict()


def _guarded(watched: _Watched) -> None:
    """Whatever goes wrong around one rank must not leave the others waiting for it."""
    try:
        watched.run()
    except BaseException:
        watched.group.signals.end()
        raise
