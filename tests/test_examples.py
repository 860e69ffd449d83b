"""Every configuration in experiments/ is run, as it stands but for the size of the picture network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import standin
from pictures import write_mnist
from workspaces import Workspace

EXAMPLES = Path(__file__).resolve().parent.parent / "experiments"
SWEEPS = {"grid.yaml": 36, "halving.yaml": 26, "hello_world.yaml": 18, "search.yaml": 20}  # points of each
FILES = sorted(path.name for path in EXAMPLES.iterdir() if path.suffix in (".json", ".yaml"))
_SMALLER = {"model.params.width": 4, "training.epochs": 6, "training.batch_size": 16, "training.learning_rate": 0.02}
SMALL = [word for path, value in _SMALLER.items() for word in ("--set", f"{path}={value}")]

# what a run shows of its last epoch, where the data can be learned
LEARNED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "example-comprehensive": lambda last: last["val_loss"] < 0.02,  # the noise has a variance of 0.01
    "example-yaml": lambda last: last["val_accuracy"] > 0.8,
    "custom-two-moons": lambda last: last["val_accuracy"] > 0.9,
    "custom-table": lambda last: last["val_loss"] < 0.03,  # the noise has a variance of 0.0144
    "image-mnist": lambda last: last["val_accuracy"] > 0.8,
    "multi-regression-small": lambda last: last["val_loss"] < 0.05,
    "multi-classification": lambda last: last["val_accuracy"] > 0.8,
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.of(tmp_path) as place:
        yield filled(place)


def filled(place: Workspace) -> Workspace:
    shutil.copytree(EXAMPLES, place.root / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    write_mnist(place.root / "data" / "mnist", 320, 64, 7, side=12)
    return place


def test_there_are_examples_of_each_kind() -> None:
    assert {"example.json", "example.yaml", "multi_example.json", "lr_0.01.json", "custom.json", "image.json"} <= set(
        FILES
    )


@pytest.mark.parametrize("name", FILES)
def test_example_runs_and_learns(place: Workspace, name: str) -> None:
    words = SMALL if name == "image.json" else []

    answer = json.loads(place.mlx("run-experiment", "--config", f"experiments/{name}", "--json", *words))

    for summary in answer if isinstance(answer, list) else [answer]:
        assert summary["status"] == "completed"
        assert LEARNED.get(summary["experiment"], lambda last: last["val_loss"] > 0)(summary["final_metrics"])
        evaluation = json.loads(place.mlx("eval", "--run-dir", summary["run_dir"], "--json"))
        assert all(value is not None for value in evaluation["metrics"].values())


def test_tuning_examples_differ_by_the_learning_rate_alone() -> None:
    configs = [json.loads((EXAMPLES / f"lr_{rate}.json").read_text()) for rate in ("0.001", "0.01", "0.1")]

    rates = [config["training"].pop("learning_rate") for config in configs]
    names = [config.pop("name") for config in configs]

    assert rates == [0.001, 0.01, 0.1]
    assert names == [f"tune-lr-{rate}" for rate in rates]
    assert configs[0] == configs[1] == configs[2]


# ---- sweeps


def test_every_sweep_is_run_by_a_test() -> None:
    assert {path.name for path in (EXAMPLES / "sweeps").iterdir()} == {*SWEEPS, "gpt.yaml"}


@pytest.mark.parametrize("name", SWEEPS)
def test_sweep_has_the_points_that_it_says(place: Workspace, name: str) -> None:
    if name == "search.yaml":
        pytest.importorskip("optuna")
    config = f"experiments/sweeps/{name}"

    plan = json.loads(place.mlx("sweep", "run", "--config", config, "--dry-run", "--json"))

    assert plan["points"] == plan["left"] == SWEEPS[name]


def test_search_learns_a_better_rate_than_most_it_tried(place: Workspace) -> None:
    pytest.importorskip("optuna")

    place.mlx("sweep", "run", "--config", "experiments/sweeps/search.yaml", "--set", "sampler.trials=14")

    losses = [row["metrics"]["val_loss"] for row in json.loads(place.mlx("sweep", "results", "tpe-rates", "--json"))]
    assert len(losses) == 14
    assert min(losses) < sorted(losses)[7] / 2


def test_sweep_of_the_recipe_is_scored_by_the_sealed_evaluation(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = standin.make_recipe(tmp_path, prepared, monkeypatch)
    small = ["base.budget=steps:2", "parameters={constants.DEPTH: [1, 2]}", "seeds=1"]
    words = ["sweep", "run", "--config", str(EXAMPLES / "sweeps" / "gpt.yaml")]

    for text in small:
        words += ["--set", text]
    command = [sys.executable, "-m", "autoexperiment", *words]
    answer = subprocess.run(command, cwd=root, env=dict(os.environ), capture_output=True, text=True)

    assert answer.returncode == 0, answer.stdout + answer.stderr
    book = (root / "outputs" / "gpt-lr-depth" / "sweep.jsonl").read_text()
    rows = [json.loads(line.partition("\t")[0]) for line in book.splitlines()]
    results = [row["result"] for row in rows if row["kind"] == "ended"]
    assert [result["status"] for result in results] == ["completed"] * 2
    assert {result["trust"]["val_bpb"] for result in results} == {"recomputed"}
    assert standin.git(root, "status", "--short") == ""
