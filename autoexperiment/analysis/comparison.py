"""Is one mean better than others? Welch's test, Holm's correction, and how many runs would tell."""

from __future__ import annotations

import math

import numpy as np

from autoexperiment.analysis.intervals import Moments
from autoexperiment.extras import need

MOST_RUNS = 10_000
POWER = 0.8


def welch(facts: Moments, chosen: int, others: np.ndarray) -> np.ndarray:
    """Two-sided p-values of Welch's test of one group's mean against others', shape (len(others),).

    NaN where there is no noise to measure a difference with: fewer than two values on a side, or all equal on both.
    Source: Welch 1947.
    """
    count = np.maximum(facts.count, 1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore", under="ignore"):
        # in units of the larger noise of the two, whose square is then no more and no less than a float can hold
        unit = np.fmax(facts.sd[chosen], facts.sd[others])
        own = (facts.sd[chosen] / unit) ** 2 / count[chosen]
        theirs = (facts.sd[others] / unit) ** 2 / count[others]
        t = (facts.mean[chosen] / unit - facts.mean[others] / unit) / np.sqrt(own + theirs)
        freedom = (own + theirs) ** 2 / (own**2 / (facts.count[chosen] - 1) + theirs**2 / (facts.count[others] - 1))
    found: np.ndarray = 2 * need("scipy.special").stdtr(freedom, -np.abs(t))
    return found


def holm(p: np.ndarray) -> np.ndarray:
    """P-values corrected for how many there are; NaN stays NaN, and counts as one that is large. Source: Holm 1979."""
    order = np.argsort(p)  # NaN last
    steps = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(steps)
    return corrected


def runs_needed(difference: float, sd: float, other_sd: float, *, alpha: float) -> int | None:
    """Runs of each of two groups for which a two-sided Welch test tells their means apart four times in five.

    Returns: 2 or more; None for more than 10,000, and where nothing differs or there is no noise.
    Source: Cohen 1988, chapter 2, by the noncentral t distribution.
    """
    unit = max(sd, other_sd)
    if not (difference != 0 and 0 < unit < math.inf):
        return None
    difference, sd, other_sd = difference / unit, sd / unit, other_sd / unit
    low, high = 1, 2
    while _power(high, difference, sd, other_sd, alpha) < POWER:
        if high >= MOST_RUNS:
            return None
        low, high = high, min(2 * high, MOST_RUNS)
    while high - low > 1:
        middle = (low + high) // 2
        is_enough = _power(middle, difference, sd, other_sd, alpha) >= POWER
        low, high = (low, middle) if is_enough else (middle, high)
    return high


def _power(n: int, difference: float, sd: float, other_sd: float, alpha: float) -> float:
    special = need("scipy.special")
    a, b = sd**2, other_sd**2
    freedom = (n - 1) * (a + b) ** 2 / (a * a + b * b)
    shift = abs(difference) / np.sqrt((a + b) / n)
    return 1 - float(special.nctdtr(freedom, shift, special.stdtrit(freedom, 1 - alpha / 2)))
