"""A run of the experiment harness that is there already: its folder, its configuration, and the workspace it is of."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoexperiment.errors import HarnessError
from autoexperiment.paths import OutputPaths, RunPaths, find_root

if TYPE_CHECKING:
    from autoexperiment.config import ExperimentConfig


@dataclass(frozen=True)
class KeptRun:
    """A run directory that was opened.

    Attributes:
        root: the workspace, where the configuration's paths start.
        outputs: the output folder whose history the run belongs to; None: it was moved out of its place.
    """

    paths: RunPaths
    config: ExperimentConfig
    root: Path
    outputs: OutputPaths | None


def open_run(run_dir: str | Path) -> KeptRun:
    """Raises: HarnessError: this is no folder of a run of the harness. ConfigError: its configuration was damaged."""
    from autoexperiment.config import ConfigLoader

    paths = RunPaths(_folder(Path(run_dir)))
    config = ConfigLoader.load_from_file(paths.config)
    place = Path(os.path.normpath(config.output.directory), config.name, paths.folder.name).parts
    if paths.folder.parts[-len(place) :] == place:
        root = Path(*paths.folder.parts[: -len(place)])
        return KeptRun(paths, config, root, OutputPaths(root / config.output.directory))
    return KeptRun(paths, config, find_root(Path.cwd()), None)


def _folder(run_dir: Path) -> Path:
    if not run_dir.exists():
        raise HarnessError(f"Run directory not found: {run_dir}. List the runs: mlx history list")
    if not run_dir.is_dir():
        raise HarnessError(f"Run directory is a file: {run_dir}. Name the folder that holds config.json.")
    run = RunPaths(run_dir.resolve())
    if not run.config.is_file():
        what = (
            "This is a run of the loop: its numbers stand in run.json. See: mlx loop log"
            if run.record.is_file()
            else "Name the folder that 'mlx run-experiment' printed. List the runs: mlx history list"
        )
        raise HarnessError(f"{run_dir} has no config.json, so it is no run of the harness. {what}")
    return run.folder
