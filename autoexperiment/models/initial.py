"""First values of weights: spread so that a signal keeps its size from layer to layer."""

from __future__ import annotations

import math

import numpy as np

from autoexperiment.models.base import Array


def he(rng: np.random.Generator, shape: tuple[int, ...], *, fan_in: int) -> Array:
    """Normal with variance 2 / fan_in, for weights before a ReLU. Source: He et al. 2015, equation 10."""
    return rng.normal(scale=math.sqrt(2 / fan_in), size=shape)


def glorot(rng: np.random.Generator, shape: tuple[int, ...], *, fan_in: int, fan_out: int) -> Array:
    """Uniform with variance 2 / (fan_in + fan_out), for tanh, sigmoid and no activation.

    Source: Glorot & Bengio 2010, equation 16.
    """
    limit = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, size=shape)
