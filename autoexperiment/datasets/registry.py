"""From a configuration's `dataset` section to its data: every name, and which class reads it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoexperiment import paths
from autoexperiment.datasets import splits
from autoexperiment.datasets.base import BaseDataset, Facts
from autoexperiment.datasets.soundness import CheckedDataset
from autoexperiment.datasets.splits import Splits, split
from autoexperiment.errors import DataError, unknown

SYNTHETIC = ("synthetic_regression", "synthetic_classification")
PICTURES = ("mnist", "cifar10", "cifar100")
CUSTOM = "custom"
NAMES = (*SYNTHETIC, CUSTOM, *PICTURES)
SEED = 42  # of the split, where the parameters have none


def load(spec: Mapping[str, Any], *, root: Path) -> Splits:
    """The data, checked, split and ready to be taken in batches.

    Args:
        spec: the `dataset` section of a whole configuration (config.json).
        root: the workspace's root, where relative paths start.
    Raises: DataError: the data is not there, not sound, or too few.
    """
    dataset = make(spec, root=root)
    table = dataset.load()
    facts = dataset.facts_of(table) if isinstance(dataset, CheckedDataset) else dataset.facts()
    _refuse_empty(facts, name=spec["name"])
    return split(table, facts, identity=_identity(dataset), **splitting(spec))


def _identity(dataset: BaseDataset) -> str:
    """What stands for the rows; "": their numbers."""
    from autoexperiment.datasets.synthetic import SyntheticClassificationDataset, SyntheticRegressionDataset, identity

    if isinstance(dataset, SyntheticRegressionDataset | SyntheticClassificationDataset):
        return identity(dataset)
    return ""


def splitting(spec: Mapping[str, Any]) -> dict[str, Any]:
    """How a `dataset` section has its rows split and scaled: val_fraction, test_fraction, seed and normalize."""
    params = spec["params"]
    return {
        "val_fraction": spec["val_fraction"],
        "test_fraction": spec["test_fraction"] or 0.0,  # null for pictures, which have a test set of their own
        "seed": params.get("seed", SEED),
        "normalize": params.get("normalize", spec["name"] in PICTURES),
    }


def sizes(spec: Mapping[str, Any], facts: Facts) -> dict[str, int]:
    """Rows of the three parts by name: {"train": 80, "val": 10, "test": 10}. Nothing is read.

    Args: facts: what `describe` or `load` said of the same section.
    """
    return splits.sizes(facts, val_fraction=spec["val_fraction"], test_fraction=spec["test_fraction"] or 0.0)


def check_part(spec: Mapping[str, Any], facts: Facts, name: str) -> None:
    """Raises: DataError: the part "train", "val" or "test" of a dataset has no rows; says why."""
    rows = sizes(spec, facts)
    if rows[name]:
        return
    n_free = facts.n_rows - facts.n_test
    own = f" beside the {facts.n_test} of its own test set" if facts.n_test else ""
    few = f"it has {n_free} row{'s' if n_free > 1 else ''}{own}, and fewer than 3 are not split"
    why = few if spec[f"{name}_fraction"] else f"its dataset.{name}_fraction is {spec[f'{name}_fraction']}"
    others = " or ".join(f"--split {other} ({n} row{'s' if n > 1 else ''})" for other, n in rows.items() if n)
    raise DataError(f"The {name} part of the dataset has no rows: {why}. Allowed: {others}.")


def must_fetch(spec: Mapping[str, Any], *, root: Path) -> list[str]:
    """Names of the files that `fetch` would get over the network; of a loader's data nothing is known, and none named."""
    return [] if spec.get("loader") else make(spec, root=root).must_fetch()


def fetch(spec: Mapping[str, Any], *, root: Path, say: Callable[[str], None]) -> None:
    """Get over the network what `load` would, so that it needs none. Raises: DataError: it can't be had."""
    if spec["params"].get("download") and not spec.get("loader"):
        make(spec, root=root).fetch(say)


def describe(spec: Mapping[str, Any], *, root: Path) -> Facts:
    """What a model must fit, and every failure that `load` would have.

    Generated and picture datasets are described without their rows. Files are read as `load` reads them: fetched if
    that is asked for, converted once, and each number looked at. A loader's class is imported and asked, in this
    process.
    """
    dataset = make(spec, root=root)
    facts = dataset.facts()
    _refuse_empty(facts, name=spec["name"])
    return facts


def make(spec: Mapping[str, Any], *, root: Path) -> BaseDataset:
    """The dataset that a section names; nothing is read yet, except a loader's own module."""
    name = spec["name"]
    if name not in NAMES:
        raise DataError(unknown("dataset", str(name), NAMES))
    if name in SYNTHETIC:
        return _synthetic(name, spec["params"])
    if name in PICTURES:
        return _pictures(name, spec, root=root)
    return _custom(spec, root=root)


def _synthetic(name: str, params: Mapping[str, Any]) -> BaseDataset:
    from autoexperiment.datasets.synthetic import SyntheticClassificationDataset, SyntheticRegressionDataset

    if name == "synthetic_regression":
        return _built(SyntheticRegressionDataset, params)
    return _built(SyntheticClassificationDataset, params)


def _pictures(name: str, spec: Mapping[str, Any], *, root: Path) -> BaseDataset:
    from autoexperiment.datasets.images import ImageDataset

    path = spec.get("path")
    folder = root / path if path else paths.cache_home() / name
    params = {key: value for key, value in spec["params"].items() if key not in ("normalize", "seed")}  # of the split
    return _built(ImageDataset, params, name, folder)


def _custom(spec: Mapping[str, Any], *, root: Path) -> BaseDataset:
    from autoexperiment.datasets.custom import LoadedDataset
    from autoexperiment.datasets.files import FileDataset

    path, loader = spec.get("path"), spec.get("loader")
    if (path is None) == (loader is None):
        raise DataError(
            'The dataset "custom" needs either "path" (a file) or "loader" ("module:Class"), '
            f"and has {'neither' if path is None else 'both'}."
        )
    params = {key: value for key, value in spec["params"].items() if key != "normalize"}
    if path is None:
        return LoadedDataset(str(loader), params, root=root)
    params.pop("seed", None)
    return _built(FileDataset, params, root / path)


def _built(cls: Callable[..., BaseDataset], params: Mapping[str, Any], *first: Any) -> BaseDataset:
    """A dataset from its parameters. Raises: DataError: one that its constructor does not have."""
    known = list(inspect.signature(cls).parameters)[len(first) :]
    for name in params:
        if name not in known:
            raise DataError(unknown("dataset parameter", name, known))
    return cls(*first, **params)


def _refuse_empty(facts: Facts, *, name: str) -> None:
    if facts.n_rows < 1:
        raise DataError(f"The dataset {name!r} has no rows. At least one is needed.")
