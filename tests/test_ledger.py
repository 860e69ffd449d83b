"""What a ledger's records add up to: folding, the order that is enforced, and any prefix being a legal ledger."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from autoexperiment import journal, ledger
from autoexperiment.errors import LedgerCorrupt, Refused, UsageError
from autoexperiment.ledger import Experiment, Ledger, LedgerView, RunRecord, read_ledger
from autoexperiment.vocabulary import Outcome, TrustLevel, Verdict

SESSION: dict[str, Any] = {
    "version": 1, "tag": "t", "branch": "autoresearch/t", "base": "b0", "recipe": {}, "budget": "5s", "policy": "greedy",
    "dataset": None, "snapshot": None, "harness": {}, "machine": {}, "options": {},
}  # fmt: skip
BEGIN: dict[str, Any] = {
    "commit": "c1", "base": "b0", "content": "h1", "description": "an edit", "lines_added": 2, "lines_removed": 1,
    "source": "search",
}  # fmt: skip
DECIDED: dict[str, Any] = {
    "verdict": "keep", "outcome": "ok", "reason": "better", "evidence": {"rule": "r"}, "metrics": {"val_bpb": 1.5},
}  # fmt: skip
INTERRUPTED: dict[str, Any] = {
    "verdict": None, "outcome": "interrupted", "reason": "killed", "evidence": {}, "metrics": {},
}  # fmt: skip
Step = tuple[str, dict[str, Any]]


def clock() -> str:
    return "2026-01-02T03:04:05.678+00:00"


def whole(number: int, **decision: Any) -> list[Step]:
    """The records of one experiment with one scored run."""
    at = {"experiment": number}
    return [
        ("begin", {**at, **BEGIN}),
        ("started", {**at, "run": 0, "folder": f"outputs/{number}", "seed": 7}),
        ("ended", {**at, "run": 0, "ending": {"outcome": "ok"}}),
        ("scored", {**at, "run": 0, "metrics": {"val_bpb": 1.5, "num_steps": 5}, "trust": "recomputed"}),
        ("decided", {**at, **DECIDED, **decision}),
        ("applied", {**at, "head": "c1"}),
    ]


def opened(tmp_path: Path, steps: list[Step], *, with_session: bool = True) -> Ledger:
    log = Ledger.open(tmp_path / "l", clock=clock)
    for kind, fields in ([("session", SESSION)] if with_session else []) + steps:
        log.append(kind, **fields)
    return log


def same(one: LedgerView, other: LedgerView) -> bool:
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("session", "experiments", "notes", "incumbent", "unfinished")
    )


def test_an_experiment_is_folded_from_its_records(tmp_path: Path) -> None:
    log = opened(tmp_path, whole(0))

    run = RunRecord(0, "outputs/0", 7, {"outcome": "ok"}, {"val_bpb": 1.5, "num_steps": 5}, "recomputed")
    expected = Experiment(
        number=0, commit="c1", base="b0", content="h1", description="an edit", lines_added=2, lines_removed=1,
        source="search", begun_at=clock(), runs=(run,), verdict=Verdict.KEEP, outcome=Outcome.OK, reason="better",
        evidence={"rule": "r"}, metrics={"val_bpb": 1.5}, decided=True, decided_at=clock(), applied=True,
    )  # fmt: skip
    assert log.experiments == [expected]
    assert log.incumbent == expected
    assert log.unfinished is None
    assert log.session["tag"] == "t"


def test_an_experiment_cannot_be_changed_in_place(tmp_path: Path) -> None:
    log = opened(tmp_path, whole(0))

    with pytest.raises(dataclasses.FrozenInstanceError):
        log.experiments[0].runs = ()  # type: ignore[misc]


def test_the_incumbent_is_the_last_that_was_kept(tmp_path: Path) -> None:
    steps = [*whole(0), *whole(1), *whole(2, verdict="discard"), *whole(3, verdict="crash", outcome="oom", metrics={})]

    log = opened(tmp_path, [*steps, ("begin", {"experiment": 4, **BEGIN})])

    assert log.incumbent is log.experiments[1]
    assert log.unfinished is log.experiments[4]


def test_what_was_appended_reads_back_equal(tmp_path: Path) -> None:
    log = opened(tmp_path, [*whole(0), ("note", {"what": "x", "more": ("a", 1)})])

    assert log.notes[0]["more"] == ["a", 1]
    assert same(read_ledger(tmp_path / "l"), log)
    log.close()
    assert same(Ledger.open(tmp_path / "l"), log)


def test_a_field_of_a_later_release_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "l", [("session", {**SESSION, "colour": "blue"})])

    assert Ledger.open(tmp_path / "l").session["colour"] == "blue"


def write(path: Path, steps: list[Step]) -> None:
    """A journal with these records, whatever the ledger thinks of them."""
    records = [{"kind": kind, **fields, "seq": n, "time": clock()} for n, (kind, fields) in enumerate(steps, 1)]
    path.write_bytes(b"".join(map(journal.encode, records)))


@pytest.mark.parametrize("read", [read_ledger, Ledger.open])
def test_a_newer_version_is_refused_and_left_alone(tmp_path: Path, read: Any) -> None:
    write(tmp_path / "l", [("session", {**SESSION, "version": 2}), ("dance", {})])
    before = (tmp_path / "l").read_bytes()

    with pytest.raises(Refused, match=r"newer release: version 2, and this one reads up to 1") as refused:
        read(tmp_path / "l")

    assert not isinstance(refused.value, LedgerCorrupt)
    assert (tmp_path / "l").read_bytes() == before


BEGUN, STARTED, ENDED, SCORED = (whole(0)[:n] for n in (1, 2, 3, 4))
ILLEGAL: dict[str, tuple[list[Step], Step]] = {
    "second session": ([], ("session", SESSION)),
    "begin while one is unfinished": (BEGUN, ("begin", {"experiment": 1, **BEGIN})),
    "begin skips a number": (whole(0), ("begin", {"experiment": 2, **BEGIN})),
    "begin repeats a number": (whole(0), ("begin", {"experiment": 0, **BEGIN})),
    "decided before begin": ([], ("decided", {"experiment": 0, **DECIDED})),
    "applied before decided": (SCORED, ("applied", {"experiment": 0, "head": "c"})),
    "run started twice": (ENDED, ("started", {"experiment": 0, "run": 0, "folder": "", "seed": 1})),
    "run skipped": (ENDED, ("started", {"experiment": 0, "run": 2, "folder": "", "seed": 1})),
    "run started while one goes on": (STARTED, ("started", {"experiment": 0, "run": 1, "folder": "", "seed": 1})),
    "run of another experiment": (BEGUN, ("started", {"experiment": 1, "run": 0, "folder": "", "seed": 1})),
    "run started after the decision": (whole(0)[:5], ("started", {"experiment": 0, "run": 1, "folder": "", "seed": 1})),
    "ended twice": (ENDED, ("ended", {"experiment": 0, "run": 0, "ending": {}})),
    "ended before started": (BEGUN, ("ended", {"experiment": 0, "run": 0, "ending": {}})),
    "scored before ended": (STARTED, ("scored", {"experiment": 0, "run": 0, "metrics": {}, "trust": "measured"})),
    "scored twice": (SCORED, ("scored", {"experiment": 0, "run": 0, "metrics": {}, "trust": "measured"})),
    "decided while a run goes on": (STARTED, ("decided", {"experiment": 0, **DECIDED})),
    "decided twice": (whole(0)[:5], ("decided", {"experiment": 0, **DECIDED})),
    "anything after applied": (whole(0), ("applied", {"experiment": 0, "head": "c"})),
    "unknown verdict": (SCORED, ("decided", {"experiment": 0, **DECIDED, "verdict": "maybe"})),
    "unknown outcome": (SCORED, ("decided", {"experiment": 0, **DECIDED, "outcome": "fine"})),
    "unknown trust level": (ENDED, ("scored", {"experiment": 0, "run": 0, "metrics": {}, "trust": "high"})),
    "kept although it crashed": (SCORED, ("decided", {"experiment": 0, **DECIDED, "outcome": "crashed"})),
    "no verdict although measured": (SCORED, ("decided", {"experiment": 0, **DECIDED, "verdict": None})),
    "a verdict on an interruption": (SCORED, ("decided", {"experiment": 0, **INTERRUPTED, "verdict": "crash"})),
    "a metric that is text": (ENDED, ("scored", {"experiment": 0, "run": 0, "metrics": {"m": "1"}, "trust": "measured"})),
    "a metric that is true": (ENDED, ("scored", {"experiment": 0, "run": 0, "metrics": {"m": True}, "trust": "measured"})),
    "a metric that is null": (SCORED, ("decided", {"experiment": 0, **DECIDED, "metrics": {"m": None}})),
    "an experiment number that is text": ([], ("begin", {"experiment": "0", **BEGIN})),
    "a commit that is a number": ([], ("begin", {"experiment": 0, **BEGIN, "commit": 7})),
    "a line count that is true": ([], ("begin", {"experiment": 0, **BEGIN, "lines_added": True})),
    "an ending that is a list": (STARTED, ("ended", {"experiment": 0, "run": 0, "ending": []})),
    "a missing field": ([], ("begin", {"experiment": 0})),
}  # fmt: skip


@pytest.mark.parametrize("name", ILLEGAL)
def test_a_record_that_cannot_follow_is_refused_on_append_and_on_read(tmp_path: Path, name: str) -> None:
    before, illegal = ILLEGAL[name]
    log = opened(tmp_path, before)
    bytes_before, state_before = (tmp_path / "l").read_bytes(), read_ledger(tmp_path / "l")

    with pytest.raises(Refused, match="would break the ledger"):
        log.append(illegal[0], **illegal[1])

    assert (tmp_path / "l").read_bytes() == bytes_before
    assert same(log, state_before)
    write(tmp_path / "l", [("session", SESSION), *before, illegal])
    with pytest.raises(LedgerCorrupt, match=rf":{len(before) + 2} does not fit"):
        read_ledger(tmp_path / "l")


def test_nothing_comes_before_the_session_record(tmp_path: Path) -> None:
    log = opened(tmp_path, [], with_session=False)

    for kind, fields in (("note", {"what": "x"}), ("begin", {"experiment": 0, **BEGIN})):
        with pytest.raises(Refused, match="before the session record"):
            log.append(kind, **fields)


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    log = opened(tmp_path, [])
    with pytest.raises(UsageError, match=r"'begun'.*Did you mean 'begin'"):
        log.append("begun")

    write(tmp_path / "l", [("session", SESSION), ("begun", {})])
    with pytest.raises(LedgerCorrupt, match="kind 'begun' is unknown"):
        read_ledger(tmp_path / "l")


@pytest.mark.parametrize("name", ["metric", "seq", "time"])
def test_a_field_that_the_kind_does_not_have_is_refused(tmp_path: Path, name: str) -> None:
    log = opened(tmp_path, [])

    with pytest.raises(UsageError, match=f"Unknown field of a begin record '{name}'"):
        log.append("begin", experiment=0, **BEGIN, **{name: 1})

    assert log.unfinished is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_never_written(tmp_path: Path, value: float) -> None:
    log = opened(tmp_path, ENDED)

    with pytest.raises(UsageError, match="not strict JSON"):
        log.append("scored", experiment=0, run=0, metrics={"val_bpb": value}, trust="recomputed")

    assert log.experiments[0].runs[0].metrics is None
    log.append("scored", experiment=0, run=0, metrics={"val_bpb": 1.0}, trust="recomputed")


@pytest.mark.parametrize("done", range(len(whole(0)) + 1))
def test_a_full_disk_changes_nothing_and_the_same_record_can_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    steps = [*whole(0), ("note", {"what": "x"})]
    log = opened(tmp_path, steps[:done])
    before = read_ledger(tmp_path / "l")

    def full(fd: int, blob: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(journal.DiskFull, match="No space left"):
        patch.setattr(os, "write", full)
        log.append(steps[done][0], **steps[done][1])

    assert same(log, before)
    for kind, fields in steps[done:]:
        log.append(kind, **fields)
    assert same(log, read_ledger(tmp_path / "l"))


def test_a_record_does_not_change_with_the_object_it_came_from(tmp_path: Path) -> None:
    log, metrics = opened(tmp_path, ENDED), {"val_bpb": 1.0}
    log.append("scored", experiment=0, run=0, metrics=metrics, trust="recomputed")

    metrics["val_bpb"] = 0.0

    assert log.experiments[0].runs[0].metrics == {"val_bpb": 1.0}


# ---- generated ledgers against an oracle

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**9), 10**9)
metric_maps = st.dictionaries(st.text(max_size=6), numbers, max_size=3)
verdicts = st.sampled_from(
    [("keep", "ok"), ("discard", "ok"), ("discard", "timed_out"), ("crash", "oom"), (None, "interrupted")]
)


@st.composite
def legal_steps(draw: st.DrawFn, *, longest: int = 4) -> list[Step]:
    """The records of a few experiments, the last of them possibly unfinished."""
    steps: list[Step] = [("session", SESSION)]
    for number in range(draw(st.integers(0, longest))):
        at = {"experiment": number}
        steps.append(("begin", {**at, **BEGIN, "description": draw(st.text(max_size=8)), "commit": f"c{number}"}))
        for run in range(draw(st.integers(0, 3))):
            steps.append(("started", {**at, "run": run, "folder": f"{number}/{run}", "seed": run}))
            steps.append(("ended", {**at, "run": run, "ending": {"outcome": "ok"}}))
            if draw(st.booleans()):
                level = draw(st.sampled_from(list(TrustLevel)))
                steps.append(("scored", {**at, "run": run, "metrics": draw(metric_maps), "trust": str(level)}))
        verdict, outcome = draw(verdicts)
        metrics = draw(metric_maps)
        steps.append(("decided", {**at, **DECIDED, "verdict": verdict, "outcome": outcome, "metrics": metrics}))
        steps.append(("applied", {**at, "head": "h"}))
        if draw(st.booleans()):
            steps.append(("note", {"what": draw(st.text(max_size=5))}))
    return steps[: draw(st.integers(1, len(steps)))]


Oracle = tuple[list[tuple[Any, ...]], int | None, int | None, int]


def oracle(steps: list[Step]) -> Oracle:
    """Experiments, number of the incumbent, number of the unfinished one, and notes: the slow and plain way."""
    table: list[tuple[Any, ...]] = []
    for number in [fields["experiment"] for kind, fields in steps if kind == "begin"]:
        mine = [(kind, fields) for kind, fields in steps if fields.get("experiment") == number]
        pick = dict(mine)
        runs = []
        for run in [fields["run"] for kind, fields in mine if kind == "started"]:
            of_run = {kind: fields for kind, fields in mine if fields.get("run") == run}
            scored, ended = of_run.get("scored", {}), of_run.get("ended", {})
            runs.append((run, ended.get("ending"), scored.get("metrics"), scored.get("trust")))
        decided = pick.get("decided", {})
        table.append(
            (number, pick["begin"]["description"], runs, decided.get("verdict"), decided.get("outcome"),
             decided.get("metrics", {}), "decided" in pick, "applied" in pick)
        )  # fmt: skip
    kept = [row[0] for row in table if row[3] == "keep"]
    unfinished = [row[0] for row in table if not row[7]]
    notes = sum(kind == "note" for kind, _ in steps)
    return table, (kept or [None])[-1], (unfinished or [None])[-1], notes


def state(view: LedgerView) -> Oracle:
    table: list[tuple[Any, ...]] = []
    for e in view.experiments:
        runs = [(r.run, r.ending, r.metrics, r.trust) for r in e.runs]
        table.append((e.number, e.description, runs, e.verdict, e.outcome, e.metrics, e.decided, e.applied))
    incumbent, unfinished = (None if e is None else e.number for e in (view.incumbent, view.unfinished))
    return table, incumbent, unfinished, len(view.notes)


@given(legal_steps())
@settings(max_examples=150, deadline=None)
def test_the_fold_agrees_with_a_plain_oracle_at_every_record(steps: list[Step]) -> None:
    view = LedgerView()
    for done, (kind, fields) in enumerate(steps, 1):
        view._fold({"kind": kind, **fields, "time": clock()})

        assert state(view) == oracle(steps[:done])


@given(legal_steps(longest=2), st.data())
@settings(max_examples=60, deadline=None)
def test_a_ledger_cut_at_any_byte_opens_as_a_legal_prefix_and_goes_on(steps: list[Step], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "l"
        write(path, steps)
        blob = path.read_bytes()
        cut = data.draw(st.integers(0, len(blob)))
        path.write_bytes(blob[:cut])
        whole_records = blob[:cut].count(b"\n")

        log = Ledger.open(path, clock=clock)

        assert state(log) == oracle(steps[:whole_records])
        for kind, fields in steps[whole_records:]:
            log.append(kind, **fields)
        assert path.read_bytes() == blob
        log.close()


def test_a_ledger_cut_at_every_byte_goes_on(tmp_path: Path) -> None:
    steps = [("session", SESSION), *whole(0)]
    write(tmp_path / "whole", steps)
    blob, path = (tmp_path / "whole").read_bytes(), tmp_path / "l"
    for cut in range(len(blob) + 1):
        path.write_bytes(blob[:cut])

        log = Ledger.open(path, clock=clock)
        for kind, fields in steps[blob[:cut].count(b"\n") :]:
            log.append(kind, **fields)

        log.close()
        assert path.read_bytes() == blob


class Night(RuleBasedStateMachine):
    """Whatever happens in whatever order: the ledger says what was acknowledged, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "l"
        self.acknowledged: list[Step] = []
        self.log = Ledger.open(self.path, clock=clock)
        self.say("session", **SESSION)

    def teardown(self) -> None:
        self.log.close()
        self.folder.cleanup()

    def say(self, kind: str, **fields: Any) -> None:
        self.log.append(kind, **fields)
        self.acknowledged.append((kind, fields))

    @property
    def current(self) -> dict[str, int]:
        return {"experiment": len(self.log.experiments) - 1}

    def may(self, kind: str) -> bool:
        open_one = self.log.unfinished
        runs = open_one.runs if open_one else ()
        going = bool(runs) and runs[-1].ending is None
        measuring = open_one is not None and not open_one.decided
        return {
            "begin": open_one is None,
            "started": measuring and not going,
            "ended": measuring and going,
            "scored": measuring and bool(runs) and not going and runs[-1].metrics is None,
            "decided": measuring and not going,
            "applied": open_one is not None and open_one.decided,
        }[kind]

    @precondition(lambda self: self.may("begin"))
    @rule()
    def begin(self) -> None:
        self.say("begin", experiment=len(self.log.experiments), **BEGIN)

    @precondition(lambda self: self.may("started"))
    @rule()
    def start(self) -> None:
        self.say("started", **self.current, run=len(self.log.experiments[-1].runs), folder="f", seed=1)

    @precondition(lambda self: self.may("ended"))
    @rule()
    def end(self) -> None:
        self.say("ended", **self.current, run=len(self.log.experiments[-1].runs) - 1, ending={"outcome": "ok"})

    @precondition(lambda self: self.may("scored"))
    @rule(metrics=metric_maps)
    def score(self, metrics: dict[str, float]) -> None:
        run = len(self.log.experiments[-1].runs) - 1
        self.say("scored", **self.current, run=run, metrics=metrics, trust="measured")

    @precondition(lambda self: self.may("decided"))
    @rule(decision=verdicts)
    def decide(self, decision: tuple[str | None, str]) -> None:
        self.say("decided", **self.current, **{**DECIDED, "verdict": decision[0], "outcome": decision[1]})

    @precondition(lambda self: self.may("applied"))
    @rule()
    def apply(self) -> None:
        self.say("applied", **self.current, head="h")

    @rule(kind=st.sampled_from(["begin", "started", "ended", "scored", "decided", "applied"]))
    def try_out_of_order(self, kind: str) -> None:
        if self.may(kind):
            return
        fields = dict(whole(max(0, len(self.log.experiments) - 1)))[kind]
        with pytest.raises(Refused):
            self.log.append(kind, **fields)

    @rule()
    def disk_full(self) -> None:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(journal.DiskFull):
            patch.setattr(os, "write", lambda fd, blob: 3)
            self.log.append("note", what="never")

    @rule(piece=st.integers(0, 60))
    def killed_while_writing(self, piece: int) -> None:
        self.log.close()
        frame = journal.encode({"kind": "note", "what": "torn", "seq": len(self.acknowledged) + 1, "time": clock()})
        with open(self.path, "ab") as file:
            file.write(frame[:piece])
        self.log = Ledger.open(self.path, clock=clock)

    @invariant()
    def agrees_with_the_oracle(self) -> None:
        assert state(self.log) == oracle(self.acknowledged)
        assert state(read_ledger(self.path)) == oracle(self.acknowledged)


TestNight = Night.TestCase
TestNight.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_the_benchmark_measures_a_small_ledger(tmp_path: Path) -> None:
    import importlib.util

    file = Path(ledger.__file__).parent.parent / "benchmarks" / "ledger.py"
    spec = importlib.util.spec_from_file_location("ledger_benchmark", file)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)

    found = benchmark.measure(tmp_path, rows=50, appends=120)

    assert found["rows"] >= 50
    assert found["append_at_0"]["p50_ms"] > 0
    assert "ratio" in benchmark.show(found)
