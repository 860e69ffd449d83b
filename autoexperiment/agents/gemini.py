"""Gemini CLI as a headless agent: `gemini -p` with stream-json, edits approved, everything else that asks refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from autoexperiment.agents.client import Account, Event, EventClient, Start, Task, folder_of, home, part, program
from autoexperiment.agents.trouble import Outcome


@dataclass(frozen=True)
class Gemini(EventClient):
    """The client `gemini`; seen to work: 0.61.0. It has no rules for single files: what it edits is seen afterwards."""

    program: str
    model: str | None = None
    name: str = "gemini"
    login_hint: str = "Type: gemini, then /auth; or set GEMINI_API_KEY."
    exits: ClassVar[Mapping[int, Outcome]] = {41: Outcome.AUTH}

    def start(self, task: Task) -> Start:
        words = [
            self.program, "--output-format", "stream-json", "--approval-mode", "auto_edit", "--skip-trust",
            "--extensions", "none", *(["--model", self.model] if self.model else []), f"--prompt={task.prompt}",
        ]  # fmt: skip
        return Start(words, {"GEMINI_TELEMETRY_ENABLED": "false"}, (folder_of("GEMINI_CLI_HOME", home()) / ".gemini",))

    def take(self, event: Event, account: Account) -> None:
        kind = event.get("type")
        if kind == "message" and event.get("role") == "assistant":
            _take_message(event, account)
        elif kind == "tool_use":
            account.said, account.pending = "", None
        elif kind == "error":
            account.wait(str(event.get("message")))
        elif kind == "result":
            account.spend(part(event, "stats", "total_tokens"))
            if event.get("status") == "success":
                account.finish()
            else:
                account.fail(str(part(event, "error", "message") or "It ended with an error."))


def make(model: str | None) -> Gemini:
    """Raises: Refused: it is not installed."""
    return Gemini(program("gemini", install="npm install -g @google/gemini-cli"), model)


def _take_message(event: Event, account: Account) -> None:
    content = event.get("content")
    if isinstance(content, str):
        account.said = account.said + content if event.get("delta") else content
