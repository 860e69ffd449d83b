"""Intervals against tables, scipy, and the coverage that they promise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from autoexperiment.analysis import compute_ci_df
from autoexperiment.errors import HarnessError

GROUPS = 4000


def covered(samples: np.ndarray, truth: float, method: str = "t", confidence: float = 0.95) -> float:
    """Share of groups whose interval holds the truth. `samples`: shape (groups, n)."""
    groups, n = samples.shape
    df = pd.DataFrame({"group": np.repeat(np.arange(groups), n), "value": samples.ravel()})
    table = compute_ci_df(df, "value", "group", method=method, confidence=confidence)
    return float(((table["lower_bound"] <= truth) & (truth <= table["upper_bound"])).mean())


@pytest.mark.parametrize("n", [3, 5, 10, 30])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_t_covers_the_mean_as_often_as_it_says(n: int, confidence: float) -> None:
    samples = np.random.default_rng(n).normal(5.0, 2.0, (GROUPS, n))

    share = covered(samples, 5.0, confidence=confidence)

    # four standard deviations of a binomial share: 0.0138 at 95 %, 0.0253 at 80 %
    assert abs(share - confidence) < 4 * math.sqrt(confidence * (1 - confidence) / GROUPS)


def test_the_simulation_would_see_a_wrong_degree_of_freedom() -> None:
    samples = np.random.default_rng(3).normal(0.0, 1.0, (GROUPS, 3))
    half = stats.t.ppf(0.975, 2) * samples.std(axis=1, ddof=0) / math.sqrt(3)

    share = float((np.abs(samples.mean(axis=1)) <= half).mean())

    assert abs(share - 0.95) > 4 * math.sqrt(0.95 * 0.05 / GROUPS)


@pytest.mark.parametrize(("n", "documented"), [(3, 0.73), (5, 0.83), (10, 0.91), (30, 0.94)])
def test_the_bootstrap_is_as_narrow_for_few_runs_as_the_document_says(n: int, documented: float) -> None:
    samples = np.random.default_rng(n).normal(0.0, 1.0, (200, n))

    share = covered(samples, 0.0, "bca")

    # four standard deviations of a binomial share: 0.13 for three runs, 0.07 for thirty
    assert abs(share - documented) < 4 * math.sqrt(documented * (1 - documented) / 200)


@pytest.mark.parametrize("n", [3, 5, 10, 30])
def test_wilson_covers_a_share_on_average(n: int) -> None:
    """Exactly, by all outcomes: the mean coverage over all true shares, which Agresti & Coull 1998 put near 95 %."""
    outcomes = [[1] * hits + [0] * (n - hits) for hits in range(n + 1)]
    df = pd.DataFrame({"hits": np.repeat(np.arange(n + 1), n), "value": np.concatenate(outcomes)})
    table = compute_ci_df(df, "value", "hits", method="wilson")
    truths = (np.arange(1000) + 0.5) / 1000
    holds = (table["lower_bound"].to_numpy() <= truths[:, None]) & (truths[:, None] <= table["upper_bound"].to_numpy())

    coverage = (holds * stats.binom.pmf(np.arange(n + 1), n, truths[:, None])).sum(axis=1)

    assert 0.945 < coverage.mean() < 0.965


@pytest.mark.parametrize(
    ("hits", "n", "lower", "upper"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_the_published_table(hits: int, n: int, lower: float, upper: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17:857-872, Table I, method 3."""
    df = pd.DataFrame({"g": 0, "hit": [True] * hits + [False] * (n - hits)})

    row = compute_ci_df(df, "hit", "g", method="wilson").iloc[0]

    assert row["lower_bound"] == pytest.approx(lower, abs=5e-5)
    assert row["upper_bound"] == pytest.approx(upper, abs=5e-5)


def test_wilson_of_all_or_none_stays_within_0_and_1_exactly() -> None:
    for n in range(2, 60):
        df = pd.DataFrame({"g": [0] * n + [1] * n, "hit": [0] * n + [1] * n})
        table = compute_ci_df(df, "hit", "g", method="wilson")
        assert table["lower_bound"].iloc[0] == 0.0
        assert table["upper_bound"].iloc[1] == 1.0


def test_wilson_refuses_what_is_no_trial() -> None:
    df = pd.DataFrame({"g": 0, "accuracy": [1.0, 0.95]})

    with pytest.raises(HarnessError, match=r"'wilson' met the value 0.95. Allowed: 0 and 1"):
        compute_ci_df(df, "accuracy", "g", method="wilson")


def test_bca_agrees_with_scipy() -> None:
    sample = np.array([1.0, 1.1, 1.2, 1.3, 1.5, 2.0, 4.0, 9.0])
    df = pd.DataFrame({"g": 0, "value": sample})

    row = compute_ci_df(df, "value", "g", method="bca").iloc[0]
    theirs = stats.bootstrap((sample,), np.mean, n_resamples=50_000, method="BCa").confidence_interval

    # the ends are quantiles of resampled means, which wander a little; without the correction of the bias they are 0.4
    # lower, without the acceleration 0.6
    assert row["lower_bound"] == pytest.approx(theirs.low, abs=0.1)
    assert row["upper_bound"] == pytest.approx(theirs.high, abs=0.25)


def test_bca_is_the_same_each_time_whatever_the_other_groups() -> None:
    random = np.random.default_rng(1)
    df = pd.DataFrame({"g": ["a"] * 8 + ["b"] * 8, "value": random.normal(size=16)})

    both = compute_ci_df(df, "value", "g", method="bca")
    alone = compute_ci_df(df[df["g"] == "b"], "value", "g", method="bca")
    other_seed = compute_ci_df(df, "value", "g", method="bca", seed=1)

    pd.testing.assert_frame_equal(both.iloc[[1]].reset_index(drop=True), alone)
    assert (both["lower_bound"] != other_seed["lower_bound"]).all()


def test_bca_of_equal_values_is_a_point() -> None:
    row = compute_ci_df(pd.DataFrame({"g": 0, "value": [0.3, 0.3, 0.3]}), "value", "g", method="bca").iloc[0]

    assert row["lower_bound"] == row["upper_bound"] == 0.3


def test_bca_of_many_values_is_resampled_in_blocks() -> None:
    sample = np.random.default_rng(2).normal(size=3000)

    row = compute_ci_df(pd.DataFrame({"g": 0, "value": sample}), "value", "g", method="bca").iloc[0]

    half = 1.96 * sample.std(ddof=1) / math.sqrt(3000)
    assert row["upper_bound"] - row["lower_bound"] == pytest.approx(2 * half, rel=0.05)


@pytest.mark.parametrize("power", [1020, -1030])
@pytest.mark.parametrize("method", ["t", "bca"])
def test_the_largest_and_the_smallest_numbers_have_the_interval_of_their_size(power: int, method: str) -> None:
    """Powers of two are exact, so only the exponent may differ; their squares are beyond a float."""
    sample = np.array([1.0, 2.0, 4.0, 7.0, 2.0])
    df = pd.DataFrame({"g": 0, "one": sample, "other": np.ldexp(sample, power)})

    with np.errstate(all="raise", under="ignore"):
        one, other = (compute_ci_df(df, name, "g", method=method).iloc[0] for name in ("one", "other"))

    for name in ("mean", "lower_bound", "upper_bound"):
        assert other[name] == pytest.approx(math.ldexp(one[name], power), rel=1e-9)


def test_a_group_of_huge_numbers_takes_nothing_from_the_others() -> None:
    df = pd.DataFrame({"g": list("aaabbb"), "loss": [1.0, 2.0, 3.0, 1e308, -1e308, 1e308]})

    table = compute_ci_df(df, "loss", "g")

    assert table["mean"].tolist() == pytest.approx([2.0, 1e308 / 3])
    assert table["upper_bound"][0] == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)


def test_bounds_beyond_the_largest_float_are_missing(recwarn: pytest.WarningsRecorder) -> None:
    df = pd.DataFrame({"g": 0, "loss": [1e308, -1e308]})

    row = compute_ci_df(df, "loss", "g").iloc[0]

    assert row["mean"] == 0.0
    assert math.isnan(row["lower_bound"])
    assert math.isnan(row["upper_bound"])
    assert row["count"] == 2
    assert not recwarn.list
