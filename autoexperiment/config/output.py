"""Where an experiment's runs go, and that it is inside the workspace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autoexperiment.errors import ConfigError

if TYPE_CHECKING:
    from autoexperiment.config.document import ExperimentConfig


def check_output(config: ExperimentConfig, root: Path) -> Path:
    """The folder of all runs: `output.directory` below the workspace's root. Nothing is made.

    Raises: ConfigError: its name or the experiment's is not allowed, which `model_copy` does not look at; or it, or the
        experiment's folder in it, is a file, or a link leads out of the workspace.
    """
    _check_names(config.name, config.output.directory)
    folder = root / config.output.directory
    for place in (folder, folder / config.name):
        _check_inside(place, root)
        _check_folders(place, root)
    return folder


def _check_names(name: str, directory: str) -> None:
    """Raises: ConfigError: in the words with which the loader refuses a configuration that has them."""
    from autoexperiment.config.loader import ConfigLoader

    small = {"dataset": {"name": "synthetic_regression"}, "model": {"name": "linear_regression"}}
    ConfigLoader.load_from_dict({**small, "name": name, "output": {"directory": directory}})


def _check_inside(place: Path, root: Path) -> None:
    try:
        target = place.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: Python 3.11 and 3.12 on links that lead in a circle
        raise ConfigError(f"Output directory {_shown(place, root)} cannot be followed: {error}.") from error
    if not target.is_relative_to(root.resolve()):
        raise ConfigError(
            f"Output directory {_shown(place, root)} resolves outside the workspace: a link leads to {target}. "
            f"Output paths must lie within {root}. Remove the link, or choose another output.directory."
        )


def _check_folders(place: Path, root: Path) -> None:
    for part in (place, *place.parents):
        if part == root:
            return
        if part.exists() and not part.is_dir():
            raise ConfigError(
                f"Output directory {_shown(place, root)}: {_shown(part, root)} is a file. "
                "Remove it, or choose another output.directory or name."
            )


def _shown(place: Path, root: Path) -> str:
    return repr(str(place.relative_to(root)))
