"""What the process of a workflow is asked to do: one JSON object in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoexperiment.files import dump_json, read_json


@dataclass(frozen=True)
class Request:
    """One workflow to run.

    Attributes:
        workflow: "module:attribute".
        config: by step; plain JSON.
        root, run_dir: absolute.
        atoms: as `atoms.encoded` gives them.
        path: folders that modules are looked for in, in this order, before those of the process itself.
        name, steps: of the workflow, for the state of one that can't be imported.
        key: of the sweep's point, which is run only if all that decides is as it was; "": whatever there is.
        params, seed: what a sweep set in `config`.
    """

    workflow: str
    config: Mapping[str, Any]
    root: str
    run_dir: str
    atoms: Mapping[str, Any] = field(default_factory=dict)
    user: str = ""
    path: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    use_cache: bool = True
    name: str = ""
    steps: tuple[str, ...] = ()
    key: str = ""

    def save(self, file: Path) -> None:
        """Not for keeps: a process that is started at once reads it."""
        file.write_text(dump_json(asdict(self), indent=None))

    @classmethod
    def load(cls, file: Path) -> Request:
        value = read_json(file)
        return cls(**{**value, "path": tuple(value["path"]), "steps": tuple(value["steps"])})
