"""How the variance over a grid is divided."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from autoexperiment.analysis import parameter_importance
from autoexperiment.errors import HarnessError, UsageError

HAND = pd.DataFrame(
    [(a, b, value) for (a, b), values in {
        (0, 0): (1, 3), (0, 1): (5, 7), (1, 0): (9, 11), (1, 1): (13, 15),
    }.items() for value in values],
    columns=["a", "b", "loss"],
)  # fmt: skip


def row(table: pd.DataFrame, name: str) -> pd.Series:
    return table[table["parameter"] == name].iloc[0]


def residual(design: list[np.ndarray], y: np.ndarray) -> float:
    """Sum of squares left by least squares on indicator columns."""
    matrix = np.column_stack(design)
    return float(np.sum((y - matrix @ np.linalg.lstsq(matrix, y, rcond=None)[0]) ** 2))


def indicators(*columns: pd.Series) -> np.ndarray:
    labels = ["/".join(map(str, values)) for values in zip(*columns, strict=True)]
    return pd.get_dummies(labels).to_numpy(dtype=float)


def test_a_grid_worked_out_by_hand() -> None:
    # cell means 2, 6, 10, 14: the variance of a is 16, of b 4, of both together 0; within the cells it is 1
    table = parameter_importance(HAND, "loss", param_cols=["b", "a"])

    assert table["parameter"].tolist() == ["a", "b", "b x a", "seed noise"]
    assert table["share"].tolist() == pytest.approx([16 / 21, 4 / 21, 0, 1 / 21])
    assert table["degrees_of_freedom"].tolist() == [1, 1, 1, 4]
    # one run's variance is 8 / 4 = 2; a's F is 64 on 1 and 4, which is t = 8 on 4
    assert row(table, "a")["p_value"] == pytest.approx(2 * stats.t.sf(8, 4))
    assert row(table, "b")["p_value"] == pytest.approx(2 * stats.t.sf(4, 4))
    # (16 - 2/8) of 20 - 3 * 2/8 + 2
    assert table["corrected_share"].tolist() == pytest.approx([15.75 / 21.25, 3.75 / 21.25, -0.25 / 21.25, 2 / 21.25])


def test_three_parameters_agree_with_least_squares() -> None:
    random = np.random.default_rng(0)
    levels = itertools.product([1, 2, 3], ["x", "y"], [0.1, 0.2, 0.3, 0.4], range(2))
    df = pd.DataFrame(levels, columns=["a", "b", "c", "seed"])
    df["loss"] = df["a"] * df["c"] + (df["b"] == "x") + random.normal(0, 0.3, len(df))
    y, one = df["loss"].to_numpy(), np.ones((len(df), 1))
    whole = residual([one], y)

    table = parameter_importance(df, "loss", param_cols=["a", "b", "c"])

    main_a = whole - residual([one, indicators(df["a"])], y)
    pair = whole - residual([one, indicators(df["a"], df["c"])], y) - main_a
    pair -= whole - residual([one, indicators(df["c"])], y)
    noise = residual([indicators(df["a"], df["b"], df["c"])], y)
    assert row(table, "a")["share"] == pytest.approx(main_a / whole)
    assert row(table, "a x c")["share"] == pytest.approx(pair / whole)
    assert row(table, "seed noise")["share"] == pytest.approx(noise / whole)
    assert row(table, "a x c")["p_value"] == pytest.approx(stats.f.sf(pair / 6 / (noise / 24), 6, 24))
    assert row(table, "higher interactions")["degrees_of_freedom"] == 6
    assert table["share"].sum() == pytest.approx(1)
    assert table["corrected_share"].sum() == pytest.approx(1)


def test_a_failed_run_shifts_no_share_of_the_means() -> None:
    df = pd.concat([HAND, pd.DataFrame({"a": [0, 1], "b": [0, 1], "loss": [2.0, np.nan]})])

    table = parameter_importance(df, "loss", param_cols=["a", "b"])

    # a third run at its cell's mean changes no mean; the variance within that cell is 2/3 now, so 11/12 on average
    total = 20 + 11 / 12
    assert table["share"].tolist() == pytest.approx([16 / total, 4 / total, 0, 11 / 12 / total])


def test_without_replicates_the_noise_is_not_known() -> None:
    df = HAND.groupby(["a", "b"], as_index=False).mean()

    table = parameter_importance(df, "loss", param_cols=["a", "b"])

    assert row(table, "a")["share"] == pytest.approx(0.8)
    assert table["p_value"].isna().all()
    assert table["corrected_share"].isna().all()
    assert np.isnan(row(table, "seed noise")["share"])


def test_runs_that_repeat_each_other_give_no_p_value() -> None:
    df = HAND.assign(loss=HAND.groupby(["a", "b"])["loss"].transform("mean"))

    table = parameter_importance(df, "loss", param_cols=["a", "b"])

    assert table["p_value"].isna().all()
    assert row(table, "seed noise")["share"] == 0


def test_the_corrected_share_of_nothing_is_zero_on_average() -> None:
    random = np.random.default_rng(1)
    grid = pd.DataFrame(itertools.product(range(4), range(3), range(3)), columns=["a", "b", "seed"])

    found = []
    for _ in range(150):
        table = parameter_importance(grid.assign(loss=random.normal(size=36)), "loss", param_cols=["a", "b"])
        found.append((row(table, "a")["share"], row(table, "a")["corrected_share"]))

    shares, corrected = np.mean(found, axis=0)
    spread = np.std([pair[1] for pair in found]) / math.sqrt(len(found))
    assert shares > 0.05
    assert abs(corrected) < 4 * spread


def test_a_parameter_with_one_value_explains_nothing() -> None:
    table = parameter_importance(HAND.assign(c="same"), "loss", param_cols=["a", "b", "c"])

    assert row(table, "c")["share"] == 0
    assert np.isnan(row(table, "c")["p_value"])
    assert row(table, "a")["share"] == pytest.approx(16 / 21)


def test_one_parameter_alone() -> None:
    table = parameter_importance(HAND, "loss", param_cols="a")

    # means 4 and 12: 16 between, 5 within
    assert table["share"].tolist() == pytest.approx([16 / 21, 5 / 21])


def test_a_gap_in_the_grid_is_refused_with_the_first_one() -> None:
    df = HAND.copy()
    df.loc[(df["a"] == 1) & (df["b"] == 0), "loss"] = np.nan

    with pytest.raises(HarnessError, match=r"of 4 combinations, some have no run with a number, the first: a=1, b=0"):
        parameter_importance(df, "loss", param_cols=["a", "b"])


def test_a_random_search_is_no_grid_and_is_refused_before_it_fills_the_memory() -> None:
    df = pd.DataFrame(np.random.default_rng(0).uniform(size=(300, 5)), columns=[*"abcd", "loss"])

    with pytest.raises(HarnessError, match=r"no full grid of a, b, c, d: of 8100000000 combinations"):
        parameter_importance(df, "loss", param_cols=[*"abcd"])


def test_nothing_to_explain_is_refused() -> None:
    with pytest.raises(HarnessError, match="All runs have the same 'loss'"):
        parameter_importance(HAND.assign(loss=0.1), "loss", param_cols=["a", "b"])
    with pytest.raises(UsageError, match="param_cols is empty"):
        parameter_importance(HAND, "loss", param_cols=[])


@pytest.mark.parametrize("power", [1020, -1000])
def test_shares_do_not_depend_on_the_size_of_the_numbers(power: int, recwarn: pytest.WarningsRecorder) -> None:
    df = pd.DataFrame({"a": [0, 0, 1, 1] * 2, "b": [0, 1] * 4, "loss": [1.0, 2.0, 4.0, -6.0, 1.5, 2.5, 4.5, -6.5]})

    shares, same = (
        parameter_importance(df.assign(loss=np.ldexp(df["loss"], by)), "loss", param_cols=["a", "b"])["share"].tolist()
        for by in (power, 0)
    )

    assert shares == pytest.approx(same)
    assert not recwarn.list
