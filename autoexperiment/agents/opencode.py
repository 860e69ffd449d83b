"""opencode as a headless agent: `opencode run --format json`, with rules for the files that it may edit."""

from __future__ import annotations

import json
from dataclasses import dataclass

from autoexperiment.agents.client import Account, Event, EventClient, Start, Task, folder_of, home, part, program

_QUIET = {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1"}


@dataclass(frozen=True)
class OpenCode(EventClient):
    """The client `opencode`; seen to work: 1.18.34.

    It tries again for ever, and says why in its log only: so the errors of its log are let into the output.
    """

    program: str
    model: str | None = None
    name: str = "opencode"
    login_hint: str = "Type: opencode auth login"

    def start(self, task: Task) -> Start:
        words = [
            self.program, "run", "--format", "json", "--pure", "--print-logs", "--log-level", "ERROR",
            *(["--model", self.model] if self.model else []), "--", task.prompt,
        ]  # fmt: skip
        env = {**_QUIET, "OPENCODE_PERMISSION": json.dumps(permissions(task))}
        places = {"XDG_DATA_HOME": ".local/share", "XDG_STATE_HOME": ".local/state", "XDG_CACHE_HOME": ".cache",
                  "XDG_CONFIG_HOME": ".config"}  # fmt: skip
        own = [folder_of(variable, home() / place) / "opencode" for variable, place in places.items()]
        return Start(words, env, own)

    def take(self, event: Event, account: Account) -> None:
        kind = event.get("type")
        if kind == "error":
            error = event.get("error")
            status = part(error, "data", "statusCode")
            text = str(part(error, "data", "message") or part(error, "name") or error)
            account.fail(text, status=status if isinstance(status, int) else None)
        elif kind == "step_finish":
            account.spend(part(event, "part", "tokens", "total"), cost_usd=part(event, "part", "cost"))
            account.pending = None
            if part(event, "part", "reason") == "stop":
                account.finish()
        elif kind == "text" and isinstance(part(event, "part", "text"), str):
            account.said = part(event, "part", "text")


def make(model: str | None) -> OpenCode:
    """Raises: Refused: it is not installed."""
    return OpenCode(program("opencode", install="npm install -g opencode-ai"), model)


def permissions(task: Task) -> dict[str, object]:
    """Its rules, the last that matches counts. A `*` of theirs takes slashes too, as what stands for no folder does.

    They compare a path from the root of the disk, or of a repository around the desk.
    """
    edit = {"*": "deny"}
    for glob in task.editable:
        pattern = f"*{task.desk.name}/{glob.replace('**/', '*')}"
        edit |= {pattern: "allow", f"{pattern}/*": "allow"}
    for glob in task.protected:
        pattern = f"*{task.desk.name}/{glob.replace('**/', '*')}"
        edit |= {pattern: "deny", f"{pattern}/*": "deny"}
    closed = ("bash", "webfetch", "websearch", "task", "external_directory", "doom_loop")
    return {"edit": edit, **dict.fromkeys(closed, "deny")}
