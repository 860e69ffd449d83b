"""Figures show what the table says: the artists are looked at, and every figure is really drawn."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from autoexperiment.analysis import compute_ci_df, plot_sweep_heatmap, plot_sweep_metric, plot_sweep_metrics
from autoexperiment.analysis.scale import scale_of
from autoexperiment.errors import UsageError

LRS = [1e-4, 1e-3, 1e-2]


def grid() -> pd.DataFrame:
    rows = itertools.product(LRS, [2, 4], range(3))
    df = pd.DataFrame(rows, columns=["lr", "depth", "seed"])
    df["accuracy"] = np.linspace(0.5, 0.9, len(df)) + 0.01 * df["seed"] ** 2
    df["loss"] = 1 - df["accuracy"]
    return df


def drawn(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    return file.getvalue()


def lines(figure: Figure, gid: str, panel: int = 0) -> list[Any]:
    return [line for line in figure.axes[panel].lines if line.get_gid() == gid]


def bars(figure: Figure, panel: int = 0) -> list[np.ndarray]:
    """Ends of the vertical bars, each ((x, lower), (x, upper))."""
    return [segment for found in figure.axes[panel].collections for segment in found.get_segments()]


def texts(figure: Figure) -> list[str]:
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return legends + [text.get_text() for axes in figure.axes for text in axes.texts]


def test_means_and_bars_are_those_of_the_table() -> None:
    df = grid()

    figure = plot_sweep_metric(df, x_col="lr", y_col="accuracy", confidence=0.8)

    table = compute_ci_df(df, "accuracy", ["lr"], confidence=0.8)
    (line,) = lines(figure, "means")
    assert line.get_xdata().tolist() == LRS
    assert line.get_ydata() == pytest.approx(table["mean"].to_numpy())
    ends = np.array(bars(figure))
    assert ends[:, 0, 1] == pytest.approx(table["lower_bound"].to_numpy())
    assert ends[:, 1, 1] == pytest.approx(table["upper_bound"].to_numpy())
    assert any("mean, 80% interval (t)" in text for text in texts(figure))


def test_a_figure_saves_as_any_kind_of_picture(tmp_path: Any) -> None:
    plot_sweep_metric(grid(), x_col="lr", y_col="accuracy").savefig(tmp_path / "results.png")

    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_titles_are_given_or_said() -> None:
    assert plot_sweep_metric(grid(), "lr", "loss").axes[0].get_title() == "loss by lr"
    assert plot_sweep_metric(grid(), "lr", "loss", title="Mine").axes[0].get_title() == "Mine"
    assert plot_sweep_metric(grid(), "lr", "loss", title="").axes[0].get_title() == ""
    assert plot_sweep_metric(grid(), "lr", "loss").axes[0].get_ylabel() == "loss (lower is better)"


def test_the_y_axis_holds_every_interval() -> None:
    figure = plot_sweep_metric(grid(), "lr", "accuracy", group_col="depth")

    low, high = figure.axes[0].get_ylim()
    ends = np.array(bars(figure))[:, :, 1]
    assert low < ends.min() < ends.max() < high


def test_each_group_has_a_line_of_its_own_colour_and_marker() -> None:
    figure = plot_sweep_metric(grid(), "lr", "accuracy", group_col="depth")

    two, four = lines(figure, "means")
    assert two.get_color() != four.get_color()
    assert two.get_marker() != four.get_marker()
    assert {"2", "4"} < set(texts(figure))
    table = compute_ci_df(grid(), "accuracy", ["lr", "depth"])
    assert four.get_ydata() == pytest.approx(table[table["depth"] == 4]["mean"].to_numpy())


def test_groups_are_moved_sideways_on_paper_and_not_in_their_values() -> None:
    figure = plot_sweep_metric(grid(), "lr", "accuracy", group_col="depth")
    drawn(figure)

    two, four = lines(figure, "means")
    assert two.get_xdata().tolist() == four.get_xdata().tolist() == LRS
    left, right = (line.get_transform().transform((LRS[0], 0.5))[0] for line in (two, four))
    assert left < right


def test_failed_runs_are_crosses_with_their_number() -> None:
    df = grid()
    df.loc[(df["lr"] == 1e-2) & (df["seed"] > 0), "accuracy"] = np.nan

    figure = plot_sweep_metric(df, "lr", "accuracy")

    (crosses,) = lines(figure, "missing")
    assert crosses.get_xdata().tolist() == [1e-2]
    assert {"4", "run without a number"} < set(texts(figure))


def test_nothing_failed_means_no_word_of_failure() -> None:
    figure = plot_sweep_metric(grid(), "lr", "accuracy")

    assert lines(figure, "missing")[0].get_xdata().tolist() == []
    assert "run without a number" not in texts(figure)


def test_infinity_is_a_failure_and_not_a_point() -> None:
    df = grid()
    df.loc[0, "loss"] = np.inf

    figure = plot_sweep_metric(df, "lr", "loss")

    assert lines(figure, "missing")[0].get_xdata().tolist() == [1e-4]
    assert np.isnan(lines(figure, "runs")[0].get_ydata()).sum() == 1
    assert not np.isinf(lines(figure, "runs")[0].get_ydata()).any()


def test_single_runs_have_a_point_and_no_bar() -> None:
    df = grid().query("seed == 0 and depth == 2")

    figure = plot_sweep_metric(df, "lr", "accuracy")

    assert not any(np.isfinite(segment).any() for segment in bars(figure))
    assert len(lines(figure, "means")[0].get_xdata()) == 3
    assert lines(figure, "runs") == []
    assert texts(figure) == ["one run"]


def test_a_figure_of_failures_alone_says_so() -> None:
    figure = plot_sweep_metric(grid().assign(accuracy=np.nan), "lr", "accuracy", group_col="depth")

    assert "no run has a number" in texts(figure)
    assert drawn(figure)


def test_a_bootstrap_interval_may_leave_the_mean_outside() -> None:
    df = pd.DataFrame({"x": [1] * 4 + [2] * 2, "loss": [0.0, 0.0, 0.0, 100.0, 1.0, 2.0]})

    figure = plot_sweep_metric(df, "x", "loss", method="bca", seed=3)

    table = compute_ci_df(df, "loss", "x", method="bca", seed=3)
    assert np.array(bars(figure))[:, 0, 1] == pytest.approx(table["lower_bound"].to_numpy())


def test_bootstrap_bars_are_those_of_the_same_seed() -> None:
    df = pd.DataFrame({"x": 1, "loss": np.random.default_rng(0).normal(size=12)})

    ends = [np.array(bars(plot_sweep_metric(df, "x", "loss", method="bca", seed=seed)))[0, 0, 1] for seed in (0, 3)]

    assert ends[0] != ends[1]
    assert ends[1] == pytest.approx(compute_ci_df(df, "loss", "x", method="bca", seed=3)["lower_bound"][0])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1e-5, 1e-4, 1e-3], "log"),
        ([1e-5, 3e-4, 2e-3, 0.1], "log"),
        ([8, 16, 32, 64, 128], "log"),
        ([0.001, 0.1], "log"),
        ([1, 20], "linear"),
        ([1, 2, 4], "linear"),
        ([0.1, 0.2, 0.3], "linear"),
        (list(range(1, 201)), "linear"),
        ([0, 1, 2, 3], "linear"),
        ([0.0, 1e-4, 1e-2, 1.0], "category"),
        ([-1, 0, 1], "linear"),
        ([-2, 0], "linear"),
        (["adam", "sgd"], "category"),
        ([True, False], "category"),
        ([0.1, np.nan], "category"),
        ([np.nan, np.nan], "category"),
    ],
)
def test_the_scale_goes_by_the_values(values: list[Any], kind: str) -> None:
    assert scale_of(pd.DataFrame({"x": values}), "x").kind == kind


def test_numbers_stand_in_their_order_and_names_as_first_seen() -> None:
    assert scale_of(pd.DataFrame({"x": [4, np.nan, 2]}), "x").levels == (2, 4, None)
    assert scale_of(pd.DataFrame({"x": ["sgd", None, "adam"]}), "x").levels == ("sgd", "adam", None)


def test_the_scale_may_be_asked_for() -> None:
    assert plot_sweep_metric(grid(), "depth", "loss", x_scale="log").axes[0].get_xscale() == "log"
    assert plot_sweep_metric(grid(), "lr", "loss", x_scale="linear").axes[0].get_xscale() == "linear"
    assert plot_sweep_metric(grid(), "lr", "loss").axes[0].get_xscale() == "log"


@pytest.mark.parametrize(
    ("values", "scale", "message"),
    [
        (["adam", "sgd"], "log", "it holds adam. Allowed: numbers above 0"),
        ([0, 1], "log", "it holds 0"),
        (["adam", "sgd"], "linear", "x_scale='category'"),
        ([1.0, np.nan], "linear", "it holds none"),
        ([1, 2], "logg", "Unknown scale 'logg'. Known: auto, linear, log, category. Did you mean 'log'?"),
    ],
)
def test_a_scale_that_does_not_fit_is_refused(values: list[Any], scale: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        plot_sweep_metric(pd.DataFrame({"x": values, "loss": [1.0, 2.0]}), "x", "loss", x_scale=scale)

    assert message in str(caught.value)


def test_ticks_stand_at_the_values_that_were_run() -> None:
    axes = plot_sweep_metric(grid(), "lr", "loss").axes[0]

    assert axes.get_xticks().tolist() == LRS
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.0001", "0.001", "0.01"]
    assert axes.xaxis.get_minorticklocs().tolist() == []


def test_categories_are_not_joined_by_a_line() -> None:
    df = grid().assign(optimizer=["adam", "sgd", None] * 6)

    figure = plot_sweep_metric(df, "optimizer", "loss")

    assert lines(figure, "means")[0].get_linestyle() == "None"
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["adam", "sgd", "none"]


def test_groups_by_a_missing_value_are_drawn() -> None:
    df = grid().assign(wd=[0.1, np.nan, 0.1] * 6)

    figure = plot_sweep_metric(df, "lr", "loss", group_col="wd")

    assert [len(line.get_xdata()) for line in lines(figure, "means")] == [3, 3]


def test_names_from_the_data_are_shown_as_they_are() -> None:
    name = "cost $x^{ in $"
    df = pd.DataFrame({name: ["$\\frac", "b\x1b[31m\n"], "loss": [1.0, 2.0]})

    figure = plot_sweep_metric(df, name, "loss", title="$\\bad{ \x1b[0m")

    assert b"<svg" in drawn(figure)
    assert figure.axes[0].get_title() == "\\$\\bad{  [0m"


def test_long_names_keep_both_ends() -> None:
    df = pd.DataFrame({"x": [f"a very long name of a configuration, number {i}" for i in (1, 2)], "loss": [1.0, 2.0]})

    labels = [tick.get_text() for tick in plot_sweep_metric(df, "x", "loss").axes[0].get_xticklabels()]

    assert len(set(labels)) == 2
    assert all(len(label) <= 28 for label in labels)


def test_each_metric_has_a_panel() -> None:
    df = grid().assign(loss=np.nan)

    figure = plot_sweep_metrics(df, x_col="lr", y_cols=["accuracy", "loss"], title="Both", group_col="depth")

    assert [axes.get_ylabel().split()[0] for axes in figure.axes] == ["accuracy", "loss"]
    assert figure.get_suptitle() == "Both"
    table = compute_ci_df(df, "accuracy", ["lr", "depth"])
    assert lines(figure, "means")[0].get_ydata() == pytest.approx(table[table["depth"] == 2]["mean"].to_numpy())
    assert "run without a number" in texts(figure)
    assert drawn(figure)


def test_a_single_metric_may_be_named_alone() -> None:
    assert len(plot_sweep_metrics(grid(), "lr", "loss").axes) == 1  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="y_cols is empty"):
        plot_sweep_metrics(grid(), "lr", [])


def test_a_cell_says_its_mean_and_its_runs() -> None:
    df = pd.DataFrame(
        [(1, "a", 0.25), (1, "a", 0.75), (2, "a", 3.0), (2, "a", np.nan), (2, "b", np.nan)],
        columns=["x", "y", "loss"],
    )

    figure = plot_sweep_heatmap(df, x_col="x", y_col="y", value_col="loss", title="Map")

    found = [text.get_text() for text in figure.axes[0].texts]
    assert found == ["0.5000\nn=2", "3.000\n1 of 2", "not run", "failed\n0 of 1"]
    assert figure.axes[0].get_title() == "Map"
    (mesh,) = [found for found in figure.axes[0].collections if found.get_array() is not None]
    assert mesh.get_array().filled(-1).tolist() == [[0.5, 3.0], [-1, -1]]
    assert figure.axes[0].patch.get_hatch()
    assert drawn(figure)


def test_cells_stand_where_their_parameters_say() -> None:
    df = pd.DataFrame([(x, y, 10.0 * x + y) for x in (3, 1, 2) for y in (2, 1)], columns=["x", "y", "v"])

    figure = plot_sweep_heatmap(df, "x", "y", "v")

    placed = {tuple(text.get_position()): text.get_text().split("\n")[0] for text in figure.axes[0].texts}
    assert placed == {(x - 1, y - 1): f"{10 * x + y}.00" for x in (1, 2, 3) for y in (1, 2)}
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["1", "2", "3"]


def test_a_missing_parameter_has_a_row_of_cells() -> None:
    df = pd.DataFrame({"x": [1, 1], "y": [0.5, np.nan], "v": [1.0, 2.0]})

    axes = plot_sweep_heatmap(df, "x", "y", "v").axes[0]

    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0.5", "none"]
    assert [text.get_text() for text in axes.texts] == ["1.000\nn=1", "2.000\nn=1"]


def test_means_in_cells_have_as_many_digits_as_each_other() -> None:
    df = pd.DataFrame([(x, 0, v) for x, v in enumerate([1.5, 1.4375, 1234.0])], columns=["x", "y", "v"])

    texts = plot_sweep_heatmap(df, "x", "y", "v").axes[0].texts

    assert [text.get_text().split("\n")[0] for text in texts] == ["1.500", "1.438", "1234"]


def test_text_in_a_cell_can_be_read_on_its_colour() -> None:
    df = pd.DataFrame([(x, 0, float(x)) for x in range(5)], columns=["x", "y", "v"])

    colours = [text.get_color() for text in plot_sweep_heatmap(df, "x", "y", "v").axes[0].texts]

    assert colours[0] == "white"  # viridis begins with a dark purple and ends with a bright yellow
    assert colours[-1] == "black"


def test_one_enormous_mean_does_not_wash_out_the_others() -> None:
    df = pd.DataFrame([(x, 0, v) for x, v in enumerate([0.1, 0.2, 1e6])], columns=["x", "y", "v"])

    figure = plot_sweep_heatmap(df, "x", "y", "v")

    (mesh,) = [found for found in figure.axes[0].collections if found.get_array() is not None]
    assert isinstance(mesh.norm, LogNorm)


def test_a_map_of_failures_alone_is_drawn() -> None:
    figure = plot_sweep_heatmap(grid().assign(loss=np.nan), "lr", "depth", "loss")

    assert {text.get_text() for text in figure.axes[0].texts} == {"failed\n0 of 3"}
    assert len(figure.axes) == 1
    assert drawn(figure)


def test_a_map_of_a_random_search_is_refused() -> None:
    df = pd.DataFrame({"x": np.linspace(0, 1, 41), "y": 0, "v": 1.0})

    with pytest.raises(UsageError, match=r"Column 'x' has 41 values. Allowed in a heatmap: 40"):
        plot_sweep_heatmap(df, "x", "y", "v")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda df: plot_sweep_metric(df, x="lr", y="loss"), "plot_sweep_metric() has no parameter 'x'. Here it is 'x_col'"),
        (lambda df: plot_sweep_metric(df, x_col="lr", y="loss"), "Type: plot_sweep_metric(df, y_col=…)"),
        (lambda df: plot_sweep_metric(df, "lr", "loss", color="depth"), "Here it is 'group_col'"),
        (lambda df: plot_sweep_metric(df, "lr", "loss", error_bars=True), "() has no parameter 'error_bars'. The bars are"),
        (lambda df: plot_sweep_metric(df, "lr", "loss", titel="T"), "Did you mean 'title'?"),
        (lambda df: plot_sweep_metrics(df, "lr", y=["loss"]), "Here it is 'y_cols'"),
        (lambda df: plot_sweep_heatmap(df, x_col="lr", y_col="depth", values="loss"), "Here it is 'value_col'"),
        (lambda df: plot_sweep_heatmap(df, "lr", "depth", "loss", aggregation="max"), "df.pivot_table(aggfunc=…)"),
        (lambda df: plot_sweep_metric(df, "lr", "lr"), "y_col and x_col are both 'lr'"),
        (lambda df: plot_sweep_metric(df, "lr", "loss", group_col="lr"), "group_col and x_col are both 'lr'"),
        (lambda df: plot_sweep_heatmap(df, "lr", "lr", "loss"), "y_col and x_col are both 'lr'"),
        (lambda df: plot_sweep_heatmap(df, "lr", "dpth", "loss"), "Unknown column 'dpth' in y_col"),
        (lambda df: plot_sweep_metric(df, "lr", "loss", method="std"), "Unknown method 'std'"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused_with_the_right_ones(call: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(grid())

    assert message in str(caught.value)


def test_a_forgotten_argument_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="y_col"):
        plot_sweep_metric(grid(), "lr")  # type: ignore[call-arg]


def test_of_many_values_side_by_side_some_are_named_and_all_have_a_place() -> None:
    df = pd.DataFrame({"c": [f"name {n}" for n in range(100)], "loss": np.arange(100.0)})

    figure = plot_sweep_metric(df, "c", "loss")

    axis = figure.axes[0].xaxis
    assert axis.get_label_text() == "c (100 values, one of 3 named)"
    assert [text.get_text() for text in axis.get_ticklabels()][:3] == ["name 0", "name 3", "name 6"]
    assert axis.get_ticklocs().tolist() == list(range(0, 100, 3))
    assert lines(figure, "means")[0].get_xdata().tolist() == list(range(100))


def test_forty_values_side_by_side_all_have_their_names() -> None:
    df = pd.DataFrame({"c": [f"{n}a" for n in range(40)], "loss": np.arange(40.0)})

    axis: Any = plot_sweep_metric(df, "c", "loss").axes[0].xaxis

    assert axis.get_label_text() == "c"
    assert len(axis.get_ticklabels()) == 40


def test_more_lines_than_can_be_told_apart_are_refused() -> None:
    df = pd.DataFrame({"c": range(41), "lr": 0.1, "loss": 1.0})

    with pytest.raises(UsageError, match=r"Column 'c' has 41 values\. Allowed as group_col: 40\. .*pandas.cut"):
        plot_sweep_metric(df, "lr", "loss", group_col="c")
    assert plot_sweep_metric(df[df["c"] < 40], "lr", "loss", group_col="c").axes


def test_the_legend_says_the_whole_confidence() -> None:
    figure = plot_sweep_metric(grid(), "lr", "loss", confidence=0.999)

    assert "mean, 99.9% interval (t)" in [text.get_text() for text in figure.legends[0].get_texts()]
