"""All parameters of a network as one flat vector: one optimizer step over it instead of one for each array."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from autoexperiment.models.base import Array


@dataclass(frozen=True)
class Layout:
    """Where each array stands in the flat vector, in the order of `shapes`."""

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        return sum(map(prod, self.shapes.values()))

    @property
    def bounds(self) -> list[int]:
        """Where the second and every later array begins."""
        return list(accumulate(map(prod, self.shapes.values())))[:-1]

    def flatten(self, arrays: Mapping[str, Array]) -> Array:
        """Shape (size,), float32; the arrays may have other shapes of the same size."""
        return np.concatenate([np.asarray(arrays[name], np.float32).reshape(-1) for name in self.shapes])

    def split(self, flat: Array) -> dict[str, Array]:
        """The arrays again; views into `flat`."""
        parts = np.split(flat, self.bounds)
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def mask(self, names: Collection[str]) -> Array:
        """Shape (size,), float32: one where an element is of one of the named arrays, else zero."""
        chosen = {name: np.full(shape, name in names, np.float32) for name, shape in self.shapes.items()}
        return self.flatten(chosen)

    def views(self, flat: Any) -> dict[str, Any]:
        """The arrays of a flat `mx.array`, as `mx.array`s; differentiable."""
        import mlx.core as mx

        parts = mx.split(flat, self.bounds)
        return {name: mx.reshape(part, shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
