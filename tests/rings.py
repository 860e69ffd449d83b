"""Groups of processes on this machine, for the tests of the launcher and of what it launches."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import psutil

from autoexperiment import hosts, ring

FAR_S = 100.0  # limits that nothing here is to reach


def job_of(folder: Path, code: str, *, size: int = 2, timeout_s: float = FAR_S, join_s: float = FAR_S) -> ring.Job:
    """A group of Python programs on this machine, at work in `folder`."""
    words = (sys.executable, "-c", code)
    places = hosts.hosts_here(size)
    return ring.Job(words, places, tuple(range(size)), folder, folder / "logs", timeout_s, join_s)


def processes_of(job: ring.Job) -> list[psutil.Process]:
    """Live processes that were told of this job's hosts."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            is_live = process.status() != psutil.STATUS_ZOMBIE
            if is_live and process.environ().get("MLX_HOSTFILE") == str(job.hostfile):
                found.append(process)
    return found
