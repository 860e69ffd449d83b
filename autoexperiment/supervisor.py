"""Run a command and say what happened, from outside: clock, memory, exit class, and nobody left behind.

Every training process of the lab is started here. A small warden process (warden.py) stands between,
so that the run dies with its supervisor, and so that what the run does to its own process group,
session or signals changes nothing about its end.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from autoexperiment import clocks
from autoexperiment.clocks import Clock, Skew
from autoexperiment.errors import Refused
from autoexperiment.failure import Failure, classify
from autoexperiment.files import write_atomic
from autoexperiment.paths import RunPaths
from autoexperiment.vocabulary import Outcome

MARKER = "AUTOEXPERIMENT_RUN"
BACKSTOP_S = 20.0  # patience with a warden past the time it needs (twice SWEEP_S), before it is killed itself
LOG_TAIL = 1 << 20
_WARDEN = Path(__file__).with_name("warden.py")
_PASSED = ("PATH", "LANG", "TERM", "TZ", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_PASSED_PREFIXES = ("LC_", "MLX_", "OPENBLAS_", "OMP_", "VECLIB_", "AUTOEXPERIMENT_BLAS")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_Handler = Callable[[int, FrameType | None], Any]


@dataclass(frozen=True)
class Limits:
    """What a run may use.

    Attributes:
        hard_timeout_s: when the run is killed.
        allowed_wall_s: a run that ends by itself later than this is rejected; None for no such bound.
        grace_s: between TERM and KILL.
        log_head_bytes, log_tail_bytes: what is kept of the output; the middle is cut.
    """

    hard_timeout_s: float
    allowed_wall_s: float | None = None
    grace_s: float = 10.0
    log_head_bytes: int = 1_000_000
    log_tail_bytes: int = 1_000_000


@dataclass(frozen=True)
class Ending:
    """How a run ended, measured by the supervisor.

    Attributes:
        reason: one sentence for a person, "" when all is well.
        peak_memory_mb: largest sum of resident memory over the run's processes, sampled; not below what
            the system says of the largest one.
        clock_skew_s: how far the wall clock or sleep moved against the monotonic clock.
        survivors: processes that could not be killed; no further run may start.
        log_bytes: what the run wrote, which may be more than the log keeps.
        stop_signal: the signal to the supervisor that ended the run, if one did.
        log_error: why the log's file took no more, as "No space left on device"; "" when it took all.
    """

    outcome: Outcome
    exit_code: int | None = None
    signal: int | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_mb: float = 0.0
    clock_skew_s: float = 0.0
    failure: Failure | None = None
    reason: str = ""
    survivors: tuple[int, ...] = ()
    log_bytes: int = 0
    stop_signal: int | None = None
    log_error: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object; times rounded to a millisecond."""
        value = asdict(self)
        for name in ("wall_s", "cpu_s", "peak_memory_mb", "clock_skew_s"):
            value[name] = round(value[name], 3)
        return {**value, "outcome": str(self.outcome), "survivors": list(self.survivors)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Ending:
        failure = value["failure"]
        return cls(
            **{
                **value,
                "outcome": Outcome(value["outcome"]),
                "failure": Failure(**failure) if failure else None,
                "survivors": tuple(value["survivors"]),
            }
        )

    @classmethod
    def interrupted(cls, reason: str) -> Ending:
        """The ending of a run that nobody saw end."""
        return cls(Outcome.INTERRUPTED, reason=reason)


def run_environment(folder: Path, *, extra: Mapping[str, str]) -> dict[str, str]:
    """Variables for a run: a short allow-list, private homes and caches under `folder`, and `extra`.

    Nothing else of the caller's environment is passed on, so no key or token reaches the run.
    """
    kept = {k: v for k, v in os.environ.items() if k in _PASSED or k.startswith(_PASSED_PREFIXES)}
    private = RunPaths(folder).private
    places = {"HOME": private, "TMPDIR": private / "tmp", "XDG_CACHE_HOME": private / "cache"}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    fixed = {
        "PYTHONDONTWRITEBYTECODE": "1",  # and the work folder is new, so no stale bytecode is there to read
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        "HF_HUB_OFFLINE": "1",
    }
    return {**kept, **{name: str(place) for name, place in places.items()}, **fixed, **extra}


@dataclass
class _Signals:
    """Signals that came while a run was supervised; the first ends the run, the second at once."""

    received: list[int] = field(default_factory=list)

    @contextlib.contextmanager
    def watched(self) -> Iterator[_Signals]:
        """Collect signals instead of dying of them; outside the main thread nothing changes.

        A signal that the caller ignores stays ignored: under nohup, a hangup must not end the night.
        """
        old: dict[int, _Handler | int | None] = {}
        if threading.current_thread() is threading.main_thread():
            old = {number: signal.getsignal(number) for number in _SIGNALS}
        try:
            for number in [n for n, handler in old.items() if handler is not signal.SIG_IGN]:
                signal.signal(number, lambda n, _: self.received.append(n))
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Warden:
    """The warden process and the two pipes to it."""

    def __init__(self, spec: dict[str, Any], log_fd: int) -> None:
        self.report, report_end = os.pipe()
        lifeline_end, self.lifeline = os.pipe()
        words = [sys.executable, "-I", "-S", str(_WARDEN), *map(str, (report_end, lifeline_end, log_fd))]
        try:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=(report_end, lifeline_end, log_fd), start_new_session=True,
                env={k: v for k, v in os.environ.items() if k.endswith("LIBRARY_PATH")},  # the run can read it in /proc
            )  # fmt: skip
        except BaseException:
            os.close(self.report)
            os.close(self.lifeline)
            raise
        finally:
            os.close(report_end)
            os.close(lifeline_end)
        self._text = b""
        self.give_up_at = math.inf
        with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(self.lifeline), "wb") as pipe:
            pipe.write(json.dumps(spec).encode() + b"\n")

    def read(self, wait_s: float) -> bool:
        """Take in what the warden says; False when it has said all."""
        ready, _, _ = select.select([self.report], [], [], wait_s)
        if not ready:
            return True
        blob = os.read(self.report, 1 << 16)
        self._text += blob
        return bool(blob)

    @property
    def pid_of_run(self) -> int | None:
        head, newline, _ = self._text.partition(b"\n")
        return int(head) if newline else None

    @property
    def account(self) -> dict[str, Any] | None:
        """The warden's report, or None when it died without one."""
        lines = self._text.split(b"\n")
        return json.loads(lines[1]) if len(lines) > 2 else None

    def order(self, word: bytes, *, needs_s: float) -> None:
        """Say b"T" (TERM and grace) or b"K" (KILL), or nothing, and expect the end within `needs_s`."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.lifeline, word)
        self.give_up_at = min(self.give_up_at, time.monotonic() + needs_s + BACKSTOP_S)

    def close(self) -> None:
        """End the run if it still goes on, and the warden: also one that the run has stopped."""
        os.close(self.lifeline)
        try:
            self.process.wait(timeout=BACKSTOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.report)


def marked_processes(marker: str) -> list[int]:
    """Live processes whose environment carries this run's marker; zombies do not count."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == marker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def _kill_marked(marker: str) -> list[int]:
    """Kill what a dead warden, or a system without subreapers, left alive; returns what is still there."""
    for _ in range(50):
        left = marked_processes(marker)
        if not left:
            return []
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return marked_processes(marker)


@dataclass(frozen=True)
class _Audience:
    """Who is told that the run started and how long it has run."""

    on_start: Callable[[int], None] | None
    on_tick: Callable[[float], None] | None
    tick_s: float

    def follow(self, warden: _Warden, signals: _Signals, *, grace_s: float) -> None:
        """Read the warden's pipe to its end, and pass on to it the signals that come meanwhile."""
        started, next_tick, orders, is_announced = time.monotonic(), 0.0, 0, False
        while warden.read(min(self.tick_s, 0.1)):
            for _ in signals.received[orders:2]:
                warden.order(b"TK"[orders : orders + 1], needs_s=grace_s if orders == 0 else 0.0)
                orders += 1
            elapsed = time.monotonic() - started
            if time.monotonic() > warden.give_up_at:
                warden.process.kill()
            if self.on_start and not is_announced and warden.pid_of_run is not None:
                is_announced = True
                self.on_start(warden.pid_of_run)
            if self.on_tick and elapsed >= next_tick and not signals.received:
                next_tick = elapsed + self.tick_s
                self.on_tick(elapsed)


def supervise(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    limits: Limits,
    env: Mapping[str, str],
    on_start: Callable[[int], None] | None = None,
    on_tick: Callable[[float], None] | None = None,
    tick_s: float = 0.5,
    clock: Clock = clocks.SYSTEM,
) -> Ending:
    """Run a command to its end and say how it ended; no process of it is left.

    Args:
        log: file for stdout and stderr together: its head and its tail, with a note between when cut.
        on_start: told the pid of the command.
        on_tick: told the elapsed seconds, every `tick_s`.
    Raises: Refused: the log can't be opened. What a callback raises passes through, once the run is killed.
    """
    marker = uuid.uuid4().hex
    spec = {**asdict(limits), "command": list(command), "cwd": str(cwd), "env": {**env, MARKER: marker}}
    log_fd, start = _open_log(log), clock.read()
    try:
        with _Signals().watched() as signals:
            warden = _Warden(spec, log_fd)
            try:
                warden.order(b"", needs_s=limits.hard_timeout_s + limits.grace_s)
                _Audience(on_start, on_tick, tick_s).follow(warden, signals, grace_s=limits.grace_s)
            finally:
                warden.close()
                account = warden.account
                left = () if account and account["is_swept"] and sys.platform == "linux" else _kill_marked(marker)
        skew = Skew.since(start, clock)
        tail = _read_end(log_fd, LOG_TAIL)
        was_replaced = _put_back(log, log_fd)
    finally:
        os.close(log_fd)
    if signals.received:
        ending = _stopped(account, signals.received[0])
    elif account is None:
        ending = _unreported(warden.process.returncode)
    else:
        ending = _judge(account, limits, skew, tail, cwd)
    ending = replace(ending, clock_skew_s=skew.seconds, survivors=tuple(sorted({*ending.survivors, *left})))
    if was_replaced and ending.outcome is Outcome.OK:
        return replace(ending, outcome=Outcome.REJECTED, reason="The run put something else in the place of its log.")
    return ending


def _open_log(log: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(log, flags, 0o644)
    except OSError as error:
        raise Refused(
            f"Cannot write the run's log {log}: {error.strerror}. It must be a new or plain file in a folder "
            "that exists and is writable. Free the place, then start the run again."
        ) from error


def _read_end(fd: int, limit: int) -> bytes:
    try:
        return os.pread(fd, limit, max(0, os.fstat(fd).st_size - limit))
    except OSError:
        return b""


def _put_back(log: Path, fd: int) -> bool:
    """Write the log again where the run put a pipe, a link or another file in its place; True when it did.

    Whoever opened a pipe there to read the log would wait for ever.
    """
    with contextlib.suppress(OSError):
        if os.path.samestat(os.lstat(log), os.fstat(fd)):
            return False
    with contextlib.suppress(OSError):
        if log.is_dir() and not log.is_symlink():
            log.rename(log.with_name(f"{log.name}.replaced"))
        write_atomic(log, _read_end(fd, os.fstat(fd).st_size))
    return True


def _facts(account: Mapping[str, Any]) -> Ending:
    """An ending with what the warden measured, before anything is made of it."""
    same = ("exit_code", "signal", "wall_s", "cpu_s", "log_bytes", "log_error")
    return Ending(
        Outcome.OK,
        **{name: account[name] for name in same},
        peak_memory_mb=account["peak_bytes"] / 2**20,
        survivors=tuple(account["survivors"]),
    )


def _stopped(account: Mapping[str, Any] | None, number: int) -> Ending:
    facts = _facts(account) if account else Ending(Outcome.INTERRUPTED)
    reason = f"Stopped by {signal.Signals(number).name}."
    return replace(facts, outcome=Outcome.INTERRUPTED, reason=reason, stop_signal=number)


def _unreported(returncode: int) -> Ending:
    reason = f"The run's warden died without a report (status {returncode}), so nothing about the run is known."
    return Ending(Outcome.REJECTED, failure=Failure("warden killed", reason), reason=reason)


def _judge(account: Mapping[str, Any], limits: Limits, skew: Skew, tail: bytes, cwd: Path) -> Ending:
    """The ending that a warden's report amounts to."""
    facts = _facts(account)
    if skew.reason:
        return replace(facts, outcome=Outcome.INTERRUPTED, reason=skew.reason)
    if account["reason"] == "deadline":
        reason = f"Killed after {limits.hard_timeout_s:g} s, the hard timeout."
        return replace(facts, outcome=Outcome.TIMED_OUT, reason=reason, failure=Failure("timed out", reason))
    outcome, failure = classify(tail, exit_code=facts.exit_code, signal=facts.signal, folder=cwd)
    if failure is not None:
        where = f" at {failure.frame}" if failure.frame else ""
        said = f"{failure.kind}{where}: {failure.message}".rstrip(": ")
        return replace(facts, outcome=outcome, failure=failure, reason=said)
    if limits.allowed_wall_s is not None and facts.wall_s > limits.allowed_wall_s:
        reason = (
            f"It took {facts.wall_s:.1f} s; the budget and the baseline's start-up allow {limits.allowed_wall_s:.1f} s."
        )
        return replace(facts, outcome=Outcome.REJECTED, reason=reason)
    return facts
