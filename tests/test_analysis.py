"""The table of means and intervals: columns, groups, failures, refusals."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from autoexperiment.analysis import best_config, compute_ci_df, parameter_importance, plot_sweep_metric
from autoexperiment.errors import HarnessError, UsageError
from autoexperiment.extras import need


def runs(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_the_table_has_the_documented_columns_and_the_order_of_the_rows() -> None:
    df = runs(lr=[1e-4, 5e-5, 1e-5] * 2, accuracy=[0.9, 0.8, 0.7, 0.92, 0.84, 0.7])

    table = compute_ci_df(df, value_col="accuracy", group_cols=["lr"], confidence=0.95)

    assert list(table.columns[:6]) == ["lr", "mean", "lower_bound", "upper_bound", "count", "confidence"]
    assert list(table.columns[6:]) == ["missing"]
    assert table["lr"].tolist() == [1e-4, 5e-5, 1e-5]
    assert table["mean"].tolist() == pytest.approx([0.91, 0.82, 0.7])
    assert table["confidence"].tolist() == [0.95] * 3
    assert table["count"].tolist() == [2, 2, 2]


def test_t_uses_the_sample_variance_and_is_not_cut_to_a_range() -> None:
    df = runs(g=["a"] * 3, loss=[1.0, 2.0, 3.0])

    row = compute_ci_df(df, "loss", "g").iloc[0]

    # mean 2, sd 1 with ddof=1, t(0.975, 2) = 4.302653 by the tables
    assert row["lower_bound"] == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert row["upper_bound"] == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)
    assert row["lower_bound"] < 0


def test_one_run_has_a_mean_and_no_interval() -> None:
    df = runs(g=["a"], hit=[1])

    for method in ("t", "wilson", "bca"):
        row = compute_ci_df(df, "hit", "g", method=method).iloc[0]
        assert row["mean"] == 1
        assert row["count"] == 1
        assert np.isnan(row["lower_bound"])
        assert np.isnan(row["upper_bound"])


def test_failed_runs_are_said_and_not_counted() -> None:
    df = runs(g=["a", "a", "a", "b"], loss=[1.0, np.nan, 3.0, np.inf])

    table = compute_ci_df(df, "loss", "g")

    assert table["count"].tolist() == [2, 0]
    assert table["missing"].tolist() == [1, 1]
    assert table["mean"].tolist() == pytest.approx([2.0, math.nan], nan_ok=True)
    assert np.isnan(table["lower_bound"].iloc[1])


def test_a_missing_parameter_is_a_group_of_its_own() -> None:
    df = runs(wd=[0.1, np.nan, np.nan, 0.1], drop=["x", None, None, "x"], loss=[1.0, 2.0, 4.0, 3.0])

    table = compute_ci_df(df, "loss", ["wd", "drop"])

    assert table["mean"].tolist() == [2.0, 3.0]
    assert np.isnan(table["wd"].iloc[1])


def test_without_group_columns_all_rows_are_one_group() -> None:
    table = compute_ci_df(runs(loss=[1.0, 3.0]), "loss", [])

    assert table["mean"].tolist() == [2.0]
    assert next(iter(table.columns)) == "mean"


def test_categories_that_no_row_has_make_no_group() -> None:
    df = runs(g=pd.Categorical(["b", "a"], categories=["a", "b", "c"]), loss=[1.0, 2.0])

    assert compute_ci_df(df, "loss", "g")["mean"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1, 0, 1, 1]),
        pd.Series([True, False, True, True]),
        pd.Series([1, 0, 1, 1], dtype="float32"),
        pd.Series([1, 0, 1, 1], dtype="Int64"),
        pd.Series([1, 0, 1, 1], dtype="boolean"),
        pd.Series([1, 0.0, True, np.float32(1)], dtype=object),
    ],
    ids=["int", "bool", "float32", "Int64", "boolean", "object"],
)
def test_every_kind_of_number_gives_the_same_row(column: pd.Series) -> None:
    row = compute_ci_df(runs(g=["a"] * 4, hit=column), "hit", "g").iloc[0]

    assert row["mean"] == 0.75
    # sd = 0.5, t(0.975, 3) = 3.182446
    assert row["upper_bound"] == pytest.approx(0.75 + 3.182446 * 0.25, abs=1e-6)


def test_nullable_and_object_columns_may_have_gaps() -> None:
    for column in (pd.Series([1, None, 3], dtype="Int64"), pd.Series([1, None, 3], dtype=object)):
        row = compute_ci_df(runs(g=["a"] * 3, loss=column), "loss", "g").iloc[0]
        assert (row["mean"], row["count"], row["missing"]) == (2.0, 2, 1)


def test_the_method_does_not_depend_on_the_range_of_the_values() -> None:
    small = compute_ci_df(runs(g=["a"] * 4, bpb=[0.98, 0.99, 0.97, 0.96]), "bpb", "g").iloc[0]
    shifted = compute_ci_df(runs(g=["a"] * 4, bpb=[1.98, 1.99, 1.97, 1.96]), "bpb", "g").iloc[0]

    assert shifted["upper_bound"] - shifted["mean"] == pytest.approx(small["upper_bound"] - small["mean"])


def test_equal_values_far_from_zero_have_an_interval_without_width() -> None:
    row = compute_ci_df(runs(g=["a"] * 3, loss=[0.1, 0.1, 0.1]), "loss", "g").iloc[0]

    assert row["lower_bound"] == row["mean"] == row["upper_bound"] == 0.1


def test_the_frame_is_left_as_it_was() -> None:
    df = runs(g=["a", "a"], loss=[1.0, np.inf])
    before = df.copy()

    compute_ci_df(df, "loss", "g")

    pd.testing.assert_frame_equal(df, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value_col": "acuracy"}, "Did you mean 'accuracy'?"),
        ({"group_cols": ["lrr"]}, "Unknown column 'lrr' in group_cols. Known: lr, accuracy"),
        ({"value_col": ["accuracy"]}, "value_col is ['accuracy']. Allowed: the name of one column"),
        ({"group_cols": ["lr", "lr"]}, "group_cols names 'lr' twice"),
        ({"group_cols": "accuracy"}, "group_cols names 'accuracy', which is value_col"),
        ({"method": "wald"}, "Unknown method 'wald'. Known: t, wilson, bca."),
        ({"confidence": 95}, "Type: confidence=0.95"),
        ({"confidence": 0}, "Allowed: more than 0 and less than 1"),
        ({"confidence": math.nan}, "confidence is nan"),
        ({"confidence": "0.95"}, "confidence is '0.95'. Allowed: more than 0 and less than 1. Type: confidence=0.95"),
        ({"confidence": None}, "confidence is None"),
        ({"confidence": True}, "confidence is True"),
        ({"seed": -1}, "seed is -1. Allowed: whole numbers from 0. Type: seed=0"),
        ({"seed": "1"}, "seed is '1'"),
        ({"seed": 1.5, "method": "bca"}, "seed is 1.5"),
        ({"seed": True}, "seed is True"),
    ],
)
def test_wrong_arguments_are_refused_with_what_to_type(arguments: dict[str, object], message: str) -> None:
    df = runs(lr=[1, 2], accuracy=[0.5, 0.6])

    with pytest.raises(UsageError) as caught:
        compute_ci_df(df, **{"value_col": "accuracy", "group_cols": ["lr"], **arguments})  # type: ignore[arg-type]

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("df", "message"),
    [
        (runs(g=[], loss=[]), "The DataFrame has no rows"),
        ([{"g": 1, "loss": 2}], "df is a list, not a DataFrame"),
        (pd.DataFrame([[1, 2.0, 3.0]], columns=["g", "loss", "loss"]), "the DataFrame has 2 columns 'loss'"),
    ],
    ids=["empty", "no frame", "column twice"],
)
def test_frames_that_carry_no_answer_are_refused(df: pd.DataFrame, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compute_ci_df(df, "loss", "g")


def test_a_parameter_may_not_be_named_like_a_column_of_the_result() -> None:
    with pytest.raises(UsageError, match="'count', a column of the result"):
        compute_ci_df(runs(count=[1], loss=[2.0]), "loss", "count")


def test_text_among_the_numbers_is_refused_with_its_row() -> None:
    df = runs(g=["a", "a"], loss=[1.0, "0.5"])

    with pytest.raises(HarnessError, match=r"Column 'loss' holds '0.5' in row 1, which is no number"):
        compute_ci_df(df, "loss", "g")


def test_complex_numbers_and_dates_are_no_metric() -> None:
    for values in ([1 + 2j, 2j], pd.to_datetime(["2026-01-01", "2026-01-02"])):
        with pytest.raises(HarnessError, match="which is no number"):
            compute_ci_df(runs(g=["a", "a"], loss=values), "loss", "g")


def test_lists_cannot_be_grouped_and_the_message_says_what_can() -> None:
    df = runs(layers=[[1, 2], [1, 2]], loss=[1.0, 2.0])

    with pytest.raises(HarnessError, match=r"Type: df\['layers'\] = df\['layers'\]\.map\(str\)"):
        compute_ci_df(df, "loss", "layers")


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    df = runs(g=["a", "a"], loss=[1.0, 2.0])
    calls = {
        "pandas": lambda: compute_ci_df(df, "loss", "g"),
        "scipy": lambda: best_config(df, "loss", param_cols="g"),
        "matplotlib": lambda: plot_sweep_metric(df, "g", "loss"),
    }
    for library, call in calls.items():
        with monkeypatch.context() as patch:
            for name in [name for name in sys.modules if name.partition(".")[0] == library] + [library]:
                patch.setitem(sys.modules, name, None)
            with pytest.raises(HarnessError) as caught:
                call()
        assert f"needs {library}, which is not installed" in str(caught.value)
        assert "pip install 'autoexperiment[sweep]'" in str(caught.value)


def test_a_broken_library_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_library.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        need("broken_library")


def test_importing_the_package_loads_no_library_of_the_extra_and_drawing_no_pyplot() -> None:
    code = """
import sys
import autoexperiment.analysis as analysis
assert not {'pandas', 'scipy', 'matplotlib'} & set(sys.modules), 'not lazy'
import pandas
analysis.plot_sweep_metric(pandas.DataFrame({'x': [1, 2], 'loss': [1.0, 2.0]}), 'x', 'loss')
assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'
"""

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert answer.returncode == 0, answer.stderr


def test_importance_and_best_refuse_the_same_unknown_columns() -> None:
    df = runs(lr=[1, 2], loss=[0.5, 0.6])

    for function in (best_config, parameter_importance):
        with pytest.raises(UsageError, match=r"Unknown column 'l' in param_cols"):
            function(df, "loss", param_cols=["l"])
