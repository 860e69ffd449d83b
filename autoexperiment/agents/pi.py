"""pi as a headless agent: `pi -p --mode json` with file tools only."""

from __future__ import annotations

from dataclasses import dataclass

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
    words_of,
)

TOOLS = "read,edit,write,grep,find,ls"
_BARE = (
    "--no-session", "--no-extensions", "--no-skills", "--no-prompt-templates", "--no-themes", "--no-context-files"
)  # fmt: skip


@dataclass(frozen=True)
class Pi(EventClient):
    """The client `pi`; seen to work: 0.73.1. It has no rules for single files: what it edits is seen afterwards."""

    program: str
    model: str | None = None
    name: str = "pi"
    login_hint: str = "Type: pi, then /login; or set the API key of its provider."

    def start(self, task: Task) -> Start:
        words = [
            self.program, "-p", "--mode", "json", "--tools", TOOLS, *_BARE,
            *(["--model", self.model] if self.model else []), _message(task.prompt),
        ]  # fmt: skip
        folder = folder_of("PI_CODING_AGENT_DIR", home() / ".pi" / "agent")
        return Start(words, {"PI_SKIP_VERSION_CHECK": "1", "PI_TELEMETRY": "0"}, existing(folder / "auth.json"))

    def take(self, event: Event, account: Account) -> None:
        kind = event.get("type")
        if kind == "auto_retry_start":
            account.wait(str(event.get("errorMessage")))
        elif kind == "message_end" and part(event, "message", "role") == "assistant":
            _take_message(event, account)


def make(model: str | None) -> Pi:
    """Raises: Refused: it is not installed."""
    return Pi(program("pi", install="npm install -g @mariozechner/pi-coding-agent"), model)


def _message(prompt: str) -> str:
    """The prompt as pi takes it: it has no end of options, and reads a first `@` as a file's name."""
    return f"\n{prompt}" if prompt[:1] in ("-", "@") else prompt


def _take_message(event: Event, account: Account) -> None:
    message = event["message"]
    usage = part(message, "usage")
    account.spend(part(usage, "totalTokens"), cost_usd=part(usage, "cost", "total"))
    reason = message.get("stopReason")
    if reason in ("error", "aborted"):
        account.fail(str(message.get("errorMessage") or "The model's answer was cut off."))
    elif reason == "stop":
        account.finish(words_of(message.get("content")))
    else:
        account.pending, account.is_done = None, False
