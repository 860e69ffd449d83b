"""A real session with a handover, and the plugins' hooks run on it as the client runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contracts
import pytest
import standin

from autoexperiment import handover

HOOKS = Path(__file__).resolve().parent.parent / "experiment-plugin" / "hooks"
CHAT = "0b1c2d3e-0000-4000-8000-000000000001"
HELD_OUT = contracts.additions(holdOut=["secret/**"])


@dataclass(frozen=True)
class Place:
    """A project whose session's branch is checked out. `home` is everybody's home folder there."""

    root: Path
    home: Path
    state: Path

    @property
    def handover(self) -> Path:
        return next(self.state.glob("project-*/t/handover.json"))

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], **standin.git_environment(self.home)}


@dataclass(frozen=True)
class Answer:
    """What a hook said, and the JSON in it."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.stdout) if self.stdout else {}

    @property
    def decision(self) -> str:
        return self.json.get("hookSpecificOutput", {}).get("permissionDecision", "")

    @property
    def reason(self) -> str:
        return self.json.get("hookSpecificOutput", {}).get("permissionDecisionReason", "")


def make_place(folder: Path, monkeypatch: pytest.MonkeyPatch, document: dict[str, Any] = HELD_OUT) -> Place:
    """A project with a session `t` and its handover; the environment is left as in the project's fixtures."""
    home = folder / "home"
    standin.isolate(folder, monkeypatch)
    files = {"secret/answers.csv": "42\n", "outputs/autoresearch-t/r1/run.log": "text\n"}
    root = contracts.make_project(folder / "project", files=files)
    with contracts.start(root, document) as session:
        handover.write(session)
    return Place(root, home, home / "state" / "autoexperiment")


def run(place: Place, script: str, event: dict[str, Any] | str, *words: str, **variables: str) -> Answer:
    """Run a hook. Args: event: stdin, as JSON or as it is."""
    text = event if isinstance(event, str) else json.dumps(event)
    command = [sys.executable, "-ES", str(HOOKS / script), *words]
    answer = subprocess.run(
        command, input=text, text=True, capture_output=True, cwd=place.root, env={**place.environment, **variables}
    )
    return Answer(answer.returncode, answer.stdout, answer.stderr)


def event(place: Place, name: str, **more: Any) -> dict[str, Any]:
    """An event as client 2.1.329 sends it."""
    return {
        "session_id": CHAT,
        "transcript_path": str(place.home / "chat.jsonl"),
        "cwd": str(place.root),
        "prompt_id": "b3b5e7d0-0000-4000-8000-000000000002",
        "permission_mode": "default",
        "effort": {"level": "high"},
        "hook_event_name": name,
        **more,
    }


def call(place: Place, tool: str, *, cwd: Path | None = None, **asked: Any) -> Answer:
    """The guard's answer to a tool call."""
    more = {"cwd": str(cwd)} if cwd else {}
    asked_event = event(place, "PreToolUse", tool_name=tool, tool_input=asked, tool_use_id="toolu_1") | more
    return run(place, "guard.py", asked_event)
