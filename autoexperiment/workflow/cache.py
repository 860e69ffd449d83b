"""Outputs of finished steps, kept by what they were made from: equal steps are not done twice.

An entry that can't be read, is damaged, or belongs to another key is a miss. Two processes may write the same one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoexperiment import __version__
from autoexperiment.files import load_json, read_plain, write_json
from autoexperiment.paths import ProjectPaths
from autoexperiment.workflow import atoms, sources
from autoexperiment.workflow.steps import Step

ENTRY_BYTES = 100_000_000


def key_of(workflow: str, step: Step, config: Any, inputs: Mapping[str, Any], *, root: Path) -> str | None:
    """Hash of all that decides a step's outputs; None for one that is not kept, or whose code is in no file.

    Files and folders that configuration and inputs name count by their content.

    Args:
        config: its section as plain JSON.
        inputs: by name; files and folders as absolute paths.
    Raises: UsageError: a file from outside can't be read, or a folder holds too much.
    """
    if not step.is_cached:
        return None
    code = sources.of_step(step, config)
    if step.function.__module__ not in code:
        return None
    facts = {
        "version": __version__,
        "workflow": workflow,
        "step": step.name,
        "config": config,
        "inputs": {name: atoms.content(value) for name, value in inputs.items()},
        "code": code,
        "files": sources.of_files(config, root=root),
        "given": sources.of_outputs([*inputs.values()], root=root),
    }
    return _sha256(facts)


def _sha256(value: Any) -> str:
    """Equal for objects that differ in the order of their names only."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


@dataclass(frozen=True)
class Cache:
    """The kept outputs of one workspace. `root`: its top folder."""

    root: Path

    def file(self, key: str) -> Path:
        return ProjectPaths(self.root).outputs / ".cache" / "steps" / f"{key}.json"

    def get(self, key: str, *, is_judged: bool = False) -> dict[str, Any] | None:
        """The outputs that were kept under a key, or None.

        Args: is_judged: somebody else says whether the files that they name are still good: without that, files and
            folders have to be as they were.
        """
        blob = read_plain(self.file(key), ENTRY_BYTES)
        try:
            entry = load_json(blob) if blob is not None else {}
            outputs, files = entry["outputs"], entry["files"]
            is_whole = entry["key"] == key and entry["sha256"] == _sha256([outputs, files])
            if not is_whole or not isinstance(outputs, dict):
                return None
            return outputs if is_judged or sources.of_outputs(outputs, root=self.root) == files else None
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def put(self, key: str, outputs: Mapping[str, Any], *, is_judged: bool = False) -> None:
        """Keep outputs, whole or not at all. Raises: OSError. UsageError: a folder that they name holds too much."""
        files = {} if is_judged else sources.of_outputs(outputs, root=self.root)
        write_json(
            self.file(key), {"key": key, "sha256": _sha256([outputs, files]), "outputs": outputs, "files": files}
        )
