"""A sweep's results: the frame, the best configuration, which pictures show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autoexperiment.analysis import (
    best_of_sweep,
    compute_ci_df,
    effect_sizes,
    plot_main_effects,
    plot_sweep_scatter,
    sweep_frame,
    sweep_report_figures,
)
from autoexperiment.analysis.effects import classes_of
from autoexperiment.errors import HarnessError, UsageError
from autoexperiment.sweep import exports

RATE, DEPTH = "training.learning_rate", "model.params.depth"


def row(number: int, params: dict[str, Any], loss: float | None, **changes: Any) -> dict[str, Any]:
    is_ok = loss is not None
    metrics = {"loss": loss, "accuracy": 1 - loss} if loss is not None else {}
    facts = {
        "number": number, "trial": number, "rung": 0, "seed": None, "params": params,
        "status": "completed" if is_ok else "diverged", "reason": "" if is_ok else "the loss became NaN",
        "metrics": metrics, "trust": dict.fromkeys(metrics, "recomputed"), "seconds": 1.5, "run_dir": f"outputs/s/{number}",
    }  # fmt: skip
    return {**facts, **changes}


def grid(seeds: int = 1, **more: list[Any]) -> list[dict[str, Any]]:
    """Loss falls with the depth and is least at the middle rate; other parameters have no effect."""
    cells = [{RATE: rate, DEPTH: depth} for rate in (1e-4, 1e-3, 1e-2) for depth in (2, 4)]
    for name, values in more.items():
        cells = [{**cell, name: value} for cell in cells for value in values]
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for trial, cell in enumerate(cells, 1):
        for seed in range(1, seeds + 1):
            loss = 0.3 + 0.1 * abs(np.log10(cell[RATE]) + 3) - 0.02 * cell[DEPTH] + random.normal(0, 0.002)
            rows.append(row(len(rows) + 1, cell, float(loss), trial=trial, seed=seed if seeds > 1 else None))
    return rows


def drawn(names: int) -> list[dict[str, Any]]:
    """Parameters p0, p1, … drawn from [0, 1); only p1, and less so p0, have an effect."""
    random = np.random.default_rng(1)
    points = random.uniform(size=(40, names))
    return [
        row(number, {f"p{i}": float(v) for i, v in enumerate(point)}, float(3 * point[1] + 2 * point[0]))
        for number, point in enumerate(points, 1)
    ]


def lines(figure: Any, name: str, panel: int = 0) -> list[Any]:
    return [line for line in figure.axes[panel].lines if line.get_gid() == name]


def titles(figures: dict[str, Any]) -> list[str]:
    return [figure.axes[0].get_title() or figure.get_suptitle() for figure in figures.values()]


def test_a_row_for_each_point_with_names_as_in_an_export() -> None:
    rows = [row(1, {RATE: 0.1}, 0.5, seed=1), row(2, {RATE: 0.2}, None, seed=2)]

    df = sweep_frame(rows)

    assert list(df.columns) == [column.name for column in exports.tabulate(rows) if column.name != "rung"]
    assert df["learning_rate"].tolist() == [0.1, 0.2]
    assert df["loss"].isna().tolist() == [False, True]
    assert df["reason"].tolist() == ["", "the loss became NaN"]
    assert df["trust.loss"][0] == "recomputed"
    assert df.attrs == {"params": ["learning_rate"], "metrics": ["loss", "accuracy"]}


def test_seeds_and_rungs_have_columns_only_where_there_are_such() -> None:
    plain = sweep_frame([row(1, {RATE: 0.1}, 0.5)])
    halved = sweep_frame([row(1, {RATE: 0.1}, 0.5), row(2, {RATE: 0.1}, 0.4, rung=1, seed=3)])

    assert not {"seed", "rung"} & set(plain.columns)
    assert halved["rung"].tolist() == [0, 1]
    assert halved["seed"].isna().tolist() == [True, False]


def test_a_swept_seed_is_the_column_of_seeds_unless_there_are_replicates() -> None:
    swept = [row(1, {"training.seed": 7}, 0.5), row(2, {"training.seed": 8}, 0.4)]
    both = [row(1, {"training.seed": 7}, 0.5, seed=1)]

    alone, beside = sweep_frame(swept), sweep_frame(both)

    assert alone["seed"].tolist() == [7, 8]
    assert (beside["training.seed"].tolist(), beside["seed"].tolist()) == ([7], [1])
    for frame, rows in ((alone, swept), (beside, both)):
        assert [name for name in frame.columns if name != "rung"] == [
            column.name for column in exports.tabulate(rows) if column.name != "rung"
        ]


def test_a_metric_called_seed_leaves_that_name_to_seeds() -> None:
    rows = [row(1, {"training.seed": 7}, None, status="completed", metrics={"seed": 0.5})]

    df = sweep_frame(rows)

    assert (df["seed"].tolist(), df["metric.seed"].tolist()) == ([7], [0.5])
    assert "metric.seed" in [column.name for column in exports.tabulate(rows)]


def test_swept_seeds_are_replicates_for_the_best_and_for_pictures() -> None:
    rows = [
        row(3 * n + seed, {RATE: rate, "training.seed": seed}, 0.1 * n + 0.001 * seed)
        for n, rate in enumerate((0.1, 0.2))
        for seed in (1, 2, 3)
    ]

    df = sweep_frame(rows)

    assert best_of_sweep(df, "loss").params == {"learning_rate": 0.1}
    assert best_of_sweep(df, "loss").winner.count == 3
    assert list(sweep_report_figures(df, "loss")) == ["learning_rate"]
    assert list(sweep_report_figures(df, "loss", param_cols="seed")) == ["seed"]


def test_only_completed_points_have_numbers() -> None:
    half_way = row(2, {RATE: 0.2}, 0.4, status="timed_out", reason="stopped after 60 s")

    df = sweep_frame([row(1, {RATE: 0.1}, 0.5), half_way])

    assert df["loss"].notna().tolist() == [True, False]


def test_no_rows_and_no_sweep_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"The sweep has no results yet\. .*Type: mlx sweep status"):
        sweep_frame([])
    with pytest.raises(UsageError, match="There is no sweep in"):
        sweep_frame(tmp_path)
    with pytest.raises(UsageError, match="There is no sweep in"):
        sweep_frame(str(tmp_path))


def test_the_best_configuration_is_found_over_its_seeds() -> None:
    best = best_of_sweep(sweep_frame(grid(seeds=3)), "loss")

    assert best.params == {"learning_rate": 1e-3, "depth": 4}
    assert best.winner.count == 3
    assert best.is_sure
    assert best.scope == ""


def test_the_best_of_an_accuracy_is_the_largest_and_of_an_unknown_metric_the_goal_given() -> None:
    rows = [row(n, {RATE: n}, None, status="completed", metrics={"gain": float(n)}) for n in (1, 2)]

    assert best_of_sweep(sweep_frame(grid(seeds=2)), "accuracy").params["depth"] == 4
    assert best_of_sweep(sweep_frame(rows), "gain", goal="maximize").params == {"learning_rate": 2}
    with pytest.raises(UsageError, match="Whether more or less of 'gain' is better is not known"):
        best_of_sweep(sweep_frame(rows), "gain")


def test_a_sweep_without_parameters_has_its_runs_as_the_only_configuration() -> None:
    rows = [row(n, {}, 0.5 + n, trial=1, seed=n) for n in (1, 2, 3)]

    best = best_of_sweep(sweep_frame(rows), "loss")

    assert best.winner.mean == pytest.approx(2.5)
    assert "nothing to compare it with" in str(best)


def test_after_halving_the_trials_that_got_furthest_are_compared_and_it_says_so() -> None:
    rates = {1: 0.1, 2: 0.2, 3: 0.3}
    rows = [row(n, {RATE: rate, "training.epochs": 1}, [0.1, 0.5, 0.6][n - 1], trial=n) for n, rate in rates.items()]
    rows += [row(n + 3, {RATE: rates[n], "training.epochs": 3}, 0.2 + n, trial=n, rung=1) for n in (2, 3)]

    best = best_of_sweep(sweep_frame(rows), "loss")

    assert best.params == {"learning_rate": 0.2, "epochs": 3}
    assert len(best.others) == 1
    assert "compared: 2 of 3 trials, those at rung 1; the others were given less" in str(best).splitlines()


def test_a_rung_at_which_all_failed_is_not_the_one_compared() -> None:
    rows = [row(1, {RATE: 0.1}, 0.5, trial=1), row(2, {RATE: 0.2}, 0.4, trial=2)]
    rows.append(row(3, {RATE: 0.2}, None, trial=2, rung=1))

    assert best_of_sweep(sweep_frame(rows), "loss").params == {"learning_rate": 0.2}


def test_an_unknown_metric_is_refused_with_the_metrics_and_not_with_all_columns() -> None:
    df = sweep_frame(grid())

    with pytest.raises(UsageError, match=r"Unknown metric 'los'\. Known: loss, accuracy\. Did you mean 'loss'"):
        best_of_sweep(df, "los")
    with pytest.raises(UsageError, match="Unknown metric 'los'"):
        sweep_report_figures(df, "los")


def test_parameters_that_a_frame_does_not_know_have_to_be_named() -> None:
    df = pd.DataFrame({"lr": [1, 2], "loss": [0.1, 0.2]})

    with pytest.raises(UsageError, match=r"Which columns are parameters is not known here.*Type: param_cols="):
        sweep_report_figures(df, "loss")
    assert list(sweep_report_figures(df, "loss", param_cols="lr")) == ["lr"]


def test_one_parameter_is_a_curve_with_the_intervals_of_the_table() -> None:
    df = sweep_frame([r for r in grid(seeds=3) if r["params"][DEPTH] == 2])

    figures = sweep_report_figures(df, "loss")

    assert list(figures) == ["learning_rate"]
    means = lines(figures["learning_rate"], "means")[0].get_ydata()
    assert means == pytest.approx(compute_ci_df(df, "loss", ["learning_rate"])["mean"].to_numpy())


def test_one_parameter_of_a_halved_sweep_has_a_line_for_each_rung() -> None:
    rows = [row(n, {RATE: n / 10, "training.epochs": 1}, 0.5, trial=n) for n in (1, 2, 3)]
    rows.append(row(4, {RATE: 0.1, "training.epochs": 3}, 0.2, trial=1, rung=1))

    figures = sweep_report_figures(sweep_frame(rows), "loss")

    assert [line.get_label() for line in lines(figures["learning_rate"], "means")] == ["0", "1"]


def test_two_listed_parameters_are_a_heatmap_and_two_drawn_ones_are_dots() -> None:
    listed = sweep_report_figures(sweep_frame(grid()), "loss")
    dots = sweep_report_figures(sweep_frame(drawn(2)), "loss")

    assert list(listed) == ["learning_rate_by_depth"]
    assert len(listed["learning_rate_by_depth"].axes[0].texts) == 6
    assert list(dots) == ["p0_by_p1"]
    assert not dots["p0_by_p1"].axes[0].texts


def test_a_listed_grid_of_which_less_than_half_was_run_is_dots() -> None:
    diagonal = [row(n, {"a": n, "b": n}, 0.1 * n) for n in range(1, 6)]

    figure = sweep_report_figures(sweep_frame(diagonal), "loss")["a_by_b"]

    assert not figure.axes[0].texts


def test_a_grid_too_fine_for_a_heatmap_is_dots() -> None:
    fine = [row(2 * n + b, {"a": n, "b": b}, 0.1 * n) for n in range(41) for b in (0, 1)]

    figure = sweep_report_figures(sweep_frame(fine), "loss")["a_by_b"]

    assert not figure.axes[0].texts


def test_of_more_parameters_the_two_with_the_largest_effect_are_shown_and_each_by_itself() -> None:
    listed = sweep_report_figures(sweep_frame(grid(seeds=2, idle=[0, 1])), "loss")
    random = sweep_report_figures(sweep_frame(drawn(4)), "loss")

    assert list(listed) == ["learning_rate_by_depth", "main_effects"]
    assert list(random) == ["p1_by_p0", "main_effects"]
    assert titles(random)[0] == "loss by p1 and p0, all others together"
    assert len(random["main_effects"].axes) == 4


def test_pictures_of_a_halved_sweep_show_all_trials_where_they_were_given_the_same() -> None:
    rows = grid()
    rows.append(row(7, {RATE: 1e-3, DEPTH: 4}, 0.01, trial=4, rung=1))

    figure = sweep_report_figures(sweep_frame(rows), "loss")["learning_rate_by_depth"]

    assert all("n=1" in text.get_text() for text in figure.axes[0].texts)


def test_a_sweep_in_which_nothing_varies_has_no_picture() -> None:
    rows = [row(n, {RATE: 0.1}, 0.5, trial=1, seed=n) for n in (1, 2)]

    with pytest.raises(HarnessError, match=r"No parameter of the sweep has two values.*mlx sweep results"):
        sweep_report_figures(sweep_frame(rows), "loss")


@pytest.mark.parametrize(("column", "name"), [("a/../b c", "a_.._b_c"), (".x", "x"), ("//", "parameter")])
def test_names_of_pictures_can_be_names_of_files(column: str, name: str) -> None:
    df = pd.DataFrame({column: [1, 2], "loss": [0.1, 0.2]})

    assert list(sweep_report_figures(df, "loss", param_cols=column)) == [name]


def test_a_sweep_of_which_every_point_failed_still_has_pictures() -> None:
    rows = [row(n, {"a": n % 2, "b": n % 3, "c": n}, None, metrics={"loss": None}) for n in range(6)]

    figures = sweep_report_figures(sweep_frame(rows), "loss")

    texts = [text.get_text() for axes in figures["main_effects"].axes for text in axes.texts]
    assert texts == ["no run has a number"] * 3


def test_effects_agree_with_the_adjusted_share_of_a_regression_on_levels() -> None:
    """ε² is the adjusted R² of a regression on a dummy for each level (Okada 2013, section 2)."""
    random = np.random.default_rng(3)
    df = pd.DataFrame({"g": np.repeat(["a", "b", "c"], [4, 5, 6]), "loss": random.normal(size=15)})
    df.loc[df["g"] == "b", "loss"] += 2.0
    design = (df["g"].to_numpy()[:, None] == np.array(["a", "b", "c"])).astype(float)
    residual = df["loss"] - design @ np.linalg.lstsq(design, df["loss"], rcond=None)[0]
    adjusted = 1 - (residual**2).sum() / (15 - 3) / df["loss"].var()

    assert effect_sizes(df, "loss", param_cols="g") == {"g": pytest.approx(adjusted)}


def test_effects_are_ordered_and_what_has_none_is_about_zero() -> None:
    df = sweep_frame(drawn(3))

    sizes = effect_sizes(df, "loss", param_cols=["p0", "p1", "p2"])

    assert list(sizes) == ["p1", "p0", "p2"]
    assert sizes["p1"] > sizes["p0"] > 0.2
    assert abs(sizes["p2"]) < 0.2


def test_failed_runs_do_not_count_for_effects() -> None:
    rows = grid(seeds=2)
    with_failures = rows + [row(99, {RATE: 1e-2, DEPTH: 4}, None)] * 5

    sizes, same = (
        effect_sizes(sweep_frame(found), "loss", param_cols=["learning_rate", "depth"])
        for found in (rows, with_failures)
    )

    assert sizes == pytest.approx(same)


def test_what_can_not_be_estimated_is_missing_and_last() -> None:
    df = pd.DataFrame({"name": ["a", "b", "c"], "two": [0, 0, 1], "loss": [1.0, 1.1, 2.0]})

    sizes = effect_sizes(df, "loss", param_cols=["name", "two"])

    assert list(sizes) == ["two", "name"]
    assert np.isnan(sizes["name"])
    with np.errstate(all="raise"):
        assert np.isnan(effect_sizes(df.assign(loss=1.0), "loss", param_cols="two")["two"])
    assert np.isnan(effect_sizes(df.assign(loss=np.nan), "loss", param_cols="two")["two"])


def test_many_numbers_are_put_in_fifths_and_few_or_names_stay_as_they_are() -> None:
    many, few, names = (
        pd.DataFrame({"x": range(20)}),
        pd.DataFrame({"x": [3, 1, 3]}),
        pd.DataFrame({"x": list("abcdefghij")}),
    )

    assert np.bincount(classes_of(many, "x")).tolist() == [4, 4, 4, 4, 4]
    assert classes_of(few, "x").tolist() == [0, 1, 0]
    assert len(set(classes_of(names, "x"))) == 10


def test_equal_numbers_are_in_one_class_however_many_there_are() -> None:
    df = pd.DataFrame({"x": [0] * 30 + list(range(1, 11))})

    codes = classes_of(df, "x")

    assert len(set(codes[:30])) == 1
    assert sorted(set(codes)) == list(range(len(set(codes))))


def test_main_effects_show_each_run_each_mean_and_each_failure() -> None:
    df = sweep_frame([*grid(seeds=2), row(13, {RATE: 1e-2, DEPTH: 4}, None)])

    figure: Any = plot_main_effects(df, "loss", ["learning_rate", "depth"])

    assert len(lines(figure, "runs", 0)[0].get_xdata()) == 12
    assert lines(figure, "missing", 0)[0].get_xdata().tolist() == [1e-2]
    expected = df.dropna(subset="loss").groupby("depth")["loss"].mean()
    assert lines(figure, "means", 1)[0].get_xdata().tolist() == [2, 4]
    assert lines(figure, "means", 1)[0].get_ydata() == pytest.approx(expected.to_numpy())
    assert "run without a number" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_main_effects_of_no_parameter_are_refused() -> None:
    with pytest.raises(UsageError, match="param_cols is empty"):
        plot_main_effects(sweep_frame(grid()), "loss", [])


def test_dots_are_configurations_and_crosses_those_without_a_number() -> None:
    rows = [row(1, {"a": 0.1, "b": 1.0}, 0.2, trial=1, seed=1), row(2, {"a": 0.1, "b": 1.0}, 0.4, trial=1, seed=2)]
    rows.append(row(3, {"a": 0.7, "b": 3.0}, None, trial=2, seed=1))

    axes: Any = plot_sweep_scatter(sweep_frame(rows), "a", "b", "loss").axes[0]

    dots, crosses = axes.collections
    assert dots.get_offsets().tolist() == [[0.1, 1.0]]
    assert dots.get_array().tolist() == [pytest.approx(0.3)]
    assert crosses.get_offsets().tolist() == [[0.7, 3.0]]


def test_the_spellings_of_other_tools_are_refused_by_the_scatter_too() -> None:
    with pytest.raises(UsageError, match=r"plot_sweep_scatter\(\) has no parameter 'values'. Here it is 'value_col'"):
        plot_sweep_scatter(sweep_frame(grid()), "learning_rate", "depth", values="loss")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="are both 'depth'"):
        plot_sweep_scatter(sweep_frame(grid()), "depth", "depth", "loss")


def test_a_frame_of_a_sweep_says_its_parameters_after_it_was_filtered(tmp_path: Path) -> None:
    df = sweep_frame(grid())

    figures = sweep_report_figures(df[df["depth"] == 2], "loss")

    (name,) = figures
    figures[name].savefig(tmp_path / f"{name}.png")
    assert (tmp_path / "learning_rate.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("power", [1020, -1000])
def test_effects_do_not_depend_on_the_size_of_the_numbers(power: int, recwarn: pytest.WarningsRecorder) -> None:
    df = pd.DataFrame({"g": [0, 0, 1, 1], "loss": [1.0, 2.0, 4.0, -6.0]})

    sizes = effect_sizes(df.assign(loss=np.ldexp(df["loss"], power)), "loss", param_cols="g")

    assert sizes == pytest.approx(effect_sizes(df, "loss", param_cols="g"))
    assert not recwarn.list
