"""The book of a sweep: how each of its points ended, in a checksummed journal that only the sweep's process writes.

`sweep.json` beside it says what was to be run. Rows of results are what the book says, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from autoexperiment import journal
from autoexperiment.errors import HarnessError, Locked, UsageError
from autoexperiment.files import Lock, lock_holder, read_json, write_json
from autoexperiment.paths import SweepPaths
from autoexperiment.sweep.points import Point, Result

OPENED, ASKED, ENDED = "opened", "asked", "ended"
BOOK = journal.Kind(
    "book", "sweep", again="mlx sweep run --resume", look="mlx sweep status", anew="start the sweep again",
    is_private=False,
)  # fmt: skip

_NEEDED = frozenset({"planned", "slots", "metric", "goal"})
_ANEW = "What the book says is not lost. To have it written anew: mlx sweep run --resume --config FILE"

Row = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """A point that has ended, as the book has it."""

    number: int
    trial: int
    rung: int
    seed: int | None
    key: str
    params: Mapping[str, Any]
    result: Result

    def row(self) -> Row:
        """What programs, tables and trackers get of it."""
        return {
            "number": self.number,
            "trial": self.trial,
            "rung": self.rung,
            "seed": self.seed,
            "params": dict(self.params),
            **self.result.to_json(),
            "status": str(self.result.status),
            "key": self.key,
        }


@dataclass
class Contents:
    """What a book says.

    Attributes:
        base: identity of the configuration that all points start from; "" in an empty book.
        ended: by key; of a point that was tried again, the last.
        events: what an adaptive sampler saw, in order: the params of a trial that it proposed, or the key of a point
            that ended.
    """

    base: str = ""
    ended: dict[str, Ended] = field(default_factory=dict)
    events: list[dict[str, Any] | str] = field(default_factory=list)

    def take(self, record: Mapping[str, Any]) -> None:
        kind = record["kind"]
        if kind == OPENED:
            self.base = record["base"]
        elif kind == ASKED:
            self.events.append(dict(record["params"]))
        elif kind == ENDED:
            words = {name: record[name] for name in ("number", "trial", "rung", "seed", "key")}
            self.events.append(record["key"])
            result = Result.from_json(record["result"])
            self.ended[record["key"]] = Ended(**words, params=dict(record["params"]), result=result)

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The trials that an adaptive sampler proposed."""
        return [event for event in self.events if not isinstance(event, str)]

    @property
    def rows(self) -> list[Row]:
        """By trial, then seed, then rung."""
        ordered = sorted(self.ended.values(), key=lambda point: (point.rung, point.trial, point.number))
        return [point.row() for point in ordered]


def read(paths: SweepPaths) -> Contents:
    """What the book of a sweep says, for readers. Raises: UsageError: there is none. LedgerCorrupt."""
    if not paths.book.exists():
        raise UsageError(
            f"There is no sweep in {paths.folder}: it has no {paths.book.name}. Start one: mlx sweep run --config FILE"
        )
    contents = Contents()
    for record in journal.read(paths.book, kind=BOOK):
        contents.take(record)
    return contents


def definition(paths: SweepPaths) -> dict[str, Any]:
    """What the sweep was last asked to run. Raises: HarnessError: it is not there, or not readable."""
    try:
        value = read_json(paths.definition)
    except UsageError as error:
        raise HarnessError(f"{error} {_ANEW}") from error
    if not isinstance(value, dict) or not value.keys() >= _NEEDED:
        raise HarnessError(f"{paths.definition} is damaged: it does not say what was to be run. {_ANEW}")
    return value


def going_on(paths: SweepPaths) -> Locked:
    """The error of who wants to run a sweep that another process runs."""
    return Locked(
        f"The sweep in {paths.folder} is going on in process {lock_holder(paths.lock)}. Wait for its end, or give this one "
        "another name."
    )


def _pairs(params: Mapping[str, Any]) -> list[list[Any]]:
    """Parameters in their own order: the journal sorts the names of an object."""
    return [[path, value] for path, value in params.items()]


class Book:
    """The open book of the one process that runs the sweep. `contents`: what it says now."""

    def __init__(self, lock: Lock, opened: journal.Journal, contents: Contents) -> None:
        self._lock, self._journal, self.contents = lock, opened, contents

    @classmethod
    def open(cls, paths: SweepPaths) -> Book:
        """Raises: Locked: the sweep is going on in another process. LedgerCorrupt. LabError."""
        paths.folder.mkdir(parents=True, exist_ok=True)  # before the lock, which would make it private
        lock = Lock(paths.lock)
        try:
            lock.acquire()
        except Locked:
            raise going_on(paths) from None
        try:
            opened, records = journal.Journal.open(paths.book, kind=BOOK)
        except BaseException:
            lock.release()
            raise
        contents = Contents()
        for record in records:
            contents.take(record)
        return cls(lock, opened, contents)

    def begin(self, paths: SweepPaths, wanted: Mapping[str, Any], *, base: str) -> None:
        """Write down what is to be run from now on. `base`: identity of what all points start from."""
        self.define(paths, wanted)
        self._append({"kind": OPENED, "base": base})

    def define(self, paths: SweepPaths, wanted: Mapping[str, Any]) -> None:
        """Write down what is to be run, or when it has been run, what that was."""
        write_json(paths.definition, wanted)

    def ask(self, params: Mapping[str, Any]) -> None:
        """Write down what an adaptive sampler proposed, before it is run."""
        self._append({"kind": ASKED, "params": _pairs(params)})

    def end(self, point: Point, result: Result) -> Ended:
        """Write down how a point ended; it is on the disk when this returns."""
        self._append(
            {
                "kind": ENDED,
                "number": point.number,
                "trial": point.trial,
                "rung": point.rung,
                "seed": point.seed,
                "key": point.key,
                "params": _pairs(point.params),
                "result": result.to_json(),
            }
        )
        return self.contents.ended[point.key]

    def _append(self, record: dict[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        self.contents.take(self._journal.append(record, time=time))

    def close(self) -> None:
        self._journal.close()
        self._lock.release()

    def __enter__(self) -> Book:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
