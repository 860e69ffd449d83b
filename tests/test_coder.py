"""The driver's course over visits, with programs of our own as agents: what is measured, recorded, waited for, refused."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import contracts
import pytest

from autoexperiment import fence, loop, night
from autoexperiment.agents import agent_named, patience
from autoexperiment.agents.coder import Coder, ideas
from autoexperiment.agents.visit import Outcome, Visit
from autoexperiment.errors import Refused
from autoexperiment.ledger import VISIT
from autoexperiment.measuring import Quiet
from autoexperiment.night import Limit
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
