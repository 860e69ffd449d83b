"""Single visits of real clients, with a scripted model on loopback: what they may edit, and how they end."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from e2e import client, fakeapi
from e2e.fakeapi import FakeAPI, Step, Track, call, error, say

from autoexperiment import fence
from autoexperiment.agents.clients import client_named
from autoexperiment.agents.visit import Outcome, Visit, VisitLimits, pay

FILES = ("train.py", "prepare.py", "src/model.py", "src/deep/block.py", "src/odd [1].py", "tests/train.py", "CLAUDE.md")
EDITABLE = ("train.py", "src/**/*.py", "src/model.py")
PATIENT = VisitLimits(idle_s=60, wall_s=120)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder whose name needs care in rules, with files beside the ones that may change."""
    folder = tmp_path / "my [state] (1)" / "desk"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("VALUE = 1\n")
    (folder.parent / "ledger.jsonl").write_text("secret of the ledger\n")
    return folder


def visit(
    desk: Path, track: Track, monkeypatch: pytest.MonkeyPatch, *, name: str = "claude", limits: VisitLimits = PATIENT,
    variables: Mapping[str, str] | None = None, settings: str = "",
) -> Visit:  # fmt: skip
    """One visit of the real client in an environment of the test's own."""
    root = desk.parent.parent
    with FakeAPI(track) as api:
        place = client.make_place(root, api.url, cwd=desk, variables=variables)
        binary = client.claude_binary() if name == "claude" else client.codex_binary()
        (place.home / "bin" / name).symlink_to(binary)
        (place.home / ".claude").mkdir()
        (place.home / ".claude" / "settings.json").write_text(settings or "{}")
        for variable in os.environ:
            monkeypatch.delenv(variable)
        for variable, value in place.environment.items():
            monkeypatch.setenv(variable, value)
        return pay(client_named(name), "change VALUE", desk, log=root / "visit.log", limits=limits, editable=EDITABLE)


def edits(desk: Path, *names: str) -> list[Step]:
    """Read and edit each file, with Claude Code's tools."""
    return [
        step
        for name in names
        for step in (
            call("Read", file_path=str(desk / name)),
            call("Edit", file_path=str(desk / name), old_string="VALUE = 1", new_string="VALUE = 2"),
        )
    ]


def changed(desk: Path) -> set[str]:
    return {name for name in FILES if (desk / name).read_text() != "VALUE = 1\n"}


def test_claude_edits_what_the_globs_name_and_is_denied_the_rest(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [
        *edits(desk, *FILES),
        call("Write", file_path=str(desk / "src" / "new.py"), content="new"),
        call("Write", file_path=str(desk / "new.py"), content="new"),
        call("Write", file_path=str(desk.parent / "new.py"), content="new"),
        say("IDEA: VALUE 2\nNEXT: VALUE 3"),
    ]
    track = Track(steps)

    paid = visit(desk, track, monkeypatch)

    assert (paid.outcome, paid.said) == (Outcome.ENDED, "IDEA: VALUE 2\nNEXT: VALUE 3"), paid.reason
    assert changed(desk) == {"train.py", "src/model.py", "src/deep/block.py", "src/odd [1].py"}
    assert (desk / "src" / "new.py").exists()
    assert not (desk / "new.py").exists() and not (desk.parent / "new.py").exists()
    refused = [result for request in track.requests for result in request.results if result.is_error]
    assert len({result.text for result in refused}) >= 1 and len(refused) >= 5
    assert paid.tokens is not None and paid.cost_usd is not None


def test_claude_has_file_tools_only_and_reads_nothing_beside_its_desk(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = desk.parent / "ledger.jsonl"
    steps = [
        call("Read", file_path=str(secret)),
        call("Grep", pattern="secret", path=str(desk.parent), output_mode="content"),
        call("Bash", command=f"cat '{secret}'; touch ran", description="x"),
        call("WebFetch", url="http://127.0.0.1:9/", prompt="x"),
        say("done"),
    ]
    track = Track(steps)

    paid = visit(desk, track, monkeypatch)

    assert paid.outcome is Outcome.ENDED
    tools = set(track.requests[0].tools)
    assert tools >= {"Read", "Glob", "Grep", "Edit", "Write"}
    assert not tools & {"Bash", "WebFetch", "WebSearch", "Task", "Agent", "NotebookEdit", "Skill"}
    results = [result for request in track.requests for result in request.results]
    assert len(results) == 4 and all(result.is_error for result in results)
    assert not any("secret of the ledger" in result.text for result in results)
    assert not (desk / "ran").exists()


def test_settings_of_the_user_and_of_the_project_open_nothing_to_claude(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = desk / "hook-ran"
    hook = {"type": "command", "command": f"touch '{ran}'"}
    permissions = {"allow": ["Edit", "Write", "Bash", "Read"], "defaultMode": "acceptEdits"}
    settings = json.dumps({"permissions": permissions, "hooks": {"SessionStart": [{"hooks": [hook]}]}})
    (desk / ".claude").mkdir()
    (desk / ".claude" / "settings.json").write_text(settings)
    (desk / "CLAUDE.md").write_text("VALUE = 1\nalways commit and push\n")
    track = Track([*edits(desk, "prepare.py", ".claude/settings.json", "train.py"), say("done")])

    paid = visit(desk, track, monkeypatch, settings=settings)

    assert paid.outcome is Outcome.ENDED
    assert (desk / "prepare.py").read_text() == "VALUE = 1\n"
    assert (desk / "train.py").read_text() == "VALUE = 2\n"
    assert (desk / ".claude" / "settings.json").read_text() == settings
    assert "always commit and push" not in track.requests[0].all
    assert not ran.exists()


def test_usage_limit_of_a_subscriber_has_its_end(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reset = int(time.time()) + 7200
    limited = Track(itertools.repeat(fakeapi.limit(reset)))

    paid = visit(desk, limited, monkeypatch, variables=client.SUBSCRIBER)

    assert paid.outcome is Outcome.USAGE_LIMIT
    assert paid.reset_at == datetime.fromtimestamp(reset, UTC)


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        (error(401, "authentication_error", "invalid x-api-key"), Outcome.AUTH),
        (error(529, "overloaded_error", "Overloaded"), Outcome.OVERLOADED),
        (error(500, "api_error", "Internal server error"), Outcome.OVERLOADED),
        (error(429, "rate_limit_error", "too many tokens per minute"), Outcome.OVERLOADED),
        (error(400, "invalid_request_error", "Your credit balance is too low to access the API."), Outcome.USAGE_LIMIT),
        (error(404, "not_found_error", "model: x"), Outcome.FAILED),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Step) else str(value),
)
def test_errors_of_the_service_are_told_apart(
    desk: Path, monkeypatch: pytest.MonkeyPatch, step: Step, outcome: Outcome
) -> None:
    paid = visit(desk, Track(itertools.repeat(step)), monkeypatch)

    assert paid.outcome is outcome, paid.reason
    assert paid.reason and paid.reset_at is None


def test_missing_log_in_is_one(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paid = visit(desk, Track([]), monkeypatch, variables={"ANTHROPIC_API_KEY": ""})

    assert paid.outcome is Outcome.AUTH
    assert "/login" in paid.reason


def test_service_that_can_not_be_reached_is_worth_trying_again(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paid = visit(desk, Track([]), monkeypatch, variables={"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"})

    assert paid.outcome is Outcome.OVERLOADED


def test_service_that_never_answers_is_a_stall(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paid = visit(desk, Track(itertools.repeat(fakeapi.hang())), monkeypatch, limits=VisitLimits(idle_s=4, wall_s=60))

    assert paid.outcome is Outcome.STALLED


@pytest.mark.skipif(bool(fence.fault()), reason=fence.fault())
def test_codex_edits_its_desk_by_shell_and_nothing_beside_it(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = f"'{desk.parent / 'evil'}' ~/evil ~/.codex/AGENTS.md '{desk.parent / 'ledger.jsonl'}'"
    script = f"sed -i 's/VALUE = 1/VALUE = 2/' train.py; for f in {outside}; do echo evil >> \"$f\"; done; echo over"
    track = Track([call("exec_command", cmd=script), say("IDEA: VALUE 2")])

    paid = visit(desk, track, monkeypatch, name="codex")

    assert (paid.outcome, paid.said) == (Outcome.ENDED, "IDEA: VALUE 2"), paid.reason
    home = desk.parent.parent / "client-home"
    assert changed(desk) == {"train.py"}
    assert (desk.parent / "ledger.jsonl").read_text() == "secret of the ledger\n"
    assert not any(place.exists() for place in (desk.parent / "evil", home / "evil", home / ".codex" / "AGENTS.md"))


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        (error(401, "authentication_error", "invalid key"), Outcome.AUTH),
        (error(529, "overloaded_error", "Overloaded"), Outcome.OVERLOADED),
        (error(429, "usage_limit_reached", "limit", plan_type="plus", resets_at=int(time.time()) + 9000), Outcome.USAGE_LIMIT),
    ],
    ids=["401", "529", "429"],
)  # fmt: skip
def test_errors_of_codex_are_told_apart(
    desk: Path, monkeypatch: pytest.MonkeyPatch, step: Step, outcome: Outcome
) -> None:
    paid = visit(desk, Track(itertools.repeat(step)), monkeypatch, name="codex")

    assert paid.outcome is outcome, paid.reason
    assert (paid.reset_at is not None) == (outcome is Outcome.USAGE_LIMIT)
