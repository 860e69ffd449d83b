"""Sweeps that are killed, stopped, or run out of disk: what ended is kept, and every point comes to its row once."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from held_points import NAME, SOURCE, Held, sweep_of, wait_until
from workflow_modules import modules
from workspaces import LINEAR, Workspace, kill_after

from autoexperiment.config.sweep_loader import load_sweep
from autoexperiment.errors import LabError
from autoexperiment.paths import SweepPaths
from autoexperiment.sweep import launching, results
from autoexperiment.sweep.plans import make_plan

KILLS = 3
SCRIPT = Path(__file__).resolve().parent.parent / "sweep_kills.py"
IN_RANGE = {"square.x": {"low": -30, "high": 50, "whole": True}}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.of(tmp_path) as made:
        yield made


@pytest.fixture
def held(place: Workspace) -> Iterator[Held]:
    made = Held(place.root)
    yield made
    made.release()


def rows(place: Workspace, name: str = NAME) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(place.mlx("sweep", "results", name, "--json"))
    assert len({row["key"] for row in found}) == len(found)
    return found


def values(place: Workspace) -> dict[int, float]:
    return {row["params"]["square.x"]: row["metrics"]["value"] for row in rows(place)}


def script(what: str, folder: Path, config: dict[str, Any]) -> Any:
    process = subprocess.run(
        [sys.executable, str(SCRIPT), what, str(folder), json.dumps(config)], capture_output=True, text=True,
        env={**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")},
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads(process.stdout.splitlines()[-1])


# ---- kill -9


def test_kill_at_every_failpoint_and_again_while_it_goes_on(tmp_path: Path) -> None:
    grid = {"parameters": {"square.x": [3, 2]}, "max_parallel": 1}

    places = script("every", tmp_path, grid)

    record = ["journal.before_write", "journal.written", "journal.synced"]
    point = ["sweep.run_made", "sweep.point_ended", "sweep.result_left", *record, "sweep.recorded"]
    assert places == [*record, *point, *point]


@pytest.mark.parametrize(
    "config",
    [
        {"sampler": {"name": "tpe", "trials": 12, "seed": 5}, "parameters": IN_RANGE, "seeds": None},
        {
            "sampler": {"name": "random", "trials": 6, "seed": 5}, "parameters": IN_RANGE,
            "halving": {"resource": "square.seed", "min": 1, "max": 4, "factor": 2},
        },
    ],
    ids=["tpe", "halving"],
)  # fmt: skip
def test_sweep_that_is_killed_again_and_again_is_the_one_that_never_was(tmp_path: Path, config: dict[str, Any]) -> None:
    if config["sampler"]["name"] == "tpe":
        pytest.importorskip("optuna")

    kills = script("again", tmp_path, {**config, "max_parallel": 1})

    assert kills >= 2


def test_kills_at_random_moments_change_no_number(place: Workspace) -> None:
    base = {name: value for name, value in LINEAR.items() if name != "name"}
    config = {"base": base, "parameters": {"dataset.params.n_samples": [40, 50, 60]}, "max_parallel": 2}
    started, chance, kills = time.monotonic(), random.Random(5), 0
    place.mlx("sweep", "run", "--config", place.write({**config, "name": "whole"}))
    duration = time.monotonic() - started
    words = ["sweep", "run", "--resume", "--config", place.write({**config, "name": "killed"})]

    for _ in range(KILLS):
        kills += kill_after(place.start(*words), chance.uniform(0.2, 0.8) * duration)
    place.mlx(*words)

    assert kills >= 1
    whole, killed = rows(place, "whole"), rows(place, "killed")
    facts = ("number", "trial", "seed", "params", "status")
    assert [[row[fact] for fact in facts] for row in killed] == [[row[fact] for fact in facts] for row in whole]
    assert [row["metrics"]["val_loss"] for row in killed] == [row["metrics"]["val_loss"] for row in whole]
    listed = json.loads(place.mlx("history", "list", "--json"))["runs"]
    assert [run["status"] for run in listed].count("completed") >= 6


def test_killed_process_of_a_point_is_a_row_with_its_reason(place: Workspace, held: Held) -> None:
    held.hold()
    sweep = place.start("sweep", "run", "--config", place.write(sweep_of([1, 2], max_parallel=1)))
    held.wait_for("begun", 1, of=sweep)

    os.kill(held.pids()[0], signal.SIGKILL)
    held.release()
    told, complaint = sweep.communicate()

    assert sweep.returncode == 0, told + complaint
    first, second = rows(place)
    assert (first["status"], first["metrics"]) == ("failed", {})
    assert "SIGKILL" in first["reason"]
    assert (second["status"], second["metrics"]["value"]) == ("completed", 4.0)


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signal_keeps_what_ended_and_the_rest_is_run_later(
    place: Workspace, held: Held, number: signal.Signals
) -> None:
    config = place.write(sweep_of([1, 2, 3], max_parallel=2))
    sweep = place.start("sweep", "run", "--config", config, start_new_session=True)
    held.wait_for("done", 1, of=sweep)
    held.hold()
    wait_until(lambda: len(held.said("begun")) == 3 or len(held.said("done")) == 3, "the last point")

    os.killpg(sweep.pid, number)  # as a terminal does
    _, complaint = sweep.communicate()

    is_late = sweep.returncode == 0  # all had ended before the signal came
    assert is_late or (sweep.returncode == 130 and "Go on: mlx sweep run --resume" in complaint), complaint
    held.check_gone()
    kept = values(place)
    held.release()
    place.mlx("sweep", "run", "--resume", "--config", config)
    assert values(place) == {1: 1.0, 2: 4.0, 3: 9.0}
    assert all(held.said("begun").count(x) == 1 for x in kept)


# ---- two at once


def test_second_sweep_of_a_name_is_refused_while_the_first_goes_on(place: Workspace, held: Held) -> None:
    config = place.write(sweep_of([1, 2], max_parallel=1))
    held.hold()
    first = place.start("sweep", "run", "--config", config)
    held.wait_for("begun", 1, of=first)

    told = place.mlx("sweep", "run", "--config", config, code=1)
    held.release()
    first.communicate()

    assert f"is going on in process {first.pid}. Wait for its end" in told
    assert first.returncode == 0
    assert values(place) == {1: 1.0, 2: 4.0}
    assert held.said("begun") == [1, 2]


# ---- a full disk


def _full(monkeypatch: pytest.MonkeyPatch, file: Path, *, after: int) -> None:
    """Let each write to a file fail, but for the first ones."""
    real, count = os.write, 0

    def write(fd: int, blob: bytes) -> int:
        nonlocal count
        if file.exists() and os.path.samestat(os.fstat(fd), file.stat()):
            count += 1
            if count > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, blob)

    monkeypatch.setattr(os, "write", write)


def test_full_disk_ends_the_sweep_and_nothing_is_run_again_but_what_was_stopped(
    place: Workspace, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = SweepPaths(place.root / "outputs" / NAME)
    sweep = load_sweep(place.root / place.write(sweep_of([1, 2, 3], max_parallel=1)))
    with modules(place.root) as made:
        made.write("held", SOURCE)
        with monkeypatch.context() as patch, pytest.raises(LabError, match="go on: mlx sweep run --resume"):
            _full(patch, paths.book, after=2)  # what is to be run, and the first point
            launching.run(make_plan(sweep, root=place.root).launch)
        kept = [row["number"] for row in results.rows(paths)]
        assert launching.run(make_plan(sweep, root=place.root, is_resumed=True).launch)

    assert kept == [1]
    assert values(place) == {1: 1.0, 2: 4.0, 3: 9.0}
    assert held.said("begun") == [1, 2, 3]
