"""The meaning of a session's journal: which records there are, in which order, and what they add up to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoexperiment import journal
from autoexperiment.errors import LedgerCorrupt, Refused, UsageError, unknown
from autoexperiment.journal import Journal, Record
from autoexperiment.vocabulary import Outcome, Verdict

VERSION = 1

FIELDS: dict[str, tuple[str, ...]] = {
    "session": ("version", "tag", "branch", "base", "recipe", "budget", "policy", "dataset", "snapshot",
                "harness", "machine", "options"),
    "begin": ("experiment", "commit", "base", "content", "description", "lines_added", "lines_removed", "source"),
    "started": ("experiment", "run", "folder", "seed"),
    "ended": ("experiment", "run", "ending"),
    "scored": ("experiment", "run", "metrics", "trust"),
    "decided": ("experiment", "verdict", "outcome", "reason", "evidence", "metrics"),
    "applied": ("experiment", "head"),
    "note": ("what",),
}  # fmt: skip


@dataclass(frozen=True)
class RunRecord:
    """One run as the ledger knows it. `ending` is None while it goes on, `metrics` None without a score."""

    run: int
    folder: str
    seed: int
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


class _Illegal(Exception):
    """The record does not fit what came before; the message says why."""


class LedgerView:
    """Everything that a journal's records add up to. Read-only."""

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
        kind = record.get("kind")
        if kind not in FIELDS:
            raise _Illegal(f"kind {kind!r} is unknown")
        missing = [name for name in FIELDS[kind] if name not in record]
        if missing:
            raise _Illegal(f"a {kind} record without {', '.join(missing)}")
        if kind != "session" and not self.session:
            raise _Illegal(f"a {kind} record before the session record")
        getattr(self, f"_fold_{kind}")(record)

    def _fold_session(self, record: Record) -> None:
        if self.session:
            raise _Illegal("a second session record")
        if record["version"] != VERSION:
            raise _Illegal(
                f"version {record['version']} is not {VERSION}: it was written by another release of this program"
            )
        self.session = record

    def _fold_note(self, record: Record) -> None:
        self.notes.append(record)

    def _fold_begin(self, record: Record) -> None:
        if self.unfinished:
            raise _Illegal(f"experiment {record['experiment']} begins while {self.unfinished.number} is unfinished")
        if record["experiment"] != len(self.experiments):
            raise _Illegal(f"experiment {record['experiment']} begins, {len(self.experiments)} is next")
        names = [name for name in FIELDS["begin"] if name != "experiment"]
        values = {name: record[name] for name in names}
        self.experiments.append(Experiment(number=record["experiment"], begun_at=record["time"], **values))

    def _open_experiment(self, record: Record, *, decided: bool) -> Experiment:
        current = self.unfinished
        if current is None or record["experiment"] != current.number or current.decided is not decided:
            raise _Illegal(f"a {record['kind']} record for experiment {record['experiment']} out of order")
        return current

    def _fold_started(self, record: Record) -> None:
        current = self._open_experiment(record, decided=False)
        if record["run"] != len(current.runs) or any(run.ending is None for run in current.runs):
            raise _Illegal(f"run {record['run']} of experiment {current.number} starts out of order")
        run = RunRecord(record["run"], record["folder"], record["seed"])
        self.experiments[-1] = replace(current, runs=(*current.runs, run))

    def _change_run(self, record: Record, check: Callable[[RunRecord], bool], **changes: Any) -> None:
        current = self._open_experiment(record, decided=False)
        if record["run"] != len(current.runs) - 1 or not check(current.runs[-1]):
            raise _Illegal(
                f"a {record['kind']} record for run {record['run']} of experiment {current.number} out of order"
            )
        self.experiments[-1] = replace(current, runs=(*current.runs[:-1], replace(current.runs[-1], **changes)))

    def _fold_ended(self, record: Record) -> None:
        self._change_run(record, lambda run: run.ending is None, ending=record["ending"])

    def _fold_scored(self, record: Record) -> None:
        changes = {"metrics": record["metrics"], "trust": record["trust"]}
        self._change_run(record, lambda run: run.ending is not None and run.metrics is None, **changes)

    def _fold_decided(self, record: Record) -> None:
        current = self._open_experiment(record, decided=False)
        if any(run.ending is None for run in current.runs):
            raise _Illegal(f"experiment {current.number} is decided while a run goes on")
        self.experiments[-1] = replace(
            current,
            decided=True,
            decided_at=record["time"],
            verdict=None if record["verdict"] is None else Verdict(record["verdict"]),
            outcome=Outcome(record["outcome"]),
            **{name: record[name] for name in ("reason", "evidence", "metrics")},
        )
        # The incumbent changes with the decision: applying it only makes git agree.
        if self.experiments[-1].verdict is Verdict.KEEP:
            self.incumbent = self.experiments[-1]

    def _fold_applied(self, record: Record) -> None:
        current = self._open_experiment(record, decided=True)
        self.experiments[-1] = replace(current, applied=True)
        if self.incumbent is not None and self.incumbent.number == current.number:
            self.incumbent = self.experiments[-1]


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _fold_all(view: LedgerView, records: list[Record], path: Path) -> None:
    for record in records:
        try:
            view._fold(record)
        except (_Illegal, ValueError, TypeError) as error:
            raise LedgerCorrupt(
                f"{path}:{record.get('seq')} does not fit: {error}. Nothing was changed. "
                "Use the program that wrote it, or start another tag."
            ) from error


class Ledger(LedgerView):
    """A session's ledger, open for appending; the caller holds the session's lock."""

    def __init__(self, log: Journal, *, clock: Callable[[], str] = _utc_now) -> None:
        super().__init__()
        self._journal = log
        self._clock = clock
        _fold_all(self, log.records, log.path)

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], str] = _utc_now) -> Ledger:
        """Open or create; a torn tail is repaired. Raises: LedgerCorrupt."""
        return cls(Journal.open(path), clock=clock)

    def append(self, kind: str, **fields: Any) -> Record:
        """Write one record, then take it into account.

        Raises: UsageError: unknown kind. Refused: it can't follow the records before; nothing was written.
        """
        if kind not in FIELDS:
            raise UsageError(unknown("record kind", kind, FIELDS))
        time = self._clock()
        undo = (self.session, self.incumbent, self.unfinished, len(self.experiments), len(self.notes))
        try:
            self._fold({"kind": kind, **fields, "time": time})
            return self._journal.append({"kind": kind, **fields}, time=time)
        except _Illegal as error:
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


def read_ledger(path: Path) -> LedgerView:
    """A session's ledger for reading, without its lock; a torn tail is left alone."""
    view = LedgerView()
    _fold_all(view, journal.read(path), path)
    return view
