"""The process between the supervisor and a run: it owns the deadline, the log and the kill of the whole tree.

Usage: python -I -S warden.py REPORT_FD LIFELINE_FD LOG_FD [COPY_FD]
(started by `supervisor.supervise`, which sends a length, a newline and so many bytes of marshal down the
lifeline, then at most T, for TERM and a grace period, and K, for KILL at once)

It is a child subreaper where the system has that (Linux), so that every process of the run, also one
that left the session, ends up as its child and is killed. When the lifeline closes, the supervisor
has died and the run is killed with it. A supervisor that reads along gets a copy of the output as it
comes, the middle that the log cuts included. Stdlib only, and `confine.py` beside it; of that, what is quick to import:
each run waits for it.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn
else:
    import _signal as signal  # the public module makes enums of the numbers, which takes as long as half of Python's start

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
POLL_S = 0.05
MEMORY_POLL_S = 0.25
SWEEP_S = 5.0
ORPHAN_GRACE_S = 0.5
CHUNK = 1 << 16
TERMINATE, KILL = b"T", b"K"
PAGE = os.sysconf("SC_PAGE_SIZE")
IS_LINUX = sys.platform == "linux"
CONFINE = __file__.removesuffix("warden.py") + "confine.py"
ORDERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the supervisor decides what they mean
RESET = ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD", "SIGPIPE", "SIGXFSZ", "SIGXFZ")  # what Python or we changed


def prctl(option: int, value: int) -> None:
    """Set a property of this process; nothing happens where Linux's prctl is missing."""
    if IS_LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def set_all(numbers: Iterable[int], action: signal.Handlers) -> None:
    """Let signals do their default, or nothing."""
    for number in numbers:
        signal.signal(number, action)


class Log:
    """Output kept from both ends: the head goes straight to the file, the tail waits in memory."""

    def __init__(self, fd: int, head: int, tail: int) -> None:
        self.fd = fd
        self.room, self.tail_limit = head, tail
        self.tail = bytearray()
        self.total = self.head_bytes = 0
        self.error = ""  # why the file took no more, once it did not

    def _put(self, blob: bytes) -> None:
        """Write what the disk takes; a full disk must not stop the reading of the pipe."""
        try:
            while blob and not self.error:
                blob = blob[os.write(self.fd, blob) :]
        except OSError as error:
            self.error = error.strerror or "write error"

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
        kept = bytes(self.tail[max(0, len(self.tail) - self.tail_limit) :])
        cut = self.total - self.head_bytes - len(kept)
        if cut:
            self._put(b"\n[... %d bytes cut ...]\n" % cut)
        self._put(kept)
        os.close(self.fd)


class Copy:
    """The run's output on its way to a supervisor that reads along; nothing without one."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.unsent = bytearray()
        if fd >= 0:
            os.set_blocking(fd, False)

    @property
    def is_behind(self) -> bool:
        """Whether the supervisor must read before the run may write more: no line is ever left out."""
        return len(self.unsent) >= CHUNK

    def add(self, blob: bytes) -> None:
        if self.fd >= 0:
            self.unsent += blob
            self.send()

    def send(self) -> None:
        """Pass on what the supervisor takes now; one that has seen enough closes its end."""
        try:
            del self.unsent[: os.write(self.fd, self.unsent)]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.close()

    def finish(self) -> None:
        """Pass on the rest before the report."""
        deadline = time.monotonic() + SWEEP_S
        while self.unsent and time.monotonic() < deadline:
            select.select([], [self.fd], [], POLL_S)
            self.send()
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
        self.unsent.clear()


def children_of(pid: int) -> list[int]:
    """Direct children, from /proc; none where the system has no such list."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # as text, it would need one more codec
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
    with open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE


def proportional_bytes(pid: int) -> int:
    """Resident memory, each shared page divided by its sharers: forked workers do not count it twice."""
    with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:"))


def memory_of(pids: list[int]) -> int:
    """Bytes that these processes hold together; one that ends meanwhile counts nothing."""
    measure = resident_bytes if len(pids) == 1 else proportional_bytes
    total = 0
    for pid in pids:
        try:
            total += measure(pid)
        except (OSError, IndexError, ValueError, StopIteration):
            continue
    return total


def send(call: Callable[[int, int], None], pid: int, number: int) -> None:
    """Send a signal with os.kill or os.killpg, unless nobody is there or this user may not."""
    try:
        call(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def signal_group(pid: int, number: int) -> None:
    """Signal the group that a process leads, or the process, which has no group of its own until its setsid."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        os.kill(pid, number)


def is_live(pid: int) -> bool:
    """Whether a process still runs: one that waits to be reaped does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def loaded(path: str) -> Any:
    """The module in a file; the folder itself is not on the search path, where its names would hide others."""
    from importlib.machinery import SourceFileLoader
    from types import ModuleType

    loader = SourceFileLoader("confine", path)
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module


class Warden:
    def __init__(self, spec: dict[str, Any], *, report_fd: int, lifeline_fd: int, log_fd: int, copy_fd: int) -> None:
        self.spec = spec
        self.report_fd, self.lifeline_fd = report_fd, lifeline_fd
        self.log = Log(log_fd, spec["log_head_bytes"], spec["log_tail_bytes"])
        self.copy = Copy(copy_fd)
        self.peak_bytes = 0
        self.next_look = self.next_count = 0.0
        self.kill_at = float("inf")
        self.reason = ""  # why this warden ended the run: "deadline", "memory", "processes", "stopped" or "orphaned"
        self.status: int | None = None

    # ---- the run

    def launch(self) -> None:
        """Start the command as leader of a session of its own, with its output on one pipe."""
        self.wakeup, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.pipe, write_end = os.pipe()
        self.refusal, refusal_end = os.pipe()
        is_confined = not self.spec["network"] or self.spec["cpus"] is not None
        confine, me = loaded(CONFINE) if is_confined else None, os.getpid()
        self.started = time.monotonic()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ORDERS)  # one that comes before the exec waits for `_become`
        set_all(ORDERS, signal.SIG_DFL)  # what is ignored would be dropped where it is blocked, too (macOS)
        self.pid = os.fork()
        if self.pid == 0:
            if confine is not None:
                self._confine(confine, refusal_end)
            os.close(refusal_end)
            self._become(write_end, me)
        set_all(ORDERS, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(write_end)
        os.close(refusal_end)
        self.tell(b"%d\n" % self.pid)

    def _confine(self, confine: Any, refusal: int) -> None:
        """In the child: give up what the run may not have, or end without having run."""
        name = "network"
        try:
            if not self.spec["network"] and IS_LINUX:  # elsewhere the command's own words do it
                confine.leave_network()
            name = "cpus"
            if self.spec["cpus"] is not None:
                confine.bind_to_cpus(self.spec["cpus"])
        except Exception as error:  # whatever it is: the command must not start
            os.write(refusal, f"{name}: {getattr(error, 'strerror', None) or repr(error)}".encode())
            os._exit(127)

    def _become(self, output: int, warden: int) -> NoReturn:
        """In the child: turn into the command. It keeps the warden's stdin, which is empty; all else closes on exec."""
        command = self.spec["command"]
        try:
            os.setsid()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != warden:
                os._exit(127)  # it died before the line above
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.dup2(output, 1)
            os.dup2(output, 2)
            set_all([getattr(signal, name) for name in RESET if hasattr(signal, name)], signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a blocked signal would stay blocked over the exec
            os.chdir(self.spec["cwd"])
            os.execvpe(command[0], command, self.spec["env"])
        except (OSError, ValueError) as error:
            os.write(2, f"cannot start {command[0]!r} in {self.spec['cwd']!r}: {error}\n".encode(errors="replace"))
        finally:
            os._exit(127)

    def watch(self) -> None:
        """Pump output until the command ends, which the deadline or the supervisor may bring about."""
        deadline = self.started + self.spec["hard_timeout_s"]
        while self.status is None:
            self.pump(POLL_S)
            self.reap()
            now = time.monotonic()
            self.look(now)
            if now >= deadline:
                self.end("deadline", self.spec["grace_s"])
            if now >= self.kill_at:
                self.signal_tree(signal.SIGKILL)

    def pump(self, wait_s: float) -> bool:
        """Wait for output, the end of a child or a word from the supervisor; True when there was output."""
        is_held = self.copy.is_behind and self.status is None
        watched = [fd for fd in (-1 if is_held else self.pipe, self.wakeup, self.lifeline_fd) if fd >= 0]
        ready, free, _ = select.select(watched, [self.copy.fd] if self.copy.unsent else [], [], wait_s)
        if free:
            self.copy.send()
        if self.wakeup in ready:
            os.read(self.wakeup, CHUNK)
        if self.lifeline_fd in ready:
            self.obey(os.read(self.lifeline_fd, 1))
        if self.pipe not in ready:
            return False
        blob = os.read(self.pipe, CHUNK)
        if not blob:  # every writer has closed it, though the command may still run
            os.close(self.pipe)
            self.pipe = -1
            return False
        self.log.add(blob)
        self.copy.add(blob)
        return True

    def obey(self, word: bytes) -> None:
        """Do what the supervisor says; nothing more to read means that it is dead."""
        if word == b"":
            os.close(self.lifeline_fd)
            self.lifeline_fd = -1
            self.end("orphaned", min(ORPHAN_GRACE_S, self.spec["grace_s"]))
        elif word in (TERMINATE, KILL):
            self.end("stopped", 0.0 if word == KILL else self.spec["grace_s"])

    def reap(self) -> bool:
        """Collect whatever has ended, and remember how the command itself did; False when no child is left.

        A subreaper without children has no descendants either: whoever lost its parent became a child.
        """
        while True:
            try:
                pid, status, _ = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.pid:
                self.status = status

    def look(self, now: float) -> None:
        """See what the run uses, and end it when that is more than it may."""
        limit_mb, limit = self.spec["memory_mb"], self.spec["processes"]
        if limit is not None and now >= self.next_count:
            self.next_count = now + POLL_S
            if sum(map(is_live, descendants(os.getpid()))) > limit:
                self.end("processes", 0.0)
        if now >= self.next_look:
            self.peak_bytes = max(self.peak_bytes, memory_of(descendants(os.getpid())))
            self.next_look = now + MEMORY_POLL_S
            if limit_mb is not None and self.peak_bytes > limit_mb * 2**20:
                self.end("memory", 0.0)

    # ---- the end

    def end(self, reason: str, grace_s: float) -> None:
        """TERM to everything, and KILL after the grace period; said again, it can only bring the KILL forward."""
        self.kill_at = min(self.kill_at, time.monotonic() + grace_s)
        if not self.reason:
            self.reason = reason
            self.signal_tree(signal.SIGTERM)
            self.signal_tree(signal.SIGCONT)  # a stopped process takes TERM only when it goes on

    def signal_tree(self, number: int) -> None:
        """Signal every process below this warden, once; the command's group where the system can't list them."""
        targets = [(os.kill, pid) for pid in descendants(os.getpid())]
        if not targets and self.status is None:  # once it is reaped, its number may be a stranger's
            targets = [(signal_group, self.pid)]
        for call, pid in targets:
            send(call, pid, number)

    def sweep(self) -> bool:
        """Kill everything that the command left behind; False when something is still there.

        Only own children are killed, generation by generation: their pids can't be taken over by a
        stranger before they are reaped here.
        """
        if not IS_LINUX:
            send(os.killpg, self.pid, signal.SIGKILL)
        deadline = time.monotonic() + SWEEP_S
        while self.reap():
            if time.monotonic() >= deadline:
                return False
            for pid in children_of(os.getpid()):
                send(os.kill, pid, signal.SIGKILL)
            self.pump(0.005)
        return True

    def drain(self) -> None:
        """Take what is left in the pipe: with every writer dead, that is finite."""
        deadline = time.monotonic() + SWEEP_S
        while self.pipe >= 0 and time.monotonic() < deadline and self.pump(0):
            pass

    def account(self, wall_s: float, *, is_swept: bool) -> dict[str, Any]:
        status = self.status or 0
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
        return {
            "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            "started": self.started,
            "wall_s": wall_s,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_bytes": max(self.peak_bytes, usage.ru_maxrss * unit),
            "reason": self.reason,
            "refused": os.read(self.refusal, CHUNK).decode(),
            "is_swept": is_swept,
            "survivors": [] if is_swept else descendants(os.getpid()),
            "log_bytes": self.log.total,
            "log_error": self.log.error,
        }

    def tell(self, line: bytes) -> None:
        try:
            os.write(self.report_fd, line)
        except BrokenPipeError:
            return  # the lifeline says the same, and is obeyed

    def serve(self) -> None:
        self.watch()
        wall_s = time.monotonic() - self.started
        is_swept = self.sweep()
        self.drain()
        self.log.close()
        self.copy.finish()
        self.tell(ascii(self.account(wall_s, is_swept=is_swept)).encode() + b"\n")


def read_spec(fd: int) -> dict[str, Any]:
    """What to run: the first words on the lifeline. Not a byte more is read, since orders may follow them."""
    head = b""
    while not head.endswith(b"\n"):
        head += read_exactly(fd, 1)
    spec: dict[str, Any] = marshal.loads(read_exactly(fd, int(head)))
    return spec


def read_exactly(fd: int, size: int) -> bytes:
    """So many bytes; the end of this process where they do not come: the supervisor died before it had said them."""
    blob = b""
    while len(blob) < size:
        more = os.read(fd, size - len(blob))
        if not more:
            os._exit(0)
        blob += more
    return blob


def main(argv: list[str]) -> int:
    """Run one command to its end and report on it."""
    report_fd, lifeline_fd, log_fd, *copy_fds = fds = [int(word) for word in argv]
    for fd in fds:
        os.set_inheritable(fd, False)  # or the run could forge the report
    prctl(PR_SET_DUMPABLE, 0)  # or the run could open them through /proc, unless it is root
    set_all(ORDERS, signal.SIG_IGN)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    spec = read_spec(lifeline_fd)
    copy_fd = copy_fds[0] if copy_fds else -1
    warden = Warden(spec, report_fd=report_fd, lifeline_fd=lifeline_fd, log_fd=log_fd, copy_fd=copy_fd)
    warden.launch()
    warden.serve()
    return 0


if __name__ == "__main__":
    # at once: taking the interpreter down in good order would keep the supervisor waiting
    os._exit(main(sys.argv[1:]))
