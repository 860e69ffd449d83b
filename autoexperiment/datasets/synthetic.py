"""Datasets that are generated: a linear target with Gaussian noise, and Gaussian clusters.

Every array is a pure function of the parameters. The parts of a dataset come from streams of their own: other noise
leaves the rows as they are, and a larger n_samples leaves the first rows as they are.
"""

from __future__ import annotations

import json
import reprlib
from typing import Any

import numpy as np

from autoexperiment.datasets.base import CLASSIFICATION, REGRESSION, BaseDataset, Facts, Table
from autoexperiment.datasets.soundness import plain
from autoexperiment.datasets.streams import stream
from autoexperiment.errors import DataError

Array = np.ndarray[Any, Any]

GENERATOR = 1  # of the rules here: another number, and no earlier run has been trained on the same rows
MOST_MB = 1000
MOST_SPREAD = 1e15  # of class_sep and noise_std: times a billion classes, or 10 deviations, it still fits a float32
_ROWS_AT_ONCE = 8192  # centres are added in pieces: no second array of the data's size


class SyntheticRegressionDataset(BaseDataset):
    """y = X @ weights + bias + noise. The first `n_informative` columns have a weight; the rest are noise."""

    task = REGRESSION

    def __init__(
        self,
        n_samples: int = 1000,
        n_features: int = 10,
        n_informative: int | None = None,
        noise_std: float = 0.1,
        seed: int = 42,
    ) -> None:
        """Raises: DataError: parameters out of range, all of them named, or rows of more than 1000 MB."""
        n_samples, n_features, n_informative, noise_std, seed = map(
            plain, (n_samples, n_features, n_informative, noise_std, seed)
        )
        faults = _faults_of_shape(n_samples, n_features, n_informative)
        if not _is_number(noise_std) or not 0 <= noise_std <= MOST_SPREAD:
            faults.append(_spread("noise_std", "non-negative", noise_std))
        _refuse(faults + _faults_of_seed(seed))
        self.n_samples, self.n_features = n_samples, n_features
        self.n_informative = n_features if n_informative is None else n_informative
        self.noise_std, self.seed = noise_std, seed

    def truth(self, seed: int | None = None) -> tuple[Array, float]:
        """The weights, shape (n_features,), and the bias that a model should find; standard normal each."""
        random = stream(self._seed(seed), "synthetic_regression/weights")
        bias = float(random.standard_normal())
        weights = np.zeros(self.n_features)
        weights[: self.n_informative] = random.standard_normal(self.n_informative)
        return weights, bias

    def generate(self, seed: int | None = None) -> tuple[Array, Array]:
        """X, shape (n_samples, n_features), standard normal; y, shape (n_samples,). Both float64.

        Args: seed: instead of the dataset's own.
        """
        seed = self._seed(seed)
        weights, bias = self.truth(seed)
        X = stream(seed, "synthetic_regression/rows").standard_normal((self.n_samples, self.n_features))
        noise = stream(seed, "synthetic_regression/noise").standard_normal(self.n_samples)
        # not X @ weights: a BLAS rounds by its number of threads
        return X, np.einsum("ij,j->i", X, weights) + (bias + self.noise_std * noise)

    def load(self) -> Table:
        return Table(*self.generate())

    def facts(self) -> Facts:
        return Facts(REGRESSION, self.n_samples, (self.n_features,))

    def _seed(self, seed: int | None) -> int:
        return self.seed if seed is None else _checked_seed(seed)


class SyntheticClassificationDataset(BaseDataset):
    """Balanced Gaussian clusters of unit variance, one for each class, rows shuffled.

    In each of the first `n_informative` columns the classes' centres stand `class_sep` apart, in an order of that
    column's own; so any two centres are at least class_sep * sqrt(n_informative) apart. The rest are noise.
    """

    task = CLASSIFICATION

    def __init__(
        self,
        n_samples: int = 1000,
        n_features: int = 10,
        n_classes: int = 2,
        class_sep: float = 1.0,
        n_informative: int | None = None,
        seed: int = 42,
    ) -> None:
        """Raises: DataError: parameters out of range, all of them named, or rows of more than 1000 MB."""
        n_samples, n_features, n_classes, class_sep, n_informative, seed = map(
            plain, (n_samples, n_features, n_classes, class_sep, n_informative, seed)
        )
        faults = _faults_of_shape(n_samples, n_features, n_informative)
        if not _is_whole(n_classes) or n_classes < 2:
            faults.append(f"Invalid value for 'n_classes': must be integer >= 2, got {n_classes!r}.")
        elif _is_whole(n_samples) and 0 < n_samples < n_classes:
            faults.append(
                f"'n_samples' ({n_samples}) must be >= 'n_classes' ({n_classes}), for each class to have a sample."
            )
        if not _is_number(class_sep) or not 0 < class_sep <= MOST_SPREAD:
            faults.append(_spread("class_sep", "positive", class_sep))
        _refuse(faults + _faults_of_seed(seed))
        self.n_samples, self.n_features, self.n_classes = n_samples, n_features, n_classes
        self.n_informative = n_features if n_informative is None else n_informative
        self.class_sep, self.seed = class_sep, seed

    def centres(self, seed: int | None = None) -> Array:
        """The clusters' centres in the informative columns, shape (n_classes, n_informative)."""
        random = stream(self._seed(seed), "synthetic_classification/centres")
        levels = np.tile(np.arange(self.n_classes), (self.n_informative, 1))
        return (random.permuted(levels, axis=1).T - (self.n_classes - 1) / 2) * self.class_sep

    def generate(self, seed: int | None = None) -> tuple[Array, Array]:
        """X, shape (n_samples, n_features), float64; y, shape (n_samples,), int64 class numbers from 0.

        Args: seed: instead of the dataset's own.
        """
        seed = self._seed(seed)
        centres = self.centres(seed)
        y = stream(seed, "synthetic_classification/order").permutation(np.arange(self.n_samples) % self.n_classes)
        X = stream(seed, "synthetic_classification/rows").standard_normal((self.n_samples, self.n_features))
        for start in range(0, self.n_samples, _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            X[rows, : self.n_informative] += centres[y[rows]]
        return X, y

    def load(self) -> Table:
        return Table(*self.generate())

    def facts(self) -> Facts:
        return Facts(CLASSIFICATION, self.n_samples, (self.n_features,), self.n_classes)

    def _seed(self, seed: int | None) -> int:
        return self.seed if seed is None else _checked_seed(seed)


def identity(dataset: SyntheticRegressionDataset | SyntheticClassificationDataset) -> str:
    """What stands for generated rows in a fingerprint: what they are made from.

    Not their numbers: a sum is rounded differently by different processors. Not how many there are: the first rows
    are the same then. Some numbers of the seed's show when numpy, which does not promise the same ones for ever
    (NEP 19), draws others.
    """
    source = {name: value for name, value in vars(dataset).items() if name != "n_samples"}
    drawn = np.round(stream(dataset.seed, "identity").standard_normal(8), 6) + 0.0  # no -0.0
    return json.dumps([GENERATOR, type(dataset).__name__, source, drawn.tolist()], sort_keys=True)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _spread(name: str, kind: str, value: object) -> str:
    return f"Invalid value for {name!r}: must be {kind} number up to {MOST_SPREAD:g}, got {reprlib.repr(value)}."


def _faults_of_shape(n_samples: int, n_features: int, n_informative: int | None) -> list[str]:
    sizes = {"n_samples": n_samples, "n_features": n_features}
    if n_informative is not None:
        sizes["n_informative"] = n_informative
    faults = [
        f"Invalid value for {name!r}: must be positive integer, got {value!r}."
        for name, value in sizes.items()
        if not _is_whole(value) or value < 1
    ]
    if faults:
        return faults
    if n_informative is not None and n_informative > n_features:
        faults.append(f"'n_informative' ({n_informative}) cannot exceed 'n_features' ({n_features}).")
    if (megabytes := 8 * n_samples * n_features / 1e6) > MOST_MB:
        faults.append(
            f"Dataset too large: estimated {megabytes:.0f} MB. "
            f"Reduce n_samples or n_features to stay under {MOST_MB} MB."
        )
    return faults


def _faults_of_seed(seed: int) -> list[str]:
    if _is_whole(seed) and seed >= 0:
        return []
    return [f"Invalid value for 'seed': must be non-negative integer, got {seed!r}."]


def _checked_seed(seed: int) -> int:
    seed = plain(seed)
    _refuse(_faults_of_seed(seed))
    return seed


def _refuse(faults: list[str]) -> None:
    if faults:
        raise DataError("\n".join(faults))
