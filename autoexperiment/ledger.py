"""The meaning of a session's journal: which records there are, in which order, and what they add up to."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from autoexperiment import journal
from autoexperiment.errors import LedgerCorrupt, Refused, UsageError, unknown
from autoexperiment.journal import Journal, Record
from autoexperiment.vocabulary import Outcome, TrustLevel, Verdict

VERSION = 1
# Notes of a night, which its report sums up: what a headless agent's visit cost and left, what it brought, another
# source of power, a sleep.
PAID, VISIT, POWER, SLEPT = "visit paid", "visit", "power", "slept"

_MAYBE = (str, type(None))

# The fields of each kind and their JSON types. A note may carry any others besides.
FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "session": {"version": (int,), "tag": (str,), "branch": (str,), "base": (str,), "recipe": (dict,),
                "budget": (str,), "policy": (str,), "dataset": _MAYBE, "snapshot": _MAYBE, "harness": (dict,),
                "machine": (dict,), "options": (dict,)},
    "begin": {"experiment": (int,), "commit": (str,), "base": (str,), "content": (str,), "description": (str,),
              "lines_added": (int,), "lines_removed": (int,), "source": (str,)},
    "started": {"experiment": (int,), "run": (int,), "folder": (str,), "seed": (int, type(None))},
    "ended": {"experiment": (int,), "run": (int,), "ending": (dict,)},
    "scored": {"experiment": (int,), "run": (int,), "metrics": (dict,), "trust": (str,)},
    "decided": {"experiment": (int,), "verdict": _MAYBE, "outcome": (str,), "reason": (str,), "evidence": (dict,),
                "metrics": (dict,)},
    "applied": {"experiment": (int,), "head": (str,)},
    "note": {"what": (str,)},
}  # fmt: skip
_STAMPS = ("kind", "seq", "time")


@dataclass(frozen=True)
class RunRecord:
    """One run as the ledger knows it.

    `ending` is None while it goes on, `metrics` None without a score, `seed` None where the recipe takes none.
    """

    run: int
    folder: str
    seed: int | None
    ending: dict[str, Any] | None = None
    metrics: dict[str, float] | None = None
    trust: str | None = None


@dataclass(frozen=True)
class Experiment:
    """One candidate from begin to applied. `verdict` is None while undecided and when interrupted."""

    number: int
    commit: str
    base: str
    content: str
    description: str
    lines_added: int
    lines_removed: int
    source: str
    begun_at: str
    runs: tuple[RunRecord, ...] = ()
    verdict: Verdict | None = None
    outcome: Outcome | None = None
    reason: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    decided: bool = False
    decided_at: str = ""
    applied: bool = False


_Frozen = TypeVar("_Frozen", RunRecord, Experiment)


def _changed(value: _Frozen, **changes: Any) -> _Frozen:
    """`dataclasses.replace` without its walk over all fields, which doubled the time to fold a long ledger."""
    copy = object.__new__(type(value))
    copy.__dict__.update(value.__dict__, **changes)
    return copy


class _Illegal(Exception):
    """The record does not fit what came before; the message says why."""


def _check_fields(record: Record) -> None:
    """Raises: _Illegal: an unknown kind, a missing field, or one of the wrong type."""
    kind = record.get("kind")
    if kind not in FIELDS:
        raise _Illegal(f"kind {kind!r} is unknown")
    for name, types in FIELDS[kind].items():
        if name not in record:
            raise _Illegal(f"a {kind} record without {name}")
        if type(record[name]) not in types:
            raise _Illegal(f"{name} of a {kind} record is {record[name]!r:.80}")


def _check_numbers(metrics: dict[str, Any]) -> None:
    for name, value in metrics.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise _Illegal(f"metric {name} is {value!r:.80}, not a finite number")


class LedgerView:
    """Everything that a journal's records add up to. Read-only.

    `session` is {} before the first record. `incumbent` is the last experiment that was kept.
    """

    def __init__(self) -> None:
        self.session: dict[str, Any] = {}
        self.experiments: list[Experiment] = []
        self.notes: list[Record] = []
        self.incumbent: Experiment | None = None

    @property
    def unfinished(self) -> Experiment | None:
        """The experiment that has begun and is not applied."""
        last = self.experiments[-1] if self.experiments else None
        return last if last and not last.applied else None

    def _fold(self, record: Record) -> None:
        """Take one more record into account. Raises: _Illegal: it can't follow the ones before."""
        _check_fields(record)
        kind = record["kind"]
        if kind != "session" and not self.session:
            raise _Illegal(f"a {kind} record before the session record")
        try:
            getattr(self, f"_fold_{kind}")(record)
        except ValueError as error:  # a word that Outcome, Verdict or TrustLevel does not know
            raise _Illegal(str(error)) from error

    def _fold_session(self, record: Record) -> None:
        if self.session:
            raise _Illegal("a second session record")
        if record["version"] != VERSION:
            raise _Illegal(f"version {record['version']} of a session record; this release writes {VERSION}")
        self.session = record

    def _fold_note(self, record: Record) -> None:
        self.notes.append(record)

    def _fold_begin(self, record: Record) -> None:
        if self.unfinished:
            raise _Illegal(f"experiment {record['experiment']} begins while {self.unfinished.number} is unfinished")
        if record["experiment"] != len(self.experiments):
            raise _Illegal(f"experiment {record['experiment']} begins, {len(self.experiments)} is next")
        values = {name: record[name] for name in FIELDS["begin"] if name != "experiment"}
        self.experiments.append(Experiment(number=record["experiment"], begun_at=record["time"], **values))

    def _open_experiment(self, record: Record, *, decided: bool) -> Experiment:
        current = self.unfinished
        if current is None or record["experiment"] != current.number or current.decided is not decided:
            raise _Illegal(f"a {record['kind']} record for experiment {record['experiment']} out of order")
        return current

    def _fold_started(self, record: Record) -> None:
        current = self._open_experiment(record, decided=False)
        if record["run"] != len(current.runs) or any(run.ending is None for run in current.runs[-1:]):
            raise _Illegal(f"run {record['run']} of experiment {current.number} starts out of order")
        run = RunRecord(record["run"], record["folder"], record["seed"])
        self.experiments[-1] = _changed(current, runs=(*current.runs, run))

    def _change_run(self, record: Record, check: Callable[[RunRecord], bool], **changes: Any) -> None:
        current = self._open_experiment(record, decided=False)
        if record["run"] != len(current.runs) - 1 or not check(current.runs[-1]):
            raise _Illegal(
                f"a {record['kind']} record for run {record['run']} of experiment {current.number} out of order"
            )
        self.experiments[-1] = _changed(current, runs=(*current.runs[:-1], _changed(current.runs[-1], **changes)))

    def _fold_ended(self, record: Record) -> None:
        self._change_run(record, lambda run: run.ending is None, ending=record["ending"])

    def _fold_scored(self, record: Record) -> None:
        _check_numbers(record["metrics"])
        changes = {"metrics": record["metrics"], "trust": str(TrustLevel(record["trust"]))}
        self._change_run(record, lambda run: run.ending is not None and run.metrics is None, **changes)

    def _fold_decided(self, record: Record) -> None:
        current = self._open_experiment(record, decided=False)
        if any(run.ending is None for run in current.runs[-1:]):
            raise _Illegal(f"experiment {current.number} is decided while a run goes on")
        verdict = None if record["verdict"] is None else Verdict(record["verdict"])
        outcome = Outcome(record["outcome"])
        if (verdict is None) is not (outcome is Outcome.INTERRUPTED):
            raise _Illegal(
                f"verdict {record['verdict']} on an outcome {outcome}: nothing is decided about it, or all is"
            )
        if verdict is Verdict.KEEP and outcome is not Outcome.OK:
            raise _Illegal(f"experiment {current.number} is kept with outcome {outcome}")
        _check_numbers(record["metrics"])
        said = {name: record[name] for name in ("reason", "evidence", "metrics")}
        self.experiments[-1] = _changed(
            current, decided=True, decided_at=record["time"], verdict=verdict, outcome=outcome, **said
        )
        # The incumbent changes with the decision: applying it only makes git agree.
        if verdict is Verdict.KEEP:
            self.incumbent = self.experiments[-1]

    def _fold_applied(self, record: Record) -> None:
        current = self._open_experiment(record, decided=True)
        self.experiments[-1] = _changed(current, applied=True)
        if self.incumbent is not None and self.incumbent.number == current.number:
            self.incumbent = self.experiments[-1]


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@contextlib.contextmanager
def _without_gc() -> Iterator[None]:
    """Records hold no cycles, and looking for some took a fifth of the time to open 100,000 of them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _fold_all(view: LedgerView, records: Iterable[Record], path: Path) -> None:
    for record in records:
        if not view.session:
            _refuse_newer(record, path)
        try:
            view._fold(record)
        except _Illegal as error:
            raise LedgerCorrupt(
                f"{path}:{record['seq']} does not fit: {error}. Nothing was changed. "
                "Use the program that wrote it, or start another tag."
            ) from error


def _refuse_newer(record: Record, path: Path) -> None:
    version = record.get("version") if record.get("kind") == "session" else None
    if type(version) is int and version > VERSION:
        raise Refused(
            f"{path} was written by a newer release: version {version}, and this one reads up to {VERSION}. "
            "Nothing was changed. Update autoexperiment, or start another tag."
        )


class Ledger(LedgerView):
    """A session's ledger, open for appending; the caller holds the session's lock."""

    def __init__(self, log: Journal, records: Iterable[Record], *, clock: Callable[[], str] = _utc_now) -> None:
        super().__init__()
        self._journal = log
        self._clock = clock
        _fold_all(self, records, log.path)

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], str] = _utc_now) -> Ledger:
        """Open or create; a torn tail is repaired. Raises: LedgerCorrupt. Refused: a newer release wrote it."""
        with _without_gc():
            log, records = Journal.open(path)
            try:
                return cls(log, records, clock=clock)
            except BaseException:
                log.close()
                raise

    def append(self, kind: str, **fields: Any) -> Record:
        """Write one record, then take it into account; returns it as a reader will see it.

        Raises: UsageError: unknown kind or field. Refused: it can't follow the records before. DiskFull.
            Nothing was written then, and nothing has changed here.
        """
        if kind not in FIELDS:
            raise UsageError(unknown("record kind", kind, FIELDS))
        for name in fields:
            if name in _STAMPS or (kind != "note" and name not in FIELDS[kind]):
                raise UsageError(unknown(f"field of a {kind} record", name, FIELDS[kind]))
        undo = (self.session, self.incumbent, self.unfinished, len(self.experiments), len(self.notes))
        try:
            return self._journal.append({"kind": kind, **fields}, time=self._clock(), accept=self._fold)
        except _Illegal as error:
            self._undo(*undo)
            raise Refused(f"This record would break the ledger: {error}. This is a defect of the program.") from error
        except BaseException:
            self._undo(*undo)
            raise

    def _undo(
        self, session: Record, incumbent: Experiment | None, unfinished: Experiment | None, experiments: int, notes: int
    ) -> None:
        """Forget a record that was folded but could not be written."""
        self.session, self.incumbent = session, incumbent
        del self.experiments[experiments:], self.notes[notes:]
        if unfinished is not None:
            self.experiments[unfinished.number] = unfinished

    def close(self) -> None:
        self._journal.close()


def read_start(path: Path) -> Record:
    """A ledger's first record, or {} when there is none; the rest is not looked at."""
    try:
        with path.open("rb") as file:
            frame = file.readline(journal.MAX_FRAME_BYTES + 1)
        return journal.decode(frame)
    except (OSError, ValueError):
        return {}


def read_ledger(path: Path) -> LedgerView:
    """A session's ledger for reading, without its lock; a torn tail is left alone.

    Raises: UsageError: no such file. LedgerCorrupt. Refused: a newer release wrote it.
    """
    view = LedgerView()
    with _without_gc():
        _fold_all(view, journal.read(path), path)
    return view
