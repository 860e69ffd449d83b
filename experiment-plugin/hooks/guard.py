"""PreToolUse hook: keeps an agent inside the rules of the loop session whose branch is checked out.

Usage: python3 guard.py < EVENT.json
Without a session it says nothing. In one, it denies edits outside the mutable surface, reading the hold-out and the
runs' logs, and shell commands that would do either or take git's branch and index out of the loop's hands. A plain
call of the loop's own commands is allowed explicitly. Whatever goes wrong in here is a denial: exit 1 or a traceback
would let the tool run.
Exit codes: 0 with the decision as JSON, or nothing to say; 2 denied, when not even that could be printed.

What a filter of text can't see: what a script or a program does that it merely starts (`python train.py`, `make`),
names that a program or a shell puts together at run time on a line that names nothing forbidden, code typed on a
command line that hides what it does (`getattr`, encoded text), changes through a library whose names say nothing of
it, what `source` runs, hard links made before, another program's remote control of git, and what the user's own shell
start-up files redefine. It keeps an honest agent from slips and from what a log talks it into. It is no wall against
code that means harm: that is why the loop itself looks at the surface again at every step, pins the harness, and keeps
its ledger outside the working tree.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sessions import Active

_EDITS = {"Edit": "file_path", "Write": "file_path", "MultiEdit": "file_path", "NotebookEdit": "notebook_path"}
_SEARCHES = ("Grep", "Glob")
GUARDED = (*_EDITS, "Read", *_SEARCHES, "Bash")
PATIENCE_S = 15  # below the time-out in hooks.json, after which the client would let the tool run
_NAMED = re.compile(r"(?:~|(?<![\w.])/|(?<![\w./-])(?:[\w.-]+/)*\.\.(?![\w.]))[^\s'\"`;|&<>()$]*")
_WILD = re.compile(r"[*?\[{]")


def main() -> int:
    try:
        answer = _answer()
        signal.alarm(0)  # from here on the answer is what gets printed, and nothing else
    except BaseException as error:  # a traceback would let the tool run
        answer = _decision("deny", _fault_of(error))
    try:
        if answer:
            print(json.dumps(answer))
            sys.stdout.flush()
    except BaseException:
        os.write(2, b"The guard could not print its decision, so the call is denied.\n")
        os._exit(2)  # a plain exit would flush again, fail again, and end with a code that lets the tool run
    return 0


def _give_up(*_: object) -> None:
    """Deny at once: an exception could be swallowed by whatever runs at this moment, and the alarm rings only once."""
    try:
        answer = _decision("deny", _fault_of(TimeoutError(f"it takes longer than {PATIENCE_S} s")))
        os.write(1, json.dumps(answer).encode() + b"\n")
    except BaseException:
        os._exit(2)
    os._exit(0)


def _fault_of(error: BaseException) -> str:
    return (
        f"The guard of this session could not judge the call ({type(error).__name__}: {str(error)[:500]}), and what it "
        "can't judge it denies. Look at the session with 'mlx loop status', write its handover anew with: mlx loop report"
    )


def _decision(decision: str, reason: str) -> dict[str, Any]:
    said = {"hookEventName": "PreToolUse", "permissionDecision": decision, "permissionDecisionReason": reason}
    return {"hookSpecificOutput": said}


def _answer() -> dict[str, Any] | None:
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(PATIENCE_S)
    event = json.loads(sys.stdin.buffer.read())
    tool, asked, cwd = event["tool_name"], event["tool_input"], event["cwd"]
    if tool not in GUARDED:
        return None
    import sessions

    try:
        active = sessions.active_at(_places(tool, asked, cwd))
    except sessions.Unreadable:
        if _is_own(tool, asked):  # they mend it
            return _decision("allow", "One of the loop's own commands.")
        raise
    if not active:
        return None
    fault = _fault(active, tool, asked, cwd)
    if fault:
        return _decision("deny", fault)
    return _decision("allow", "One of the loop's own commands.") if _is_own(tool, asked) else None


def _places(tool: str, asked: dict[str, Any], cwd: str) -> list[str]:
    """Where a session is looked for: around the chat, and around whatever the call names."""
    folders = [cwd, os.environ.get("CLAUDE_PROJECT_DIR") or cwd]
    if tool == "Bash":
        named = [os.path.expanduser(text) for text in _NAMED.findall(asked["command"])]
    else:
        named = [_path(asked, key, cwd) for key in (_EDITS.get(tool, "file_path"), "path") if asked.get(key)]
    return [os.path.join(cwd, path) for path in dict.fromkeys([*folders, *named]) if "\0" not in path]


def _path(asked: dict[str, Any], key: str, cwd: str) -> str:
    return os.path.join(cwd, os.path.expanduser(asked.get(key) or "."))


def _fault(active: list[Active], tool: str, asked: dict[str, Any], cwd: str) -> str:
    if tool == "Bash":
        import commands

        return commands.line_fault(active, asked["command"], cwd)
    faults = (_file_fault(session, tool, asked, cwd) for session in active)
    return next((fault for fault in faults if fault), "")


def _file_fault(session: Active, tool: str, asked: dict[str, Any], cwd: str) -> str:
    import places

    if tool in _EDITS:
        return places.write_fault(session, os.path.join(cwd, os.path.expanduser(asked[_EDITS[tool]])))
    if tool == "Read":
        return places.read_fault(session, os.path.join(cwd, os.path.expanduser(asked["file_path"])))
    folder = _path(asked, "path", cwd)
    if tool == "Grep":
        pattern = asked.get("glob") or ""
        return places.search_fault(session, folder, skips_ignored=places.LOG not in pattern)
    start = _WILD.split(os.path.join(folder, os.path.expanduser(asked["pattern"])))[0]
    return places.read_fault(session, start, takes_logs=True) or places.read_fault(
        session, start + "x", takes_logs=True
    )


def _is_own(tool: str, asked: dict[str, Any]) -> bool:
    if tool != "Bash":
        return False
    import commands

    return commands.is_own(asked["command"])


if __name__ == "__main__":
    sys.exit(main())
