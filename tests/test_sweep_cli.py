"""`mlx sweep` as a person uses it, with real training processes."""

from __future__ import annotations

import csv
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from workspaces import MLP, Workspace, bytes_of

RATES = [0.1, 0.001]
SWEEP: dict[str, Any] = {
    "name": "rates",
    "base": {**{key: value for key, value in MLP.items() if key != "name"}, "training": {"epochs": 2}},
    "parameters": {"training.learning_rate": RATES, "model.params.layer_sizes": [[5, 2, 1], [5, 4, 1]]},
    "seeds": 2,
    "metric": "val_loss",
    "max_parallel": 2,
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.of(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace in which SWEEP was run to its end, for tests that only read."""
    with Workspace.of(tmp_path_factory.mktemp("swept")) as made:
        made.mlx("sweep", "run", "--config", made.write(SWEEP))
        yield made


def rows(place: Workspace, name: str = "rates") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(place.mlx("sweep", "results", name, "--json"))
    return found


# ---- before it is run


def test_dry_run_counts_the_points_says_the_time_and_writes_nothing(place: Workspace) -> None:
    config = place.write(SWEEP)

    told = place.mlx("sweep", "run", "--config", config, "--dry-run")
    facts = json.loads(place.mlx("sweep", "--config", config, "--dry-run", "--json"))

    assert "points in all: 8" in told
    assert "expected time: about" in told
    assert (facts["trials"], facts["seeds"], facts["points"], facts["left"]) == (4, 2, 8, 8)
    assert facts["expected_s"] > 0
    assert not (place.root / "outputs").exists()


def test_every_point_is_checked_before_the_first_is_run(place: Workspace) -> None:
    wrong = {**SWEEP, "parameters": {"model.params.layer_sizes": [[5, 2, 1], [4, 2, 1], [5, 2, 3]]}}

    told = place.mlx("sweep", "run", "--config", place.write(wrong), code=1)

    assert "trial 2 (model.params.layer_sizes=[4, 2, 1])" in told
    assert "'layer_sizes' begins with 4" in told
    assert "trial 3" in told
    assert not (place.root / "outputs").exists()


def test_path_that_leads_nowhere_is_named_with_the_nearest(place: Workspace) -> None:
    wrong = {**SWEEP, "parameters": {"training.learning_rat": [0.1]}}

    told = place.mlx("sweep", "run", "--config", place.write(wrong), code=1)

    assert "learning_rat" in told
    assert "Did you mean" in told


# ---- what comes out


def test_every_point_is_a_row_and_a_run_of_the_history(swept: Workspace) -> None:
    found = rows(swept)

    assert [(row["params"]["training.learning_rate"], row["seed"]) for row in found] == [
        (rate, seed) for rate in RATES for _ in range(2) for seed in (1, 2)
    ]
    assert all(row["status"] == "completed" for row in found)
    assert all(row["trust"]["val_loss"] == "self_reported" for row in found)
    listed = json.loads(swept.mlx("history", "list", "--json"))["runs"]
    assert {run["run_dir"] for run in listed} == {row["run_dir"].removeprefix("outputs/") for row in found}
    assert {run["final_metrics"]["val_loss"] for run in listed} == {row["metrics"]["val_loss"] for row in found}


def test_point_has_the_bytes_of_the_same_configuration_run_alone(swept: Workspace, place: Workspace) -> None:
    row = rows(swept)[0]
    config = json.loads((swept.root / row["run_dir"] / "config.json").read_text())

    place.mlx("run-experiment", "--config", place.write(config))

    alone = next((place.root / "outputs" / "rates").glob("2*"))
    for part in ("checkpoints", "metrics"):
        assert bytes_of(alone / part) == bytes_of(swept.root / row["run_dir"] / part)


def test_table_for_other_programs_lies_beside_the_runs(swept: Workspace) -> None:
    with (swept.root / "outputs" / "rates" / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))

    assert [float(line["val_loss"]) for line in table] == [row["metrics"]["val_loss"] for row in rows(swept)]
    assert [line["learning_rate"] for line in table] == ["0.1"] * 4 + ["0.001"] * 4


def test_status_results_best_and_plot(swept: Workspace) -> None:
    status = json.loads(swept.mlx("sweep", "status", "rates", "--json"))
    table = swept.mlx("sweep", "results", "rates")
    best = json.loads(swept.mlx("sweep", "best", "rates", "--json"))
    picture = Path(swept.mlx("sweep", "plot", "rates", "--to", str(swept.root / "pictures")).strip())

    assert (status["planned"], status["ended"], status["left"], status["is_running"]) == (8, 8, 0, False)
    assert "8 of 8 points have ended: 8 completed" in swept.mlx("sweep", "status", "rates")
    assert table.split("\n")[0].split()[:5] == ["point", "learning_rate", "layer_sizes", "seed", "status"]
    means = {}
    for row in rows(swept):
        means.setdefault(row["trial"], []).append(row["metrics"]["val_loss"])
    assert best["winner"]["mean"] == pytest.approx(min(sum(values) / 2 for values in means.values()))
    assert isinstance(best["is_sure"], bool)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_export_writes_the_file_that_is_asked_for(swept: Workspace) -> None:
    swept.mlx("sweep", "export", "rates", "--format", "parquet", "--to", "all.parquet")

    told = swept.mlx("sweep", "export", "rates", "--format", "xls", code=2)

    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(swept.root / "all.parquet").num_rows == 8
    assert "Unknown format 'xls'" in told


def test_unknown_sweep_is_told_which_there_are(swept: Workspace) -> None:
    assert "There are: rates." in swept.mlx("sweep", "best", "rate", code=2)


# ---- going on


def test_sweep_that_is_there_is_not_run_again(swept: Workspace) -> None:
    config = swept.write(SWEEP, "again.json")

    refused = swept.mlx("sweep", "run", "--config", config, code=1)
    before = rows(swept)
    told = swept.mlx("sweep", "run", "--config", config, "--resume")

    assert "has 8 points already. Go on with it: --resume" in refused
    assert "left to run: 0" in told
    assert rows(swept) == before


def test_other_base_under_the_same_name_is_refused(swept: Workspace) -> None:
    other = {**SWEEP, "base": {**SWEEP["base"], "training": {"epochs": 3}}}

    told = swept.mlx("sweep", "run", "--resume", "--config", swept.write(other, "other.json"), code=1)

    assert "started from another base" in told


def test_interrupted_sweep_keeps_what_ended_and_goes_on(place: Workspace) -> None:
    config = place.write(
        {**SWEEP, "seeds": None, "parameters": {"training.epochs": [1, 10_000_000]}, "max_parallel": 1}
    )
    running = place.start("sweep", "run", "--config", config)
    book = place.root / "outputs" / "rates" / "sweep.jsonl"
    while not (book.exists() and '"kind":"ended"' in book.read_text()):
        assert running.poll() is None
        time.sleep(0.02)

    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)

    assert running.returncode == 130, out + err
    assert "Go on: mlx sweep run --resume" in err
    before = rows(place)
    assert [row["params"]["training.epochs"] for row in before] == [1]
    place.mlx("sweep", "run", "--resume", "--config", config, "--set", "parameters.training.epochs=[1, 2]")
    after = rows(place)
    assert after[0] == before[0]
    assert [row["params"]["training.epochs"] for row in after] == [1, 2]


def test_failed_point_is_a_row_with_its_reason(place: Workspace) -> None:
    diverges = {
        **SWEEP, "seeds": None, "parameters": {"training.learning_rate": [1e25, 0.01]},
        "base": {**SWEEP["base"], "training": {"epochs": 2, "optimizer": "sgd"}},
    }  # fmt: skip

    told = place.mlx("sweep", "run", "--config", place.write(diverges))

    first, second = rows(place)
    assert (first["status"], first["metrics"], second["status"]) == ("diverged", {}, "completed")
    assert "loss is" in first["reason"]
    assert "1 diverged" in told
    assert "1 completed" in told


def test_sweep_without_a_completed_point_is_a_failure(place: Workspace) -> None:
    hopeless = {**SWEEP, "seeds": None, "parameters": {"training.learning_rate": [1e25]}}
    hopeless["base"] = {**SWEEP["base"], "training": {"epochs": 2, "optimizer": "sgd"}}

    place.mlx("sweep", "run", "--config", place.write(hopeless), code=1)

    assert [row["status"] for row in rows(place)] == ["diverged"]


def test_point_that_takes_too_long_is_ended(place: Workspace) -> None:
    slow = {**SWEEP, "seeds": None, "timeout_s": 1.0, "parameters": {"training.epochs": [10_000_000]}}

    place.mlx("sweep", "run", "--config", place.write(slow), code=1)

    row = rows(place)[0]
    assert row["status"] == "timed_out"
    assert "timeout_s" in row["reason"]


def test_evaluation_is_recomputed_by_another_process(place: Workspace) -> None:
    place.mlx("sweep", "run", "--config", place.write({**SWEEP, "seeds": None, "evaluate": "test"}))

    row = rows(place)[0]
    again = json.loads(place.mlx("eval", "--run-dir", row["run_dir"], "--json"))
    assert row["trust"]["test_mse"] == "recomputed"
    assert row["metrics"]["test_mse"] == again["metrics"]["mse"]
