"""What a session allows to be done to a path, by the same globs that the loop itself goes by.

Every answer is "" or a sentence that says why not. A path is judged by its name and by where its links lead.
"""

from __future__ import annotations

import functools
import os
import re

import globs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sessions import Active

NOTES = "EXPERIMENT.md"
LOG = "run.log"
OUTPUTS = "outputs"
_WORDS_LIMIT = 300
_DEVICES = re.compile(r"/dev/(?:null|stdout|stderr|tty|zero|fd/\d+)")
_PLUGIN_FOLDERS = (".claude-plugin", "agents", "bin", "hooks", "skills")
_OWN_PLUGIN = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def is_mutable(surface: dict[str, Any], path: str) -> bool:
    """Whether a candidate may hold this file; `path` is relative to the project's top folder."""
    prefix = surface["prefix"]
    is_inside = not prefix or path.startswith(prefix.rstrip("/") + "/") or path == prefix
    return (
        is_inside
        and globs.any_matches(surface["mutable"], path)
        and not globs.any_matches([*surface["forbidden"], *surface["immutable"], *surface["hold_out"]], path)
        and path not in surface["views"]
        and not path.startswith(tuple(surface["own"]))
    )


def write_fault(session: Active, path: str) -> str:
    """Why a file may not be written, made, moved or removed. Args: path: absolute, in any spelling."""
    if _DEVICES.fullmatch(path):
        return ""
    faults = (_write_fault(session, real) for real in _readings(path))
    return next((fault for fault in faults if fault), "")


def _readings(path: str) -> list[str]:
    """The name itself in its real folder, and what it leads to when it is a link."""
    path = os.path.normpath(os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path) or "."))
    real = os.path.realpath(path)
    return [path] if real == path else [path, real]


def _write_fault(session: Active, path: str) -> str:
    if fault := kept_fault(session, path):
        return fault
    surface, name = session.handover["surface"], _relative(session, path)
    if name is None:
        return f"{path} lies outside the project. {_allowed(session)}"
    if is_mutable(surface, name):
        return ""
    fixed = [*surface["immutable"], *surface["forbidden"], *surface["hold_out"]]
    if name == NOTES and not globs.any_matches(fixed, name):
        return ""
    return f"{_why_fixed(surface, name)} {_allowed(session)}"


def folder_fault(session: Active, path: str) -> str:
    """Why a folder may not be made or removed: allowed is one in which a file may change."""
    name = _relative(session, os.path.realpath(path))
    endings = {re.sub(r"\*+|\?|\[[^]]*\]", "x", glob.split("/")[-1]) for glob in session.handover["surface"]["mutable"]}
    if name and any(is_mutable(session.handover["surface"], f"{name}/{ending}") for ending in endings):
        return kept_fault(session, path) or kept_fault(session, os.path.realpath(path))
    return write_fault(session, path)


def _why_fixed(surface: dict[str, Any], name: str) -> str:
    if globs.any_matches(surface["immutable"], name):
        return f"{name} belongs to the harness, which measures and must stay as it is."
    if globs.any_matches(surface["hold_out"], name):
        return f"{name} is held out, and no run may know it."
    if name in surface["views"] or name.startswith(tuple(surface["own"])):
        return f"{name} is written by the loop alone, from its ledger."
    if globs.any_matches(surface["forbidden"], name):
        return f"{name} is forbidden by the protocol (mutableSurface.forbiddenGlobs)."
    return f"{name or 'The top folder'} is not in the mutable surface."


def kept_fault(session: Active, path: str) -> str:
    """Why something may not be touched whatever the protocol says: state, git's folder, settings, the plugin itself."""
    for folder in session.handover["protected"]:
        if is_inside(path, folder):
            return f"{path} lies in {folder}, where the loop keeps its ledger and its data. {_allowed(session)}"
    name = _relative(session, path)
    parts = (path if name is None else name).lower().split("/")  # the project itself may lie in a folder `.claude`
    if ".git" in parts:
        return f"{path} lies in git's own folder, and the loop makes the commits. {_allowed(session)}"
    if ".claude" in parts or parts[-1] == ".mcp.json":
        return f"{path} holds settings or hooks of the agent's client. {_allowed(session)}"
    if any(is_inside(path, folder) for folder in _plugin_folders()):
        return f"{path} belongs to the plugin that guards this session. {_allowed(session)}"
    return ""


@functools.cache
def leads_to_kept(session: Active, path: str) -> str:
    """As `kept_fault`, of what a path leads to."""
    return kept_fault(session, os.path.realpath(path))


def _plugin_folders() -> list[str]:
    root = os.environ.get("CLAUDE_PLUGIN_ROOT")
    return [_OWN_PLUGIN, *(os.path.join(root, name) for name in _PLUGIN_FOLDERS if root)]


def _allowed(session: Active) -> str:
    mutable = ", ".join(session.handover["surface"]["mutable"])
    short = mutable if len(mutable) <= _WORDS_LIMIT else mutable[:_WORDS_LIMIT] + "…"
    return (
        f"In the session {session.tag} an agent may change {short}, and {NOTES} for notes. "
        "Edit one of those, then measure it: mlx loop step -m 'what changed'"
    )


def is_inside(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies below it, letter case apart: some file systems take no notice of it."""
    path = path.lower()
    spellings = {folder.lower().rstrip("/"), os.path.realpath(folder).lower()}
    return any(path == spelling or path.startswith(spelling.rstrip("/") + "/") for spelling in spellings)


def _relative(session: Active, path: str) -> str | None:
    """A path below the working tree's top folder ("" for that itself), or None."""
    if path == session.root:
        return ""
    above = session.root.rstrip("/") + "/"
    return path[len(above) :] if path.startswith(above) else None


# ---- reading


@functools.cache  # a line made to exhaust the guard asks a thousand times
def read_fault(session: Active, path: str, *, takes_logs: bool = False) -> str:
    """Why a file may not be read. Args: takes_logs: its content stays unread, so a run's log may be named."""
    faults = (_read_fault(session, real, takes_logs) for real in _readings(path))
    return next((fault for fault in faults if fault), "")


def _read_fault(session: Active, path: str, takes_logs: bool) -> str:
    name = _relative(session, path)
    if any(is_inside(path, folder) for folder in session.handover["secret"]):
        return _secret(path)
    if name is not None and _is_held_out(session, name):
        return _secret(name)
    if name is not None and not takes_logs and _is_log(name):
        return _log(name)
    return ""


def _is_held_out(session: Active, name: str) -> bool:
    patterns = session.handover["surface"]["hold_out"]
    return globs.any_matches(patterns, name) or globs.any_matches([p.lower() for p in patterns], name.lower())


def _is_log(name: str) -> bool:
    parts = name.lower().split("/")
    return parts[0] == OUTPUTS and parts[-1].endswith(".log")


def _secret(name: str) -> str:
    return (
        f"{name} is held out: no run, no verdict and no agent may know it, or the report's last number means nothing. "
        "Use the verdicts: mlx loop log"
    )


def _log(name: str) -> str:
    return (
        f"{name} is a run's output, which is untrusted text. Its bounded summary is the only way to it. "
        "Type: mlx loop show"
    )


def search_fault(session: Active, folder: str, *, skips_ignored: bool = False) -> str:
    """Why everything below a folder may not be searched.

    Args: skips_ignored: the search leaves out what .gitignore names, such as the runs' logs.
    """
    if fault := read_fault(session, folder):
        return fault
    if not os.path.isdir(folder):
        return ""
    real = os.path.realpath(folder)
    if any(is_inside(secret, real) for secret in session.handover["secret"]):
        return f"{folder} holds the hold-out, which stays unread. Name a narrower folder."
    places = [os.path.join(session.root, _literal(glob)) for glob in session.handover["surface"]["hold_out"]]
    if any(is_inside(place, real) or is_inside(real, place) for place in places):
        return f"{folder} may hold held-out files, which stay unread. Name a narrower folder or single files."
    outputs = os.path.join(session.root, OUTPUTS)
    is_above = is_inside(outputs, real) and not skips_ignored and os.path.isdir(outputs)
    if is_inside(real, outputs) or is_above:
        return f"{folder} holds the runs' logs, which are untrusted text. Leave {OUTPUTS} out, or use: mlx loop show"
    return ""


def _literal(glob: str) -> str:
    """The folder that everything a glob matches lies in."""
    wild = re.search(r"[*?\[\\]", glob)
    return glob if wild is None else os.path.dirname(glob[: wild.start()])
