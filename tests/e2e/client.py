"""Runs the real clients hermetically: nothing of the machine's own settings, accounts or network reaches them.

    place = client.make_place(tmp_path, api.url)
    run = client.claude(place, "/experiment:model mar5", plugins=[ROOT / "experiment-plugin"])
    assert run.result == "done" and not run.denials

The clients are installed by `python3 scripts/install_clients.py`. Without one its tests skip; with
`REQUIRE_CLIENTS=1` they fail. `CLAUDE_BIN` and `CODEX_BIN` name another binary.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scripts import install_clients

SYSTEM_PATH = ("/usr/local/bin", "/usr/bin", "/bin")
# For Place.variables: what makes Claude Code act as for a subscriber, who has usage limits with a reset time.
SUBSCRIBER = {"ANTHROPIC_API_KEY": "", "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-fake"}


def _binary(name: str) -> Path:
    default = next(client for client in install_clients.clients(install_clients.this_platform()) if client.name == name)
    binary = Path(os.environ.get(f"{name.upper()}_BIN") or default.path(install_clients.DEFAULT))
    if os.access(binary, os.X_OK):
        return binary
    message = f"The client {name} is not at {binary}. Type: python3 scripts/install_clients.py"
    if os.environ.get("REQUIRE_CLIENTS") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def claude_binary() -> Path:
    """The Claude Code client; skips the test (or fails it, see above) where there is none."""
    return _binary("claude")


def codex_binary() -> Path:
    """The codex client; skips the test (or fails it, see above) where there is none."""
    return _binary("codex")


@dataclass(frozen=True)
class Place:
    """Where a client runs: its home, its working folder, the fake API, and what else its environment holds."""

    home: Path
    cwd: Path
    url: str
    variables: Mapping[str, str] = field(default_factory=dict)
    path: Sequence[Path | str] = ()  # searched before the system's folders

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of a client; none of it is inherited."""
        return {
            "PATH": os.pathsep.join(str(folder) for folder in (*self.path, self.home / "bin", *SYSTEM_PATH)),
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            "CLAUDE_CODE_TMPDIR": str(self.home / "tmp"),
            "TERM": "dumb",
            "LANG": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": "fake-key",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "0",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "CODEX_HOME": str(self.home / ".codex"),
            "FAKE_KEY": "fake-key",
            **self.variables,
        }


def make_place(
    folder: Path, url: str, *, cwd: Path | None = None, variables: Mapping[str, str] | None = None,
    path: Sequence[Path | str] = (),
) -> Place:  # fmt: skip
    """A fresh home in `folder`, with settings that point codex at the fake API; `cwd` is by default a new folder."""
    home = folder / "client-home"
    place = Place(home, cwd or folder / "work", url, variables or {}, path)
    for new in (home / "tmp", home / "bin", home / ".codex", place.cwd):
        new.mkdir(parents=True, exist_ok=True)
    _lend_tools(home / "bin")
    (home / ".codex" / "config.toml").write_text(_CODEX_CONFIG.format(url=url))
    return place


def _lend_tools(folder: Path) -> None:
    """Links to what hooks and scripts need where the system's own folders lack it."""
    wanted = {"python3": getattr(sys, "_base_executable", sys.executable), "git": shutil.which("git")}
    for name, source in wanted.items():
        link = folder / name
        if source and not link.is_symlink() and not shutil.which(name, path=os.pathsep.join(SYSTEM_PATH)):
            link.symlink_to(source)


def trust(place: Place, folder: Path) -> None:
    """Record that the folder's own `.claude/settings.json` may be believed, as the trust dialog does."""
    file = place.home / ".claude.json"
    document = json.loads(file.read_text()) if file.exists() else {}
    document.setdefault("projects", {})[str(folder.resolve())] = {"hasTrustDialogAccepted": True}
    file.write_text(json.dumps(document))


@dataclass(frozen=True)
class Ended:
    """How a client's process ended, and what it printed."""

    rc: int
    stdout: str
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The stream's JSON objects, oldest first."""
        return [json.loads(line) for line in self.stdout.splitlines() if line.startswith("{")]


@dataclass(frozen=True)
class ToolResult:
    """A tool's answer, as the stream shows it."""

    tool_use_id: str
    text: str
    is_error: bool


def _flat(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(str(block.get("text", "")) for block in content)
    return str(content)


@dataclass(frozen=True)
class Run(Ended):
    """A headless run of Claude Code (`--output-format stream-json`)."""

    @property
    def init(self) -> dict[str, Any]:
        return next(event for event in self.events if (event["type"], event.get("subtype")) == ("system", "init"))

    @property
    def results(self) -> list[dict[str, Any]]:
        """One for each time the client came to rest: two when background work woke it again."""
        return [event for event in self.events if event["type"] == "result"]

    @property
    def result(self) -> str:
        return str(self.results[-1].get("result", ""))

    @property
    def tool_results(self) -> list[ToolResult]:
        contents = [event["message"]["content"] for event in self.events if event["type"] == "user"]
        blocks = [block for content in contents if isinstance(content, list) for block in content]
        return [
            ToolResult(block["tool_use_id"], _flat(block.get("content")), bool(block.get("is_error")))
            for block in blocks
            if block.get("type") == "tool_result"
        ]

    @property
    def denials(self) -> list[dict[str, Any]]:
        """Tool calls that the permissions refused."""
        return [denial for result in self.results for denial in result.get("permission_denials", [])]

    def hooks(self, event: str) -> list[dict[str, Any]]:
        """Answers of the hooks to one event: `stdout`, `stderr`, `exit_code`, `outcome`."""
        return [
            entry for entry in self.events if entry.get("subtype") == "hook_response" and entry["hook_event"] == event
        ]

    def system(self, subtype: str) -> list[dict[str, Any]]:
        """Events of the client itself, such as `api_retry` or `compact_boundary`."""
        return [entry for entry in self.events if (entry["type"], entry.get("subtype")) == ("system", subtype)]


def execute(place: Place, command: Sequence[str | Path], *, stdin: str = "", timeout_s: float = 120.0) -> Ended:
    """Run any program in the client's environment; the whole process group dies after `timeout_s`.

    Its output goes to files: a child that outlives the client would keep a pipe open.
    """
    out, err = place.home / "tmp" / "stdout", place.home / "tmp" / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [str(word) for word in command], cwd=place.cwd, env=place.environment, start_new_session=True,
            stdin=subprocess.PIPE, stdout=stdout, stderr=stderr,
        )  # fmt: skip
        try:
            process.communicate(stdin.encode(), timeout=timeout_s)
        finally:
            _end(process)
    return Ended(process.returncode, out.read_text(errors="replace"), err.read_text(errors="replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def claude(
    place: Place, prompt: str, *options: str, plugins: Sequence[Path] = (), timeout_s: float = 120.0,
    is_broken_fine: bool = False,
) -> Run:  # fmt: skip
    """One headless run of Claude Code. A plugin that fails to load fails the test: the client would only leave it out.

    Args:
        options: more of the client's own, such as `--allowedTools Bash`.
        is_broken_fine: for tests of plugins that do not load.
    """
    command: list[str | Path] = [claude_binary(), "-p", prompt, "--output-format", "stream-json", "--verbose"]
    command.append("--include-hook-events")
    for plugin in plugins:
        command += ["--plugin-dir", plugin]
    ended = execute(place, [*command, *options], timeout_s=timeout_s)
    run = Run(ended.rc, ended.stdout, ended.stderr)
    assert run.events, f"the client said nothing (exit code {run.rc}): {run.stderr[-2000:]}"
    assert is_broken_fine or not run.init.get("plugin_errors"), run.init["plugin_errors"]
    return run


def claude_command(place: Place, *words: str | Path) -> Ended:
    """One of the client's other commands, such as `plugin marketplace add FOLDER`."""
    return execute(place, [claude_binary(), *words])


def validate(place: Place, target: Path) -> tuple[int, dict[str, Any]]:
    """The client's own strict validation of a plugin or marketplace: its exit code and its report."""
    ended = claude_command(place, "plugin", "validate", "--strict", "--json", target)
    return ended.rc, json.loads(ended.stdout)


_CODEX_CONFIG = """\
model = "fake-model"
model_provider = "fake"
check_for_update_on_startup = false

[model_providers.fake]
name = "fake"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "FAKE_KEY"
request_max_retries = 0
stream_max_retries = 0

[analytics]
enabled = false
"""


def codex(place: Place, prompt: str, *options: str, timeout_s: float = 120.0) -> Ended:
    """One headless run of codex, free to use its tools; its `events` have the types thread, turn and item."""
    free = ["--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    return execute(place, [codex_binary(), "exec", *free, *options, prompt], timeout_s=timeout_s)
