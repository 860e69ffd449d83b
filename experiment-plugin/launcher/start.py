"""Find an installed `mlx` without running anything, and become it.

`os.path` instead of pathlib, and imports where they are needed: this runs before every single command.
"""

from __future__ import annotations

import os
import re

from launcher.problem import Problem, tell

# What pip, uv and pipx write for [project.scripts]. The launcher itself must never match: it would start itself.
_PROGRAM = re.compile(rb"^from autoexperiment\.cli import ", re.MULTILINE)
_PLAIN = re.compile(rb"\A#! *(/[^\n]*)")
_LONG = re.compile(rb"\A#!/bin/sh\n'''exec' [\"']?(/[^\"'\n]+?)[\"']? \"\$0\"")  # paths with blanks, or very long ones


def interpreter_of(head: bytes) -> bytes:
    """The interpreter that a script's first lines name."""
    found = _LONG.match(head) or _PLAIN.match(head)
    return found.group(1).split(b" -")[0].strip() if found else b""


def is_program(path: str) -> bool:
    """Whether the file is autoexperiment's own command and its interpreter is still there."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return bool(_PROGRAM.search(head)) and os.access(path, os.X_OK) and os.access(interpreter_of(head), os.X_OK)


def project_root() -> str:
    """The top of the git working tree around the current folder, else that folder."""
    try:
        start = folder = os.getcwd()
    except OSError:
        raise Problem("The current folder is gone. mlx works inside a project. Type: cd /your/project") from None
    while not os.path.exists(os.path.join(folder, ".git")):
        parent = os.path.dirname(folder)
        if parent == folder:
            return start
        folder = parent
    return folder


def installed_program(root: str) -> str:
    """The project's own `mlx`, else the first on the PATH, else nothing."""
    folders = [os.path.join(root, ".venv", "bin"), *os.environ.get("PATH", "").split(os.pathsep)]
    candidates = (os.path.join(folder, "mlx") for folder in folders if os.path.isabs(folder))
    return next((path for path in candidates if is_program(path)), "")


def find_command() -> list[str]:
    """What to become: an installed program, else the one of the plugin's own environment."""
    root = project_root()
    if program := installed_program(root):
        return [program]
    from launcher.environment import environment_command

    return environment_command(root)


def become(command: list[str]) -> None:
    """Replace this process. Returns only by raising.

    Raises: Problem: the command could not be started.
    """
    try:
        os.execv(command[0], command)
    except OSError as error:
        raise Problem(
            f"{command[0]} cannot be started ({error.strerror}). It belongs to an environment that is no longer whole. "
            "Make that environment again, or delete it: the plugin then uses its own"
        ) from None


def main(argv: list[str]) -> int:
    """Become the program; returns only when there is none."""
    try:
        become([*find_command(), *argv])
    except Problem as problem:
        tell(str(problem))
    except KeyboardInterrupt:
        return 130
    return 1
