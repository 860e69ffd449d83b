"""`kill -9` of the harness at any moment: index, metrics and checkpoints stay readable, and the run can be finished."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from workspaces import MLP, Workspace, bytes_of, kill_after

KILLS = 8
CONFIG = {
    **MLP,
    "dataset": {"name": "synthetic_regression", "params": {"n_samples": 300, "n_features": 5}},
    "training": {"epochs": 30, "batch_size": 4},
    "output": {"checkpoint_frequency": 3},
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.of(tmp_path) as place:
        yield place


def check_readable(place: Workspace) -> None:
    """Whatever is there is whole: nothing that a reader opens is half a file."""
    outputs = place.root / "outputs"
    for file in [*outputs.rglob("*.json")]:
        if not any(part.startswith(".") for part in file.relative_to(outputs).parts):
            json.loads(file.read_text())
    for folder in outputs.glob("*/*/checkpoints/checkpoint_*/"):
        manifest = json.loads((folder / "manifest.json").read_text())
        assert {p.name for p in folder.iterdir()} == {"manifest.json", *manifest["files"]}
    for stream in outputs.glob("*/*/metrics/metrics.ndjson"):
        for line in stream.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                json.loads(line)


def finish(place: Workspace, folder: Path) -> None:
    if (folder / "config.json").exists():
        place.mlx("run-experiment", "--resume", str(folder))


def test_run_that_is_killed_again_and_again_ends_as_if_it_never_was(place: Workspace) -> None:
    started = time.monotonic()
    whole = place.run(CONFIG)
    duration = time.monotonic() - started
    expected = bytes_of(whole["run_dir"])
    chance = random.Random(5)
    kills = 0

    for _ in range(KILLS):
        known = set((place.root / "outputs" / "net").iterdir())
        process = place.start("run-experiment", "--config", "config.json")
        kills += kill_after(process, chance.uniform(0.05, duration))
        check_readable(place)
        listed = json.loads(place.mlx("history", "list", "--json"))["runs"]
        assert {run["status"] for run in listed} <= {"completed", "interrupted"}
        for folder in set((place.root / "outputs" / "net").iterdir()) - known:
            again = place.start("run-experiment", "--resume", str(folder))  # and killed once more, while it goes on
            kill_after(again, chance.uniform(0.05, duration))
            finish(place, folder)
            if (folder / "config.json").exists():
                assert bytes_of(folder) == expected
            else:
                shutil.rmtree(folder)

    assert kills >= KILLS // 2
    runs = json.loads(place.mlx("history", "list", "--json"))["runs"]
    folders = {p.name for p in (place.root / "outputs" / "net").iterdir()}
    assert sorted(run["timestamp"] for run in runs) == sorted(folders)
    assert {run["status"] for run in runs} == {"completed"}


def test_eight_processes_fill_one_index(place: Workspace) -> None:
    config = {**MLP, "model": {"name": "linear_regression"}, "training": {"epochs": 1}}
    place.write([{**config, "name": f"many-{n % 3}"} for n in range(25)])

    processes = [place.start("run-experiment", "--config", "config.json") for _ in range(8)]
    codes = [process.communicate(timeout=300) and process.returncode for process in processes]

    assert codes == [0] * 8
    runs = place.index()
    assert len(runs) == 8 * 25
    assert len({run["run_dir"] for run in runs}) == 8 * 25
    assert {run["status"] for run in runs} == {"completed"}


def test_signals_to_the_whole_group_end_the_run_once(place: Workspace) -> None:
    """Ctrl-C on a terminal goes to every process of the group."""
    process = place.start(
        "run-experiment", "--config", place.write({**CONFIG, "training": {"epochs": 10**6}}), start_new_session=True
    )
    while not list((place.root / "outputs").glob("net/*/metrics/metrics.ndjson")):
        time.sleep(0.02)

    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)

    assert process.returncode == 128 + signal.SIGINT
    assert place.index()[0]["status"] == "interrupted"
