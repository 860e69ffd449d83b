"""The three parts of a dataset: drawn by seed, scaled, and handed out in batches without copying the whole.

The test part is drawn first, then the validation part, so another val_fraction leaves the test part as it is. A
classification is drawn class by class, in proportion; the last row of each class always stays in the train part
(as far as it has that many rows), so that no class is missing there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoexperiment.datasets.base import CLASSIFICATION, Facts, Table
from autoexperiment.datasets.fingerprints import Fingerprint, of_arrays, of_parts
from autoexperiment.datasets.scaling import Scaling, scaling_of
from autoexperiment.datasets.streams import stream

Array = np.ndarray[Any, Any]


class Part:
    """Rows of a table, by position from 0 in the table's order."""

    def __init__(self, table: Table, rows: Array, *, scaling: Scaling, is_classification: bool) -> None:
        """`rows`: numbers of the table's rows, ascending, shape (n,)."""
        self.rows = rows
        self._X, self._y = np.asarray(table.X), np.asarray(table.y)
        self.scaling = scaling
        self._y_type = np.int32 if is_classification else None
        # `take` is three times as fast as an index, but copies a whole array that is not laid out simply
        self._is_simple = self._X.flags.c_contiguous and self._X.flags.aligned and self._X.dtype.isnative

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: Array | slice, dtype: type[np.floating[Any]] = np.float32) -> tuple[Array, Array]:
        """Some rows, scaled and normalised.

        Args: which: positions in this part, shape (k,), or a slice.
        Returns: x, shape (k, *row shape), C-contiguous, of `dtype`; y, shape (k,): int32 class numbers, or targets
            of `dtype`. Both are copies.
        """
        rows = self.rows[which]
        x = self._rows(rows)
        return self.scaling(x, dtype), self._targets(rows, dtype)

    def batches(self, size: int, dtype: type[np.floating[Any]] = np.float32) -> Iterator[tuple[Array, Array]]:
        """All rows in order, `size` at a time, as `take` gives them."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size), dtype)

    def raw_batches(self, size: int, dtype: type[np.floating[Any]] = np.float32) -> Iterator[tuple[Array, Array]]:
        """As `batches`, but x as the table has it: neither scaled nor of another type."""
        for start in range(0, len(self), size):
            rows = self.rows[start : start + size]
            yield self._rows(rows), self._targets(rows, dtype)

    def _rows(self, rows: Array) -> Array:
        return self._X.take(rows, axis=0) if self._is_simple else self._X[rows]

    def _targets(self, rows: Array, dtype: type[np.floating[Any]]) -> Array:
        return self._y[rows].astype(self._y_type or dtype, copy=False)


@dataclass(frozen=True)
class Splits:
    """What a run trains on, watches while it trains, and is measured on at the end."""

    train: Part
    val: Part
    test: Part
    facts: Facts
    fingerprint: Fingerprint

    def part(self, name: str) -> Part:
        """The part called "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


def split(
    table: Table,
    facts: Facts,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    normalize: bool,
    identity: str = "",
) -> Splits:
    """Split a checked table by a stream of its own of the seed.

    A table with test rows of its own keeps them, and only the validation part is drawn, from the rest. Fractions are
    rounded; a fraction above 0 gives at least one row where there are 3 or more, and the train part has one always.

    Args: identity: stands for the rows in the fingerprint; "": their numbers and the names of their classes do.
    """
    y = table.y if facts.task == CLASSIFICATION else None
    drawn = draw(
        len(table.X), n_own_test=table.n_test, y=y, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed
    )
    scaling = scaling_of(table.X, drawn[0], normalize=normalize)
    train, val, test = (
        Part(table, rows, scaling=scaling, is_classification=facts.task == CLASSIFICATION) for rows in drawn
    )
    identity = identity or of_arrays(table.X, table.y) + "".join(map(repr, table.classes))
    fingerprint = of_parts(identity, drawn, normalize=normalize)
    return Splits(train, val, test, facts, fingerprint)


def sizes(facts: Facts, *, val_fraction: float, test_fraction: float) -> dict[str, int]:
    """Rows of the parts that `split` makes, by name."""
    n = facts.n_rows - facts.n_test
    n_val, n_test = _sizes(n, val_fraction, 0.0 if facts.n_test else test_fraction)
    return {"train": n - n_val - n_test, "val": n_val, "test": facts.n_test or n_test}


def draw(
    n_rows: int, *, n_own_test: int = 0, y: Array | None = None, val_fraction: float, test_fraction: float, seed: int
) -> tuple[Array, Array, Array]:
    """Row numbers of train, val and test, each ascending.

    Args: y: class numbers, shape (n_rows,), to draw in proportion to; None: all rows are alike.
    """
    n = n_rows - n_own_test
    n_val, n_test = _sizes(n, val_fraction, 0.0 if n_own_test else test_fraction)
    order = _order(n, y, seed=seed)
    test, val, train = order[:n_test], order[n_test : n_test + n_val], order[n_test + n_val :]
    own = np.arange(n, n_rows)
    return np.sort(train), np.sort(val), own if n_own_test else np.sort(test)


def _sizes(n: int, val_fraction: float, test_fraction: float) -> tuple[int, int]:
    """Rows for val and test out of n."""
    if n < 3:
        return 0, 0
    n_val, n_test = (max(1, int(n * f + 0.5)) if f > 0 else 0 for f in (val_fraction, test_fraction))
    while n_val + n_test >= n:
        n_val, n_test = (n_val - 1, n_test) if n_val >= n_test else (n_val, n_test - 1)
    return n_val, n_test


def _order(n: int, y: Array | None, *, seed: int) -> Array:
    """A random order of n rows of which every beginning has the classes in proportion."""
    order = stream(seed, "split").permutation(n)
    if y is None or n == 0:
        return order
    by_class = order[np.argsort(y[order], kind="stable")]
    counts = np.unique(y[:n], return_counts=True)[1]
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    place = (np.arange(n) - starts + 0.5) / np.repeat(counts, counts)  # of each row in its class, in (0, 1)
    place[np.cumsum(counts) - 1] = 1.0
    key = np.empty(n)
    key[by_class] = place
    return order[np.argsort(key[order], kind="stable")]  # rows of equal place stay in random order
