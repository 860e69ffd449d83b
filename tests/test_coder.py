"""The driver's course over visits, with programs of our own as agents: what is measured, recorded, waited for, refused."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import contracts
import pytest
import standin

from autoexperiment import fence, loop, night, session
from autoexperiment.agents import agent_named, patience
from autoexperiment.agents.coder import Coder, ideas
from autoexperiment.agents.visit import Outcome, Visit
from autoexperiment.errors import BreakerOpen, Refused, UsageError
from autoexperiment.failure import Failure
from autoexperiment.ledger import VISIT
from autoexperiment.measuring import Quiet
from autoexperiment.night import Limit
from autoexperiment.preflight import Preflight
from autoexperiment.session import Session
from autoexperiment.vocabulary import Verdict

EDIT = """\
import pathlib, sys
n = int(pathlib.Path({count!r}).read_text()) if pathlib.Path({count!r}).exists() else 0
pathlib.Path({count!r}).write_text(str(n + 1))
train = pathlib.Path("train.py")
{body}
"""


@pytest.fixture
def running(contract: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A session with a baseline. Its agents count their visits in a file, so they are not fenced."""
    monkeypatch.setattr(fence, "fault", lambda: "not in this test")
    with contracts.start(contract, contracts.document()) as opened:
        loop.measure_baseline(opened)
        yield opened


def agent(running: Session, body: str) -> Coder:
    """A program as an agent. `n`: how many visits there were before; `train`: the desk's train.py."""
    top = running.project.root.parent
    script = top / "agent.py"
    script.write_text(EDIT.format(count=str(top / "home" / "count"), body=body))
    made = agent_named(f"command:{sys.executable} {script}")
    assert isinstance(made, Coder)
    return made


class Heard(Quiet):
    """An observer that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def visits(running: Session) -> list[str]:
    return [note["result"] for note in running.ledger.notes if note["what"] == VISIT]


SET = 'train.write_text(train.read_text().replace("VALUE = 2.0", f"VALUE = {1.9 - n / 10:.1f}"))\n'


def test_edit_is_measured_with_the_agents_own_line_and_its_ideas_are_kept(running: Session) -> None:
    body = SET + 'print("IDEA: lower VALUE\\nNEXT: still lower\\nNEXT: drop STEPS")'

    reason = night.drive(running, agent(running, body), Limit(experiments=1))

    assert reason == "1 experiments are judged"
    last = running.ledger.experiments[-1]
    assert (last.description, last.verdict, last.metrics["score"]) == ("lower VALUE", Verdict.KEEP, 1.9)
    assert ideas(running) == ["still lower", "drop STEPS"]
    assert not running.paths.desk.exists()


def test_a_persons_list_comes_before_the_agents_ideas_and_tried_ones_go(running: Session) -> None:
    running.project.experiment_notes.write_text("## Next to try\n- mine\n- lower VALUE\n")
    body = SET + 'print("IDEA: lower VALUE\\nNEXT: theirs\\nNEXT: mine")'

    night.drive(running, agent(running, body), Limit(experiments=1))

    assert ideas(running) == ["mine", "theirs"]


def test_edit_without_a_line_is_named_after_its_files(running: Session) -> None:
    night.drive(running, agent(running, SET), Limit(experiments=1))

    assert running.ledger.experiments[-1].description == "edit of train.py"


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ("pass", "no change"),
        ('pathlib.Path("harness/check.py").write_text("cheat")', "forbidden edit"),
        (SET + 'pathlib.Path("notes.md").unlink()', "forbidden edit"),
    ],
)
def test_three_visits_that_bring_nothing_end_the_night_without_a_row(running: Session, body: str, result: str) -> None:
    with pytest.raises(Refused, match=f"3 times in a row, the last time: {result}"):
        night.drive(running, agent(running, body), Limit(experiments=1))

    assert visits(running) == [result] * 3
    assert len(running.ledger.experiments) == 1
    assert (running.project.root / "harness/check.py").read_text() == "print(1)\n"


def test_candidate_that_was_measured_before_is_not_measured_again(running: Session) -> None:
    body = 'train.write_text(train.read_text().replace("VALUE = 2.0", f"VALUE = {2.5 if n < 2 else 2.6}"))'

    night.drive(running, agent(running, body), Limit(experiments=2))

    assert visits(running) == ["edited", "repeated", "edited"]
    assert [e.metrics["score"] for e in running.ledger.experiments] == [2.0, 2.5, 2.6]


def test_edit_that_stays_broken_is_a_crash_without_a_run(running: Session) -> None:
    body = 'train.write_text(train.read_text() + "\\nbroken(\\n")'

    night.drive(running, agent(running, body), Limit(experiments=1))

    last = running.ledger.experiments[-1]
    assert visits(running) == ["broken edit", "broken edit"]
    assert (last.verdict, last.outcome, len(last.runs)) == (Verdict.CRASH, "crashed", 0)
    assert "SyntaxError" in last.reason and last.evidence["rule"] == "pre-flight"
    assert (running.project.root / "train.py").read_text() == contracts.TRAIN


def test_three_equal_broken_edits_open_the_breaker(running: Session) -> None:
    body = 'train.write_text(train.read_text() + f"\\nbroken(  # {n}\\n")'

    with pytest.raises(loop.LabError, match="circuit breaker"):
        night.drive(running, agent(running, body), Limit(experiments=9))

    assert [e.verdict for e in running.ledger.experiments] == [Verdict.KEEP, *[Verdict.CRASH] * 3]


def test_mended_edit_is_what_is_measured(running: Session) -> None:
    body = (
        'text = train.read_text()\n'
        'train.write_text(text.replace("VALUE = 1.5(", "VALUE = 1.5") if "1.5(" in text'
        ' else text.replace("VALUE = 2.0", "VALUE = 1.5("))'
    )  # fmt: skip

    night.drive(running, agent(running, body), Limit(experiments=1))

    assert visits(running) == ["broken edit", "edited"]
    assert running.ledger.experiments[-1].metrics["score"] == 1.5


def test_crash_of_the_program_is_tried_again_and_no_candidates_fault(
    running: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.0)

    night.drive(running, agent(running, "if n < 2: sys.exit(9)\n" + SET), Limit(experiments=1))

    assert visits(running) == ["failed", "failed", "edited"]
    assert [e.verdict for e in running.ledger.experiments] == [Verdict.KEEP, Verdict.KEEP]


def test_limit_of_money_ends_the_night(running: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoexperiment.agents.coder.pay", lambda *_, **__: Visit(Outcome.ENDED, cost_usd=0.75))

    reason = night.drive(running, agent(running, "pass"), Limit(usd=1.4))

    assert reason == "the agents cost $1.50, and $1.4 were allowed"
    assert night.spent_usd(running) == 1.5


def test_stop_request_ends_a_wait(running: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def limited(*_: object, **__: object) -> Visit:
        running.paths.stop_request.write_text("stop\n")
        return Visit(Outcome.USAGE_LIMIT, reason="5 h limit")

    monkeypatch.setattr("autoexperiment.agents.coder.pay", limited)
    heard = Heard()

    reason = night.drive(running, agent(running, "pass"), Limit(experiments=1), observer=heard)

    assert reason == "a stop was requested"
    assert any("waiting 15 min: 5 h limit" in line for line in heard.lines)


def test_prompt_of_a_repair_says_what_is_broken(running: Session) -> None:
    seen = running.project.root.parent / "prompts"
    body = f'open({str(seen)!r}, "a").write(open(sys.argv[-1]).read() + "=====")\n'
    body += 'train.write_text(train.read_text() + "\\nbroken(\\n")'

    night.drive(running, agent(running, body), Limit(experiments=1))

    first, second = seen.read_text().split("=====")[:2]
    assert "syntax check failed" not in first
    assert "syntax check failed: SyntaxError at train.py:" in second
    assert "Its edit still lies in this folder" in second


def test_night_waits_no_longer_than_it_lasts(running: Session) -> None:
    going = night.Night(running, Limit(hours=0.0001), Quiet(), time.monotonic, time.monotonic())

    assert going.wait(3600) == "0.0001 hours are over"


def test_a_persons_edit_during_a_visit_is_saved_and_told_of(running: Session) -> None:
    root, heard = running.project.root, Heard()
    body = SET + f'open({str(root / "train.py")!r}, "a").write("PRECIOUS = 1\\n")'

    night.drive(running, agent(running, body), Limit(experiments=1), observer=heard)

    told = next(line for line in heard.lines if "git show refs/autoexperiment" in line)
    ref = told.rpartition(" ")[2]
    assert "PRECIOUS = 1" in standin.git(root, "show", f"{ref}:train.py")
    assert running.ledger.experiments[-1].metrics["score"] == 1.9


def test_branch_that_was_left_during_a_visit_gets_no_candidate(running: Session) -> None:
    root = running.project.root
    body = SET + f'import subprocess; subprocess.run(["git", "-C", {str(root)!r}, "switch", "-q", "main"], check=True)'

    with pytest.raises(Refused, match="git switch autoresearch/t"):
        night.drive(running, agent(running, body), Limit(experiments=2))

    assert standin.git(root, "status", "--porcelain", "--untracked-files=no") == ""
    assert len(running.ledger.experiments) == 1


def test_broken_edit_that_is_taken_back_is_a_crash_and_no_endless_night(running: Session) -> None:
    body = (
        'text = train.read_text()\n'
        'train.write_text(text.replace("broken(\\n", "") if "broken(" in text else text + "broken(\\n")'
    )  # fmt: skip

    night.drive(running, agent(running, body), Limit(experiments=1))

    assert visits(running) == ["broken edit", "no change"]
    last = running.ledger.experiments[-1]
    assert (last.verdict, len(last.runs)) == (Verdict.CRASH, 0)


def test_equal_crashes_of_the_preflight_open_the_breaker_whatever_numbers_they_name(
    running: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(100))

    def failing(*_: object, **__: object) -> Preflight:
        n = next(numbers)
        failure = Failure("ValueError", f"planted {n}", f"train.py:{n} in run")
        return Preflight(False, "first step", f"ValueError at train.py:{n}: planted {n}", failure, 0.1)

    monkeypatch.setattr("autoexperiment.agents.coder.preflight.check", failing)

    with pytest.raises(BreakerOpen):
        night.drive(running, agent(running, SET), Limit(experiments=9))

    assert [e.outcome for e in running.ledger.experiments[1:]] == ["crashed"] * 3


def test_cost_is_recorded_before_the_edit_is_looked_at(running: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoexperiment.agents.coder.pay", lambda *_, **__: Visit(Outcome.ENDED, cost_usd=0.4))

    def stopped(*_: object) -> None:
        raise loop.Stopped("a signal")

    monkeypatch.setattr("autoexperiment.agents.coder._harvest", stopped)

    with pytest.raises(loop.Stopped):
        night.drive(running, agent(running, "pass"), Limit(experiments=1))

    assert night.spent_usd(running) == 0.4
    assert not running.paths.desk.exists()


def test_interrupted_candidate_is_measured_before_anything_new(running: Session) -> None:
    class Never:
        name = "never"

        def propose(self, going: night.Night) -> loop.Proposal | str:
            return "asked"

    files = {
        **running.files_of(running.head),
        "train.py": contracts.TRAIN.replace("VALUE = 2.0", "VALUE = 1.4").encode(),
    }
    repository = running.repository
    commit = repository.take(
        files, base=running.head, surface=running.surface.is_mutable, message="x", when=session.now()
    )
    running.ledger.append(
        "begin", experiment=1, commit=commit.commit, base=running.head, content=session.content_id(files),
        description="left behind", lines_added=1, lines_removed=1, source="claude",
    )  # fmt: skip
    running.ledger.append("started", experiment=1, run=0, folder="outputs/x", seed=None)
    session.recover(running)

    reason = night.drive(running, Never(), Limit(experiments=5))

    rows = running.ledger.experiments
    assert reason == "asked"
    assert [(e.outcome, e.description, e.source) for e in rows[1:]] == [
        ("interrupted", "left behind", "claude"), ("ok", "left behind", "claude"),
    ]  # fmt: skip
    assert rows[-1].metrics["score"] == 1.4


def test_candidate_that_was_interrupted_three_times_is_left_alone(running: Session) -> None:
    class Never:
        name = "never"

        def propose(self, going: night.Night) -> loop.Proposal | str:
            return "asked"

    files = {
        **running.files_of(running.head),
        "train.py": contracts.TRAIN.replace("VALUE = 2.0", "VALUE = 1.4").encode(),
    }
    taken = running.repository.take(
        files, base=running.head, surface=running.surface.is_mutable, message="x", when=session.now()
    )
    for number in (1, 2, 3):
        running.ledger.append(
            "begin", experiment=number, commit=taken.commit, base=running.head, content=session.content_id(files),
            description="left behind", lines_added=1, lines_removed=1, source="claude",
        )  # fmt: skip
        running.ledger.append("started", experiment=number, run=0, folder="outputs/x", seed=None)
        session.recover(running)

    assert night.drive(running, Never(), Limit(experiments=5)) == "asked"
    assert len(running.ledger.experiments) == 4


def test_what_is_left_is_the_least_of_the_nights_and_the_protocols_limits(contract: Path) -> None:
    document = contracts.document(miningLoop={"maxTrials": 3, "maxSessionWallSeconds": 60})
    with contracts.start(contract, document) as running:
        going = night.Night(running, Limit(experiments=9, hours=5), Quiet(), time.monotonic, time.monotonic())

        left = going.remaining()

    assert left.experiments == 3
    assert left.seconds is not None and left.seconds <= 60


def test_activity_is_left_for_the_status_and_gone_afterwards(running: Session) -> None:
    seen = running.project.root.parent / "seen"
    body = SET + f"import shutil; shutil.copy({str(running.paths.activity)!r}, {str(seen)!r})"

    night.drive(running, agent(running, body), Limit(experiments=1))

    assert "is at work since" in seen.read_text()
    assert not running.paths.activity.exists()


def test_search_has_no_model() -> None:
    with pytest.raises(UsageError, match="has no --model"):
        agent_named("search", model="opus")
