"""What is wrong with one skill, agent or hooks file of a Claude Code plugin.

`check_plugin.py` finds the files and prints; this module judges them. Runs on a bare python3.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frontmatter import Head, Malformed, parse

MAX_DESCRIPTION, MAX_COMPATIBILITY, MAX_LINES = 1024, 500, 200
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

SKILL_KEYS = {
    "name": str, "description": str, "when_to_use": str, "argument-hint": str, "arguments": (str, list),
    "disable-model-invocation": bool, "user-invocable": bool, "allowed-tools": (str, list),
    "disallowed-tools": (str, list), "model": str, "effort": str, "context": str, "agent": str, "background": bool,
    "paths": (str, list), "shell": str, "hooks": dict, "metadata": dict, "license": str, "compatibility": str,
}  # fmt: skip
AGENT_KEYS = {
    "name": str, "description": str, "tools": (str, list), "disallowedTools": (str, list), "model": str, "effort": str,
    "maxTurns": int, "skills": (str, list), "memory": str, "background": bool, "isolation": str, "color": str,
    "initialPrompt": str,
}  # fmt: skip
IGNORED_AGENT_KEYS = ("hooks", "permissionMode", "mcpServers")
WORDS = {
    "effort": ("low", "medium", "high", "xhigh", "max"), "context": ("fork",), "shell": ("bash", "powershell"),
    "memory": ("user", "project", "local"), "isolation": ("worktree",),
    "color": ("red", "blue", "green", "yellow", "purple", "orange", "pink", "cyan"),
}  # fmt: skip
_FAMILY = "opus|sonnet|haiku|fable|mythos"
MODELS = re.compile(
    rf"((sonnet|opus|haiku|fable|best|opusplan|inherit)|claude-([0-9]-)*({_FAMILY})(-[a-z0-9.-]+)?)(\[1m\])?"
)
TOOLS = (
    "Agent", "AskUserQuestion", "Bash", "BashOutput", "CronCreate", "CronDelete", "CronList", "Edit", "EnterWorktree",
    "ExitPlanMode", "ExitWorktree", "Glob", "Grep", "KillShell", "ListAgents", "LSP", "Monitor", "MultiEdit",
    "NotebookEdit", "Read", "ReportFindings", "ScheduleWakeup", "SendMessage", "Skill", "Task", "TaskCreate", "TaskGet",
    "TaskList", "TaskOutput", "TaskStop", "TaskUpdate", "TodoWrite", "ToolSearch", "WebFetch", "WebSearch", "Workflow",
    "Write",
)  # fmt: skip
BUILT_IN_AGENTS = ("general-purpose", "Explore", "Plan", "claude", "statusline-setup")


@dataclass(frozen=True)
class Finding:
    """`what`: a sentence with the value; `allowed`: a sentence with what may stand there."""

    path: str
    line: int
    what: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what} {self.allowed}"


@dataclass(frozen=True)
class Plugin:
    """One plugin's folder. `agents`: its own, scoped; those of another are not there when it is loaded alone."""

    folder: Path
    name: str
    agents: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """A file with a head: where its findings are reported."""

    path: Path
    head: Head

    def finding(self, key: str, what: str, allowed: str) -> Finding:
        return Finding(str(self.path), self.head.line(key), what, allowed)

    def body_finding(self, place: int, what: str, allowed: str) -> Finding:
        line = self.head.body_line + self.head.body.count("\n", 0, place)
        return Finding(str(self.path), line, what, allowed)


def line_of(text: str, needle: str) -> int:
    """The line, from 1, of the first place where a text stands; 1 when it is nowhere."""
    place = text.find(needle)
    return 1 if place < 0 else text.count("\n", 0, place) + 1


def read_document(path: Path) -> tuple[Document | None, list[Finding]]:
    """A file's head and body, or why it can't be read."""
    try:
        return Document(path, parse(path.read_text(encoding="utf-8"))), []
    except Malformed as fault:
        return None, [Finding(str(path), fault.line, fault.what, fault.allowed)]
    except UnicodeDecodeError:
        return None, [Finding(str(path), 1, "The file is not UTF-8.", "Allowed: UTF-8 text.")]


# ---- what skills and agents have in common


def _kind(expected: Any) -> str:
    names = {str: "text", bool: "true or false", int: "a number", list: "a list", dict: "a mapping"}
    return " or ".join(names[kind] for kind in (expected if isinstance(expected, tuple) else (expected,)))


def _check_keys(document: Document, known: dict[str, Any]) -> Iterator[Finding]:
    for key, value in document.head.values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            meant = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
            yield document.finding(key, f"Unknown key {key!r}.", meant)
        elif not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is int):
            yield document.finding(key, f"{key} is {value!r}.", f"Allowed: {_kind(known[key])}.")


def _check_words(document: Document) -> Iterator[Finding]:
    for key, value in document.head.values.items():
        if key in WORDS and value not in WORDS[key]:
            yield document.finding(key, f"{key} is {value!r}.", f"Allowed: {', '.join(WORDS[key])}.")
    model = document.head.values.get("model")
    if isinstance(model, str) and not MODELS.fullmatch(model):
        yield document.finding(
            "model", f"model is {model!r}.", "Allowed: sonnet, opus, haiku, fable, inherit, claude-…."
        )


def _check_name(document: Document, wanted: str) -> Iterator[Finding]:
    name = document.head.values.get("name", "")
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > 64:
        yield document.finding("name", f"name is {name!r}.", "Allowed: up to 64 of a-z, 0-9 and single hyphens.")
    elif name != wanted:
        yield document.finding("name", f"name is {name!r}.", f"Allowed: {wanted!r}, as its folder or file is called.")


def _check_description(document: Document) -> Iterator[Finding]:
    text = document.head.values.get("description", "")
    if not isinstance(text, str) or not 1 <= len(text.strip()) <= MAX_DESCRIPTION:
        size = len(str(text))
        allowed = f"Allowed: 1 to {MAX_DESCRIPTION}."
        yield document.finding("description", f"The description has {size} characters.", allowed)


def _check_body(document: Document) -> Iterator[Finding]:
    body = document.head.body
    if not body.strip():
        yield document.body_finding(0, "There is nothing below the head.", "Allowed: instructions.")
    if body.count("\n") > MAX_LINES:
        yield document.body_finding(0, f"The body has {body.count(chr(10))} lines.", f"Allowed: {MAX_LINES}.")
    for match in re.finditer(r"(?<!\\)\$\d|\$ARGUMENTS\[", body):
        allowed = "Allowed: $ARGUMENTS, and names that 'arguments' lists; escape a real one as \\$1."
        yield document.body_finding(match.start(), f"{match.group()!r} differs from client to client.", allowed)


def split_tools(value: Any) -> tuple[list[str], str]:
    """The rules of a tools field, and what can't be read of it.

    Text is split at commas and blanks outside brackets, a list is taken item by item.
    """
    texts = value if isinstance(value, list) else [value]
    rules: list[str] = []
    for text in texts:
        if not isinstance(text, str) or not _is_balanced(text):
            return rules, str(text)
        rules += re.findall(r"[^\s,(]+(?:\([^)]*\)+)?", text)
    return rules, ""


def _is_balanced(text: str) -> bool:
    depth = 0
    for sign in text:
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            return False
    return depth == 0


def _check_tools(document: Document, key: str) -> Iterator[Finding]:
    if key not in document.head.values:
        return
    rules, unreadable = split_tools(document.head.values[key])
    if unreadable:
        yield document.finding(
            key, f"{unreadable!r} has a bracket too many or too few.", "Allowed: Tool or Tool(rule)."
        )
    for rule in rules:
        tool = rule.split("(")[0]
        if tool not in TOOLS and not re.fullmatch(r"mcp__[A-Za-z0-9_*-]+", tool):
            near = difflib.get_close_matches(tool, TOOLS, 1)
            allowed = f"Did you mean {near[0]!r}?" if near else "Allowed: a tool of the client, or mcp__…."
            yield document.finding(key, f"Unknown tool {tool!r}.", allowed)


# ---- skills


def check_skill(path: Path, plugin: Plugin) -> list[Finding]:
    """Everything that is wrong with one SKILL.md."""
    document, findings = read_document(path)
    if document is None:
        return findings
    checks: tuple[Iterable[Finding], ...] = (
        _check_keys(document, SKILL_KEYS), _check_words(document), _check_name(document, path.parent.name),
        _check_description(document), _check_body(document), _check_tools(document, "allowed-tools"),
        _check_tools(document, "disallowed-tools"), _check_grants(document), _check_fork(document, plugin),
        _check_arguments(document), _check_compatibility(document), check_links(document, plugin),
    )  # fmt: skip
    return [finding for check in checks for finding in check]


def _check_grants(document: Document) -> Iterator[Finding]:
    rules, _ = split_tools(document.head.values.get("allowed-tools", []))
    for rule in rules:
        if re.fullmatch(r"Bash(\([\s*:]*\))?", rule):
            what = f"{rule!r} approves every shell command without asking."
            yield document.finding("allowed-tools", what, "Allowed: Bash(command *).")


def _check_fork(document: Document, plugin: Plugin) -> Iterator[Finding]:
    values = document.head.values
    agent = values.get("agent")
    if agent is None:
        return
    if values.get("context") != "fork":
        yield document.finding("agent", "agent without 'context: fork' has no effect.", "Allowed: both, or neither.")
    known = (*BUILT_IN_AGENTS, *plugin.agents)
    if agent not in known:
        what = f"agent is {agent!r}; the client would take general-purpose in its place and say nothing."
        yield document.finding("agent", what, f"Allowed: {', '.join(known)}.")


_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)  # a shell's own variables


def _blanked(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match.group())


def _check_arguments(document: Document) -> Iterator[Finding]:
    value = document.head.values.get("arguments")
    names = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    body = document.head.body
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            yield document.finding("arguments", f"{name!r} is no name.", "Allowed: a-z, 0-9 and _.")
        elif not re.search(rf"\${name}\b", body):
            yield document.finding("arguments", f"${name} is not in the body.", "Allowed: names that the body uses.")
    for match in re.finditer(r"(?<![\\\w$])\$([a-z][a-z0-9_]*)", re.sub(_FENCED, _blanked, body)):
        if match.group(1) not in names:
            what = f"{match.group()!r} is no argument, and stays as it is."
            yield document.body_finding(match.start(), what, "Allowed: names in 'arguments'; escape a real one as \\$.")
    if names and "$ARGUMENTS" not in body:
        what = "The body has no $ARGUMENTS, so other clients do not show what was typed."
        yield document.finding("arguments", what, "Allowed: a line such as 'Arguments: $ARGUMENTS'.")


def _check_compatibility(document: Document) -> Iterator[Finding]:
    text = document.head.values.get("compatibility", "")
    if isinstance(text, str) and len(text) > MAX_COMPATIBILITY:
        what = f"compatibility has {len(text)} characters."
        yield document.finding("compatibility", what, f"Allowed: {MAX_COMPATIBILITY}.")


_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
_VARIABLE = re.compile(r"\$\{?CLAUDE_(PLUGIN_ROOT|SKILL_DIR)\}?/([\w./-]*\w)")
_QUOTED = re.compile(r"`((?:references|scripts|assets)/[\w./-]*\w)`")  # what skills keep beside them


def check_links(document: Document, plugin: Plugin) -> Iterator[Finding]:
    """Links, `${CLAUDE_…}/` paths and quoted resources that lead to no file, or out of the plugin."""
    body, own = document.head.body, document.path.parent
    roots = {"PLUGIN_ROOT": plugin.folder, "SKILL_DIR": own}
    targets = [(match.start(), own, match.group(1)) for match in _LINK.finditer(body)]
    targets += [(match.start(), roots[match.group(1)], match.group(2)) for match in _VARIABLE.finditer(body)]
    for match in _QUOTED.finditer(body):
        is_plugins = not (own / match.group(1)).exists() and (plugin.folder / match.group(1)).exists()
        targets.append((match.start(), plugin.folder if is_plugins else own, match.group(1)))
    for place, base, target in targets:
        if fault := _link_fault(base, target, plugin):
            yield document.body_finding(place, fault, "Allowed: a file of the plugin.")
    for key in ("allowed-tools", "disallowed-tools"):
        for match in _VARIABLE.finditer(str(document.head.values.get(key, ""))):
            if fault := _link_fault(roots[match.group(1)], match.group(2), plugin):
                yield document.finding(key, fault, "Allowed: a file of the plugin.")


def _link_fault(base: Path, target: str, plugin: Plugin) -> str:
    found = (base / target).resolve()
    if not found.exists():
        return f"{target!r} leads nowhere."
    is_inside = plugin.folder.resolve() in (found, *found.parents)
    return "" if is_inside else f"{target!r} lies outside the plugin, and an installed one can't read it."


# ---- agents


def check_agent(path: Path, plugin: Plugin) -> list[Finding]:
    """Everything that is wrong with one agent's file."""
    document, findings = read_document(path)
    if document is None:
        return findings
    known = {**AGENT_KEYS, **dict.fromkeys(IGNORED_AGENT_KEYS, object)}
    checks: tuple[Iterable[Finding], ...] = (
        _check_keys(document, known), _check_words(document), _check_name(document, path.stem),
        _check_description(document), _check_body(document), _check_tools(document, "tools"),
        _check_tools(document, "disallowedTools"), _check_agent_values(document), check_links(document, plugin),
    )  # fmt: skip
    return [finding for check in checks for finding in check]


def _check_agent_values(document: Document) -> Iterator[Finding]:
    for key in IGNORED_AGENT_KEYS:
        if key in document.head.values:
            what = f"{key} is ignored in the agent of a plugin."
            yield document.finding(key, what, "Allowed: hooks and servers of the plugin itself.")
    turns = document.head.values.get("maxTurns", 1)
    if isinstance(turns, int) and turns < 1:
        yield document.finding("maxTurns", f"maxTurns is {turns}.", "Allowed: 1 or more.")
