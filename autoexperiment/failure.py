"""What went wrong in a run, read from the end of its log: bounded, stripped, and never trusted."""

from __future__ import annotations

import hashlib
import re
import signal as signals
from dataclasses import dataclass
from pathlib import Path

from autoexperiment.vocabulary import Outcome

MESSAGE_LIMIT = 300
FRAME_LIMIT = 120
DIVERGED_EXIT = 3

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_TRACEBACK = "Traceback (most recent call last):"
_FRAME = re.compile(r'\s*\|?\s*File "([^"\n]{1,1000})", line (\d{1,9})(?:, in (.{1,200}))?$')
_ERROR = re.compile(r"([A-Za-z_][\w.]{0,100})(?:: (.*))?$")
_OUT_OF_MEMORY = re.compile(
    r"out of memory|insufficient memory|cannot allocate memory|kIOGPUCommandBufferCallbackErrorOutOfMemory"
    r"|\[malloc_or_wait\]|unable to allocate \d+ bytes",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Failure:
    """Why a run ended badly.

    Attributes:
        kind: exception type, "SIGSEGV" or "exit 7".
        message: one line, at most 300 characters.
        frame: the deepest frame in the run's own files, as "train.py:12 in main"; "" when unknown.
    """

    kind: str
    message: str
    frame: str = ""

    @property
    def fingerprint(self) -> str:
        """Equal for the same failure: numbers, addresses, quoted values and paths do not count."""
        place = re.sub(r":\d+", "", self.frame)
        text = re.sub(r"'[^']*'|\"[^\"]*\"|/\S+|0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", "#", self.message)
        return hashlib.sha256(f"{self.kind}\n{place}\n{text}".encode()).hexdigest()[:16]


def clean(text: str, limit: int) -> str:
    """One line without ANSI sequences or control characters, cut to `limit` characters."""
    line = "".join(c if c.isprintable() else " " for c in _ANSI.sub("", text))
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def lines_of(log: bytes) -> list[str]:
    """Lines of a log, also split where a progress bar returned the carriage."""
    return re.split(r"[\r\n]+", log.decode("utf-8", "replace"))


def classify(
    log: bytes, *, exit_code: int | None, signal: int | None, killed_by_us: bool, folder: Path
) -> tuple[Outcome, Failure | None]:
    """Outcome and failure of a process that has ended.

    Args:
        log: the end of its output.
        folder: the run's own folder; frames outside it are passed over.
    """
    if exit_code == 0:
        return Outcome.OK, None
    lines = lines_of(log)
    told = [line for line in lines if line.startswith("diverged:")]
    if exit_code == DIVERGED_EXIT and told:
        return Outcome.DIVERGED, Failure("diverged", clean(told[-1].removeprefix("diverged:"), MESSAGE_LIMIT))
    failure = _from_traceback(lines, folder) or _from_ending(lines, exit_code, signal)
    was_starved = signal == signals.SIGKILL and not killed_by_us
    if was_starved:
        failure = Failure("SIGKILL", "killed by the system, most likely for want of memory")
    is_oom = was_starved or failure.kind == "MemoryError" or bool(_OUT_OF_MEMORY.search(failure.message))
    return (Outcome.OOM if is_oom else Outcome.CRASHED), failure


def _from_ending(lines: list[str], exit_code: int | None, signal: int | None) -> Failure:
    said = next((clean(line, MESSAGE_LIMIT) for line in reversed(lines) if line.strip()), "")
    if signal:
        return Failure(signals.Signals(signal).name if signal in set(signals.Signals) else f"signal {signal}", said)
    return Failure(f"exit {exit_code}", said)


def _from_traceback(lines: list[str], folder: Path) -> Failure | None:
    """The last traceback of a log: its error line and its deepest frame in the run's own files."""
    starts = [i for i, line in enumerate(lines) if line.strip(" |+").startswith(_TRACEBACK)]
    if not starts:
        return None
    frame, own = "", folder.resolve()
    for line in lines[starts[-1] + 1 :]:
        if match := _FRAME.match(line):
            path = Path(match[1])
            if not path.is_absolute() or own in path.parents:
                where = f" in {match[3]}" if match[3] else ""
                frame = clean(f"{path.name}:{match[2]}{where}", FRAME_LIMIT)
        elif line and not line[0].isspace() and (match := _ERROR.match(line.strip())):
            return Failure(clean(match[1].rpartition(".")[2], 80), clean(match[2] or "", MESSAGE_LIMIT), frame)
    return Failure("traceback", "the log ends inside a traceback", frame)
