"""A visit: one fresh headless agent works on one prompt in one folder, and is gone with all it started.

It runs under the supervisor, so it dies with the driver, and behind a fence where the system has one, so it writes
to its folder and its own settings only.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from autoexperiment import fence
from autoexperiment.agents.client import Account, Client, Start, Task
from autoexperiment.agents.reset import reset_time
from autoexperiment.agents.trouble import Fault, Outcome, fault_of
from autoexperiment.ending import Ending, Limits
from autoexperiment.failure import clean
from autoexperiment.supervisor import supervise
from autoexperiment.vocabulary import Outcome as RunOutcome

SAID_LIMIT = 4_000
GRACE_S = 5.0
LINGER_S = 30.0  # for a client that has said it is done: some never leave
TAIL = 64 * 1024
_BY_SIGNAL = {128 + 2: "SIGINT", 128 + 9: "SIGKILL", 128 + 15: "SIGTERM"}  # as a client's own wrapper reports them

# What a client that runs around us leaves in the environment, and what would lead git away from the desk. Keys,
# tokens and a client's own settings stay.
_DROPPED = {
    "AI_AGENT", "CLAUDECODE", "CLAUDE_CODE_CHILD_NOTES_DIR", "CLAUDE_CODE_CHILD_SESSION", "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_EXECPATH", "CLAUDE_CODE_LAUNCHED_BY_SESSION_IDS", "CLAUDE_CODE_MESSAGING_SOCKET",
    "CLAUDE_CODE_MESSAGING_TOKEN", "CLAUDE_CODE_REMOTE_SESSION_ID", "CLAUDE_CODE_SESSION_ATTENDED",
    "CLAUDE_CODE_SESSION_ID", "CLAUDE_CODE_SSE_PORT", "CLAUDE_EFFORT", "CLAUDE_ENV_FILE", "CLAUDE_PID",
    "CLAUDE_PROJECT_DIR", "CODEX_THREAD_ID", "GEMINI_CLI", "GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "OPENCODE",
    "PI_CODING_AGENT", "TRACEPARENT",
}  # fmt: skip
_DROPPED_PREFIXES = ("CLAUDE_PLUGIN_", "CODEX_SANDBOX", "OPENCODE_SESSION", "AUTOEXPERIMENT_")


@dataclass(frozen=True)
class VisitLimits:
    """How long a visit may be.

    Attributes:
        idle_s: without a line of output. A healthy client was seen silent for 405 s.
        wall_s: in all.
    """

    idle_s: float = 900.0
    wall_s: float = 3600.0


@dataclass(frozen=True)
class Visit:
    """How a visit went.

    Attributes:
        reason: one clean line; "" when it ended well.
        said: the agent's last words, the end of them, without control characters.
        cost_usd, tokens: what the client says of it; None when it says nothing.
        reset_at: when a usage limit ends, in UTC; None when nobody said.
    """

    outcome: Outcome
    reason: str = ""
    said: str = ""
    cost_usd: float | None = None
    tokens: int | None = None
    seconds: float = 0.0
    reset_at: datetime | None = None


def pay(
    client: Client,
    prompt: str,
    desk: Path,
    *,
    log: Path,
    limits: VisitLimits,
    editable: Sequence[str],
    protected: Sequence[str] = (),
    on_tick: Callable[[float], None] | None = None,
) -> Visit:
    """Pay one visit; when this returns, no process of it is left.

    Args:
        desk: the folder in which the agent works, and below which it may write.
        log: for all that the client writes, its head and its tail; a new or plain file.
        editable, protected: globs of the files that it may change, and of those of them that it may not. A client
            that can hold its model to them is told to.
        on_tick: told the elapsed seconds twice a second; what it raises passes through, once the agent is killed.
    Raises: Refused: the log can't be opened.
    """
    started, desk = time.monotonic(), desk.resolve()
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="autoexperiment-", ignore_cleanup_errors=True) as folder:
        private = Path(folder).resolve()
        start = client.start(
            Task(prompt, desk, tuple(editable), private, is_fenced=not fence.fault(), protected=tuple(protected))
        )
        listener = _Listener(client, limits, on_tick)
        try:
            ending = supervise(
                _fenced(start, (desk, private)), cwd=desk, log=log, limits=_run_limits(limits),
                env=_environment(os.environ, start, desk, private), until=listener.hear, on_tick=listener.tick,
            )  # fmt: skip
        except _Silent:
            ending = None
    listener.hear_rest(log)
    return _visit(listener, ending, time.monotonic() - started)


def _fenced(start: Start, places: Sequence[Path]) -> list[str]:
    if fence.fault():
        return list(start.words)
    return fence.words(start.words, writable=[*places, *start.writable])


def _run_limits(limits: VisitLimits) -> Limits:
    return Limits(hard_timeout_s=limits.wall_s, grace_s=GRACE_S)


def _environment(own: Mapping[str, str], start: Start, desk: Path, private: Path) -> dict[str, str]:
    """The user's environment without what an agent around us left there, and with a private place for scratch files."""
    kept = {k: v for k, v in own.items() if k not in _DROPPED and not k.startswith(_DROPPED_PREFIXES)}
    scratch = private / "tmp"
    scratch.mkdir(exist_ok=True)
    fixed = {"TMPDIR": str(scratch), "NO_COLOR": "1", "GIT_CEILING_DIRECTORIES": str(desk.parent)}
    return {**kept, **fixed, **start.env}


class _Silent(Exception):
    """Nothing was heard for too long."""


class _Listener:
    """Reads a client's output as it comes, and raises _Silent from a tick when there is none for too long."""

    def __init__(self, client: Client, limits: VisitLimits, on_tick: Callable[[float], None] | None) -> None:
        self.client, self.limits = client, limits
        self.account = Account()
        self._on_tick = on_tick
        self._heard_at = time.monotonic()
        self._last = b""

    def hear(self, line: bytes) -> bool:
        """Take in a line; never the last word, so that the client can leave by itself."""
        self._heard_at, self._last = time.monotonic(), line
        self.client.read(line, self.account)
        return False

    def hear_rest(self, log: Path) -> None:
        """Take in a last line without an end, which nobody was told of."""
        rest = b""
        with contextlib.suppress(OSError), open(log, "rb") as file:  # a run may have taken its log away
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            rest = file.read().rpartition(b"\n")[2]
        if rest.strip() and rest.strip() != self._last.strip():
            self.client.read(rest, self.account)

    def tick(self, elapsed_s: float) -> None:
        if self._on_tick is not None:
            self._on_tick(elapsed_s)
        patience_s = min(LINGER_S, self.limits.idle_s) if self.account.is_done else self.limits.idle_s
        if time.monotonic() - self._heard_at > patience_s:
            raise _Silent


def _visit(listener: _Listener, ending: Ending | None, seconds: float) -> Visit:
    account = listener.account
    fault = _fault(listener, ending)
    said = "\n".join(clean(line, 2 * SAID_LIMIT) for line in account.said[-2 * SAID_LIMIT :].splitlines())
    return Visit(
        fault.outcome if fault else Outcome.ENDED, fault.reason if fault else "", said[-SAID_LIMIT:].strip(), account.cost_usd,
        account.tokens, seconds, fault.reset_at if fault else None,
    )  # fmt: skip


def _fault(listener: _Listener, ending: Ending | None) -> Fault | None:
    """What went wrong, the surest witness first: our own signal, the client's words, then its exit."""
    account, limits = listener.account, listener.limits
    if ending is not None and ending.stop_signal is not None:
        return Fault(Outcome.STOPPED, ending.reason)
    if account.fault is not None:
        return account.fault
    if account.is_done:
        return None
    if ending is None:
        return _stalled(account, f"It wrote nothing for {limits.idle_s:g} s.")
    if ending.outcome is RunOutcome.TIMED_OUT:
        return _stalled(account, f"It was not done after {limits.wall_s:g} s.")
    if ending.exit_code is None or ending.exit_code in _BY_SIGNAL:
        return Fault(Outcome.KILLED, _end_of_killed(ending))
    return _from_exit(listener, ending.exit_code)


def _stalled(account: Account, reason: str) -> Fault:
    """A stall, or what the client waited for all the time: some try again for ever and say so nowhere else."""
    waited_for = account.pending or fault_of("\n".join(account.stray), account.clock())
    if waited_for.outcome in (Outcome.USAGE_LIMIT, Outcome.OVERLOADED, Outcome.AUTH):
        return waited_for
    return Fault(Outcome.STALLED, reason)


def _end_of_killed(ending: Ending) -> str:
    if ending.exit_code in _BY_SIGNAL:
        return f"It was killed by {_BY_SIGNAL[ending.exit_code]}."
    if ending.failure is not None:
        return f"It was killed ({clean(ending.failure.kind, 40)})."
    return clean(ending.reason, 300) or "It was killed."


def _from_exit(listener: _Listener, exit_code: int) -> Fault | None:
    """What an exit code means of a client that left without a word about the end."""
    account, meant = listener.account, listener.client.exits.get(exit_code)
    last_words = _last_words(account)
    if meant is Outcome.ENDED:
        account.finish("\n".join(account.speech))
        return None
    if meant is not None:
        is_limit = meant is Outcome.USAGE_LIMIT
        return Fault(meant, last_words, reset_time(last_words, account.clock()) if is_limit else None)
    if account.pending is not None:
        return account.pending
    if exit_code == 0:
        return Fault(Outcome.FAILED, f"It ended without saying that it is done: {last_words}")
    found = fault_of("\n".join(account.stray), account.clock())
    return replace(found, reason=f"Exit code {exit_code}: {last_words}")


def _last_words(account: Account) -> str:
    lines = [*account.stray, *account.speech]
    return clean(lines[-1], 300) if lines else "it wrote nothing about it."


__all__ = ["Client", "Outcome", "Visit", "VisitLimits", "pay"]
