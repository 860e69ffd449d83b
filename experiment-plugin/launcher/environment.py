"""The plugin's own environment: where it is, what it was made from, and when it must be made again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys

from launcher.problem import Problem

TYPE_CHECKING = False  # importing typing would cost a third of the start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def is_source(folder: str) -> bool:
    """Whether the folder holds this very project, not merely one with the same file names."""
    if not os.path.isfile(os.path.join(folder, "autoexperiment", "__init__.py")):
        return False
    try:
        project = read(os.path.join(folder, "pyproject.toml"))
    except (OSError, ValueError):
        return False
    return re.search(r'^name = "autoexperiment"$', project, re.MULTILINE) is not None


def find_source(root: str) -> str:
    """The repository around this plugin, else the project if it is that repository, else nothing."""
    plugin = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    return next((folder for folder in (os.path.dirname(plugin), root) if is_source(folder)), "")


def source_files(source: str) -> Iterator[str]:
    """Paths below the source that decide what is installed, in a fixed order."""
    yield from (name for name in ("constraints.txt", "pyproject.toml") if os.path.exists(os.path.join(source, name)))
    for folder, folders, names in os.walk(os.path.join(source, "autoexperiment")):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (os.path.relpath(os.path.join(folder, name), source) for name in sorted(names))


def digest_of(source: str) -> str:
    """A name for the source's content: a copy elsewhere has the same, a newer version another."""
    summary = hashlib.sha256()
    for name in source_files(source):
        with open(os.path.join(source, name), "rb") as file:
            content = file.read()
        summary.update(f"{name}\0{len(content)}\0".encode() + content)
    return summary.hexdigest()[:16]


def data_folder() -> str:
    """Where the environment lives: outside the plugin, whose folder an update replaces."""
    if override := os.environ.get("AUTOEXPERIMENT_HOME"):
        return os.path.abspath(override)
    if sys.platform == "darwin":
        return os.path.expanduser("~/Library/Application Support/autoexperiment/plugin")
    return os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "autoexperiment")


def wanted_extras() -> str:
    """The user's choice of optional parts, or nothing: then what is there stays."""
    return os.environ.get("AUTOEXPERIMENT_EXTRAS", "").replace(" ", "")


def read_stamp(home: str) -> dict[str, Any]:
    """What is known of the current environment; empty when there is none that could be started."""
    try:
        stamp: dict[str, Any] = json.loads(read(os.path.join(home, "current.json")))
        folder = os.path.join(home, "environments", stamp["environment"], "bin")
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    is_whole = os.access(os.path.join(folder, "python"), os.X_OK) and os.path.isfile(os.path.join(folder, "mlx"))
    return stamp if is_whole else {}


def write_stamp(home: str, stamp: dict[str, Any]) -> None:
    """Make an environment the current one, at once and for good."""
    temporary = os.path.join(home, f"current.json.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(stamp, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, os.path.join(home, "current.json"))


def is_current(stamp: dict[str, Any], digest: str) -> bool:
    """Whether the environment was made from this source (any, where there is none now) with the wanted parts."""
    return bool(stamp) and digest in ("", stamp.get("digest")) and wanted_extras() in ("", stamp.get("extras"))


def mark_used(folder: str) -> None:
    """Note a start for whoever clears up; a folder that cannot be written is still good to run."""
    try:
        with open(os.path.join(folder, "used"), "w"):
            pass
    except OSError:
        pass


def environment_command(root: str) -> list[str]:
    """The command of the plugin's own environment, which is made first if need be.

    The script is handed to the interpreter: a path with blanks or of great length cannot stand in its first line.
    """
    home, source = data_folder(), find_source(root)
    digest = digest_of(source) if source else ""
    stamp = read_stamp(home)
    if not is_current(stamp, digest):
        from launcher.building import set_up

        stamp = set_up(home, source, digest)
    folder = os.path.join(home, "environments", stamp["environment"])
    mark_used(folder)
    return [os.path.join(folder, "bin", "python"), os.path.join(folder, "bin", "mlx")]


def no_source() -> Problem:
    return Problem(
        "autoexperiment is not installed, and neither this plugin nor the current folder holds its source. "
        "It can come from the plugin `mlx`, from a checkout of its repository, or from the PATH. "
        "Type: claude plugin install mlx@autoexperiment"
    )
