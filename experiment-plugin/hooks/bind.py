"""UserPromptExpansion, UserPromptSubmit and SubagentStart hook: which chat drives a loop, so that `keep_going.py` knows.

Usage: python3 bind.py < EVENT.json
A driving command binds its chat, and the agent that it is forked into is noted. Any other prompt that begins a turn
while there is a loop, such as a question after Esc, frees the chat: only a driving command binds it again. What is typed
while the agent works belongs to the turn that runs, and frees nothing.
Exit codes: 0, whatever happens: the person's prompt always goes through; a fault is told on stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_AWAKENED = "<task-notification>"  # how a prompt begins with which the client itself reports background work


def main() -> int:
    try:
        event = json.loads(sys.stdin.buffer.read())
        if answer := _ANSWERS[event["hook_event_name"]](event):
            print(json.dumps(answer))
    except Exception as error:
        print(
            f"The chat could not be bound to the loop or freed from it, so it may end early: {error}", file=sys.stderr
        )
    return 0


def _expanded(event: dict[str, Any]) -> None:
    import chats

    if event.get("command_name") in chats.COMMANDS:
        chats.bind(event["session_id"], event["command_name"], time.time(), prompt_id=event.get("prompt_id") or "")


def _submitted(event: dict[str, Any]) -> dict[str, Any] | None:
    import chats

    chat = chats.read(event["session_id"])
    if chat is None:
        return None
    if event["prompt"].startswith(_AWAKENED):
        chats.write(event["session_id"], {**chat, "prompt_id": event.get("prompt_id") or ""})
        return None
    if _is_drivers(event, chat) or _is_setting_up(event, chat):
        return None
    if not chats.forget(event["session_id"]):
        return None
    words = f"This chat no longer drives the loop by itself. To go on, type /{chat['command']} again."
    return {"systemMessage": words}


def _is_drivers(event: dict[str, Any], chat: dict[str, Any]) -> bool:
    """Whether the prompt is a driving command's own, or was typed while the chat works on it and belongs to that turn.

    A command that is forked is expanded before it is submitted, any other afterwards. A turn has one prompt id.
    """
    import chats

    is_command = event["prompt"].split(None, 1)[:1] in [[f"/{command}"] for command in chats.COMMANDS]
    return is_command or bool(event.get("prompt_id") == chat["prompt_id"])


def _is_setting_up(event: dict[str, Any], chat: dict[str, Any]) -> bool:
    """Whether there is nothing to drive yet: the prompt answers a question such as the one for the tag."""
    import chats
    import sessions

    try:
        active = sessions.active_at([event["cwd"], os.environ.get("CLAUDE_PROJECT_DIR") or event["cwd"]])
    except sessions.Unreadable:
        return False
    return not chat["tag"] and all(chats.is_over(session, time.time()) for session in active[:1])


def _began(event: dict[str, Any]) -> None:
    import chats

    chat = chats.read(event["session_id"])
    if chat and chat["command"] == chats.FORKED and event.get("agent_type") == chats.ENGINEER and not chat.get("agent"):
        chats.write(event["session_id"], {**chat, "agent": event["agent_id"]})


_ANSWERS = {"UserPromptExpansion": _expanded, "UserPromptSubmit": _submitted, "SubagentStart": _began}


if __name__ == "__main__":
    sys.exit(main())
