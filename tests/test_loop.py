"""The loop on a stand-in recipe: keep, discard, crash, rejection, re-runs, refusals, breaker, resume."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import standin

from autoexperiment import loop, night, session, verdict
from autoexperiment.awake import Power
from autoexperiment.candidates import Repository
from autoexperiment.errors import BreakerOpen, BudgetSpent, Locked, Refused, UsageError
from autoexperiment.ledger import read_ledger
from autoexperiment.night import Limit
from autoexperiment.session import Session
from autoexperiment.vocabulary import Outcome, TrustLevel, Verdict


@pytest.fixture
def opened(project: Path):  # type: ignore[no-untyped-def]
    with session.start(project, "mar5", standin.PLAN) as running:
        loop.measure_baseline(running)
        yield running


def values(running: Session) -> list[float | None]:
    return [e.metrics.get("val_bpb") for e in running.ledger.experiments]


def test_start_makes_and_checks_out_a_branch_without_touching_the_tree(project: Path) -> None:
    before = standin.git(project, "rev-parse", "HEAD")

    session.start(project, "mar5", standin.PLAN).close()

    assert standin.git(project, "symbolic-ref", "HEAD") == "refs/heads/autoresearch/mar5"
    assert standin.git(project, "rev-parse", "HEAD") == before
    assert standin.git(project, "status", "--porcelain") == "?? mine.txt"


def test_start_refuses_a_tag_that_is_taken(project: Path) -> None:
    standin.git(project, "branch", "autoresearch/mar5")

    with pytest.raises(Refused, match="mlx loop run mar5"):
        session.start(project, "mar5", standin.PLAN)


@pytest.mark.parametrize("tag", ["../x", "-x", "a b", "HEAD", "x.lock", "a..b", "", "é", "x" * 65])
def test_start_refuses_a_hostile_tag(project: Path, tag: str) -> None:
    with pytest.raises(UsageError, match="For example: mar5"):
        session.start(project, tag, standin.PLAN)


def test_start_refuses_uncommitted_changes_of_the_recipe(project: Path) -> None:
    standin.edit(project, VALUE=1.0)

    with pytest.raises(Refused, match=r"train\.py differ"):
        session.start(project, "mar5", standin.PLAN)


def test_baseline_is_three_runs_and_kept(opened: Session) -> None:
    first = opened.ledger.experiments[0]

    assert first.verdict is Verdict.KEEP
    assert len(first.runs) == 3
    assert len({run.seed for run in first.runs}) == 3
    assert first.metrics["val_bpb"] == 2.0


def test_better_candidate_is_kept_and_the_branch_advances(opened: Session) -> None:
    root = opened.project.root
    base = standin.git(root, "rev-parse", "HEAD")
    standin.edit(root, VALUE=1.5)

    kept = loop.step(opened, "lower the value")

    assert kept.verdict is Verdict.KEEP
    assert standin.git(root, "rev-parse", "HEAD") == kept.commit
    assert standin.git(root, "rev-parse", "HEAD~1") == base
    assert standin.git(root, "log", "-1", "--format=%s") == "lower the value"
    assert standin.git(root, "status", "--porcelain") == "?? mine.txt"
    assert "VALUE = 1.5" in (root / "train.py").read_text()


def test_worse_candidate_is_discarded_and_stays_under_its_ref(opened: Session) -> None:
    root = opened.project.root
    standin.edit(root, VALUE=2.5)

    discarded = loop.step(opened, "raise the value")

    assert discarded.verdict is Verdict.DISCARD
    assert (root / "train.py").read_text() == standin.TRAIN
    assert standin.git(root, "status", "--porcelain") == "?? mine.txt"
    kept_bytes = standin.git(root, "show", f"{opened.ref(discarded.number)}:train.py")
    assert "VALUE = 2.5" in kept_bytes


def test_crash_has_a_verdict_no_number_and_a_named_failure(opened: Session) -> None:
    standin.edit(opened.project.root, MODE="crash")

    crashed = loop.step(opened, "plant a failure")

    assert crashed.verdict is Verdict.CRASH
    assert crashed.outcome is Outcome.CRASHED
    assert crashed.metrics == {}
    assert crashed.runs[-1].ending["failure"]["kind"] == "RuntimeError"
    assert "planted failure" in crashed.reason


def test_number_that_is_not_finite_is_rejected(opened: Session) -> None:
    standin.edit(opened.project.root, MODE="nan")

    rejected = loop.step(opened, "print nan")

    assert rejected.verdict is Verdict.DISCARD
    assert rejected.outcome is Outcome.REJECTED
    assert values(opened) == [2.0, None]


def test_marginal_candidate_is_run_again_before_the_verdict(opened: Session) -> None:
    standin.edit(opened.project.root, VALUE=1.9998)

    experiment = loop.step(opened, "a hair better")

    assert len(experiment.runs) == verdict.MAX_RUNS
    assert experiment.verdict is not None


def test_verdict_can_be_recomputed_from_the_ledger(opened: Session) -> None:
    for value in (1.5, 1.7):
        standin.edit(opened.project.root, VALUE=value)
        loop.step(opened, f"value {value}")

    for experiment in read_ledger(opened.paths.ledger).experiments[1:]:
        assert verdict.recompute(experiment.evidence).verdict is experiment.verdict


def test_unchanged_candidate_is_refused(opened: Session) -> None:
    with pytest.raises(Refused, match="nothing to measure"):
        loop.step(opened, "no change")

    assert len(opened.ledger.experiments) == 1


def test_candidate_that_was_measured_before_is_refused_with_its_verdict(opened: Session) -> None:
    standin.edit(opened.project.root, VALUE=2.5)
    loop.step(opened, "first time")
    standin.edit(opened.project.root, VALUE=2.5)

    with pytest.raises(Refused, match=r"experiment 1 \(discard: first time\)"):
        loop.step(opened, "second time")


@pytest.mark.parametrize("staged", [False, True])
def test_edit_outside_the_mutable_surface_is_refused(opened: Session, staged: bool) -> None:
    root = opened.project.root
    standin.edit(root, VALUE=1.5)
    (root / "notes.md").write_text("changed\n")
    if staged:
        standin.git(root, "add", "notes.md")

    with pytest.raises(Refused, match=r"notes\.md changed"):
        loop.step(opened, "two files")

    assert len(opened.ledger.experiments) == 1


def test_mutable_file_that_is_a_symlink_is_refused(opened: Session) -> None:
    root = opened.project.root
    (root / "train.py").unlink()
    (root / "train.py").symlink_to("/etc/passwd")

    with pytest.raises(Refused, match=r"train\.py"):
        loop.step(opened, "a link")


def test_first_step_with_an_edit_measures_the_baseline_first(project: Path) -> None:
    with session.start(project, "mar5", standin.PLAN) as running:
        standin.edit(project, VALUE=1.5)

        kept = loop.step(running, "lower the value")

        assert values(running) == [2.0, 1.5]
        assert kept.verdict is Verdict.KEEP


def test_three_equal_crashes_open_the_breaker_and_reset_closes_it(opened: Session) -> None:
    for n in range(3):
        standin.edit(opened.project.root, MODE="crash", VALUE=3.0 + n)
        loop.step(opened, f"crash {n}")
    standin.edit(opened.project.root, VALUE=1.5)

    with pytest.raises(BreakerOpen, match="mlx loop reset mar5 --breaker"):
        loop.step(opened, "after the crashes")
    loop.close_breaker(opened)

    assert loop.step(opened, "after the reset").verdict is Verdict.KEEP


def test_results_tsv_is_a_view_with_the_six_columns(opened: Session) -> None:
    root = opened.project.root
    standin.edit(root, MODE="crash")
    loop.step(opened, "plant\ta failure")

    rows = [line.split("\t") for line in (root / "results.tsv").read_text().splitlines()]

    assert rows[0] == ["commit", "val_bpb", "memory_gb", "avg_tok_sec", "status", "description"]
    assert rows[1][1:2] + rows[1][3:] == ["2.000000", "1000", "keep", "baseline"]
    assert rows[2][1:5] == ["0.000000", "0.0", "0", "crash"]
    assert len(rows) == 3


def test_views_come_back_after_an_agent_wiped_the_tree(opened: Session) -> None:
    root = opened.project.root
    standin.git(root, "reset", "-q", "--hard")
    standin.git(root, "clean", "-qfdx")
    standin.edit(root, VALUE=1.5)

    loop.step(opened, "after the wipe")

    assert len((root / "results.tsv").read_text().splitlines()) == 3
    assert values(opened) == [2.0, 1.5]


def test_edit_made_during_a_run_is_saved_before_the_restore(opened: Session) -> None:
    root = opened.project.root

    class Meddler(loop.Quiet):
        def run_started(self, experiment: object, run: int) -> None:
            (root / "train.py").write_text("an edit while the run was going on\n")

    standin.edit(root, VALUE=2.5)
    loop.step(opened, "worse", observer=Meddler())

    stray = next(note for note in opened.ledger.notes if note["what"] == "stray edit saved")
    assert standin.git(root, "show", f"{stray['ref']}:train.py") == "an edit while the run was going on"
    assert (root / "train.py").read_text() == standin.TRAIN


def test_a_second_loop_is_refused_while_one_is_open(opened: Session) -> None:
    with pytest.raises(Locked, match="mlx loop stop"):
        session.open_session(opened.project.root, "mar5")


def test_reset_refuses_to_lose_an_edit_and_saves_it_when_asked(opened: Session) -> None:
    root = opened.project.root
    standin.edit(root, VALUE=1.25)

    with pytest.raises(Refused, match="would lose it"):
        loop.reset(opened)
    ref = loop.reset(opened, save=True)

    assert (root / "train.py").read_text() == standin.TRAIN
    assert "VALUE = 1.25" in standin.git(root, "show", f"{ref}:train.py")


def test_harness_files_are_those_of_the_start_whatever_the_tree_holds(project: Path) -> None:
    (project / "ruler.py").write_text("FACTOR = 1.0\n")
    text = standin.TRAIN.replace("import json", "sys_path = __import__('sys').path.insert(0, '.')\nimport json", 1)
    text = text.replace('print("---")', 'import ruler\nVALUE *= ruler.FACTOR\nprint("---")')
    (project / "train.py").write_text(text)
    standin.git(project, "add", "ruler.py", "train.py")
    standin.git(project, "commit", "-qm", "a ruler")
    recipe = standin.Recipe(**{**standin.RECIPE.__dict__, "immutable": ("ruler.py",)})
    plan = session.Plan(standin.PLAN.budget, recipe)
    with session.start(project, "mar5", plan) as running:
        (project / "ruler.py").write_text("FACTOR = 0.1\n")

        first = loop.measure_baseline(running)

    assert first.metrics["val_bpb"] == 2.0


class Scripted:
    """An agent with a fixed list of edits."""

    name = "scripted"

    def __init__(self, edits: list[dict[str, object]]) -> None:
        self.edits = list(edits)

    def propose(self, going: night.Night) -> loop.Proposal | str:
        if not self.edits:
            return "no ideas are left"
        root = going.session.project.root
        changes = self.edits.pop(0)
        standin.edit(root, **changes)
        return loop.Proposal({"train.py": (root / "train.py").read_bytes()}, str(changes))


def test_drive_goes_through_keep_discard_crash_and_says_why_it_ended(project: Path) -> None:
    agent = Scripted([{"VALUE": 1.5}, {"VALUE": 1.8}, {"MODE": "crash"}, {"VALUE": 1.2}])
    with session.start(project, "mar5", standin.PLAN) as running:
        reason = night.drive(running, agent, Limit(experiments=9))
        verdicts = [e.verdict for e in running.ledger.experiments]

    assert reason == "no ideas are left"
    assert verdicts == [Verdict.KEEP, Verdict.KEEP, Verdict.DISCARD, Verdict.CRASH, Verdict.KEEP]


def test_drive_counts_the_experiments_of_the_session_not_of_the_call(project: Path) -> None:
    with session.start(project, "mar5", standin.PLAN) as running:
        night.drive(running, Scripted([{"VALUE": 1.5}]), Limit(experiments=1))
        with pytest.raises(BudgetSpent, match="--experiments"):
            night.drive(running, Scripted([{"VALUE": 1.4}]), Limit(experiments=1))
        night.drive(running, Scripted([{"VALUE": 1.4}, {"VALUE": 1.3}]), Limit(experiments=2))

        assert values(running) == [2.0, 1.5, 1.4]


def test_drive_ends_after_its_hours(project: Path) -> None:
    ticks = iter([0.0, 0.0, 0.0, 3601.0])
    with session.start(project, "mar5", standin.PLAN) as running:
        reason = night.drive(running, Scripted([{"VALUE": 1.5}] * 9), Limit(hours=1.0), clock=lambda: next(ticks))

    assert reason == "1 hours are over"


def test_drive_saves_an_edit_that_it_finds(project: Path) -> None:
    with session.start(project, "mar5", standin.PLAN) as running:
        loop.measure_baseline(running)
        standin.edit(project, VALUE=0.5)
        night.drive(running, Scripted([]), Limit(experiments=5))

        assert [n["what"] for n in running.ledger.notes] == ["branch entered", "power", "stray edit saved"]
        assert (project / "train.py").read_text() == standin.TRAIN


def test_drive_refuses_when_the_baseline_does_not_run(project: Path) -> None:
    standin.edit(project, MODE="crash")
    standin.git(project, "commit", "-qam", "broken")
    with (
        session.start(project, "mar5", standin.PLAN) as running,
        pytest.raises(Refused, match="baseline does not run"),
    ):
        night.drive(running, Scripted([]), Limit(experiments=5))


def test_every_number_is_recorded_with_its_trust_level(opened: Session) -> None:
    run_folder = opened.project.root / opened.ledger.experiments[0].runs[0].folder
    record = json.loads((run_folder / "run.json").read_text())

    assert record["metrics"].keys() == record["trust"].keys()
    assert record["trust"]["val_bpb"] == TrustLevel.SELF_REPORTED
    assert record["trust"]["wall_s"] == TrustLevel.MEASURED
    assert all(math.isfinite(value) for value in record["metrics"].values())


def test_a_reported_memory_peak_can_not_be_talked_below_the_measured_one(opened: Session) -> None:
    measured = opened.ledger.experiments[0].runs[0].metrics

    assert measured is not None
    assert measured["peak_memory_mb"] >= 10.0


def test_night_notes_where_its_power_comes_from_and_that_it_slept(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    powers = iter([Power("mains", None), Power("mains", None), Power("battery", 61), Power("battery", 40)])
    naps = iter([0.0, 1800.0, 0.0, 0.0])

    class Sleep:
        @property
        def seconds(self) -> float:
            return next(naps)

    monkeypatch.setattr(night.awake, "power", lambda: next(powers))
    monkeypatch.setattr(night.awake, "Sleep", Sleep)
    agent = Scripted([{"VALUE": 1.9}, {"VALUE": 1.8}])
    with session.start(project, "mar5", standin.PLAN) as running:
        night.drive(running, agent, Limit(experiments=9))
        notes = [note for note in running.ledger.notes if note["what"] in ("power", "slept")]

    assert [(n["what"], n.get("source"), n.get("percent"), n.get("seconds")) for n in notes] == [
        ("power", "mains", None, None), ("slept", None, None, 1800), ("power", "battery", 61, None),
    ]  # fmt: skip


def test_what_the_loop_writes_is_ignored_in_this_clone_alone(project: Path) -> None:
    (project / ".gitignore").write_text("")
    standin.git(project, "commit", "-qam", "ignore nothing")
    with session.start(project, "mar5", standin.PLAN):
        pass
    (project / "outputs/autoresearch-mar5/1").mkdir(parents=True)
    (project / "outputs/autoresearch-mar5/1/run.log").write_text("x\n")
    (project / "outputs/mine.txt").write_text("x\n")

    shown = standin.git(project, "status", "--porcelain", "--untracked-files=all")

    assert "run.log" not in shown
    assert "outputs/mine.txt" in shown
    exclude = project / ".git/info/exclude"
    before = exclude.read_text()
    Repository(project).leave_out(["/outputs/autoresearch-*"])
    assert exclude.read_text() == before
