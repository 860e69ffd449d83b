"""What is given to a workflow from outside: JSON values, and files or folders, which count by their content.

In JSON, a file or folder is an object with the one name `path`; it is relative to the workspace's root, or absolute.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoexperiment import snapshot
from autoexperiment.errors import UsageError, unknown
from autoexperiment.workflow import typed
from autoexperiment.workflow.steps import Workflow

PATH = "path"


def encoded(atoms: Mapping[str, Any]) -> dict[str, Any]:
    """Atoms as plain JSON; `~` is this user's home. Raises: UsageError: a value is neither JSON nor a path."""
    faults: list[str] = []
    plain = {name: typed.plain(_as_json(value), name, faults) for name, value in atoms.items()}
    typed.refuse(faults, "What is given to the workflow as input_atoms")
    return plain


def _as_json(value: Any) -> Any:
    path = value if isinstance(value, Path) else _named(value)
    return value if path is None else {PATH: str(path.expanduser())}


def checked(workflow: Workflow, atoms: Mapping[str, Any], *, root: Path) -> dict[str, Any]:
    """Complete JSON as declared, and absolute paths.

    Args: atoms: as `encoded` gives them.
    Raises: UsageError: one is missing, not declared, of another type, or a file that is not there.
    """
    faults = [unknown("atom", name, workflow.atoms) for name in atoms if name not in workflow.atoms]
    result: dict[str, Any] = {}
    for name, kind in workflow.atoms.items():
        if name not in atoms:
            faults.append(f"{name} is missing. Needed: {typed.kind_text(kind)}")
        elif (path := _named(atoms[name])) is not None and kind in (Path, Any):
            result[name] = place = root / path
            faults += [] if place.is_file() or place.is_dir() else [f"{name}: there is no file or folder {place}"]
        elif kind is Path:
            faults.append(
                f"{name} is {typed.shown(atoms[name])}. Needed: {typed.kind_text(kind)}, given as a pathlib.Path"
            )
        else:
            result[name] = typed.complete(kind, atoms[name], name, own := list[str]())
            faults += own or typed.faults_of_making(kind, result[name], name)
    typed.refuse(faults, f"What is given to workflow {workflow.name!r} as input_atoms")
    return result


def content(value: Any) -> Any:
    """What an atom counts as: JSON itself, or the hash of what a file or a folder holds.

    Raises: UsageError: it can't be read.
    """
    if not isinstance(value, Path):
        return typed.plain(value, "", [])
    try:
        return {"sha256": snapshot.content(value)}
    except OSError as error:
        raise UsageError(f"Cannot read {value}, an input of the workflow: {error.strerror}.") from error


def _named(value: Any) -> Path | None:
    """The path that JSON stands for, or None."""
    is_path = isinstance(value, Mapping) and value.keys() == {PATH} and isinstance(value[PATH], str)
    return Path(value[PATH]) if is_path else None
