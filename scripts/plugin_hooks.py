"""What is wrong with the hooks of a Claude Code plugin: in hooks.json, in plugin.json, or in the head of a skill.

`check_plugin.py` finds the files and prints; this module judges them. Runs on a bare python3.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from plugin_parts import TOOLS, Finding, Plugin, line_of, read_document

EVENTS = (
    "SessionStart", "SessionEnd", "Setup", "UserPromptSubmit", "UserPromptExpansion", "PreToolUse", "PermissionRequest",
    "PermissionDenied", "PostToolUse", "PostToolUseFailure", "PostToolBatch", "Notification", "SubagentStart",
    "SubagentStop", "Stop", "StopFailure", "PreCompact", "PostCompact", "InstructionsLoaded", "ConfigChange",
    "CwdChanged", "FileChanged", "TaskCreated", "TaskCompleted", "TeammateIdle", "WorktreeCreate", "WorktreeRemove",
    "Elicitation", "ElicitationResult", "MessageDisplay", "DirectoryAdded",
)  # fmt: skip
TOOL_EVENTS = ("PreToolUse", "PermissionRequest", "PermissionDenied", "PostToolUse", "PostToolUseFailure")
SHAPE = 'Allowed: {"hooks": {Event: [{"hooks": […]}]}}.'
_SCRIPT = re.compile(r"""\$(?:\{CLAUDE_PLUGIN_ROOT\}|CLAUDE_PLUGIN_ROOT\b)"?/([^"'\s;|&)]+)""")
_ASSIGNMENTS = re.compile(r"\s*(?:[A-Za-z_]\w*=\S*\s+)*[\"']?")


def check_hooks(path: Path, plugin: Plugin) -> list[Finding]:
    """Everything that is wrong with a file of hooks: events, matchers, and scripts that are not there."""
    text = path.read_text(encoding="utf-8")
    try:
        events = json.loads(text)["hooks"]
    except (ValueError, KeyError, TypeError) as fault:
        return [Finding(str(path), 1, f"The file can't be read as hooks: {fault!r}.", SHAPE)]
    return check_events(path, text, events, plugin)


def check_events(path: Path, text: str, events: Any, plugin: Plugin) -> list[Finding]:
    """The same for hooks that stand within another file, whose text it is."""
    try:
        entries = [(event, str(entry.get("matcher", ""))) for event, listed in events.items() for entry in listed]
        hooks = [hook for listed in events.values() for entry in listed for hook in entry["hooks"]]
        hooks = [{**hook, "args": [*hook["args"]]} if "args" in hook else hook for hook in hooks]
    except (KeyError, TypeError, AttributeError) as fault:
        return [Finding(str(path), 1, f"It can't be read as hooks: {fault!r}.", SHAPE)]
    found = list(_check_names(path, text, events))
    for event, matcher in entries:
        found += _check_matcher(path, text, event, matcher)
    for hook in hooks:
        found += _check_command(path, text, hook, plugin)
    return found


def check_manifest_hooks(path: Path, plugin: Plugin) -> Iterator[Finding]:
    """Hooks that plugin.json holds, or the files that it names for them."""
    text = path.read_text(encoding="utf-8")
    stated = json.loads(text).get("hooks", [])
    for part in stated if isinstance(stated, list) else [stated]:
        if isinstance(part, dict):
            yield from check_events(path, text, part.get("hooks", part), plugin)
        elif isinstance(part, str) and (plugin.folder / part).is_file():
            yield from check_hooks(plugin.folder / part, plugin)
        else:
            yield Finding(str(path), line_of(text, '"hooks"'), f"hooks names {part!r}.", "Allowed: './' and a file.")


def check_skill_hooks(path: Path, plugin: Plugin) -> list[Finding]:
    """Hooks in the head of a SKILL.md; a head that can't be read is reported elsewhere."""
    document, _ = read_document(path)
    events = document.head.values.get("hooks") if document else None
    return check_events(path, path.read_text(encoding="utf-8"), events, plugin) if isinstance(events, dict) else []


def _check_names(path: Path, text: str, events: Iterable[str]) -> Iterator[Finding]:
    for event in events:
        if event not in EVENTS:
            near = difflib.get_close_matches(event, EVENTS, 1)
            allowed = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(EVENTS)}."
            stated = re.search(rf"\b{re.escape(event)}\b[\"']?\s*:", text)
            line = line_of(text, stated.group() if stated else "")
            yield Finding(str(path), line, f"Unknown event {event!r}.", allowed)


def _check_matcher(path: Path, text: str, event: str, matcher: str) -> Iterator[Finding]:
    line = line_of(text, json.dumps(matcher))
    if matcher == "*":
        return
    if re.fullmatch(r"[A-Za-z0-9_|,-]*", matcher):
        for name in re.split(r"[|,]", matcher) if matcher and event in TOOL_EVENTS else ():
            if name not in TOOLS and not name.startswith("mcp__"):
                yield Finding(
                    str(path), line, f"The matcher names the unknown tool {name!r}.", "Allowed: the client's tools."
                )
        return
    try:
        re.compile(_in_python(matcher))
    except re.error as fault:
        yield Finding(
            str(path), line, f"The matcher {matcher!r} is no regular expression: {fault}.", "Allowed: A|B, or one."
        )


def _in_python(expression: str) -> str:
    """A JavaScript expression with its named groups as Python writes them."""
    return re.sub(r"\\k<(\w+)>", r"(?P=\1)", re.sub(r"\(\?<(?![=!])", "(?P<", expression))


def _check_command(path: Path, text: str, hook: dict[str, Any], plugin: Plugin) -> Iterator[Finding]:
    """A line for a shell or, where there are args, a program and words that no shell takes apart."""
    command, words = str(hook.get("command", "")), hook.get("args")
    started = _ASSIGNMENTS.match(command)
    for match in _SCRIPT.finditer(command):
        is_run = started is not None and started.end() == match.start()
        yield from _check_script(path, text, match.group(1), plugin, is_run=is_run)
        if words is None and command[: match.start()].count('"') % 2 == 0:
            line = line_of(text, match.group(1))
            yield Finding(str(path), line, f"{match.group()!r} is not quoted.", "Allowed: double quotes around it.")
    for match in _SCRIPT.finditer("\n".join(map(str, words or []))):
        yield from _check_script(path, text, match.group(1), plugin, is_run=False)


def _check_script(path: Path, text: str, name: str, plugin: Plugin, *, is_run: bool) -> Iterator[Finding]:
    line, script = line_of(text, name), plugin.folder / name
    if not script.is_file():
        what = f"The hook's script {name!r} does not exist, and the client goes on without it."
        yield Finding(str(path), line, what, "Allowed: a file of the plugin.")
    elif is_run and not script.stat().st_mode & 0o111:
        yield Finding(str(path), line, f"{name!r} is run and not executable.", "Type: chmod +x")
