"""The harness's training process: started under the supervisor, and read along while it works."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from autoexperiment.failure import clean
from autoexperiment.files import remove_folder
from autoexperiment.paths import RunPaths, cache_home
from autoexperiment.supervisor import Ending, Limits, run_environment, supervise
from autoexperiment.training.request import Request

NO_TIMEOUT_S = 10 * 365 * 86_400.0  # a run of the harness may take as long as it takes
LINE_LIMIT = 2000
STOPPED = 130  # the exit code with which a training process says that it was told to stop
_SAID = re.compile(rb"(dataset|model|metrics|epoch|done|error|diverged|interrupted|note)\b:? ?(.*)")

Heard = Callable[[str, str], None]


def _listener(heard: Heard) -> Callable[[bytes], bool]:
    """A predicate for the supervisor that ends nothing, and passes the process's own lines on."""

    def look(line: bytes) -> bool:
        if match := _SAID.match(line.rstrip(b"\r\n")[: 4 * LINE_LIMIT]):
            heard(match[1].decode(), clean(match[2].decode("utf-8", "replace"), LINE_LIMIT))
        return False

    return look


def run(request: Request, *, folder: Path, log: Path, heard: Heard, timeout_s: float | None = None) -> Ending:
    """Let a training process do what is asked, to its end.

    Args:
        folder: where it works; its private home lies below meanwhile.
        heard: told each line of the protocol as a word ("dataset", "model", "epoch", "error" …) and the rest of the
            line, bounded and without control characters. A dataset's own code may print such lines as well: they
            are for showing only.
    """
    command = [sys.executable, "-P", "-m", "autoexperiment.training.child", request.to_json()]
    environment = run_environment(folder, extra={"AUTORESEARCH_CACHE": str(cache_home())})
    try:
        return supervise(
            command, cwd=folder, log=log, limits=Limits(timeout_s or NO_TIMEOUT_S), env=environment,
            until=_listener(heard),
        )  # fmt: skip
    finally:
        remove_folder(RunPaths(folder).private)
