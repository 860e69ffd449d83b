"""What an evaluation says about predictions, added up batch by batch. What is not defined is None, never 0 or NaN."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from autoexperiment.datasets.base import REGRESSION
from autoexperiment.errors import DataError

Array = np.ndarray[Any, Any]
Result = float | list[list[int]] | None
_LEAST_PROBABILITY = float(np.finfo(np.float64).eps)  # scikit-learn's bound: one sure mistake is not infinite


class Scores(ABC):
    """Sums over the rows of all batches so far."""

    metrics: ClassVar[Mapping[str, Callable[[Any], Result]]]

    @staticmethod
    def for_task(task: str, n_classes: int) -> Scores:
        """Scores of a regression (`n_classes` is not used) or of a classification."""
        return RegressionScores() if task == REGRESSION else ClassificationScores(n_classes)

    @abstractmethod
    def add(self, y: Array, predicted: Array, probabilities: Array | None = None) -> None:
        """Take in a batch.

        Args:
            y: shape (n,): targets, or class numbers.
            predicted: shape (n,): predictions, or class numbers.
            probabilities: of a classification: shape (n, n_classes).
        Raises: DataError: shapes or class numbers that do not fit.
        """

    def result(self) -> dict[str, Result]:
        """Every metric of the task by name; None where it is not defined."""
        return {name: _finite(metric(self)) for name, metric in self.metrics.items()}


def known(task: str) -> tuple[str, ...]:
    """The names of a task's metrics."""
    return tuple(RegressionScores.metrics if task == REGRESSION else ClassificationScores.metrics)


def _finite(value: Result) -> Result:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _over(total: float, count: float) -> float | None:
    return total / count if count else None


class RegressionScores(Scores):
    """Errors, and the targets' variance, which is merged from batch to batch (Chan, Golub & LeVeque 1983, 2.1)."""

    def __init__(self) -> None:
        self.n = 0
        self.squared = 0.0
        self.absolute = 0.0
        self.origin = 0.0  # the first target: counted from it, constant targets are zero exactly
        self.mean = 0.0
        self.spread = 0.0

    def add(self, y: Array, predicted: Array, probabilities: Array | None = None) -> None:
        y, predicted = np.asarray(y, np.float64), np.asarray(predicted, np.float64)
        if y.ndim != 1 or y.shape != predicted.shape:
            raise DataError(f"Predictions of shape {predicted.shape} for targets of shape {y.shape}. Needed: one each.")
        if not len(y):
            return
        with np.errstate(over="ignore", invalid="ignore"):
            error = predicted - y
            self.squared += float(np.sum(np.square(error)))
            self.absolute += float(np.sum(np.abs(error)))
            self._merge_targets(y)

    def _merge_targets(self, y: Array) -> None:
        if not self.n:
            self.origin = float(y[0])
        shifted = y - self.origin
        mean, total = float(np.mean(shifted)), self.n + len(y)
        step = mean - self.mean
        self.spread += float(np.sum(np.square(shifted - mean))) + step * step * (self.n * len(y) / total)
        self.mean += step * (len(y) / total)
        self.n = total

    def mse(self) -> float | None:
        """Mean squared error."""
        return _over(self.squared, self.n)

    def rmse(self) -> float | None:
        """Its root, in the targets' unit."""
        return math.sqrt(self.squared / self.n) if self.n else None

    def mae(self) -> float | None:
        """Mean absolute error."""
        return _over(self.absolute, self.n)

    def r2(self) -> float | None:
        """Share of the targets' variance that is explained; not defined where the targets are all the same."""
        return 1 - self.squared / self.spread if 0 < self.spread < math.inf else None

    metrics: ClassVar[Mapping[str, Callable[[Any], Result]]] = {"mse": mse, "rmse": rmse, "mae": mae, "r2": r2}


def _class_numbers(numbers: Array, n: int, n_classes: int) -> Array:
    """As int64, shape (n,). Raises: DataError: other shapes or numbers."""
    numbers = np.asarray(numbers)
    if numbers.shape != (n,):
        raise DataError(f"Class numbers of shape {numbers.shape}. Needed: ({n},), one a row.")
    if n and not 0 <= int(numbers.min()) <= int(numbers.max()) < n_classes:
        raise DataError(f"Class numbers from {numbers.min()} to {numbers.max()}. Allowed: 0 to {n_classes - 1}.")
    return numbers.astype(np.int64)


class ClassificationScores(Scores):
    """The confusion matrix, shape (n_classes, n_classes), rows true and columns predicted; and the log loss."""

    def __init__(self, n_classes: int) -> None:
        self.confusion = np.zeros((n_classes, n_classes), np.int64)
        self.log_losses = 0.0

    def add(self, y: Array, predicted: Array, probabilities: Array | None = None) -> None:
        shares = np.asarray(probabilities, np.float64)
        n_classes = len(self.confusion)
        if np.ndim(y) != 1 or shares.shape != (len(y), n_classes):
            raise DataError(
                f"Probabilities of shape {shares.shape}. Needed: ({len(y)}, {n_classes}), by row and class."
            )
        y, predicted = (_class_numbers(numbers, len(y), n_classes) for numbers in (y, predicted))
        np.add.at(self.confusion, (y, predicted), 1)  # a count of all pairs takes n_classes² numbers for each batch
        chosen = np.clip(shares[np.arange(len(y)), y], _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        self.log_losses -= float(np.sum(np.log(chosen)))

    def accuracy(self) -> float | None:
        """Share of the rows whose likeliest class is their own."""
        return _over(float(np.trace(self.confusion)), float(self.confusion.sum()))

    def log_loss(self) -> float | None:
        """Mean of -log of the probability given to the true class, natural logarithm."""
        return _over(self.log_losses, float(self.confusion.sum()))

    def f1(self) -> float | None:
        """Of class 1 where there are 2 classes; else the plain mean over the classes that occur at all.

        A class that is neither true nor predicted anywhere has no F1.
        """
        hits = np.diag(self.confusion)
        either = self.confusion.sum(axis=0) + self.confusion.sum(axis=1)
        if len(hits) == 2:
            return _over(2 * float(hits[1]), float(either[1]))
        occurs = either > 0
        return float(np.mean(2 * hits[occurs] / either[occurs])) if occurs.any() else None

    def confusion_matrix(self) -> list[list[int]]:
        """Counts of rows, by true class and by predicted class."""
        matrix: list[list[int]] = self.confusion.tolist()
        return matrix

    metrics: ClassVar[Mapping[str, Callable[[Any], Result]]] = {
        "accuracy": accuracy,
        "log_loss": log_loss,
        "f1": f1,
        "confusion_matrix": confusion_matrix,
    }
