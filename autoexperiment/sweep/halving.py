"""Successive halving: many trials on a small resource, the best of them on more, and few on all of it.

Synchronous: a rung begins when all of the one before has ended, so what is promoted does not depend on how many points
run side by side.
Source: Jamieson & Talwalkar 2016, https://arxiv.org/abs/1502.07943.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoexperiment.vocabulary import Goal

_NEARLY = 1 - 1e-9  # 0.1 * 3 * 3 * 3 is a little more or less than 2.7


@dataclass(frozen=True)
class Rung:
    """Trials that are run on one amount of the resource.

    Attributes:
        resource: the value at the resource's dot path; whole when least, most and factor are.
        trials: at most so many; fewer when too many have failed on the rung before.
    """

    resource: float
    trials: int


def rungs(least: float, most: float, *, factor: int, trials: int) -> tuple[Rung, ...]:
    """The rungs of successive halving, the smallest resource first.

    Each has `factor` times the resource of the one before and a `factor`-th of its trials, rounded down; the last has
    all of the resource. A single trial that is left goes to the last rung at once: there it has nobody to beat before.

    Args:
        least, most: 0 < least < most, in the resource's unit.
        factor: at least 2.
        trials: of the first rung, at least 1.
    """
    made = []
    resource = least
    while resource < most * _NEARLY and trials > 1:
        made.append(Rung(resource, trials))
        resource, trials = resource * factor, trials // factor
    return (*made, Rung(most, max(trials, 1)))


def promote(values: Mapping[int, float | None], keep: int, goal: Goal) -> list[int]:
    """The trials that go on, the best first.

    Args:
        values: the metric by trial number; None, NaN or infinite: it failed, and does not go on, even if then fewer do.
        keep: how many go on at most. Of equal ones the earlier trial does.
    """
    sign = 1 if goal is Goal.MINIMIZE else -1
    ranked = sorted(
        (sign * value, trial) for trial, value in values.items() if value is not None and math.isfinite(value)
    )
    return [trial for _, trial in ranked[:keep]]


def point_count(plan: Sequence[Rung], seeds: int = 1) -> int:
    """How many points there are at most."""
    return seeds * sum(rung.trials for rung in plan)


def cost(plan: Sequence[Rung], seeds: int = 1) -> float:
    """What all points take at most, in the resource's unit."""
    return seeds * math.fsum(rung.resource * rung.trials for rung in plan)
