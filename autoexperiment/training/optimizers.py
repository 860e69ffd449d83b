"""How a flat vector of parameters follows its gradient: adam, sgd, rmsprop and adamw as MLX defines them.

The rules are written out, because those of `mlx.optimizers` keep the step count and the learning rate in arrays: a
dozen more operations a step, which a small network notices. They give the same parameters to float32 rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

from autoexperiment.models.losses import mx  # after the BLAS

BETA1, BETA2 = 0.9, 0.999  # Kingma and Ba 2015, algorithm 1
ALPHA = 0.99  # of rmsprop; the default of mlx.optimizers
EPSILON = 1e-8
WEIGHT_DECAY = 0.01  # of adamw, on every parameter; the default of mlx.optimizers

Arrays = Sequence[mx.array]


@dataclass(frozen=True)
class Rule:
    """One optimizer.

    Attributes:
        n_slots: how many vectors it keeps, each as long as the parameters, zero at first.
        scalars: (step from 1, learning rate) → what changes from step to step but not from parameter to parameter.
        update: (parameters, gradient, slots, scalars) → (parameters, *slots).
    """

    n_slots: int
    scalars: Callable[[int, float], tuple[float, ...]]
    update: Callable[[mx.array, mx.array, Arrays, Arrays], tuple[mx.array, ...]]


def _rate(_step: int, rate: float) -> tuple[float, ...]:
    return (rate,)


def _sgd(flat: mx.array, gradient: mx.array, _slots: Arrays, scalars: Arrays) -> tuple[mx.array, ...]:
    return (flat - scalars[0] * gradient,)


def _rmsprop(flat: mx.array, gradient: mx.array, slots: Arrays, scalars: Arrays) -> tuple[mx.array, ...]:
    """Source: Tieleman and Hinton 2012, lecture 6.5."""
    square = ALPHA * slots[0] + (1 - ALPHA) * mx.square(gradient)
    return flat - scalars[0] * gradient / (mx.sqrt(square) + EPSILON), square


def _corrected(step: int, rate: float) -> tuple[float, ...]:
    """Learning rate and epsilon of Adam with the corrections of both biases in them (section 2 of the source)."""
    root = sqrt(1 - BETA2**step)
    return rate * root / (1 - BETA1**step), EPSILON * root


def _adam(flat: mx.array, gradient: mx.array, slots: Arrays, scalars: Arrays) -> tuple[mx.array, ...]:
    """Source: Kingma and Ba 2015, algorithm 1."""
    mean = BETA1 * slots[0] + (1 - BETA1) * gradient
    square = BETA2 * slots[1] + (1 - BETA2) * mx.square(gradient)
    return flat - scalars[0] * mean / (mx.sqrt(square) + scalars[1]), mean, square


def _decayed(step: int, rate: float) -> tuple[float, ...]:
    return (*_corrected(step, rate), 1 - rate * WEIGHT_DECAY)


def _adamw(flat: mx.array, gradient: mx.array, slots: Arrays, scalars: Arrays) -> tuple[mx.array, ...]:
    """Source: Loshchilov and Hutter 2019, algorithm 2."""
    return _adam(flat * scalars[2], gradient, slots, scalars)


RULES = {
    "adam": Rule(2, _corrected, _adam),
    "sgd": Rule(0, _rate, _sgd),
    "rmsprop": Rule(1, _rate, _rmsprop),
    "adamw": Rule(2, _decayed, _adamw),
}
