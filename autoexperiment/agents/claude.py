"""Claude Code as a headless agent: `claude -p` with stream-json, file tools only, and edits only where they may be."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoexperiment import globs
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

TOOLS = "Read,Glob,Grep,Edit,Write"
RULES_LIMIT = 3000  # a project with more fixed files than this beside mutable ones is guarded by what it leaves only
_SPECIAL = re.compile(r"([\\\[\]*?!#(){} ])")  # in the gitignore patterns of permission rules
_QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
}


@dataclass(frozen=True)
class Claude(EventClient):
    """The client `claude`; seen to work: 2.1.329."""

    program: str
    model: str | None = None
    name: str = "claude"
    login_hint: str = "Type: claude, then /login; or set ANTHROPIC_API_KEY."

    def start(self, task: Task) -> Start:
        settings = task.private / "settings.json"
        settings.write_text(json.dumps({"permissions": rules(task)}))
        words = [
            self.program, "-p", "--output-format", "stream-json", "--verbose", "--no-session-persistence", "--safe-mode",
            "--setting-sources", "user", "--strict-mcp-config", "--permission-mode", "dontAsk", "--tools", TOOLS,
            "--settings", str(settings), *(["--model", self.model] if self.model else []), "--", task.prompt,
        ]  # fmt: skip
        env = {**_QUIET, "CLAUDE_CODE_TMPDIR": str(task.private / "tmp")}
        config = folder_of("CLAUDE_CONFIG_DIR", home() / ".claude")
        return Start(words, env, (config, *existing(home() / ".claude.json")))

    def take(self, event: Event, account: Account) -> None:
        kind = event.get("type")
        if kind == "result":
            _take_result(event, account)
        elif kind == "rate_limit_event" and part(event, "rate_limit_info", "status") == "rejected":
            _take_limit(event, account)
        elif kind == "system" and event.get("subtype") == "api_retry":
            account.wait(f"API error: {event.get('error')}", status=_status(event.get("error_status")))
        elif kind == "assistant" and not event.get("is_api_error_message"):
            account.pending = None
            account.said = words_of(part(event, "message", "content")) or account.said


def make(model: str | None) -> Claude:
    """Raises: Refused: it is not installed."""
    return Claude(program("claude", install="npm install -g @anthropic-ai/claude-code"), model)


# ---- what it may edit


def rules(task: Task) -> dict[str, list[str]]:
    """Permission rules: edits below the editable globs, and none of what lies on the desk beside them.

    A rule that forbids is stronger than any that allows, so a user who allows all edits opens no file that is there;
    a new one can be added then, and is found when the desk is looked at.
    """
    fixed = [*task.protected, *itertools.islice(_fixed(task.desk, "", task.editable), RULES_LIMIT)]
    return {"allow": [_rule(task.desk, glob) for glob in task.editable], "deny": [_rule(task.desk, p) for p in fixed]}


def _rule(desk: Path, pattern: str) -> str:
    return f"Edit(/{_escaped(str(desk))}/{pattern})"


def _escaped(path: str) -> str:
    return _SPECIAL.sub(r"\\\1", path)


def _fixed(desk: Path, folder: str, editable: Sequence[str]) -> Iterator[str]:
    """Patterns of what may not be edited: files, and whole folders that no glob reaches into."""
    for entry in sorted(os.scandir(desk / folder), key=lambda entry: entry.name):
        path = f"{folder}{entry.name}"
        if not entry.is_dir(follow_symlinks=False):
            if not globs.any_matches(editable, path):
                yield _escaped(path)
        elif any(_reaches_into(glob, f"{path}/") for glob in editable):
            yield from _fixed(desk, f"{path}/", editable)
        else:
            yield f"{_escaped(path)}/**"


def _reaches_into(glob: str, folder: str) -> bool:
    """Whether a glob may match below a folder, by what stands before its first wildcard."""
    head = re.split(r"[*?\[\\]", glob, maxsplit=1)[0]
    return folder.startswith(head) or head.startswith(folder)


# ---- what it says


def _take_result(event: Event, account: Account) -> None:
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    account.spend(*(part(event, "usage", name) for name in names), cost_usd=event.get("total_cost_usd"))
    said = event.get("result")
    if event.get("is_error") is False and event.get("subtype") == "success":
        account.finish(said if isinstance(said, str) else "")
        return
    text = said if isinstance(said, str) and said else f"It ended with {event.get('subtype')}: {event.get('errors')}"
    account.fail(f"{text} {event.get('api_error') or ''}".strip(), status=_status(event.get("api_error_status")))


def _take_limit(event: Event, account: Account) -> None:
    """A limit that is reached; without a time it is one of the service's own, which soon passes."""
    resets_at = part(event, "rate_limit_info", "resetsAt")
    if isinstance(resets_at, (int, float)):
        account.wait(f"Usage limit of {part(event, 'rate_limit_info', 'rateLimitType')}, resets_at: {int(resets_at)}")
    else:
        account.wait("rate limit", status=429)


def _status(value: object) -> int | None:
    return value if isinstance(value, int) else None
