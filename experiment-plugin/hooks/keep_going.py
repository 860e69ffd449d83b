"""Stop and SubagentStop hook: keeps a chat that drives a loop at work while there is work and it gets somewhere.

Usage: python3 keep_going.py PLUGIN < EVENT.json     (PLUGIN: experiment or mlx, whose hook this is)
A chat is let go at once when it drives no loop, when no session's branch is checked out, when the session is over or
was asked to stop (mlx loop stop), and while background work runs, whose end wakes it. Otherwise it is told to go on,
for AUTOEXPERIMENT_CHAT_ROUNDS stops (500), AUTOEXPERIMENT_CHAT_HOURS (10), and as long as an experiment was decided
since one of its last three stops. Whoever is let go for good drives again only after another driving command. Esc ends
a turn without asking any hook; the person's next prompt then frees the chat (bind.py).
Exit codes: 0, with a decision as JSON or nothing; a fault lets the chat stop and is told in a message.
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sessions import Active

PATIENCE = 3
_ROUNDS = ("AUTOEXPERIMENT_CHAT_ROUNDS", 500.0)
_HOURS = ("AUTOEXPERIMENT_CHAT_HOURS", 10.0)
_BRIEF_LIMIT = 900


def main(argv: list[str]) -> int:
    try:
        answer = _answer(argv[0], json.loads(sys.stdin.buffer.read()))
    except Exception as error:
        answer = {"systemMessage": f"The loop's stop hook failed, so the chat may stop: {error}"}
    if answer:
        print(json.dumps(answer))
    return 0


def _answer(plugin: str, event: dict[str, Any]) -> dict[str, Any] | None:
    import chats

    chat = chats.read(event["session_id"])
    if chat is None or not chat["command"].startswith(plugin + ":") or not _is_drivers(event, chat):
        return None
    import sessions

    active = sessions.active_at([event["cwd"], os.environ.get("CLAUDE_PROJECT_DIR") or event["cwd"]])
    if not active or event.get("background_tasks"):
        return None
    session, now = active[0], time.time()
    if not chats.is_driven(session, chat, now):
        # not forgotten: it may have been over before, and the chat be asked for another
        chats.write(event["session_id"], {**chat, "over": session.tag})
        return None
    if reason := _limit(chat, session, now):
        chats.forget(event["session_id"])
        return {
            "systemMessage": f"The loop {session.tag} drives itself no longer here: {reason} {_go_on(session, chat)}"
        }
    _count(chat, session)
    chats.write(event["session_id"], chat)
    return {"decision": "block", "reason": _orders(session)}


def _is_drivers(event: dict[str, Any], chat: dict[str, Any]) -> bool:
    """Whether the one who stops is the one who drives: the chat itself, or the agent that its command was forked into."""
    import chats

    if event["hook_event_name"] != "SubagentStop":
        return not chat.get("agent")
    if chat["command"] != chats.FORKED or event.get("agent_type") != chats.ENGINEER:
        return False
    if not chat.get("agent"):
        chat["agent"] = event["agent_id"]
        chats.write(event["session_id"], chat)
    return bool(chat["agent"] == event["agent_id"])


def _limit(chat: dict[str, Any], session: Active, now: float) -> str:
    """Why the chat is not kept any longer, or ""."""
    rounds, hours = _number(*_ROUNDS), _number(*_HOURS)
    if chat["rounds"] >= rounds:
        return f"it was told to go on {chat['rounds']} times, and {rounds:g} are allowed ({_ROUNDS[0]})."
    if now - chat["bound_at"] >= hours * 3600:
        return f"its {hours:g} hours are over ({_HOURS[0]})."
    blocks = chat["blocks"] if chat["tag"] == session.tag else []
    if len(blocks) >= PATIENCE and session.handover["decided"] <= min(blocks[-PATIENCE:]):
        return f"no experiment was decided since it was told {PATIENCE} times to go on."
    return ""


def _number(name: str, default: float) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ValueError(f"{name} is {text!r:.40}. Allowed: a number from 0 up. For example: {name}={default:g}")
    return value


def _go_on(session: Active, chat: dict[str, Any]) -> str:
    return (
        f"Everything measured is in the ledger: mlx loop status {session.tag}. To go on here, type /{chat['command']} "
        "again. A night without a chat: mlx loop run"
    )


def _count(chat: dict[str, Any], session: Active) -> None:
    earlier = chat["blocks"] if chat["tag"] == session.tag else []
    blocks = [*earlier, session.handover["decided"]][-PATIENCE:]
    chat.update(rounds=chat["rounds"] + 1, tag=session.tag, blocks=blocks)


def _orders(session: Active) -> str:
    lines = session.handover["briefing"].split("\n")
    state = " ".join(lines[:4])[:_BRIEF_LIMIT]
    return (
        f"The session {session.tag} goes on until it is stopped: {session.handover['decided']} experiments are decided. "
        f"State, as data: {state} Next: choose one change, edit, and measure it: mlx loop step -m 'what changed'. "
        "If a step is still running: mlx loop wait. What was tried: mlx loop log"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
