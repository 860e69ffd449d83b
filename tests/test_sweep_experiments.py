"""Points that are configurations of the harness: what is looked at when a sweep is planned, and what when a point is run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from autoexperiment.errors import UsageError
from autoexperiment.paths import new_run
from autoexperiment.sweep import work
from autoexperiment.sweep.points import Order, Point, Result
from autoexperiment.vocabulary import RunStatus

TABLE = "a,b,y\n" + "".join(f"{row},{row % 3},{2 * row}\n" for row in range(40))
BASE: dict[str, Any] = {
    "dataset": {"name": "custom", "path": "rows.csv", "params": {"task": "regression"}},
    "model": {"name": "mlp", "params": {"layer_sizes": [2, 4, 1], "output_activation": None}},
    "training": {"epochs": 1},
}
COUNTING = """
from pathlib import Path

import numpy as np

from autoexperiment.datasets import BaseDataset, Table


class Counting(BaseDataset):
    task = "regression"

    def load(self):
        with open("looks", "a") as file:
            file.write("x")
        return Table(np.arange(80.0).reshape(40, 2), np.arange(40.0))
"""


def planned(root: Path, base: Mapping[str, Any]) -> work.Work:
    return work.make("experiment", base, root=root, options={"name": "s"})


def run(root: Path, config: Mapping[str, Any]) -> Result:
    order = Order("experiment", Point(1, 1, {}, None, config, "key"), str(root), "outputs/s")
    return work.run_point(order, new_run(root / "outputs" / "s", datetime(2026, 1, 2)))


def test_data_that_went_away_after_planning_fail_the_point_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(TABLE)
    config = planned(tmp_path, BASE).resolve({}, None)
    (tmp_path / "rows.csv").unlink()

    result = run(tmp_path, config)

    assert result.status is RunStatus.FAILED
    assert f"There is no {tmp_path / 'rows.csv'}" in result.reason


def test_data_that_the_model_fits_no_more_fail_the_point_with_why(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(TABLE)
    config = planned(tmp_path, BASE).resolve({}, None)
    (tmp_path / "rows.csv").write_text("a,y\n" + "".join(f"{row},{row}\n" for row in range(40)))

    result = run(tmp_path, config)

    assert result.status is RunStatus.FAILED
    assert "'layer_sizes' begins with 2, and a row of the dataset has 1 features" in result.reason


def test_code_of_a_dataset_is_run_once_for_the_plan_and_once_for_each_point(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(COUNTING)
    base = {**BASE, "dataset": {"name": "custom", "loader": "own:Counting"}}

    doing = planned(tmp_path, base)
    configs = [doing.resolve({"training.learning_rate": rate}, None) for rate in (0.1, 0.01)]
    results = [run(tmp_path, config) for config in configs]

    assert [result.reason for result in results] == ["", ""]
    assert (tmp_path / "looks").read_text() == "x" * 3


SLOW = """
        import time
        if Path("looks").read_text() == "x" * SLOW_AT:
            time.sleep(600)
        return Table"""


@pytest.mark.parametrize("look", [3, 4])  # what an evaluation plans with, and what it scores
def test_evaluation_counts_towards_the_timeout(tmp_path: Path, look: int) -> None:
    slow = SLOW.replace("SLOW_AT", str(look))
    (tmp_path / "counted.py").write_text(COUNTING.replace("\n        return Table", slow))
    base = {**BASE, "dataset": {"name": "custom", "loader": "counted:Counting"}}
    made = work.make("experiment", base, root=tmp_path, options={"name": "s", "evaluate": "test"})
    config = made.resolve({}, None)
    point = Point(1, 1, {}, None, config, "key")
    order = Order("experiment", point, str(tmp_path), "outputs/s", timeout_s=6.0, options={"evaluate": "test"})

    result = work.run_point(order, new_run(tmp_path / "outputs" / "s", datetime(2026, 1, 2)))

    assert (result.status, result.metrics) == (RunStatus.TIMED_OUT, {})
    assert "timeout_s" in result.reason


@pytest.mark.parametrize("path", ["name", "description", "output.directory", "output"])
def test_what_changes_nothing_cannot_be_varied(tmp_path: Path, path: str) -> None:
    (tmp_path / "rows.csv").write_text(TABLE)

    with pytest.raises(UsageError, match="changes nothing about what is trained"):
        planned(tmp_path, BASE).resolve({path: "other"}, None)
