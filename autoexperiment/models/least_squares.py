"""Ridge regression in closed form over chunks of rows: one pass, float64, memory for one matrix of features."""

from __future__ import annotations

import numpy as np

from autoexperiment.errors import DataError
from autoexperiment.models.base import Array

_BLOCK_NUMBERS = 1 << 18  # 2 MB, so that a block is centred and multiplied while it lies in the cache
_WELL_CONDITIONED = 1e8
_CUT = 1e-13  # eigenvalues below this share of the largest are rounding errors of the Gram matrix


class Moments:
    """Means and centred cross products of the features and the target, of all rows seen so far.

    Each block is centred by its own mean and merged, which loses no digits to large means.
    Source: Chan, Golub & LeVeque 1983, equations 1.5 and 2.1.

    Attributes:
        n: rows seen.
        mean: shape (n_features + 1,), from `origin` on; the target is the last.
        products: shape (n_features + 1, n_features + 1).
    """

    def __init__(self, n_features: int) -> None:
        self.n = 0
        self.origin = np.zeros(n_features + 1)
        self.mean = np.zeros(n_features + 1)
        self.products = np.zeros((n_features + 1, n_features + 1))

    def add(self, X: Array, y: Array) -> None:
        """Take in a chunk: X of shape (n, n_features), y of shape (n,), any real types.

        Raises: DataError: NaN or infinite numbers.
        """
        if len(X) and not self.n:
            # Counted from the first row, a constant column is zero exactly, and not some rounding error.
            self.origin[:-1], self.origin[-1] = X[0], y[0]
        width = len(self.origin)
        rows = max(_BLOCK_NUMBERS // width, width)
        for start in range(0, len(X), rows):
            self._merge(X[start : start + rows], y[start : start + rows])

    def _merge(self, X: Array, y: Array) -> None:
        count = len(X)
        block = np.empty((count, len(self.origin)))
        np.subtract(X, self.origin[:-1], out=block[:, :-1])
        np.subtract(y, self.origin[-1], out=block[:, -1])
        mean = np.ones(count) @ block / count
        if not np.isfinite(mean).all() and not (np.isfinite(X).all() and np.isfinite(y).all()):
            raise DataError("The rows or targets hold NaN or infinite numbers. Remove such rows or fill them in.")
        block -= mean
        step, total = mean - self.mean, self.n + count
        self.products += block.T @ block
        self.products += np.outer(step, step * (self.n * count / total))
        self.mean += step * (count / total)
        self.n = total

    def solve(self, alpha: float) -> tuple[Array, float]:
        """Weights, shape (n_features,), and bias that minimise squared error + alpha * sum of squared weights.

        Where several weights do (collinear or constant features, fewer rows than features), those of least norm.

        Raises: DataError: no rows, or numbers so large that their squares overflow.
        """
        if not self.n:
            raise DataError("There are no rows to fit. A linear regression needs at least one.")
        _refuse_overflow(self.products)
        place = self.origin + self.mean
        gram, towards = self.products[:-1, :-1], self.products[:-1, -1]
        rounding = self.n * np.square(4 * np.finfo(float).eps * np.abs(place[:-1]))
        varies = np.flatnonzero(np.diag(gram) > rounding)
        weights = np.zeros(len(gram))
        if len(varies):
            penalised = gram[np.ix_(varies, varies)] + alpha * np.eye(len(varies))
            weights[varies] = _solve(penalised, towards[varies])
        bias = place[-1] - place[:-1] @ weights
        _refuse_overflow(np.append(weights, bias))
        return weights, float(bias)


def _refuse_overflow(numbers: Array) -> None:
    """Raises: DataError: a number is infinite or NaN, which finite data lead to by overflow alone."""
    if not np.isfinite(numbers).all():
        raise DataError("The data's numbers are too far from 1: their squares overflow. Scale them: 'normalize': true.")


def _solve(matrix: Array, right: Array) -> Array:
    """Solution of least norm of a positive semidefinite system with a positive diagonal.

    The rank is judged with the diagonal scaled to 1, so that it does not depend on the features' units.
    """
    scale = np.sqrt(np.diag(matrix))
    scaled = matrix / scale[:, None] / scale
    if np.linalg.cond(scaled, 1) < _WELL_CONDITIONED:
        solution: Array = np.linalg.solve(scaled, right / scale) / scale
        return solution
    values, vectors = np.linalg.eigh(scaled)
    large = values > _CUT * values[-1]
    basis = vectors[:, large]
    some: Array = basis @ ((basis.T @ (right / scale)) / values[large]) / scale
    free, _ = np.linalg.qr(vectors[:, ~large] / scale[:, None])  # directions that change no prediction
    least: Array = some - free @ (free.T @ some)
    return least
