"""The metrics of a checkpoint on one part of a dataset: nothing is trained, nothing in the checkpoint changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoexperiment import files, models
from autoexperiment.datasets import splitting
from autoexperiment.datasets.base import CLASSIFICATION, Facts
from autoexperiment.datasets.fingerprints import Fingerprint
from autoexperiment.datasets.splits import Part
from autoexperiment.errors import DataError
from autoexperiment.models.network import Network
from autoexperiment.paths import RunPaths
from autoexperiment.training import checkpoints
from autoexperiment.training.checkpoints import Checkpoint
from autoexperiment.training.scores import Scores

_NUMBERS_AT_ONCE = 1 << 20  # of a batch of rows: 8 MB as float64


def load(run_dir: Path, name: str) -> tuple[Checkpoint, Network]:
    """A run's checkpoint by name, and the model in it. Raises: DataError: there is none, or it is not sound."""
    checkpoint = checkpoints.find(RunPaths(run_dir), name)
    return checkpoint, models.load(checkpoint.folder)


def check_fit(model: Network, facts: Facts, *, where: Path) -> None:
    """Raises: DataError: the checkpoint's model was made for other data."""
    made, given = _described(model.facts), _described(facts)
    if made != given:
        raise DataError(
            f"The model in {where} was trained for a {made}. The dataset is a {given}. "
            "Evaluate it on data of the same kind, or leave --config out to use the run's own."
        )


def is_own_data(checkpoint: Checkpoint, given: Fingerprint, *, is_meant: bool) -> bool:
    """Whether a checkpoint was trained on this data, split and scaled as it is.

    Args: is_meant: it should be; False: another dataset was asked for.
    Raises: DataError: it should be and isn't; or it is the same data split otherwise, so that no part is held out.
    """
    trained_on = checkpoints.data_of(checkpoints.load_state(checkpoint), where=checkpoint.folder)
    if given == trained_on:
        return True
    if is_meant:
        raise DataError(
            "The data changed since the run: its test part may hold rows it was trained on. Put the data back as it "
            "was, or name a configuration with other data: --config FILE"
        )
    if given.rows == trained_on.rows:
        raise DataError(
            "The dataset has the run's own rows, and they are split or scaled in another way, or are more or fewer: "
            f"rows of its parts may be rows that the run was trained on. {_own_splitting(checkpoint)}"
            "Leave --config out, or name other data (another seed, for data that is generated)."
        )
    return False


def _own_splitting(checkpoint: Checkpoint) -> str:
    """How the run's data was split, in a sentence; nothing where its configuration is damaged."""
    try:
        dataset = checkpoints.object_in(RunPaths(checkpoint.folder.parent.parent).config)["dataset"]
        words = ", ".join(f"{name} {files.dump_json(value)}" for name, value in splitting(dataset).items())
    except (KeyError, TypeError, AttributeError):
        return ""
    return f"The run's own: {words}. "


def _described(facts: Facts) -> str:
    shape = " x ".join(map(str, facts.shape))
    classes = f" and {facts.n_classes} classes" if facts.task == CLASSIFICATION else ""
    return f"{facts.task} with rows of {shape} numbers{classes}"


def measure(model: Network, part: Part, *, facts: Facts, metrics: Sequence[str] = ()) -> Mapping[str, Any]:
    """Metrics of a model on a part.

    Args: metrics: names, () for all of the task.
    Raises: HarnessError: an unknown metric.
    """
    scores = Scores.for_task(facts.task, facts.n_classes)
    scores.result(metrics)  # an unknown name is said before the work
    predict = model.predict_proba if facts.task == CLASSIFICATION else model.predict
    for x, y in part.batches(max(1, _NUMBERS_AT_ONCE // facts.n_features), model.dtype):
        scores.add(y, predict(x))
    return scores.result(metrics)
