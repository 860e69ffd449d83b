"""What a dataset is: rows of numbers with a target each, and what can be said of them before they are loaded."""

from __future__ import annotations

import math
import reprlib
import sys
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
        classes: names of the classes, by number; () where the data itself numbers them.
    """

    task: str
    n_rows: int
    shape: tuple[int, ...]
    n_classes: int = 0
    n_test: int = 0
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("shape", "classes"):  # JSON has lists, and so may a dataset of one's own
            object.__setattr__(self, name, tuple(getattr(self, name)))

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
        classes: names of the classes, by number, if they have names.
    """

    X: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    n_test: int = 0
    classes: tuple[str, ...] = ()


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


def say(line: str) -> None:
    """Progress goes to the error stream: the output may be read by a program."""
    print(line, file=sys.stderr, flush=True)


def facts_of(table: Table, *, task: str) -> Facts:
    """What a table shows."""
    n_classes = int(table.y.max()) + 1 if task == CLASSIFICATION and len(table.y) else 0
    names = tuple(table.classes)
    return Facts(task, len(table.X), tuple(table.X.shape[1:]), max(n_classes, len(names)), table.n_test, names)


def check_table(table: Table, *, name: str, task: str) -> Table:
    """Raises: DataError: the arrays are not what a Table promises. The rows' values are not read here."""
    X, y = table.X, table.y
    if X.ndim not in (2, 4) or X.dtype.kind not in "fiub":
        raise DataError(
            f"{name}: X has shape {X.shape} and type {X.dtype}. "
            "Needed: real numbers of shape (rows, features) or (rows, height, width, channels)."
        )
    if len(X) and 0 in X.shape[1:]:
        raise DataError(f"{name}: X has shape {X.shape}: a row has no numbers. At least one feature is needed.")
    if y.shape != (len(X),):
        raise DataError(
            f"{name}: y has shape {y.shape}. Needed: one target for each of the {len(X)} rows: ({len(X)},)."
        )
    if task == CLASSIFICATION and y.dtype.kind not in "iu":
        raise DataError(f"{name}: the targets of a classification are whole class numbers from 0, not {y.dtype}.")
    if type(table.classes) is not tuple or table.classes:
        _check_names(table, name=name, task=task)
    if not 0 <= table.n_test < max(1, len(X)):
        raise DataError(f"{name}: n_test is {table.n_test}, of {len(X)} rows.")
    return table


def _check_names(table: Table, *, name: str, task: str) -> None:
    names = table.classes
    if not are_names(names) or task != CLASSIFICATION or int(table.y.max(initial=0)) >= len(names):
        raise DataError(
            f"{name}: classes is {reprlib.repr(names)}. Needed: a tuple with a different text for each class number "
            "from 0 to the largest in y, in a classification."
        )


def are_names(names: object) -> bool:
    """Whether these can name the classes 0, 1, …: texts, and no two the same."""
    is_list = isinstance(names, list | tuple)
    return is_list and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)  # type: ignore[attr-defined, call-overload, arg-type]
