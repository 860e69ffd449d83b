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
KIND_LIMIT = 80
LAST_LINES = 20  # where a native library's complaint stands when no traceback follows it
DIVERGED_EXIT = 3
SHELL_SIGKILL = 128 + 9  # how a shell reports that its command was killed

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_GROUP_BAR = re.compile(r"^ *(?:\| )+(?=.)|^ *\+-\+.*|^ *\+ ")  # what an exception group draws before its lines
_TRACEBACK = re.compile(r"(?:Exception Group )?Traceback \(most recent call last\):")
_FRAME = re.compile(r'\s*File "([^"\n]{1,1000})", line (\d{1,9})(?:, in (.{1,200}))?$')
_ERROR = re.compile(r"([A-Za-z_][\w.<>]{0,200})(?:: (.*))?$")
_IGNORED = "Exception ignored in"  # a traceback at exit, after the one that matters
_OUT_OF_MEMORY = re.compile(
    r"out[ _]?of[ _]?memory|insufficient memory|cannot allocate memory|std::bad_alloc|cudaErrorMemoryAllocation"
    r"|\[malloc_or_wait\]|\[metal::malloc\]|unable to allocate [\d.]+ \w+",
    re.IGNORECASE,
)
_VARYING = re.compile(r"/\S+|0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


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
        """Equal for the same failure: numbers, addresses and absolute paths do not count, words do."""
        place = re.sub(r":\d+", "", self.frame)
        return hashlib.sha256(f"{self.kind}\n{place}\n{_VARYING.sub('#', self.message)}".encode()).hexdigest()[:16]


def clean(text: str, limit: int) -> str:
    """One line without ANSI sequences or control characters, cut to `limit` characters."""
    line = "".join(c if c.isprintable() else " " for c in _ANSI.sub("", text))
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def lines_of(log: bytes) -> list[str]:
    """A log's lines, split also where a progress bar returned the carriage; no ANSI sequences."""
    text = log.decode("utf-8", "replace")
    return [_ANSI.sub("", line) for line in re.split(r"[\r\n]+", text)]


def classify(log: bytes, *, exit_code: int | None, signal: int | None, folder: Path) -> tuple[Outcome, Failure | None]:
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
    if signal == signals.SIGKILL or exit_code == SHELL_SIGKILL:
        return Outcome.OOM, Failure("SIGKILL", "killed by the system, most likely out of memory")
    failure, said = None if signal else _from_traceback(lines, folder), ""
    if failure is None:
        failure, said = _from_ending(lines, exit_code, signal), "\n".join(lines[-LAST_LINES:])
    is_oom = failure.kind.endswith("MemoryError") or _OUT_OF_MEMORY.search(f"{failure.message}\n{said}")
    return (Outcome.OOM if is_oom else Outcome.CRASHED), failure


def _from_ending(lines: list[str], exit_code: int | None, signal: int | None) -> Failure:
    said = next((text for line in reversed(lines) if (text := clean(line, MESSAGE_LIMIT))), "")
    if signal:
        return Failure(signals.Signals(signal).name if signal in set(signals.Signals) else f"signal {signal}", said)
    return Failure(f"exit {exit_code}", said)


def _from_traceback(lines: list[str], folder: Path) -> Failure | None:
    """The last traceback of a log: its error line and its deepest frame in the run's own files."""
    lines = [_GROUP_BAR.sub("", line) for line in lines]
    start = _start_of_traceback(lines)
    if start is None:
        return None
    frame, roots = "", (folder, folder.resolve())
    for line in lines[start:]:
        if match := _FRAME.match(line):
            frame = _own_frame(match, roots) or frame
        elif line and not line[0].isspace() and not _TRACEBACK.match(line) and (match := _ERROR.match(line.strip())):
            kind = clean(match[1].rpartition(".")[2], KIND_LIMIT)
            return Failure(kind, clean(match[2] or "", MESSAGE_LIMIT), frame)
    return Failure("traceback", "the log ends inside a traceback", frame)


def _start_of_traceback(lines: list[str]) -> int | None:
    """Index of the last traceback's first line; a syntax error in the script itself comes without that line."""
    starts = [
        i for i, line in enumerate(lines) if _TRACEBACK.match(line) and not lines[max(0, i - 1)].startswith(_IGNORED)
    ]
    if starts:
        return starts[-1]
    first = max(0, len(lines) - LAST_LINES)
    bare = [i for i, line in enumerate(lines[first:], first) if (match := _FRAME.match(line)) and match[3] is None]
    return bare[-1] if bare else None


def _own_frame(match: re.Match[str], roots: tuple[Path, ...]) -> str:
    """A frame as "model.py:12 in forward", or "" when the file is not one of the run's own."""
    path = Path(match[1])
    if path.is_absolute():
        own = next((root for root in roots if root in path.parents), None)
        if own is None:
            return ""
        path = path.relative_to(own)
    if "site-packages" in path.parts or path.name.startswith("<frozen"):
        return ""
    where = f" in {match[3]}" if match[3] else ""
    return clean(f"{path}:{match[2]}{where}", FRAME_LIMIT)
