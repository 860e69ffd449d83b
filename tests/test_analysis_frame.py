"""The history as a DataFrame."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from autoexperiment import history
from autoexperiment.analysis import best_of_sweep, compute_ci_df, runs_frame
from autoexperiment.errors import HarnessError, UsageError
from autoexperiment.paths import OutputPaths, new_run
from autoexperiment.vocabulary import RunStatus


def configuration(lr: float, **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "name": "first",
        "description": f"with {lr}",
        "dataset": {"name": "synthetic_regression", "params": {"seed": 42}},
        "model": {"name": "mlp", "params": {"layer_sizes": [5, 1], "seed": 42}},
        "training": {"learning_rate": lr, "epochs": 10, "seed": 1},
        "output": {"directory": "outputs", "checkpoint_frequency": 1},
    }
    for path, value in changes.items():
        *folders, last = path.split("__")
        place = config
        for folder in folders:
            place = place[folder]
        place[last] = value
    return config


def add_run(
    outputs: OutputPaths,
    config: dict[str, Any] | None,
    status: RunStatus = RunStatus.COMPLETED,
    *,
    experiment: str = "first",
    **metrics: float | None,
) -> Path:
    run = new_run(outputs.experiment(experiment), datetime(2026, 11, 21, 12, 0, 0))
    if config is not None:
        run.config.write_text(json.dumps(config))
    history.record_run(outputs, run, status=status, final_metrics=metrics or None)
    return run.folder


@pytest.fixture
def outputs(tmp_path: Path) -> OutputPaths:
    return OutputPaths(tmp_path / "outputs")


def test_a_row_for_each_run_with_what_differs_and_how_it_ended(outputs: OutputPaths) -> None:
    add_run(outputs, configuration(0.1), val_loss=2.0, loss=1.0)
    add_run(outputs, configuration(0.2), val_loss=3.0, loss=1.5)

    frame = runs_frame(outputs.index)

    assert list(frame.columns) == ["experiment", "timestamp", "run_dir", "status", "learning_rate", "val_loss", "loss"]
    assert frame["learning_rate"].tolist() == [0.1, 0.2]
    assert frame["val_loss"].tolist() == [2.0, 3.0]
    assert frame["run_dir"].tolist() == ["first/20261121_120000", "first/20261121_120000_2"]
    assert frame["status"].tolist() == ["completed", "completed"]


def test_only_completed_runs_have_numbers(outputs: OutputPaths) -> None:
    add_run(outputs, configuration(0.1), loss=1.0)
    add_run(outputs, configuration(0.2), RunStatus.DIVERGED, loss=None)
    add_run(outputs, configuration(0.3), RunStatus.INTERRUPTED, loss=0.5)
    add_run(outputs, configuration(0.4), RunStatus.FAILED)

    frame = runs_frame(outputs.index)

    assert frame["status"].tolist() == ["completed", "diverged", "interrupted", "failed"]
    assert frame["loss"].notna().tolist() == [True, False, False, False]
    assert frame["learning_rate"].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert compute_ci_df(frame, "loss", [])["missing"].tolist() == [3]


def test_failures_alone_still_have_a_column_of_numbers(outputs: OutputPaths) -> None:
    add_run(outputs, configuration(0.1), RunStatus.DIVERGED, loss=None)

    assert runs_frame(outputs.index)["loss"].dtype == "float64"


def test_names_are_short_unless_two_columns_could_be_meant(outputs: OutputPaths) -> None:
    add_run(outputs, configuration(0.1), loss=1.0)
    add_run(outputs, configuration(0.1, model__params__seed=7, training__seed=2, training__epochs=20), loss=1.0)

    columns = set(runs_frame(outputs.index).columns)

    assert {"model.params.seed", "training.seed", "epochs"} < columns
    assert "seed" not in columns
    assert "dataset.params.seed" not in columns


def test_dotted_names_may_be_asked_for(outputs: OutputPaths) -> None:
    add_run(outputs, configuration(0.1), loss=1.0)
    add_run(outputs, configuration(0.2), loss=1.0)

    assert "training.learning_rate" in runs_frame(outputs.index, has_short_names=False).columns


def test_a_parameter_never_takes_the_name_of_a_metric_or_a_fact(outputs: OutputPaths) -> None:
    for value in (1, 2):
        params = {"loss": value, "status": value, "a.b": value}
        add_run(outputs, configuration(0.1, dataset__params=params), loss=0.5, experiment_time=1.0)

    frame = runs_frame(outputs.index)

    assert frame["loss"].tolist() == [0.5, 0.5]
    assert frame["dataset.params.loss"].tolist() == [1, 2]
    assert frame["dataset.params.status"].tolist() == [1, 2]
    assert frame["a.b"].tolist() == [1, 2]
    assert not frame.columns.duplicated().any()


def test_a_key_with_a_dot_is_told_from_a_path(outputs: OutputPaths) -> None:
    for value in (1, 2):
        add_run(outputs, configuration(0.1, dataset__params={"a.b": value, "a": {"b": -value}}), loss=0.5)

    frame = runs_frame(outputs.index, has_short_names=False)

    assert frame['dataset.params."a.b"'].tolist() == [1, 2]
    assert frame["dataset.params.a.b"].tolist() == [-1, -2]


def test_a_metric_never_takes_the_name_of_a_fact(outputs: OutputPaths) -> None:
    add_run(outputs, configuration(0.1), status=RunStatus.COMPLETED, timestamp=3.0)

    assert runs_frame(outputs.index)["metric.timestamp"].tolist() == [3.0]


def test_lists_can_be_grouped(outputs: OutputPaths) -> None:
    for layers in ([5, 1], [5, 8, 1], [5, 8, 1]):
        add_run(outputs, configuration(0.1, model__params__layer_sizes=layers), loss=float(len(layers)))

    table = compute_ci_df(runs_frame(outputs.index), "loss", ["layer_sizes"])

    assert table["layer_sizes"].tolist() == ["[5, 1]", "[5, 8, 1]"]
    assert table["count"].tolist() == [1, 2]


def test_one_and_true_are_different_values(outputs: OutputPaths) -> None:
    for value in (1, True):
        add_run(outputs, configuration(0.1, dataset__params__shuffle=value), loss=1.0)

    assert "shuffle" in runs_frame(outputs.index).columns


def test_runs_without_a_configuration_have_rows_without_parameters(outputs: OutputPaths) -> None:
    add_run(outputs, None, experiment="autoresearch-mar5", val_bpb=1.5)
    add_run(outputs, configuration(0.1), val_loss=1.0)

    frame = runs_frame(outputs.index)

    assert len(frame) == 2
    assert frame["learning_rate"].isna().tolist() == [True, False]
    assert frame["val_bpb"].isna().tolist() == [False, True]


def test_experiments_are_chosen_by_name(outputs: OutputPaths) -> None:
    for name in ("one", "two", "three"):
        add_run(outputs, configuration(0.1), experiment=name, loss=1.0)

    assert runs_frame(outputs.index, "two")["experiment"].tolist() == ["two"]
    assert set(runs_frame(outputs.index, ["one", "three"])["experiment"]) == {"one", "three"}
    assert len(runs_frame(outputs.index)) == 3
    with pytest.raises(UsageError, match=r"Unknown experiment 'tow' in .*Did you mean 'two'\?"):
        runs_frame(outputs.index, ["one", "tow"])


def test_what_does_not_change_training_is_no_parameter(outputs: OutputPaths) -> None:
    add_run(outputs, configuration(0.1), loss=1.0)
    add_run(outputs, configuration(0.1, name="other", description="x", output__directory="o"), loss=1.0)

    assert list(runs_frame(outputs.index).columns) == ["experiment", "timestamp", "run_dir", "status", "loss"]


def test_an_empty_folder_gives_an_empty_frame_and_a_wrong_one_an_error(outputs: OutputPaths) -> None:
    outputs.root.mkdir()

    assert runs_frame(outputs.index).empty
    assert isinstance(runs_frame(outputs.index), pd.DataFrame)
    with pytest.raises(HarnessError, match="There is no folder"):
        runs_frame(outputs.root / "nothere" / "index.json")


def test_seeds_of_a_configuration_are_columns_and_no_parameters(outputs: OutputPaths) -> None:
    for lr in (0.1, 0.2):
        for seed in (1, 2, 3):
            add_run(outputs, configuration(lr, model__params__seed=seed), loss=lr + seed / 100)

    df = runs_frame(outputs.index)

    assert df["seed"].tolist() == [1, 2, 3] * 2
    assert df.attrs["params"] == ["learning_rate"]
    assert best_of_sweep(df, "loss").winner.count == 3


def test_half_of_a_character_in_a_configuration_is_shown_as_a_question_mark(outputs: OutputPaths) -> None:
    """JSON may name it, and pandas refuses it."""
    for text in ("a\udfff", "b"):
        add_run(outputs, configuration(0.1, dataset__params__note=text), loss=1.0)

    assert runs_frame(outputs.index)["note"].tolist() == ["a?", "b"]
