"""The process between the supervisor and a run: it owns the clock, the log and the kill of the whole tree.

Usage: python -I -S warden.py REPORT_FD LIFELINE_FD
(started by `supervisor.supervise`, which sends one JSON object down the lifeline)

It is a child subreaper where the system has that (Linux), so that every process of the run, also one
that left the session, ends up as its child and is killed. When the lifeline closes, the supervisor
has died and the run is killed with it. Stdlib only.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
POLL_S = 0.05
MEMORY_POLL_S = 0.25
SWEEP_S = 5.0
ORPHAN_GRACE_S = 0.5
CHUNK = 1 << 16
PAGE = os.sysconf("SC_PAGE_SIZE")
IS_LINUX = sys.platform == "linux"


def prctl(option: int, value: int) -> None:
    """Set a property of this process; nothing happens where Linux's prctl is missing."""
    if IS_LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


class Log:
    """Output kept from both ends: the head goes straight to the file, the tail waits in memory."""

    def __init__(self, path: str, head: int, tail: int) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self.room, self.tail_limit = head, tail
        self.tail = bytearray()
        self.total = self.head_bytes = 0
        self.is_full = False

    def _put(self, blob: bytes) -> None:
        """Write what the disk takes; a full disk must not stop the reading of the pipe."""
        try:
            while blob and not self.is_full:
                blob = blob[os.write(self.fd, blob) :]
        except OSError:
            self.is_full = True

    def add(self, blob: bytes) -> None:
        self.total += len(blob)
        head, rest = blob[: self.room], blob[self.room :]
        self.room -= len(head)
        self.head_bytes += len(head)
        self._put(head)
        self.tail += rest
        if len(self.tail) > 2 * self.tail_limit:
            del self.tail[: -self.tail_limit]

    def close(self) -> None:
        kept = bytes(self.tail[-self.tail_limit :])
        cut = self.total - self.head_bytes - len(kept)
        if cut:
            self._put(b"\n[... %d bytes cut ...]\n" % cut)
        self._put(kept)
        os.close(self.fd)


def children_of(pid: int) -> list[int]:
    """Direct children, from /proc."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += [int(word) for word in file.read().split()]
    except OSError:
        pass
    return found


def descendants(pid: int) -> list[int]:
    """Every process below a pid, nearest first."""
    found, queue = [], children_of(pid)
    while queue:
        child = queue.pop(0)
        found.append(child)
        queue += children_of(child)
    return found


def resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError, ValueError):
        return 0


def boottime() -> float:
    """Seconds including sleep where the system tells them apart from awake ones."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if IS_LINUX else time.monotonic()


class Warden:
    def __init__(self, spec: dict[str, Any], report_fd: int, lifeline_fd: int) -> None:
        self.spec = spec
        self.report_fd = report_fd
        self.lifeline_fd = lifeline_fd
        self.log = Log(spec["log"], spec["log_head_bytes"], spec["log_tail_bytes"])
        self.peak_bytes = 0
        self.reason = ""  # why this warden ended the run: "deadline" or "orphaned"
        self.status: int | None = None
        self.started = time.monotonic()
        self.clocks = (time.time(), time.monotonic(), boottime())

    # ---- the run

    def launch(self) -> None:
        """Start the command as leader of a session of its own, with its output on one pipe."""
        self.wakeup, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.pipe, write_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._become(write_end)
        os.close(write_end)

    def _become(self, output: int) -> None:
        """In the child: turn into the command. Nothing of the warden's is inherited."""
        try:
            os.setsid()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            null = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((null, 0), (output, 1), (output, 2)):
                os.dup2(source, target)
            os.closerange(3, 4096)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.chdir(self.spec["cwd"])
            os.execvpe(self.spec["command"][0], self.spec["command"], self.spec["env"])
        except OSError as error:
            os.write(2, f"cannot start {self.spec['command'][0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)

    def watch(self) -> None:
        """Pump output until the command ends, the deadline passes, or the supervisor is gone."""
        deadline, next_look = self.started + self.spec["hard_timeout_s"], 0.0
        while self.status is None:
            self.pump(POLL_S)
            self.reap()
            now = time.monotonic()
            if now >= next_look:
                self.look_at_memory()
                next_look = now + MEMORY_POLL_S
            if self.status is None and not self.reason:
                if now >= deadline:
                    self.end("deadline", self.spec["grace_s"])
                elif self.is_orphaned():
                    self.end("orphaned", min(ORPHAN_GRACE_S, self.spec["grace_s"]))

    def is_orphaned(self) -> bool:
        ready, _, _ = select.select([self.lifeline_fd], [], [], 0)
        return bool(ready) and os.read(self.lifeline_fd, 1) == b""

    def pump(self, wait_s: float) -> bool:
        """Move output from the pipe to the log, waiting for it or for the end of a child; True when there was some."""
        ready, _, _ = select.select([fd for fd in (self.pipe, self.wakeup) if fd >= 0], [], [], wait_s)
        if self.wakeup in ready:
            os.read(self.wakeup, CHUNK)
        if self.pipe not in ready:
            return False
        blob = os.read(self.pipe, CHUNK)
        if not blob:  # every writer has closed it, though the command may still run
            os.close(self.pipe)
            self.pipe = -1
            return False
        self.log.add(blob)
        return True

    def reap(self) -> None:
        """Collect whatever has ended; remembers how the command itself did."""
        while True:
            try:
                pid, status, _ = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.status = status

    def look_at_memory(self) -> None:
        pids = descendants(os.getpid()) if IS_LINUX else []
        self.peak_bytes = max(self.peak_bytes, sum(resident_bytes(pid) for pid in pids))

    # ---- the end

    def signal_tree(self, number: int) -> None:
        """Signal the command's group and every process below this warden."""
        for send, pid in [(os.killpg, self.pid), *((os.kill, pid) for pid in descendants(os.getpid()))]:
            try:
                send(pid, number)
            except (ProcessLookupError, PermissionError):
                continue

    def end(self, reason: str, grace_s: float) -> None:
        """TERM, a grace period, then KILL."""
        self.reason = reason
        self.signal_tree(signal.SIGTERM)
        self.signal_tree(signal.SIGCONT)
        deadline = time.monotonic() + grace_s
        while self.status is None and time.monotonic() < deadline:
            self.pump(POLL_S)
            self.reap()
        self.signal_tree(signal.SIGKILL)

    def sweep(self) -> list[int]:
        """Kill everything that the command left behind; returns what could not be killed."""
        deadline = time.monotonic() + SWEEP_S
        while True:
            self.signal_tree(signal.SIGKILL)
            self.reap()
            left = descendants(os.getpid())
            if not left or time.monotonic() >= deadline:
                return left
            time.sleep(0.005)

    def drain(self) -> None:
        """Take what is left in the pipe: with every writer dead, that is finite."""
        deadline = time.monotonic() + SWEEP_S
        while self.pipe >= 0 and time.monotonic() < deadline and self.pump(0):
            pass

    def report(self, wall_s: float, survivors: list[int]) -> None:
        status = self.status if self.status is not None else 0
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
        wall, awake, boot = self.clocks
        jumped = (time.time() - wall) - (time.monotonic() - awake)
        slept = (boottime() - boot) - (time.monotonic() - awake)
        found = {
            "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            "wall_s": wall_s,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_bytes": max(self.peak_bytes, usage.ru_maxrss * unit),
            "jumped_s": jumped,
            "slept_s": slept,
            "reason": self.reason,
            "survivors": survivors,
            "log_bytes": self.log.total,
        }
        os.write(self.report_fd, json.dumps(found).encode() + b"\n")

    def serve(self) -> None:
        os.write(self.report_fd, b"%d\n" % self.pid)
        self.watch()
        wall_s = time.monotonic() - self.started
        survivors = self.sweep()
        self.drain()
        self.log.close()
        self.report(wall_s, survivors)


def read_spec(fd: int) -> dict[str, Any]:
    """What to run: the first line on the lifeline, which then stays silent until it closes."""
    blob = b""
    while not blob.endswith(b"\n"):
        part = os.read(fd, CHUNK)
        if not part:
            sys.exit(0)  # the supervisor died before it said what to run
        blob += part
    spec: dict[str, Any] = json.loads(blob)
    return spec


def main(argv: list[str]) -> int:
    """Run one command to its end and report on it."""
    report_fd, lifeline_fd = int(argv[0]), int(argv[1])
    os.set_inheritable(report_fd, False)
    os.set_inheritable(lifeline_fd, False)
    spec = read_spec(lifeline_fd)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the supervisor decides, by closing the lifeline
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    warden = Warden(spec, report_fd, lifeline_fd)
    warden.launch()
    warden.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
