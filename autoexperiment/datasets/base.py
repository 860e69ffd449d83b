"""What a dataset is: rows of numbers with a target each, and what can be said of them before they are loaded."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoexperiment.errors import DataError

if TYPE_CHECKING:
    import numpy as np

REGRESSION, CLASSIFICATION = "regression", "classification"
TASKS = (REGRESSION, CLASSIFICATION)


@dataclass(frozen=True)
class Facts:
    """What a model must fit.

    Attributes:
        task: "regression" or "classification".
        n_rows: in all parts together.
        shape: of one row: (n_features,), or (height, width, channels) of a picture.
        n_classes: 0 for regression.
        n_test: so many of the rows are the dataset's own test set; 0: it has none.
    """

    task: str
    n_rows: int
    shape: tuple[int, ...]
    n_classes: int = 0
    n_test: int = 0

    @property
    def n_features(self) -> int:
        """Numbers in one row."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Table:
    """Rows and targets, in memory or memory-mapped; nothing here copies them.

    Attributes:
        X: shape (n, *shape), any real dtype. uint8 pictures count as pixels and are scaled to [0, 1] when taken.
        y: shape (n,); float targets, or int class numbers from 0.
        n_test: so many rows at the end are the dataset's own test set; 0: a test set is split off by seed.
    """

    X: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    n_test: int = 0


class BaseDataset(ABC):
    """A dataset; also the class to derive from for `dataset.loader: "module:Class"`.

    The constructor takes `dataset.params` as keyword arguments. `task` says what the targets are.
    """

    task: str = REGRESSION

    @abstractmethod
    def load(self) -> Table:
        """Rows and targets. Arrays larger than memory are returned memory-mapped (`numpy.load(…, mmap_mode="r")`).

        Raises: DataError: the data is not there or not sound.
        """

    def fetch(self, say: Callable[[str], None]) -> None:  # noqa: B027 (most data is never fetched)
        """Get over the network what is missing, if that was asked for; nothing, for data that is never fetched.

        Args: say: told the progress, in lines.
        Raises: DataError: it can't be had.
        """

    def must_fetch(self) -> list[str]:
        """Names of the files that `fetch` would get; none, for data that is never fetched."""
        return []

    def facts(self) -> Facts:
        """What can be said of the data; overridden where that needs no loading."""
        return facts_of(self.load(), task=self.task)


def facts_of(table: Table, *, task: str) -> Facts:
    """What a table shows."""
    n_classes = int(table.y.max()) + 1 if task == CLASSIFICATION and len(table.y) else 0
    return Facts(task, len(table.X), tuple(table.X.shape[1:]), n_classes, table.n_test)


def check_table(table: Table, *, name: str, task: str) -> Table:
    """Raises: DataError: the arrays are not what a Table promises. Values are not read here."""
    X, y = table.X, table.y
    if X.ndim not in (2, 4) or X.dtype.kind not in "fiub":
        raise DataError(
            f"{name}: X has shape {X.shape} and type {X.dtype}. "
            "Needed: real numbers of shape (rows, features) or (rows, height, width, channels)."
        )
    if y.shape != (len(X),):
        raise DataError(
            f"{name}: y has shape {y.shape}. Needed: one target for each of the {len(X)} rows: ({len(X)},)."
        )
    if task == CLASSIFICATION and y.dtype.kind not in "iu":
        raise DataError(f"{name}: the targets of a classification are whole class numbers from 0, not {y.dtype}.")
    if not 0 <= table.n_test < max(1, len(X)):
        raise DataError(f"{name}: n_test is {table.n_test}, of {len(X)} rows.")
    return table
