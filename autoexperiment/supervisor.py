"""Run a command and say what happened, from outside: clock, memory, exit class, and nobody left behind.

Every training process of the lab is started here. A small warden process (warden.py) stands between,
so that the run dies with its supervisor, and so that what the run does to its own process group,
session or signals changes nothing about its end.
"""

from __future__ import annotations

import contextlib
import json
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
from typing import Any

from autoexperiment.failure import Failure, classify
from autoexperiment.vocabulary import Outcome

MARKER = "AUTOEXPERIMENT_RUN"
SKEW_S = 2.0  # a clock that moved more than this against the monotonic one spoils the run
LOG_TAIL = 1 << 20
_WARDEN = Path(__file__).with_name("warden.py")
_PASSED = ("PATH", "LANG", "TERM", "TZ", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_PASSED_PREFIXES = ("LC_", "MLX_", "OPENBLAS_", "OMP_", "AUTOEXPERIMENT_BLAS")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Limits:
    """What a run may use.

    Attributes:
        hard_timeout_s: when the run is killed.
        allowed_wall_s: a run that ends by itself later than this is rejected; None for no such bound.
        grace_s: between TERM and KILL.
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
        stop_signal: the signal to the supervisor that ended the run, if one did.
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
    private = folder / "private"
    places = {"HOME": private, "TMPDIR": private / "tmp", "XDG_CACHE_HOME": private / "cache"}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    fixed = {
        "PYTHONPYCACHEPREFIX": str(private / "pycache"),
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
        """Collect signals instead of dying of them; outside the main thread nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        old = {number: signal.signal(number, lambda n, _: self.received.append(n)) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


class _Warden:
    """The warden process and the two pipes to it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.report, report_end = os.pipe()
        lifeline_end, self.lifeline = os.pipe()
        command = [sys.executable, "-I", "-S", str(_WARDEN), str(report_end), str(lifeline_end)]
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=(report_end, lifeline_end), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(report_end)
            os.close(lifeline_end)
        self._text = b""
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

    def hang_up(self) -> None:
        """Close the lifeline: the warden ends the run."""
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1

    def close(self) -> None:
        self.hang_up()
        os.close(self.report)
        self.process.wait()


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
) -> Ending:
    """Run a command to its end and say how it ended; no process of it is left.

    Args:
        log: file for stdout and stderr together: its head and its tail, with a note between when cut.
        on_start: told the pid of the command.
        on_tick: told the elapsed seconds, every `tick_s`.
    """
    marker = uuid.uuid4().hex
    spec = {
        **asdict(limits),
        "command": list(command),
        "cwd": str(cwd),
        "log": str(log),
        "env": {**env, MARKER: marker},
    }
    with _Signals().watched() as signals:
        warden = _Warden(spec)
        try:
            _follow(warden, signals, on_start, on_tick, tick_s)
            account = warden.account
        finally:
            warden.close()
    left = _kill_marked(marker) if account is None or sys.platform != "linux" else []
    tail = _read_end(log)
    if account is None:
        return _ending_without_report(left, signals)
    return _judge(account, limits, tail, cwd, tuple({*account["survivors"], *left}), signals)


def _follow(
    warden: _Warden,
    signals: _Signals,
    on_start: Callable[[int], None] | None,
    on_tick: Callable[[float], None] | None,
    tick_s: float,
) -> None:
    started, next_tick, is_announced = time.monotonic(), 0.0, False
    while warden.read(min(tick_s, 0.1)):
        elapsed = time.monotonic() - started
        if signals.received:
            warden.hang_up()
        if on_start and not is_announced and warden.pid_of_run is not None:
            is_announced = True
            on_start(warden.pid_of_run)
        if on_tick and elapsed >= next_tick and not signals.received:
            next_tick = elapsed + tick_s
            on_tick(elapsed)


def _read_end(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
            return file.read()
    except OSError:
        return b""


def _ending_without_report(left: Sequence[int], signals: _Signals) -> Ending:
    if signals.received:
        return replace(_stopped(signals), survivors=tuple(left))
    reason = "The run's warden was killed, so nothing about the run is known."
    return Ending(Outcome.REJECTED, failure=Failure("warden killed", reason), reason=reason, survivors=tuple(left))


def _stopped(signals: _Signals) -> Ending:
    name = signal.Signals(signals.received[0]).name
    return Ending(Outcome.INTERRUPTED, reason=f"Stopped by {name}.", stop_signal=signals.received[0])


def _judge(
    account: dict[str, Any], limits: Limits, tail: bytes, cwd: Path, survivors: tuple[int, ...], signals: _Signals
) -> Ending:
    """The ending that a warden's report amounts to."""
    skew = max(account["jumped_s"], account["slept_s"], key=abs)
    facts = Ending(
        Outcome.OK,
        exit_code=account["exit_code"],
        signal=account["signal"],
        wall_s=account["wall_s"],
        cpu_s=account["cpu_s"],
        peak_memory_mb=account["peak_bytes"] / 2**20,
        clock_skew_s=skew,
        survivors=survivors,
        log_bytes=account["log_bytes"],
    )
    if account["reason"] == "orphaned":
        return replace(
            facts, outcome=Outcome.INTERRUPTED, reason=_stopped(signals).reason, stop_signal=signals.received[0]
        )
    if abs(skew) > SKEW_S:
        what = "machine slept" if abs(account["slept_s"]) > SKEW_S else "clock jumped"
        return replace(facts, outcome=Outcome.INTERRUPTED, reason=f"The {what} {skew:+.1f} s during the run.")
    if account["reason"] == "deadline":
        reason = f"Killed after {limits.hard_timeout_s:g} s, the hard timeout."
        return replace(facts, outcome=Outcome.TIMED_OUT, reason=reason, failure=Failure("timed out", reason))
    outcome, failure = classify(tail, exit_code=facts.exit_code, signal=facts.signal, killed_by_us=False, folder=cwd)
    facts = replace(facts, outcome=outcome, failure=failure)
    if failure is not None:
        where = f" at {failure.frame}" if failure.frame else ""
        return replace(facts, reason=f"{failure.kind}{where}: {failure.message}".rstrip(": "))
    if limits.allowed_wall_s is not None and facts.wall_s > limits.allowed_wall_s:
        reason = (
            f"It took {facts.wall_s:.1f} s; the budget and the baseline's start-up allow {limits.allowed_wall_s:.1f} s."
        )
        return replace(facts, outcome=Outcome.REJECTED, reason=reason)
    return facts
