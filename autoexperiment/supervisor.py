"""Run a command and say what happened, from outside: clock, memory, exit class, and nobody left behind.

Every training process of the lab is started here. A small warden process (warden.py) stands between,
so that the run dies with its supervisor, and so that what the run does to its own process group,
session or signals changes nothing about its end.
"""

from __future__ import annotations

import ast
import contextlib
import json
import marshal
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

from autoexperiment import clocks, confine
from autoexperiment.clocks import Clock, Skew
from autoexperiment.ending import Ending, Limits, Told, judge, stopped
from autoexperiment.errors import Refused
from autoexperiment.failure import Failure
from autoexperiment.files import write_atomic
from autoexperiment.paths import RunPaths
from autoexperiment.vocabulary import Outcome
from autoexperiment.watch import Watch

MARKER = "AUTOEXPERIMENT_RUN"
BACKSTOP_S = 20.0  # patience with a warden past the time it needs (three times SWEEP_S), before it is killed itself
LOG_TAIL = 1 << 20
_WARDEN = Path(__file__).with_name("warden.py")
# A script named on the command line is compiled each time; by this way Python keeps the warden's bytecode, as of a module.
_START = (
    "import sys; from importlib.machinery import SourceFileLoader as Loader; del sys.argv[0]; path = sys.argv[0]; "
    "exec(Loader('__main__', path).get_code('__main__'), {'__name__': '__main__', '__file__': path})"
)
_PASSED = ("PATH", "LANG", "TERM", "TZ", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_PASSED_PREFIXES = ("LC_", "MLX_", "OPENBLAS_", "OMP_", "VECLIB_", "AUTOEXPERIMENT_BLAS")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INSTEAD = {
    "network": "Allow the network with environment.constraints.networkPolicy 'full'",
    "cpus": "Leave environment.sandbox.cpus out",
}
_Handler = Callable[[int, FrameType | None], Any]


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
class Signals:
    """Signals that came while a run was supervised; the first ends the run, the second at once.

    A caller that has something to write down after a run watches them around both, and gives `supervise` the object:
    then no signal is lost, and none ends the writing.
    """

    received: list[int] = field(default_factory=list)

    def end(self) -> None:
        """Do as if a first signal had come, unless one has."""
        if not self.received:
            self.received.append(signal.SIGTERM)

    @contextlib.contextmanager
    def watched(self) -> Iterator[Signals]:
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


@contextlib.contextmanager
def signals_raise(numbers: Sequence[signal.Signals], make: Callable[[signal.Signals], BaseException]) -> Iterator[None]:
    """Signals raise an error of one's own meanwhile; one that the caller ignores stays ignored."""

    def end(number: int, _: FrameType | None) -> None:
        raise make(signal.Signals(number))

    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    old = {number: signal.signal(number, end) for number in heeded}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class _Warden:
    """The warden process and the two pipes to it, beside the one of a watch."""

    def __init__(self, spec: dict[str, Any], log_fd: int, watch: Watch) -> None:
        self.report, report_end = os.pipe()
        lifeline_end, self.lifeline = os.pipe()
        fds = [fd for fd in (report_end, lifeline_end, log_fd, watch.write_end) if fd >= 0]
        words = [sys.executable, "-I", "-S", "-c", _START, str(_WARDEN), *map(str, fds)]
        try:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=fds, start_new_session=True,
                env={k: v for k, v in os.environ.items() if k.endswith("LIBRARY_PATH")},  # the run can read it in /proc
            )  # fmt: skip
        except BaseException:
            os.close(self.report)
            os.close(self.lifeline)
            raise
        finally:
            os.close(report_end)
            os.close(lifeline_end)
            watch.close_write_end()
        self._text = b""
        self.give_up_at = math.inf
        blob = marshal.dumps(json.loads(json.dumps(spec)))  # which takes plain values only, and no subclass of them
        with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(self.lifeline), "wb") as pipe:
            pipe.write(b"%d\n%b" % (len(blob), blob))

    def read(self, wait_s: float, *, watch: Watch) -> bool:
        """Take in what the warden says; False when it has said all. A line to look at ends the wait as well."""
        ready, _, _ = select.select([fd for fd in (self.report, watch.read_end) if fd >= 0], [], [], wait_s)
        if self.report not in ready:
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
        return ast.literal_eval(lines[1].decode()) if len(lines) > 2 else None

    def order(self, word: bytes, *, needs_s: float) -> None:
        """Say b"T" (TERM and grace) or b"K" (KILL), or nothing, and expect the end within `needs_s`."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.lifeline, word)
        self.give_up_at = min(self.give_up_at, time.monotonic() + needs_s + BACKSTOP_S)

    def close(self) -> None:
        """End the run if it still goes on, and the warden: also one that the run has stopped."""
        os.close(self.lifeline)
        try:
            _wait(self.process, timeout_s=BACKSTOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.report)


def _wait(process: subprocess.Popen[bytes], *, timeout_s: float) -> None:
    """Wait for a process's end, where the system can tell it (Linux), without naps between looks.

    Raises: subprocess.TimeoutExpired.
    """
    give_up_at = time.monotonic() + timeout_s
    with contextlib.suppress(AttributeError, OSError):
        fd = os.pidfd_open(process.pid)
        try:
            select.select([fd], [], [], timeout_s)
        finally:
            os.close(fd)
    process.wait(timeout=max(0.0, give_up_at - time.monotonic()))


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
    """Who is told that the run started, how long it has run, and what it writes."""

    on_start: Callable[[int], None] | None
    on_tick: Callable[[float], None] | None
    tick_s: float
    watch: Watch

    def follow(self, warden: _Warden, signals: Signals, *, grace_s: float) -> None:
        """Read the warden's pipe to its end, and pass on to it the signals that come meanwhile, or the target."""
        started, next_tick, orders, is_announced = time.monotonic(), 0.0, 0, False
        while warden.read(min(self.tick_s, 0.1), watch=self.watch):
            for _ in signals.received[orders:2]:
                self.watch.close()
                warden.order(b"TK"[orders : orders + 1], needs_s=grace_s if orders == 0 else 0.0)
                orders += 1
            elapsed = time.monotonic() - started
            if time.monotonic() > warden.give_up_at:
                warden.process.kill()
            if self.on_start and not is_announced and warden.pid_of_run is not None:
                is_announced = True
                self.on_start(warden.pid_of_run)
            if warden.pid_of_run is not None and not signals.received and self.watch.take():
                warden.order(b"T", needs_s=grace_s)
            if self.on_tick and elapsed >= next_tick and not signals.received:
                next_tick = elapsed + self.tick_s
                self.on_tick(elapsed)
        if not signals.received:
            self.watch.take_rest()


def confinement_faults(limits: Limits) -> dict[str, str]:
    """Which of the network, memory, processes and cpus that are limited this system can't hold a run to, and why."""
    asked = {
        "network": not limits.network,
        "memory": limits.memory_mb is not None,
        "processes": limits.processes is not None,
        "cpus": limits.cpus is not None,
    }
    return {name: fault for name, is_asked in asked.items() if is_asked and (fault := confine.fault(name))}


def _unconfined(name: str, fault: str) -> Refused:
    return Refused(
        f"The run was not started, because this system can't hold it to its limits ({name}). {fault} "
        f"{_INSTEAD[name]}, or use a machine where it works."
    )


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
    until: Callable[[bytes], bool] | None = None,
    clock: Clock = clocks.SYSTEM,
    signals: Signals | None = None,
) -> Ending:
    """Run a command to its end and say how it ended; no process of it is left.

    Args:
        log: file for stdout and stderr together: its head and its tail, with a note between when cut.
        on_start: told the pid of the command.
        on_tick: told the elapsed seconds, every `tick_s`.
        until: asked about each complete line of the output as it comes, with the line's end, also about those that
            the log leaves out. When it says True, the run is ended, and its ending is OK whatever it did with the
            signal. A signal, a timeout or a limit that came first wins. While it thinks, a run that goes on
            writing has to wait once 64 KiB are unread.
        signals: those that the caller watches already; one that came before ends the run at once.
    Raises: Refused: the log can't be opened; a run without network can't be had here. What a callback raises passes
            through, once the run is killed.
    """
    if not limits.network and (fault := confine.fault("network")):
        raise _unconfined("network", fault)
    marker, words = uuid.uuid4().hex, confine.words(command, network=limits.network)
    spec = {**asdict(limits), "command": words, "cwd": str(cwd), "env": {**env, MARKER: marker}}
    log_fd, watch, start = _open_log(log), Watch(until), clock.read()
    try:
        with (signals or Signals()).watched() as signals:
            warden = _Warden(spec, log_fd, watch)
            try:
                warden.order(b"", needs_s=limits.hard_timeout_s + limits.grace_s)
                _Audience(on_start, on_tick, tick_s, watch).follow(warden, signals, grace_s=limits.grace_s)
            finally:
                watch.close()
                warden.close()
                account = warden.account
                left = () if account and account["is_swept"] and sys.platform == "linux" else _kill_marked(marker)
        skew = Skew.since(start, clock)
        tail = _read_end(log_fd, LOG_TAIL)
        was_replaced = _put_back(log, log_fd)
    finally:
        watch.close()
        os.close(log_fd)
    stop = signals.received[0] if signals.received else None
    if account and account["refused"] and stop is None:
        name, _, why = account["refused"].partition(": ")
        raise _unconfined(name, f"It failed when the run began: {why}.")
    if stop is not None and watch.reached_at is None:
        ending = stopped(account, stop)
    elif account is None:
        ending = _unreported(warden.process.returncode)
    else:
        ending = judge(account, limits, skew, Told(tail, cwd, watch.reached_at))
    survivors = tuple(sorted({*ending.survivors, *left}))
    ending = replace(ending, clock_skew_s=skew.seconds, survivors=survivors, stop_signal=stop)
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


def _unreported(returncode: int) -> Ending:
    reason = f"The run's warden died without a report (status {returncode}), so nothing about the run is known."
    return Ending(Outcome.REJECTED, failure=Failure("warden killed", reason), reason=reason)
