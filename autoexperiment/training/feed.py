"""Batches of a part as MLX arrays, in an order that a seed and an epoch give."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from autoexperiment.datasets.splits import Part
from autoexperiment.models.base import Array
from autoexperiment.models.losses import mx  # after the BLAS

RESIDENT_BYTES = 1 << 30  # a part of up to so many bytes as float32 is held whole
BLOCK_BYTES = 1 << 26  # so much of it is put into order at once


def shuffled(n: int, *, seed: int, epoch: int) -> Array:
    """The numbers 0 to n - 1 in the order of one epoch, shape (n,), int32 or int64: no epoch depends on another."""
    order = np.random.default_rng(np.random.SeedSequence([seed, epoch])).permutation(n)
    return order.astype(np.int32) if n < 2**31 else order


class Feed:
    """A part, held on the device when it is small enough, else read batch by batch."""

    def __init__(self, part: Part, *, n_features: int, resident_bytes: int = RESIDENT_BYTES) -> None:
        self._part = part
        self._row_bytes = 4 * n_features
        is_resident = len(part) * self._row_bytes <= resident_bytes
        self._whole = tuple(map(mx.array, part.take(slice(None)))) if is_resident else None

    def batches(self, order: Array, size: int) -> Iterator[tuple[mx.array, mx.array]]:
        """(x, y) of `size` rows each; the last one may be shorter.

        Args: order: positions in the part, shape (n,).
        """
        n_block = max(1, BLOCK_BYTES // (self._row_bytes * size)) * size if self._whole else size
        for start in range(0, len(order), n_block):
            x, y = self._rows(order[start : start + n_block])
            for at in range(0, len(y), size):
                yield x[at : at + size], y[at : at + size]

    def _rows(self, which: Array) -> tuple[mx.array, mx.array]:
        if self._whole is None:
            x, y = self._part.take(which)
            return mx.array(x), mx.array(y)
        chosen = mx.array(which)
        rows, targets = (mx.take(whole, chosen, axis=0) for whole in self._whole)
        mx.eval(rows, targets)
        return rows, targets
