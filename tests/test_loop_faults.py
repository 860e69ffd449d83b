"""What the loop does when the machine, the disk or the text is hostile, with real runs of the stand-in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import standin

from autoexperiment import loop, machine, measuring, night, session
from autoexperiment.errors import Refused
from autoexperiment.night import Limit
from autoexperiment.run import Run
from autoexperiment.session import Session
from autoexperiment.trial import run_trial
from autoexperiment.vocabulary import Outcome, Verdict


@pytest.fixture
def opened(project: Path):  # type: ignore[no-untyped-def]
    with session.start(project, "mar5", standin.PLAN) as running:
        loop.measure_baseline(running)
        yield running


def change_first_runs(monkeypatch: pytest.MonkeyPatch, count: int, change: Callable[[Run], Run]) -> list[Run]:
    """Let the first runs from now on come out as `change` makes them; returns all runs that are made."""
    made: list[Run] = []

    def changed(*words: object, **named: object) -> Run:
        run = run_trial(*words, **named)  # type: ignore[arg-type]
        made.append(change(run) if len(made) < count else run)
        return made[-1]

    monkeypatch.setattr(measuring, "run_trial", changed)
    return made


def slept(run: Run) -> Run:
    ending = {**run.ending, "outcome": "interrupted", "reason": "The machine slept +60.0 s during the run."}
    return replace(run, outcome=Outcome.INTERRUPTED, reason=ending["reason"], ending=ending, metrics={}, trust={})


def was_late(run: Run) -> Run:
    ending = {**run.ending, "outcome": "rejected"}
    provenance = {**run.provenance, "new_kernels": 3}
    return replace(
        run, outcome=Outcome.REJECTED, reason="late", ending=ending, provenance=provenance, metrics={}, trust={}
    )


def test_run_that_the_machine_spoiled_is_repeated_and_not_scored(
    opened: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = change_first_runs(monkeypatch, 1, slept)
    standin.edit(opened.project.root, VALUE=1.5)

    kept = loop.step(opened, "lower")

    assert [run.outcome for run in made] == [Outcome.INTERRUPTED, Outcome.OK]
    assert kept.verdict is Verdict.KEEP
    assert len(kept.runs) == 2
    assert kept.runs[0].seed == kept.runs[1].seed


def test_run_that_is_spoiled_again_and_again_is_neither_verdict(
    opened: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = change_first_runs(monkeypatch, 99, slept)
    standin.edit(opened.project.root, VALUE=1.5)

    experiment = loop.step(opened, "lower")

    assert len(made) == 1 + measuring.RETRIES
    assert experiment.verdict is None
    assert experiment.outcome is Outcome.INTERRUPTED
    assert session.breaker_state(opened.ledger).streak == 0


def test_late_run_that_compiled_kernels_is_repeated_with_them(opened: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    made = change_first_runs(monkeypatch, 1, was_late)
    standin.edit(opened.project.root, VALUE=1.5)

    assert loop.step(opened, "lower").verdict is Verdict.KEEP
    assert [run.outcome for run in made] == [Outcome.REJECTED, Outcome.OK]


def test_late_run_without_new_kernels_is_rejected_at_once(opened: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(run: Run) -> Run:
        return replace(was_late(run), provenance={**run.provenance, "new_kernels": 0})

    made = change_first_runs(monkeypatch, 1, late)
    standin.edit(opened.project.root, VALUE=1.5)

    assert loop.step(opened, "lower").outcome is Outcome.REJECTED
    assert len(made) == 1


def test_process_that_can_not_be_killed_stops_the_session(opened: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def survived(run: Run) -> Run:
        return replace(run, ending={**run.ending, "survivors": [4242]})

    change_first_runs(monkeypatch, 1, survived)
    standin.edit(opened.project.root, VALUE=1.5)

    with pytest.raises(Refused, match="kill -9 4242"):
        loop.step(opened, "lower")

    assert opened.ledger.unfinished is None


def test_nothing_is_begun_on_a_full_disk(opened: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda folder: 5 << 20)
    standin.edit(opened.project.root, VALUE=1.5)

    with pytest.raises(Refused, match="Only 5 MB are free"):
        loop.step(opened, "lower")

    assert len(opened.ledger.experiments) == 1


def test_view_that_can_not_be_written_stops_nothing(opened: Session, capsys: pytest.CaptureFixture[str]) -> None:
    root = opened.project.root
    (root / "results.tsv").unlink()
    (root / "results.tsv").mkdir()
    standin.edit(root, VALUE=1.5)

    assert loop.step(opened, "lower").verdict is Verdict.KEEP
    assert "results.tsv could not be written" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["\U0001f600" * 500, "é" * 500, '"' * 500, "\u202e" * 500])
def test_longest_description_of_any_characters_fits_the_ledger(opened: Session, text: str) -> None:
    standin.edit(opened.project.root, VALUE=1.5)

    assert loop.step(opened, text).description == text


def test_longest_failure_of_any_characters_fits_the_ledger(opened: Session) -> None:
    root = opened.project.root
    text = (root / "train.py").read_text()
    (root / "train.py").write_text(
        text.replace("import json", "raise RuntimeError('\\U0001f600' * 100_000)\nimport json", 1)
    )

    assert loop.step(opened, "\U0001f600" * 500).verdict is Verdict.CRASH


def test_night_ends_when_a_stop_is_asked_for(project: Path) -> None:
    class Asks:
        name = "asks"

        def propose(self, going: night.Night) -> loop.Proposal:
            running = going.session
            running.paths.stop_request.write_text("stop\n")
            standin.edit(running.project.root, VALUE=1.5)
            return loop.Proposal({"train.py": (running.project.root / "train.py").read_bytes()}, "one")

    with session.start(project, "mar5", standin.PLAN) as running:
        reason = night.drive(running, Asks(), Limit(experiments=9))

        assert reason == "a stop was requested"
        assert night.judged(running) == 1


def test_recipe_that_crashed_as_baseline_can_be_mended(project: Path) -> None:
    standin.edit(project, MODE="crash")
    standin.git(project, "commit", "-qam", "broken")
    with session.start(project, "mar5", standin.PLAN) as running:
        assert loop.step(running, "baseline").verdict is Verdict.CRASH
        standin.edit(project, MODE="fine")

        mended = loop.step(running, "mend the recipe")

        assert mended.verdict is Verdict.KEEP
        assert len(mended.runs) == 3
        assert running.ledger.incumbent == mended


def test_lost_branch_is_named_and_nothing_is_overwritten(opened: Session) -> None:
    root = opened.project.root
    standin.git(root, "commit", "-q", "--allow-empty", "-m", "somebody else's commit")
    theirs = standin.git(root, "rev-parse", "HEAD")
    standin.edit(root, VALUE=1.5)

    with pytest.raises(Refused, match="moved to"):
        loop.step(opened, "lower")

    assert standin.git(root, "rev-parse", "HEAD") == theirs
