"""The metrics of a checkpoint on one part of a dataset: nothing is trained, nothing in the checkpoint changes."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoexperiment import files, models
from autoexperiment.datasets import splitting
from autoexperiment.datasets.base import CLASSIFICATION, Facts
from autoexperiment.datasets.fingerprints import Fingerprint
from autoexperiment.datasets.splits import Part
from autoexperiment.errors import DataError
from autoexperiment.models.base import Array
from autoexperiment.models.network import Network
from autoexperiment.paths import RunPaths
from autoexperiment.training import checkpoints
from autoexperiment.training.checkpoints import Checkpoint
from autoexperiment.training.scores import Scores

_NUMBERS_AT_ONCE = 1 << 20  # of a batch of rows, or of its probabilities: 8 MB as float64
_MANY = 10  # names of classes that a message lists
_OTHERS = "Evaluate it on data of the same kind, or leave --config out to use the run's own."


def load(run_dir: Path, name: str, *, config: Mapping[str, Any]) -> tuple[Checkpoint, Network]:
    """A run's checkpoint by name, and the model in it.

    Args: config: the run's.
    Raises: DataError: there is none, it is not sound, or it is not one that this run has written.
    """
    checkpoint = checkpoints.find(RunPaths(run_dir), name)
    checkpoints.check_final(checkpoint, n_epochs=config["training"]["epochs"])
    model = models.load(checkpoint.folder)
    if not _is_asked_for(model, config["model"]):
        raise DataError(
            f"{checkpoint.folder} holds another model than the run's configuration asks for: it is of another run. "
            "Put the run's own back, or name another one: --checkpoint NAME"
        )
    return checkpoint, model


def _is_asked_for(model: Network, spec: Mapping[str, Any]) -> bool:
    if model.name != spec["name"] or models.check(spec, model.facts):
        return False
    return models.make(spec, model.facts).params() == model.params()


def check_fit(model: Network, facts: Facts, *, where: Path) -> None:
    """Raises: DataError: the checkpoint's model was made for other data. Data may lack some of its classes."""
    made = model.facts
    is_numbered_alike = bool(made.classes or facts.classes) or facts.n_classes <= made.n_classes
    if (made.task, made.shape) != (facts.task, facts.shape) or not is_numbered_alike:
        raise DataError(
            f"The model in {where} was trained for a {_described(made)}. The dataset is a {_described(facts)}. {_OTHERS}"
        )
    if bool(made.classes) != bool(facts.classes):
        known, given = ("names", "numbers") if made.classes else ("numbers", "names")
        raise DataError(
            f"The model in {where} was trained on classes with {known}{_listed(made.classes)}. The dataset's have "
            f"{given}{_listed(facts.classes)}, and which is which is not known. Write them as they were. {_OTHERS}"
        )
    if strange := [name for name in facts.classes if name not in set(made.classes)]:
        raise DataError(
            f"The dataset has classes that the model in {where} was not trained on{_listed(strange)}. "
            f"Allowed{_listed(made.classes)}. {_OTHERS}"
        )


def _listed(names: Sequence[str]) -> str:
    """Names of classes for a message, after a colon."""
    some = ", ".join(reprlib.repr(name) for name in names[:_MANY])
    return (f": {some}" if names else "") + (f" and {len(names) - _MANY} more" if len(names) > _MANY else "")


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


def measure(model: Network, part: Part, *, facts: Facts) -> Mapping[str, Any]:
    """All metrics of the task, of a model on a part, whose rows the model scales in its own way.

    Args:
        facts: of the part's dataset; `check_fit` lets them pass.
    Raises: DataError: the model knows pixels, and these are none, or the reverse.
    """
    scores = Scores.for_task(facts.task, model.facts.n_classes)
    _check_pixels(model, part)
    numbers = _numbers(model.facts.classes, facts.classes)
    for x, y in part.raw_batches(_rows_at_once(model.facts), model.dtype):
        if facts.task == CLASSIFICATION:
            scores.add(y if numbers is None else numbers[y], *model.classify(x))
        else:
            scores.add(y, model.predict(x))
    return scores.result()


def _rows_at_once(facts: Facts) -> int:
    return max(1, _NUMBERS_AT_ONCE // max(facts.n_features, facts.n_classes))


def _numbers(known: Sequence[str], names: Sequence[str]) -> Array | None:
    """The model's number of each of a dataset's classes, shape (n,); None where both have the same numbers."""
    if tuple(known) == tuple(names):
        return None
    place = {name: number for number, name in enumerate(known)}
    return np.array([place[name] for name in names], np.int32)


def _check_pixels(model: Network, part: Part) -> None:
    if model.scaling.divisor != part.scaling.divisor:
        known, given = ("uint8, from 0 to 255", "other numbers")[:: 1 if model.scaling.divisor > 1 else -1]
        raise DataError(
            f"The model was trained on pictures of {known}, and the dataset's are {given}. They are not scaled in the "
            "same way. Write them in the type of the run's own."
        )
