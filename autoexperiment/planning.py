"""Everything about an experiment that can be known to fail before it is run: paths, data, and whether they fit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoexperiment import history, trainer
from autoexperiment.errors import ConfigError, DataError, HarnessError, TookTooLong
from autoexperiment.files import read_json
from autoexperiment.paths import OutputPaths
from autoexperiment.supervisor import Signals
from autoexperiment.training.request import DESCRIBE, Request
from autoexperiment.vocabulary import Outcome

if TYPE_CHECKING:
    from autoexperiment.config import ExperimentConfig
    from autoexperiment.datasets import Facts


@dataclass(frozen=True)
class PlacedConfig:
    """A configuration, and the workspace where its paths start. Whether it fits its data was not looked at here."""

    config: ExperimentConfig
    root: Path

    @property
    def json(self) -> dict[str, Any]:
        return self.config.to_json()


@dataclass(frozen=True)
class ExperimentPlan(PlacedConfig):
    """An experiment that is ready to be run: its data are there, and the model fits them."""

    outputs: OutputPaths
    facts: Facts

    @property
    def parts(self) -> dict[str, int]:
        """Rows of each part of the dataset."""
        from autoexperiment import datasets

        return datasets.sizes(self.json["dataset"], self.facts)

    @property
    def to_fetch(self) -> list[str]:
        """Files that are to be fetched over the network first."""
        from autoexperiment import datasets

        return datasets.must_fetch(self.json["dataset"], root=self.root)


def refuse(faults: Sequence[str]) -> ConfigError:
    """The error that names all faults of a configuration."""
    return ConfigError("Configuration validation failed:\n" + "\n".join(f"  - {fault}" for fault in faults))


def make_plan(config: ExperimentConfig, *, root: Path) -> ExperimentPlan:
    """Look at everything that running the experiment needs; nothing is written but the conversion of a data file.

    Raises: ConfigError: with all faults. HarnessError: the output folder can't be written.
    """
    from autoexperiment.config.document import check_output

    outputs = OutputPaths(check_output(config, root))
    _check_writable(outputs.root, config.output.directory)
    history.check_index(outputs)
    facts, faults = look(config.to_json(), root)
    if facts is None or faults:
        raise refuse(faults)
    return ExperimentPlan(config, root, outputs, facts)


def _check_writable(folder: Path, directory: str) -> None:
    there = folder
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        raise HarnessError(
            f"Permission denied: {directory!r}. Runs are written below it. Give yourself the right: chmod u+w {there}"
        )


def look(
    config: dict[str, Any],
    root: Path,
    *,
    with_model: bool = True,
    signals: Signals | None = None,
    timeout_s: float | None = None,
) -> tuple[Facts | None, list[str]]:
    """What the dataset is, and what is wrong with it (then there are no facts) or with the model for it.

    Args:
        signals: as of `supervise`.
        timeout_s: of a dataset's own code; None: as long as it takes.
    Raises: TookTooLong. KeyboardInterrupt: a signal ended it.
    """
    from autoexperiment import datasets, models

    if config["dataset"].get("loader"):
        facts, faults = _ask(config, root, signals, timeout_s)
    else:
        try:
            facts, faults = datasets.describe(config["dataset"], root=root), []
        except DataError as error:
            return None, [str(error)]
    return facts, faults + (models.check(config["model"], facts) if facts and with_model else [])


def _ask(
    config: dict[str, Any], root: Path, signals: Signals | None, timeout_s: float | None
) -> tuple[Facts | None, list[str]]:
    """The dataset's facts from a process of its own: the user's code runs there."""
    from autoexperiment.datasets import Facts

    said: list[str] = []
    with tempfile.TemporaryDirectory(prefix="autoexperiment-") as name:
        folder = Path(name)
        request = Request(DESCRIBE, str(root), config, result=str(folder / "facts.json"))
        ending = trainer.run(
            request, folder=folder, log=folder / "run.log",
            heard=lambda word, text: said.append(text) if word == "error" else None,
            signals=signals, timeout_s=timeout_s,
        )  # fmt: skip
        if ending.outcome is Outcome.INTERRUPTED:
            raise KeyboardInterrupt
        if ending.outcome is Outcome.TIMED_OUT:
            raise TookTooLong(f"The dataset can't be loaded in time: {ending.reason}")
        if ending.exit_code != 0 or not Path(request.result).exists():
            return None, [said[-1] if said else f"The dataset can't be loaded: {ending.reason or 'its code ended it.'}"]
        return Facts(**read_json(Path(request.result))), []
