"""The harness's training process: started under the supervisor, and read along while it works."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from autoexperiment import threads
from autoexperiment.failure import clean
from autoexperiment.files import remove_folder
from autoexperiment.paths import RunPaths, cache_home
from autoexperiment.supervisor import Ending, Limits, Signals, run_environment, supervise
from autoexperiment.training.request import Request
from autoexperiment.vocabulary import Outcome

if TYPE_CHECKING:
    from autoexperiment.planning import ExperimentPlan

NO_TIMEOUT_S = 10 * 365 * 86_400.0  # a run of the harness may take as long as it takes
LINE_LIMIT = 2000
STOPPED = 130  # the exit code with which a training process says that it was told to stop
_SAID = re.compile(rb"(dataset|model|metrics|epoch|done|error|diverged|interrupted|note)\b:? ?(.*)")

Heard = Callable[[str, str], None]


class Observer(Protocol):
    """What a front end hears while an experiment is run or a checkpoint evaluated."""

    def begun(self, plan: ExperimentPlan, run: RunPaths) -> None: ...
    def heard(self, word: str, text: str) -> None: ...


class Quiet:
    """An observer that shows nothing."""

    def begun(self, plan: ExperimentPlan, run: RunPaths) -> None: ...
    def heard(self, word: str, text: str) -> None: ...


@dataclass
class Listening:
    """Passes on what the training process says, and keeps its last complaint. Nothing is decided by its lines."""

    observer: Observer
    complaint: str = ""

    def heard(self, word: str, text: str) -> None:
        if word in ("error", "diverged"):
            self.complaint = text
        self.observer.heard(word, text)

    def outcome(self, ending: Ending, *, is_finished: bool) -> Outcome:
        """How the process ended. That the machine slept meanwhile changes no number: none depends on a clock.

        Args: is_finished: whether its files say that the work was done.
        """
        if ending.exit_code == 0 and is_finished:
            return Outcome.OK
        if ending.outcome is Outcome.CRASHED and ending.exit_code == STOPPED:
            return Outcome.INTERRUPTED
        return Outcome.CRASHED if ending.outcome is Outcome.OK else ending.outcome

    def reason(self, ending: Ending) -> str:
        """Why it did not end well, in a sentence."""
        unfinished = "The process ended before its work did: code of the dataset has ended it."
        return self.complaint or ending.reason or unfinished


def blas_threads() -> int:
    """How many threads BLAS, MLX's and NumPy's, has in a training process."""
    return threads.given() or threads.usual()


def _listener(heard: Heard) -> Callable[[bytes], bool]:
    """A predicate for the supervisor that ends nothing, and passes the process's own lines on."""

    def look(line: bytes) -> bool:
        if match := _SAID.match(line.rstrip(b"\r\n")[: 4 * LINE_LIMIT]):
            heard(match[1].decode(), clean(match[2].decode("utf-8", "replace"), LINE_LIMIT))
        return False

    return look


def run(
    request: Request,
    *,
    folder: Path,
    log: Path,
    heard: Heard,
    timeout_s: float | None = None,
    threads: int | None = None,
    signals: Signals | None = None,
) -> Ending:
    """Let a training process do what is asked, to its end.

    Args:
        folder: where it works; its private home lies below meanwhile.
        heard: told each line of the protocol as a word ("dataset", "model", "epoch", "error" …) and the rest of the
            line, bounded and without control characters. A dataset's own code may print such lines as well: they
            are for showing only.
        threads: of BLAS; None: `blas_threads()`.
        signals: as of `supervise`.
    """
    command = [sys.executable, "-P", "-m", "autoexperiment.training.child", request.to_json()]
    extra = {"AUTORESEARCH_CACHE": str(cache_home()), "OPENBLAS_NUM_THREADS": str(threads or blas_threads())}
    environment = run_environment(folder, extra=extra)
    try:
        return supervise(
            command, cwd=folder, log=log, limits=Limits(timeout_s or NO_TIMEOUT_S), env=environment,
            until=_listener(heard), signals=signals,
        )  # fmt: skip
    finally:
        remove_folder(RunPaths(folder).private)
