"""What is remembered of a chat that drives a loop: one small file per chat in the state folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re

import sessions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sessions import Active

COMMANDS = ("experiment:model", "experiment:data", "mlx:autoexperiment")
FORKED = "mlx:autoexperiment"  # its work is done by an agent of its own, with a stop event of its own
ENGINEER = "mlx:ml-engineer"
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_KEPT_S = 30 * 24 * 3600.0


def _folder() -> str:
    return os.path.join(sessions.state_home(), "chats")


def file_of(session_id: str) -> str:
    """Raises: ValueError: no id of a chat."""
    if not _SESSION_ID.fullmatch(session_id):
        raise ValueError(f"session_id {session_id!r:.80} is no id of a chat")
    return os.path.join(_folder(), session_id + ".json")


def bind(session_id: str, command: str, now: float, *, prompt_id: str) -> None:
    """Remember that a chat drives a loop from now on; what was remembered of it before is dropped."""
    _remove_old(now)
    begun = {"version": 1, "command": command, "prompt_id": prompt_id, "bound_at": now}
    write(session_id, {**begun, "rounds": 0, "tag": "", "blocks": []})


def forget(session_id: str) -> bool:
    """Let a chat drive no more, until a command binds it again. Returns: whether it drove until now."""
    try:
        os.unlink(file_of(session_id))
    except FileNotFoundError:
        return False
    return True


def _remove_old(now: float) -> None:
    with contextlib.suppress(OSError):
        for entry in os.scandir(_folder()):
            if now - entry.stat().st_mtime > _KEPT_S:
                os.unlink(entry.path)


def read(session_id: str) -> dict[str, Any] | None:
    """What is remembered of a chat, or None when it drives no loop."""
    try:
        with open(file_of(session_id), encoding="utf-8") as file:
            chat: dict[str, Any] = json.load(file)
    except FileNotFoundError:
        return None
    if chat["version"] != 1 or chat["command"] not in COMMANDS:
        raise ValueError(f"{file_of(session_id)} is of another version")
    return chat


def is_over(session: Active, now: float) -> bool:
    """Whether the session takes no more steps."""
    ends_at = session.handover.get("ends_at")
    return bool(session.handover["over"]) or (ends_at is not None and now >= ends_at)


def is_stopped(session: Active, chat: dict[str, Any]) -> bool:
    """Whether a person asked the session to stop since the chat was bound."""
    return bool(session.stop_requested_at >= chat["bound_at"])


def is_driven(session: Active, chat: dict[str, Any] | None, now: float) -> bool:
    """Whether a chat with this memory, or none, is to go on with a session."""
    if chat is None or chat.get("over") == session.tag:
        return False
    return not is_stopped(session, chat) and not is_over(session, now)


def write(session_id: str, chat: dict[str, Any]) -> None:
    """Replace what is remembered of a chat, whole or not at all."""
    target = file_of(session_id)
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(chat, file)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def is_first(session_id: str, event: str, now: float, *, within_s: float = 5.0) -> bool:
    """Whether no other hook answered this event of the chat a moment ago: both plugins come with the same hooks."""
    target = file_of(session_id)[: -len(".json")] + ".seen"
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    with open(os.open(target, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        seen, _, stamp = file.read().partition("\n")
        if seen == event and 0 <= now - float(stamp) < within_s:
            return False
        file.seek(0)
        file.truncate()
        file.write(f"{event}\n{now}")
    return True
