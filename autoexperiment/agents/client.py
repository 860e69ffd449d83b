"""What a headless client has to say for itself: how it is started for one visit, and how its output is read."""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

from autoexperiment.agents.trouble import Fault, Outcome, fault_of
from autoexperiment.errors import Refused

Event = Mapping[str, Any]
STRAY_LINES = 40
STRAY_CHARS = 2_000


@dataclass(frozen=True)
class Task:
    """One visit's work.

    Attributes:
        desk: the folder to work in, absolute, without links.
        editable, protected: globs of the files that may change, and of those of them that may not; relative to the desk.
        private: a folder for this visit alone, which goes with it.
        is_fenced: what the client starts can write to these two folders, and to what it names as its own, only.
    """

    prompt: str
    desk: Path
    editable: tuple[str, ...]
    private: Path
    is_fenced: bool
    protected: tuple[str, ...] = ()


@dataclass(frozen=True)
class Start:
    """How a client is started.

    Attributes:
        env: beside the user's own environment, or in place of it.
        writable: the client's own folders and files, which it needs to write.
    """

    words: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    writable: Sequence[Path] = ()


@dataclass
class Account:
    """What a client's output has told so far.

    Attributes:
        said: the agent's last words.
        is_done: the client said that the work is over, and well.
        fault: what the client says ended it.
        pending: what it says it is trying again after; forgotten when it gets on.
        stray: the last lines that are no events.
        speech: the last lines of an agent that writes plain text; nothing is read into them.
    """

    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    said: str = ""
    is_done: bool = False
    fault: Fault | None = None
    pending: Fault | None = None
    cost_usd: float | None = None
    tokens: int | None = None
    stray: deque[str] = field(default_factory=lambda: deque(maxlen=STRAY_LINES))
    speech: deque[str] = field(default_factory=lambda: deque(maxlen=STRAY_LINES))

    def fail(self, text: str, *, status: int | None = None) -> None:
        """Take down an error that ended the client. A limit whose end was told before, to the second, keeps that."""
        fault, before = fault_of(text, self.clock(), status=status), self.pending
        if before is not None and before.reset_at and fault.outcome in (Outcome.USAGE_LIMIT, Outcome.OVERLOADED):
            fault = replace(fault, outcome=Outcome.USAGE_LIMIT, reset_at=before.reset_at)
        self.fault, self.is_done = fault, False

    def wait(self, text: str, *, status: int | None = None) -> None:
        """Take down an error that the client wants to overcome by itself."""
        self.pending = fault_of(text, self.clock(), status=status)

    def finish(self, said: str = "") -> None:
        """The work is over, and nothing that went wrong before matters."""
        self.said = said or self.said
        self.is_done, self.fault, self.pending = True, None, None

    def spend(self, *tokens: Any, cost_usd: Any = None) -> None:
        """Add to what the visit cost; what is no number is passed over."""
        numbers = [int(n) for n in tokens if _is_number(n)]
        if numbers:
            self.tokens = (self.tokens or 0) + sum(numbers)
        if _is_number(cost_usd):
            self.cost_usd = (self.cost_usd or 0.0) + float(cost_usd)

    def hear(self, line: bytes, *, is_speech: bool = False) -> None:
        """Keep a line that is no event, of the client itself or (speech) of its agent."""
        text = line.decode("utf-8", "replace").strip()
        if text:
            (self.speech if is_speech else self.stray).append(text[:STRAY_CHARS])


class Client(Protocol):
    """A headless client."""

    @property
    def name(self) -> str:
        """The word that a person types for it."""

    @property
    def login_hint(self) -> str:
        """What a person types when it is not logged in."""

    @property
    def exits(self) -> Mapping[int, Outcome]:
        """Exit codes that say how it ended where its output does not."""

    def start(self, task: Task) -> Start:
        """How it is started; what it needs for that is written to the task's private folder."""

    def read(self, line: bytes, account: Account) -> None:
        """Take in one line of output, whatever it is."""


class EventClient(ABC):
    """The part that clients have in common which write one JSON object per line."""

    exits: ClassVar[Mapping[int, Outcome]] = {}

    def read(self, line: bytes, account: Account) -> None:
        """Read an event; anything else is kept as a stray line."""
        event = event_in(line)
        if event is None:
            account.hear(line)
        else:
            self.take(event, account)

    @abstractmethod
    def take(self, event: Event, account: Account) -> None:
        """Take in one event."""


def event_in(line: bytes) -> Event | None:
    """The JSON object on a line, also behind other text: two writers can meet on one line. None: there is none."""
    text = line.strip()
    start = 0 if text.startswith(b"{") else text.find(b'{"type"')
    while start >= 0:
        found = _object_at(text[start:])
        if found is not None:
            return found
        start = text.find(b'{"type"', start + 1)
    return None


def _object_at(text: bytes) -> Event | None:
    try:
        event: Event = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return event


def part(value: Any, *names: str) -> Any:
    """What lies at a path of names in nested objects; None where one is missing or no object."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def words_of(value: Any) -> str:
    """A text, or the texts of a message's content blocks, one per line."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [part(block, "text") for block in value if part(block, "type") == "text"]
        return "\n".join(text for text in texts if isinstance(text, str))
    return ""


def program(name: str, *, install: str) -> str:
    """Where a client's program is. Raises: Refused: it is not on the PATH."""
    found = shutil.which(name)
    if found is None:
        raise Refused(f"The program {name!r} is not on the PATH, so it can't be the agent. Install it: {install}")
    return str(Path(found).absolute())


def home() -> Path:
    """The user's home, which clients keep their settings in."""
    return Path("~").expanduser()


def folder_of(variable: str, default: Path) -> Path:
    """The folder that a variable of the environment names, or the client's default."""
    named = os.environ.get(variable)
    return Path(named).expanduser() if named else default


def existing(file: Path) -> list[Path]:
    """A file that may be overwritten, if it is there: behind a fence it can't be made."""
    return [file] if file.is_file() else []


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12
