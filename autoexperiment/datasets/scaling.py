"""How rows are brought to the size that models are trained on: a part of the model, for it means nothing without it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autoexperiment.datasets.soundness import slices
from autoexperiment.errors import DataError

Array = np.ndarray[Any, Any]

PIXEL = 255.0  # the largest value of a pixel that is a uint8
_KEYS = {"divisor", "mean", "deviation"}


@dataclass(frozen=True)
class Scaling:
    """x → (x / divisor - mean) / deviation. None: no normalising; the two have the shape (features,) or (channels,)."""

    divisor: float = 1.0
    mean: Array | None = None
    deviation: Array | None = None

    def __call__(self, x: Array, dtype: type[np.floating[Any]]) -> Array:
        """Shape as given, C-contiguous, of `dtype`. `x` is overwritten where that saves a copy."""
        if self.mean is None or self.deviation is None:
            return np.ascontiguousarray(x, dtype) if self.divisor == 1.0 else self._divided(x, dtype)
        if self.divisor != 1.0:
            x = self._divided(x, dtype)
            x -= self.mean.astype(dtype)
            x /= self.deviation.astype(dtype)
            return x
        # float64 until the mean is gone: 1e9 + 0.5 has no half left in float32
        x = x.astype(np.float64, copy=False)
        x -= self.mean
        x /= self.deviation
        return np.ascontiguousarray(x, dtype)

    def _divided(self, x: Array, dtype: type[np.floating[Any]]) -> Array:
        scaled = np.ascontiguousarray(x, dtype)
        scaled /= self.divisor
        return scaled

    def of_type(self, dtype: np.dtype[Any], *, is_picture: bool) -> Scaling:
        """This scaling for rows of another type than those it was made for: a picture's uint8 are pixels always."""
        return replace(self, divisor=PIXEL) if is_picture and dtype == np.uint8 else self

    def to_json(self) -> dict[str, Any] | None:
        """Exactly, for a float's `repr` is; None for a scaling that changes nothing."""
        if self.mean is None or self.deviation is None:
            return None if self.divisor == 1.0 else {"divisor": self.divisor, "mean": None, "deviation": None}
        return {"divisor": self.divisor, "mean": self.mean.tolist(), "deviation": self.deviation.tolist()}

    @classmethod
    def from_json(cls, value: object, *, width: int) -> Scaling:
        """What `to_json` gave.

        Args: width: how many columns or channels there are.
        Raises: DataError: it gave something else.
        """
        if value is None:
            return cls()
        if not isinstance(value, dict) or value.keys() != _KEYS or not _is_positive(value["divisor"]):
            raise DataError("'scaling' is no scaling of rows.")
        mean, deviation = value["mean"], value["deviation"]
        if mean is None and deviation is None:
            return cls(float(value["divisor"]))
        if not (_are_numbers(mean, width) and _are_numbers(deviation, width) and all(map(_is_positive, deviation))):
            raise DataError(f"'scaling' has no mean and deviation for each of {width} columns or channels.")
        return cls(float(value["divisor"]), np.array(mean, np.float64), np.array(deviation, np.float64))


def _is_number(value: object) -> bool:
    return type(value) is float and math.isfinite(value)


def _is_positive(value: object) -> bool:
    return isinstance(value, float) and 0 < value < math.inf


def _are_numbers(value: object, width: int) -> bool:
    return isinstance(value, list) and len(value) == width and all(map(_is_number, value))


def scaling_of(X: Array, train: Array, *, normalize: bool) -> Scaling:
    """The scaling of rows whose train part has these row numbers, shape (n,)."""
    divisor = PIXEL if X.ndim == 4 and X.dtype == np.uint8 else 1.0
    if not normalize:
        return Scaling(divisor)
    mean, deviation = moments(X, train)
    mean, deviation = mean / divisor, deviation / divisor
    return Scaling(divisor, mean, np.where(deviation > 0, deviation, 1.0))


def moments(X: Array, rows: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the columns, or of the channels of pictures, over some rows.

    Source: Chan, Golub & LeVeque 1979, pairwise updating, on values shifted by the first row: a constant column
    has the deviation 0 exactly, and a large mean costs no digits.
    """
    shift = X[rows[0]].reshape(-1).astype(np.float64)
    n, mean, squares = 0, np.zeros_like(shift), np.zeros_like(shift)
    for piece in slices(len(rows), len(shift)):
        x = X[rows[piece]].reshape(piece.stop - piece.start, -1).astype(np.float64)
        x -= shift
        mean_here = x.mean(axis=0)
        x -= mean_here
        more, step = len(x), mean_here - mean
        squares += np.einsum("ij,ij->j", x, x) + step * step * (n * more / (n + more))
        mean += step * (more / (n + more))
        n += more
    if X.ndim == 4:
        return _over_pixels(mean + shift, squares, n_rows=n, channels=X.shape[3])
    return mean + shift, np.sqrt(squares / n)


def _over_pixels(mean: Array, squares: Array, *, n_rows: int, channels: int) -> tuple[Array, Array]:
    """Moments of the channels from those of every pixel of every channel."""
    mean, squares = mean.reshape(-1, channels), squares.reshape(-1, channels)
    overall = mean[0] + (mean - mean[0]).mean(axis=0)  # exact for a constant channel
    total = squares.sum(axis=0) + n_rows * ((mean - overall) ** 2).sum(axis=0)
    return overall, np.sqrt(total / (n_rows * len(mean)))
