"""Confidence intervals of means, for many groups at once. The method is asked for by name; the data never choose it."""

from __future__ import annotations

import numbers
from dataclasses import dataclass

import numpy as np

from autoexperiment.errors import HarnessError, UsageError, unknown
from autoexperiment.extras import need

METHODS = ("t", "wilson", "bca")
RESAMPLES = 9999
_BLOCK = 2_000_000  # resampled values held at a time: 16 MB


@dataclass(frozen=True)
class Moments:
    """Groups of values. All of shape (groups,): `count` has the finite values, `missing` the others.

    `mean` is NaN without a value; `sd` (ddof=1) is NaN for fewer than two, and exactly 0 when all are equal.
    """

    count: np.ndarray
    missing: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


def moments(values: np.ndarray, codes: np.ndarray, groups: int) -> Moments:
    """Args: values, codes: shape (rows,); NaN is missing; `codes` numbers the group of each row."""
    has = np.isfinite(values)
    which = codes[has]
    count = np.bincount(which, minlength=groups)
    powers = _powers(values[has], which, groups)
    found = np.ldexp(values[has], -powers[which])
    # One value of each group is taken off first, so that equal values leave exactly nothing.
    origin = np.full(groups, np.nan)
    origin[which[::-1]] = found[::-1]
    shifted = found - origin[which]
    with np.errstate(invalid="ignore", divide="ignore"):
        offset = np.bincount(which, shifted, minlength=groups) / count
        squares = np.bincount(which, (shifted - offset[which]) ** 2, minlength=groups)
        sd = np.sqrt(np.where(count > 1, squares / (count - 1), np.nan))
    missing = np.bincount(codes[~has], minlength=groups)
    with np.errstate(over="ignore"):
        return Moments(count, missing, np.ldexp(origin + offset, powers), np.ldexp(sd, powers))


def _powers(values: np.ndarray, which: np.ndarray, groups: int) -> np.ndarray:
    """For each group the power of two just above its largest size: divided by it, which is exact, no sum and no square of
    its values leaves the range of a float."""
    largest = np.zeros(groups)
    np.maximum.at(largest, which, np.abs(values))
    return np.asarray(np.frexp(largest)[1])


def scaled(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Values divided by a power of two, so that their squares stay in the range of a float; and its exponent.

    Args: values: shape (n,), NaN allowed.
    """
    power = int(np.frexp(np.abs(values[np.isfinite(values)]).max(initial=0.0))[1])
    return np.ldexp(values, -power), power


def intervals(
    values: np.ndarray, codes: np.ndarray, facts: Moments, *, method: str, confidence: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds, each of shape (groups,); NaN for groups with fewer than two values, and where one is beyond the
    largest float.

    Args: values, codes, facts: as in `moments`.
    Raises: UsageError: an unknown method, or a confidence that is none. HarnessError: "wilson" on other values than 0, 1.
    """
    if method not in METHODS:
        raise UsageError(unknown("method", str(method), METHODS))
    check_confidence(confidence)
    check_seed(seed)
    if method == "t":
        lower, upper = _student(facts, confidence)
    elif method == "wilson":
        lower, upper = _wilson(values, facts, confidence)
    else:
        lower, upper = _bootstrap(values, codes, facts, confidence=confidence, seed=seed)
    has_bounds = (facts.count > 1) & np.isfinite(lower) & np.isfinite(upper)
    return np.where(has_bounds, lower, np.nan), np.where(has_bounds, upper, np.nan)


def check_confidence(confidence: float) -> float:
    """Raises: UsageError: not a number strictly between 0 and 1."""
    is_number = isinstance(confidence, numbers.Real) and not isinstance(confidence, bool)
    if not (is_number and 0 < confidence < 1):
        hint = f"confidence={confidence / 100:g}" if is_number and 1 < confidence < 100 else "confidence=0.95"
        raise UsageError(f"confidence is {confidence!r}. Allowed: more than 0 and less than 1. Type: {hint}")
    return confidence


def check_seed(seed: int) -> int:
    """Raises: UsageError: not a whole number from 0."""
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or seed < 0:
        raise UsageError(f"seed is {seed!r}. Allowed: whole numbers from 0. Type: seed=0")
    return seed


def _student(facts: Moments, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Student's t with ddof=1. Source: Student 1908."""
    freedom = np.maximum(facts.count - 1, 1)
    quantile = need("scipy.special").stdtrit(freedom, (1 + confidence) / 2)
    with np.errstate(over="ignore", invalid="ignore"):  # of an infinite sd too
        half = quantile * (facts.sd / np.sqrt(np.maximum(facts.count, 1)))
        return facts.mean - half, facts.mean + half


def _wilson(values: np.ndarray, facts: Moments, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a share; each row is one trial. Source: Wilson 1927."""
    found = values[np.isfinite(values)]
    if wrong := found[(found != 0) & (found != 1)].tolist():
        raise HarnessError(
            f"method 'wilson' met the value {wrong[0]:g}. Allowed: 0 and 1, a row for each trial. A share of many test "
            "rows varies from seed to seed, beyond counting: type method='t'"
        )
    z = need("scipy.special").ndtri((1 + confidence) / 2)
    return _wilson_root(facts.mean, facts.count, z), 1 - _wilson_root(1 - facts.mean, facts.count, z)


def _wilson_root(share: np.ndarray, count: np.ndarray, z: float) -> np.ndarray:
    """The lower root of Wilson's equation, by way of the upper one: no cancellation, exactly 0 for a share of 0."""
    n = np.maximum(count, 1)
    upper = share + z * z / (2 * n) + z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return np.asarray(share * share / upper)


def _bootstrap(
    values: np.ndarray, codes: np.ndarray, facts: Moments, *, confidence: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    lower, upper = np.full((2, len(facts.count)), np.nan)
    has = np.isfinite(values)
    order = np.argsort(codes[has], kind="stable")
    parts = np.split(values[has][order], np.cumsum(facts.count)[:-1])
    for group, part in enumerate(parts):
        if len(part) > 1:
            small, power = scaled(part)
            lower[group], upper[group] = np.ldexp(bca(small, confidence, seed=seed), power)
    return lower, upper


def bca(sample: np.ndarray, confidence: float, *, seed: int) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval of the mean, from 9999 resamples.

    Args:
        sample: shape (n,), n of 2 or more, finite.
        seed: a group's interval does not depend on what other groups there are.
    Source: Efron & Tibshirani 1993, section 14.3.
    """
    special = need("scipy.special")
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    mean = sample.mean()
    means = np.sort(_resampled_means(sample, np.random.default_rng(seed)))
    below = (np.searchsorted(means, mean, "left") + np.searchsorted(means, mean, "right")) / 2
    bias = special.ndtri(below / len(means))
    pulls = sample - mean  # the jackknife's deviations of a mean, up to a factor that cancels
    acceleration = np.sum(pulls**3) / (6 * np.sum(pulls**2) ** 1.5)
    tail = special.ndtri((1 - confidence) / 2)
    reached = np.array([bias + tail, bias - tail])
    shares = special.ndtr(bias + reached / (1 - acceleration * reached))
    lower, upper = np.quantile(means, shares)
    return float(lower), float(upper)


def _resampled_means(sample: np.ndarray, random: np.random.Generator) -> np.ndarray:
    size = max(1, _BLOCK // len(sample))
    blocks = [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]
    return np.concatenate([sample[random.integers(len(sample), size=(n, len(sample)))].mean(axis=1) for n in blocks])
