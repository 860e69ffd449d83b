"""A dask cluster of real processes, a scheduler and workers, as a person starts them with `dask`.

They are forked from one process that has imported dask (see `main`), which takes a second for each otherwise. It ends
with whoever started it, and all of them with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [place for place in (str(HERE), str(HERE.parent)) if place not in sys.path]

from held_points import lives, wait_until  # noqa: E402

from autoexperiment.hosts import LOOPBACK, free_ports  # noqa: E402

HEEDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Forks:
    """The process that all others are forked from."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, words: Sequence[str], log: Path, environment: dict[str, str], *, inside: Sequence[str] = ()) -> int:
        """The pid of `dask` with these words, in the folder of its log.

        Args: inside: words of a command that starts it somewhere else, and becomes it.
        """
        assert self._process.stdin and self._process.stdout
        asked = {"words": list(words), "log": str(log), "environment": environment, "inside": list(inside)}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@dataclass
class Cluster:
    """Logs lie in `folder`. `host`: where the scheduler listens, at `port`. Processes by pid."""

    folder: Path
    environment: dict[str, str]
    forks: Forks
    host: str = LOOPBACK
    port: int = field(default_factory=lambda: free_ports(1)[0])
    scheduler: int | None = None
    workers: list[int] = field(default_factory=list)
    count: int = 0

    @property
    def address(self) -> str:
        return f"tcp://{self.host}:{self.port}"

    def start_scheduler(self) -> None:
        words = ["scheduler", "--host", self.host, "--port", str(self.port), "--no-dashboard"]
        self.scheduler = self.forks.start(words, self._new_log(), self.environment)

    def start_worker(self, *more: str, threads: int = 1, inside: Sequence[str] = ()) -> int:
        """Start a worker, and wait until the scheduler knows it. Args: inside: as of `Forks.start`."""
        log = self._new_log()
        words = self._worker_words(threads, *more)
        self.workers.append(self.forks.start(words, log, self.environment, inside=inside))
        wait_for_worker(log)
        return self.workers[-1]

    def _worker_words(self, threads: int, *more: str) -> list[str]:
        local = str(self.folder / f"local{self.count}")
        return [
            "worker", self.address, "--no-nanny", "--no-dashboard", "--nthreads", str(threads), "--local-directory", local,
            "--death-timeout", "60", *more,
        ]  # fmt: skip

    def _new_log(self) -> Path:
        self.count += 1
        return self.folder / f"dask{self.count}.log"

    def worker_address(self) -> str:
        """Of any worker."""
        text = "".join(log.read_text() for log in self.folder.glob("dask*.log"))
        return re.findall(r"Start worker at: +(\S+)", text)[-1]

    def kill_scheduler(self) -> None:
        if self.scheduler is not None:
            kill(self.scheduler)
            self.scheduler = None

    def kill_workers(self) -> None:
        while self.workers:
            kill(self.workers.pop())


def wait_for_worker(log: Path) -> None:
    wait_until(lambda: log.exists() and b"Registered to" in log.read_bytes(), f"the worker of {log}")


def kill(pid: int) -> None:
    """kill -9, and wait for the end."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not lives(pid), f"the end of {pid}")


@contextmanager
def cluster_in(folder: Path, environment: dict[str, str], forks: Forks, **more: Any) -> Iterator[Cluster]:
    """A cluster without processes; none that it is given outlives it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Cluster(folder, environment, forks, **more)
    with contextlib.ExitStack() as stack:
        stack.callback(made.kill_scheduler)
        stack.callback(made.kill_workers)
        yield made


# ---- the process that is forked


def main() -> int:
    """Fork a `dask` for each line that comes, and answer with its pid; end them all when no more lines come."""
    from distributed.cli import dask_scheduler, dask_worker

    import autoexperiment.sweep.crew
    import autoexperiment.sweep.launching  # noqa: F401

    commands = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for number in HEEDED:
        signal.signal(number, signal.SIG_IGN)  # this process ends when its input does, and they with it
    started = []
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(asked["log"], asked["environment"])
            if inside := asked["inside"]:
                os.execvp(inside[0], [*inside, sys.executable, "-m", "dask", *asked["words"]])
            commands[asked["words"][0]](asked["words"][1:])
            os._exit(0)
        started.append(pid)
        print(pid, flush=True)
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return 0


def _become(log: str, environment: dict[str, str]) -> None:
    import dask

    for number in (signal.SIGCHLD, *HEEDED):
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(environment)
    dask.config.refresh()
    os.chdir(os.path.dirname(log))
    out, nothing = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), os.open(os.devnull, os.O_RDONLY)
    for file, number in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(file, number)


if __name__ == "__main__":
    sys.exit(main())
