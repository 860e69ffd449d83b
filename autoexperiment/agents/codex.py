"""Codex as a headless agent: `codex exec --json`. Its agent has a shell, so the fence holds it, or its own sandbox."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from autoexperiment.agents.client import (
    Account,
    Event,
    EventClient,
    Start,
    Task,
    existing,
    folder_of,
    home,
    part,
    program,
)

_TRYING_AGAIN = re.compile(r"reconnecting|retrying", re.IGNORECASE)


@dataclass(frozen=True)
class Codex(EventClient):
    """The client `codex`; seen to work: 0.169.0. It has no rules for single files: what it edits is seen afterwards."""

    program: str
    model: str | None = None
    name: str = "codex"
    login_hint: str = "Type: codex login"

    def start(self, task: Task) -> Start:
        # its own sandbox is made of mounts, which nobody behind a fence can make
        sandbox = "danger-full-access" if task.is_fenced else "workspace-write"
        words = [
            self.program, "exec", "--json", "--skip-git-repo-check", "--ephemeral", "--color", "never",
            "--sandbox", sandbox, "-c", 'approval_policy="never"', "--cd", str(task.desk),
            *(["--model", self.model] if self.model else []), "--", task.prompt,
        ]  # fmt: skip
        return Start(words, {"CODEX_SQLITE_HOME": str(task.private)}, _own(folder_of("CODEX_HOME", home() / ".codex")))

    def take(self, event: Event, account: Account) -> None:
        kind, message = event.get("type"), event.get("message")
        if kind == "turn.completed":
            account.spend(part(event, "usage", "input_tokens"), part(event, "usage", "output_tokens"))
            account.finish()
        elif kind == "turn.failed":
            account.fail(str(part(event, "error", "message") or "The turn failed."))
        elif kind == "error" and isinstance(message, str):
            account.wait(message) if _TRYING_AGAIN.search(message) else account.fail(message)
        elif kind == "item.completed":
            _take_item(event, account)


def make(model: str | None) -> Codex:
    """Raises: Refused: it is not installed."""
    return Codex(program("codex", install="npm install -g @openai/codex"), model)


def _own(folder: Path) -> list[Path]:
    """What it must write of its own. Settings and instructions are left out: its agent has a shell to write them."""
    folder.mkdir(parents=True, exist_ok=True)
    identity, login = folder / "installation_id", folder / "auth.json"
    identity.touch()  # it can fill this file behind the fence, and not make it
    return [folder / "tmp", identity, *existing(login)]


def _take_item(event: Event, account: Account) -> None:
    if part(event, "item", "type") == "error":  # a warning of its own; the work goes on
        return
    account.pending = None
    text = part(event, "item", "text")
    if part(event, "item", "type") == "agent_message" and isinstance(text, str):
        account.said = text
