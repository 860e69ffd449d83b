"""Which configuration is best, and how sure that is."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from autoexperiment.analysis import best_config
from autoexperiment.analysis.comparison import holm, runs_needed, welch
from autoexperiment.analysis.intervals import Moments
from autoexperiment.errors import HarnessError, UsageError


def sweep(**values: list[float]) -> pd.DataFrame:
    """A row for each run; the configuration `c` names the runs' values."""
    return pd.DataFrame([(name, value) for name, found in values.items() for value in found], columns=["c", "loss"])


def facts_of(*samples: list[float]) -> Moments:
    return Moments(
        np.array([len(s) for s in samples]),
        np.zeros(len(samples), dtype=int),
        np.array([np.mean(s) for s in samples]),
        np.array([np.std(s, ddof=1) if len(s) > 1 else np.nan for s in samples]),
    )


def test_a_clear_winner_is_sure() -> None:
    best = best_config(sweep(a=[1.00, 1.01, 1.02], b=[2.00, 2.01, 2.03], c=[3.0, 3.1, 3.2]), "loss", param_cols="c")

    assert best.params == {"c": "a"}
    assert best.is_sure
    assert best.undecided == ()
    assert best.runs_needed is None
    assert [other.params["c"] for other in best.others] == ["b", "c"]
    assert "sure at 95%: better than all 2 others" in str(best)


def test_more_is_better_for_an_accuracy() -> None:
    df = sweep(a=[0.5, 0.51], b=[0.9, 0.91]).rename(columns={"loss": "accuracy"})

    assert best_config(df, "accuracy", param_cols="c").params == {"c": "b"}
    assert best_config(df, "accuracy", param_cols="c", goal="minimize").params == {"c": "a"}


def test_a_close_second_stays_open_and_the_runs_that_would_tell_are_named() -> None:
    best = best_config(sweep(a=[1.0, 2.0, 3.0], b=[1.5, 2.5, 3.5], c=[50.0, 51.0, 52.0]), "loss", param_cols="c")

    assert not best.is_sure
    assert [other.params["c"] for other in best.undecided] == ["b"]
    # a difference of half a standard deviation: 64 of each (Cohen 1988, table 2.4.1)
    assert best.runs_needed == 64
    assert "not sure at 95%: 1 of 2 others may be as good" in str(best)
    assert "about 64 runs of each" in str(best)


def test_the_runs_needed_allow_for_every_comparison_that_is_open() -> None:
    one = best_config(sweep(a=[1.0, 2.0, 3.0], b=[1.5, 2.5, 3.5]), "loss", param_cols="c")
    two = best_config(sweep(a=[1.0, 2.0, 3.0], b=[1.5, 2.5, 3.5], d=[1.5, 2.5, 3.5]), "loss", param_cols="c")

    assert one.runs_needed is not None
    assert two.runs_needed is not None
    assert two.runs_needed > one.runs_needed


def test_a_difference_that_counts_alone_may_not_count_among_several() -> None:
    # t = 3 / sqrt(2 / 3) = 3.674 on 4 degrees of freedom: p = 0.0213, and 0.064 for the first of three
    other = [4.0, 5.0, 6.0]

    alone = best_config(sweep(a=[1.0, 2.0, 3.0], b=other), "loss", param_cols="c")
    among = best_config(sweep(a=[1.0, 2.0, 3.0], b=other, d=other, e=other), "loss", param_cols="c")

    assert alone.is_sure
    assert alone.others[0].p_value == pytest.approx(0.0213, abs=5e-5)
    assert among.others[0].p_value == pytest.approx(3 * 0.0213, abs=2e-4)
    assert len(among.undecided) == 3


def test_equal_configurations_are_a_tie() -> None:
    best = best_config(sweep(a=[1.0, 2.0], b=[1.0, 2.0]), "loss", param_cols="c")

    assert best.params == {"c": "a"}
    assert not best.is_sure
    assert best.others[0].p_value == pytest.approx(1.0)
    assert best.runs_needed is None
    assert "more than 10000 runs" in str(best)


def test_single_runs_tell_nothing_and_the_advice_is_seeds() -> None:
    best = best_config(sweep(a=[1.0], b=[9.0]), "loss", param_cols="c")

    assert not best.is_sure
    assert best.winner.lower_bound is None
    assert best.others[0].p_value is None
    assert "3 seeds or more" in str(best)


def test_runs_that_repeat_each_other_have_no_noise_to_judge_by() -> None:
    best = best_config(sweep(a=[1.0, 1.0], b=[2.0, 2.0]), "loss", param_cols="c")

    assert not best.is_sure
    assert best.others[0].p_value is None
    assert "give each run a seed of its own" in str(best)


def test_one_configuration_has_nothing_to_be_better_than() -> None:
    best = best_config(sweep(a=[1.0, 1.1]), "loss", param_cols="c")

    assert not best.is_sure
    assert "nothing to compare it with" in str(best)


def test_failed_runs_are_said_and_failed_configurations_are_never_best() -> None:
    best = best_config(sweep(a=[math.nan, math.nan], b=[5.0, math.nan, 5.1]), "loss", param_cols="c")

    assert best.params == {"c": "b"}
    assert (best.winner.count, best.winner.missing) == (2, 1)
    assert best.without_number == 1
    assert "2 runs (1 more without a number)" in str(best)
    assert "left out: 1 configuration without any number" in str(best)


def test_long_lists_of_open_comparisons_are_cut() -> None:
    best = best_config(sweep(**{f"c{i}": [1.0 + i / 100, 2.0, 3.0] for i in range(9)}), "loss", param_cols="c")

    assert len(best.undecided) == 8
    assert "and 3 more" in str(best)


def test_parameters_are_plain_values_and_missing_ones_are_none() -> None:
    df = pd.DataFrame({"lr": [0.1, 0.1], "wd": [np.nan, np.nan], "depth": [4, 4], "loss": [1.0, 2.0]})

    best = best_config(df, "loss", param_cols=["lr", "wd", "depth"])

    assert best.params == {"lr": 0.1, "wd": None, "depth": 4}
    assert type(best.params["depth"]) is int
    assert "lr=0.1, wd=none, depth=4" in str(best)


def test_no_number_at_all_is_an_error_that_says_where_to_look() -> None:
    with pytest.raises(HarnessError, match=r"No run has a number in 'loss': 2 rows without one.*mlx history"):
        best_config(sweep(a=[math.nan, math.inf]), "loss", param_cols="c")


@pytest.mark.parametrize(
    ("metric", "goal", "expected"),
    [
        ("loss", None, "minimize"),
        ("r2", None, "maximize"),
        ("val_bpb", None, "minimize"),
        ("x", "maximize", "maximize"),
    ],
)
def test_the_goal_is_known_or_given(metric: str, goal: str | None, expected: str) -> None:
    df = sweep(a=[1.0, 2.0]).rename(columns={"loss": metric})

    assert best_config(df, metric, param_cols="c", goal=goal).goal == expected


def test_a_goal_that_is_not_known_has_to_be_given() -> None:
    df = sweep(a=[1.0, 2.0]).rename(columns={"loss": "depth"})

    with pytest.raises(UsageError, match=r"Type: goal='minimize' or goal='maximize'"):
        best_config(df, "depth", param_cols="c")
    with pytest.raises(UsageError, match=r"Unknown goal 'maximise'.*Did you mean 'maximize'\?"):
        best_config(df, "depth", param_cols="c", goal="maximise")


def test_the_confidence_is_what_counts_as_sure() -> None:
    df = sweep(a=[1.0, 2.0, 3.0], b=[3.0, 4.0, 5.0])  # t = 2.449, df 4, two-sided p = 0.0705

    assert not best_config(df, "loss", param_cols="c").is_sure
    assert best_config(df, "loss", param_cols="c", confidence=0.9).is_sure
    with pytest.raises(UsageError, match="confidence is 95"):
        best_config(df, "loss", param_cols="c", confidence=95)


def test_welch_agrees_with_scipy() -> None:
    random = np.random.default_rng(0)
    samples = [list(random.normal(i / 4, 1 + i, size)) for i, size in enumerate((3, 8, 2, 5))]

    found = welch(facts_of(*samples), 0, np.array([1, 2, 3]))

    expected = [stats.ttest_ind(samples[0], other, equal_var=False).pvalue for other in samples[1:]]
    assert found == pytest.approx(expected, rel=1e-9)


def test_welch_says_nothing_without_noise_on_either_side() -> None:
    facts = facts_of([1.0, 2.0], [5.0], [3.0, 3.0])

    found = welch(facts, 0, np.array([1, 2]))

    assert np.isnan(found[0])
    # the difference 1.5, its standard error sqrt(0.5 / 2) on one degree of freedom: t = 3
    assert found[1] == pytest.approx(2 * stats.t.sf(3, 1))
    assert np.isnan(welch(facts_of([1.0, 1.0], [2.0, 2.0]), 0, np.array([1]))).all()


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.03, 0.04: times 3, 2, 1, and never below the one before
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])


def test_holm_counts_comparisons_that_could_not_be_made() -> None:
    found = holm(np.array([np.nan, 0.02]))

    assert np.isnan(found[0])
    assert found[1] == pytest.approx(0.04)


@pytest.mark.parametrize(("d", "n"), [(0.5, 64), (0.8, 26), (1.0, 17)])
def test_runs_needed_agree_with_cohens_table(d: float, n: int) -> None:
    """Cohen 1988, table 2.4.1: two-sided 0.05, power 0.80."""
    assert runs_needed(d, 1.0, 1.0, alpha=0.05) == n
    assert runs_needed(-d, 1.0, 1.0, alpha=0.05) == n


def test_runs_needed_at_the_edges() -> None:
    assert runs_needed(0.0, 1.0, 1.0, alpha=0.05) is None
    assert runs_needed(1.0, 0.0, 0.0, alpha=0.05) is None
    assert runs_needed(1e-6, 1.0, 1.0, alpha=0.05) is None
    assert runs_needed(1e9, 1.0, 1.0, alpha=0.05) == 2
    assert runs_needed(1.0, 1.0, 0.0, alpha=0.05) is not None


@pytest.mark.parametrize("means", [(0, 0), (0, 0, -9, -9, -9, -9), (0, 0, 0), (0,) * 8])
def test_equal_configurations_are_seldom_told_apart(means: tuple[float, ...]) -> None:
    """Both promises of best.py, by simulation: configuration 0 is (one of) the best, with 3 runs each."""
    trials, k = 1200, len(means)
    samples = np.random.default_rng(k).normal(means, 1.0, (trials, 3, k))
    sole = lost = 0
    for sample in samples:
        facts = Moments(np.full(k, 3), np.zeros(k, dtype=int), sample.mean(axis=0), sample.std(axis=0, ddof=1))
        order = np.argsort(-facts.mean)
        is_apart = holm(welch(facts, order[0], order[1:])) <= 0.05
        sole += bool(is_apart.all())
        lost += bool(0 in order[1:][is_apart])

    most = 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)
    assert sole / trials < most
    assert lost / trials < most


@pytest.mark.parametrize("power", [1000, -1000])
def test_the_size_of_the_numbers_changes_no_verdict(power: int, recwarn: pytest.WarningsRecorder) -> None:
    values = {"a": [1.0, 2.0, 3.0], "b": [1.5, 2.5, 3.5], "c": [50.0, 51.0, 52.0]}
    large = {name: [math.ldexp(value, power) for value in found] for name, found in values.items()}

    one, other = (best_config(sweep(**found), "loss", param_cols="c") for found in (values, large))

    assert other.runs_needed == one.runs_needed == 64
    assert [found.p_value for found in other.others] == pytest.approx([found.p_value for found in one.others])
    assert not recwarn.list


def test_a_configuration_of_huge_numbers_is_surely_worse_than_one_of_small_ones() -> None:
    best = best_config(sweep(a=[1e308, 1.1e308, 1.2e308], b=[1.0, 1.1, 1.2]), "loss", param_cols="c")

    assert best.params == {"c": "b"}
    assert best.is_sure


def test_noise_beyond_the_largest_float_leaves_all_open() -> None:
    best = best_config(sweep(a=[1.7e308, -1.7e308, 1.7e308], b=[1.0, 1.1, 1.2]), "loss", param_cols="c")

    assert not best.is_sure
    assert best.runs_needed is None
    assert best.others[0].lower_bound is None


@pytest.mark.parametrize(
    ("confidence", "text"),
    [(0.95, "95%"), (0.9, "90%"), (0.29, "29%"), (0.999999999, "99.9999999%"), (np.float64(0.5), "50%")],
)
def test_the_confidence_is_said_with_all_its_digits(confidence: float, text: str) -> None:
    best = best_config(sweep(a=[1.0, 2.0, 3.0], b=[1.0, 2.0, 3.5]), "loss", param_cols="c", confidence=confidence)

    assert f"sure at {text}:" in str(best)
