"""What `mlx sweep` prints, in this process, of points that are computed at once."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import instant
import pytest
from click.testing import CliRunner
from instant import BASE, EPOCHS, RATE

from autoexperiment.cli import sweep as command
from autoexperiment.config.sweep_loader import load_sweep_dict
from autoexperiment.errors import ConfigError, HarnessError, LabError, Locked, UsageError
from autoexperiment.files import Lock
from autoexperiment.paths import SweepPaths
from autoexperiment.sweep import dask


@dataclass(frozen=True)
class Answer:
    out: str
    err: str
    code: Any


@dataclass(frozen=True)
class Shell:
    """`mlx sweep` in a folder."""

    root: Path

    def write(self, name: str = "sweep.json", **fields: Any) -> str:
        whole = {"name": "s", "base": BASE, "metric": "val_loss", "max_parallel": 1, **fields}
        (self.root / name).write_text(json.dumps(whole))
        return name

    def __call__(self, *words: str) -> Answer:
        """Raises: LabError: as `mlx` would say it."""
        made = CliRunner().invoke(command.command, words, standalone_mode=False)
        if made.exception:
            raise made.exception
        return Answer(made.stdout, made.stderr, made.return_value)

    def sweep(self, *words: str, **fields: Any) -> Answer:
        return self("run", "--config", self.write(**fields), *words)


@pytest.fixture
def mlx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    instant.use(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path)


TWO: Mapping[str, Any] = {RATE: [0.1, 0.2]}


# ---- run


def test_a_refused_sweep_prints_nothing_else(mlx: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(dask, "CONNECT_S", 0.2)
    mlx.sweep(parameters=TWO)

    for words, why in (([], "--resume"), (["--resume", "--dask", "tcp://127.0.0.1:1"], "No dask scheduler answers")):
        made = CliRunner().invoke(command.command, ["run", "--config", "sweep.json", *words], standalone_mode=False)
        assert isinstance(made.exception, LabError)
        assert why in str(made.exception)
        assert made.output == ""


def test_dry_run_of_a_sweep_that_is_there_says_so(mlx: Shell) -> None:
    mlx.sweep(parameters=TWO)

    with pytest.raises(LabError, match="has 2 points already"):
        mlx.sweep("--dry-run", parameters=TWO)
    with Lock(SweepPaths(mlx.root / "outputs" / "s").lock).acquire(), pytest.raises(Locked):
        mlx.sweep("--dry-run", "--resume", parameters=TWO)


def test_notes_are_told_beside_json(mlx: Shell) -> None:
    answer = mlx.sweep("--json", parameters=TWO, halving={"resource": EPOCHS, "max": 2, "factor": 2})

    assert json.loads(answer.out)["ended"] == 3
    assert answer.err == "Rung 2 of 2: 1 of 2 trials go on with training.epochs 2.\n"


def test_points_of_earlier_plans_are_told_apart(mlx: Shell) -> None:
    mlx.sweep(parameters={RATE: [0.1, 0.2, 0.3]})

    dry = mlx.sweep("--resume", "--dry-run", parameters={RATE: [0.1]})
    real = mlx.sweep("--resume", parameters={RATE: [0.1]})

    assert "points in all: 1\n  left to run: 0\n  points of earlier plans: 2\n" in dry.out
    assert "\n1 of 1 points have ended, and 2 of earlier plans: 3 completed; " in real.out
    assert "1 of 1 points have ended, and 2 of earlier plans: 3 completed" in mlx("status", "s").out
    assert json.loads(mlx("status", "s", "--json").out)["earlier"] == 2


def test_plan_says_what_is_varied_and_what_halving_saves(mlx: Shell) -> None:
    ranges = {RATE: {"low": 0, "high": 0.1}, "training.seed": {"low": 0, "high": 8, "whole": True}}
    sampler = {"name": "random", "trials": 9}

    answer = mlx.sweep("--dry-run", parameters=ranges, sampler=sampler, halving={"resource": EPOCHS, "max": 9})

    assert f"    {RATE}: low 0, high 0.1\n" in answer.out
    assert "    training.seed: low 0, high 8, whole true\n" in answer.out
    # 9 + 3 * 3 + 1 * 9, and 9 * 9
    assert f"  successive halving by {EPOCHS}: 9 with 1, 3 with 3, 1 with 9; 27 in all, 81 without\n" in answer.out


def test_plan_says_what_is_left_out(mlx: Shell) -> None:
    answer = mlx.sweep("--dry-run", parameters={**TWO, "training.batch_size": [4, 8]})

    assert "points in all: 2\n  left out, the same as others in all that decides what comes out: 2\n" in answer.out


def test_trials_that_go_on_instead_of_others_are_counted(mlx: Shell) -> None:
    halving = {"resource": EPOCHS, "max": 2, "factor": 2}
    mlx.sweep(parameters={RATE: [0.3, 0.4]}, halving=halving)

    answer = mlx.sweep("--resume", parameters={RATE: [0.1, 0.2, 0.3, 0.4]}, halving=halving)

    assert [line.split()[0] for line in answer.out.splitlines() if line.startswith("[")][-1] == "[6/6]"
    assert "6 of 6 points have ended, and 1 of earlier plans: 7 completed" in answer.out


@pytest.mark.parametrize("place", ["o/p", "my runs"])
def test_commands_that_are_proposed_find_the_sweep(place: str, mlx: Shell) -> None:
    answer = mlx.sweep(parameters=TWO, output=place)

    proposed = answer.out.splitlines()[-1].removeprefix("See: ").split(", ")
    assert len(proposed) == 3
    for line in proposed[:2]:
        words = shlex.split(line)
        assert words[:2] == ["mlx", "sweep"]
        assert mlx(*words[2:]).code == 0


def test_command_that_goes_on_is_the_one_that_was_given(mlx: Shell) -> None:
    config = mlx.write("my sweep.json", parameters={RATE: [0.1, 5, 0.2, 0.3]})

    answer = mlx("run", "--config", config, "--set", "name=other", "--max-parallel", "2")

    again = "mlx sweep run --resume --config 'my sweep.json' --set name=other --max-parallel 2"
    assert answer.code == 130
    assert answer.err.endswith(f"Go on: {again}\n")


def test_no_option_is_forgotten_in_the_command_that_goes_on() -> None:
    given = {
        "config": Path("a b.yaml"), "overrides": ("seeds=3", "parameters.training.epochs=[1, 2]"), "trackers": ("mlflow",),
        "max_parallel": None, "address": "tcp://h:1", "retry_failed": True, "as_json": True, "resume": False,
    }  # fmt: skip

    words = shlex.split(command._again(given))

    assert words == [
        "mlx", "sweep", "run", "--resume", "--config", "a b.yaml", "--set", "seeds=3",
        "--set", "parameters.training.epochs=[1, 2]", "--track", "mlflow", "--dask", "tcp://h:1", "--retry-failed", "--json",
    ]  # fmt: skip


def test_tracker_that_is_switched_off_names_the_command_that_finds_the_sweep(mlx: Shell) -> None:
    pytest.importorskip("tensorboardX")
    place = mlx.root / "my runs" / "s"
    (place / "tensorboard.log").mkdir(parents=True)  # in the way

    answer = mlx.sweep("--track", "tensorboard", parameters=TWO, output="my runs")

    assert "mlx sweep export s --format tensorboard --output-dir 'my runs'\n" in answer.out


# ---- what came out


def test_metrics_that_are_not_shown_are_counted_over_all_rows(mlx: Shell) -> None:
    mlx.sweep(parameters={RATE: [9, 0.1]})  # the first has failed, and has none

    answer = mlx("results", "s")

    # val_loss, wall_s, a, b, c and d; shown are val_loss, a, b and c
    assert answer.err == "2 more metrics: --json, or mlx sweep export s --format csv\n"
    assert mlx("results", "s", "--metric", "a").err.startswith("5 more metrics")


def test_nothing_is_said_of_other_metrics_where_there_are_none(mlx: Shell) -> None:
    mlx.sweep(parameters={RATE: [9]})

    assert mlx("results", "s").err == ""


@pytest.mark.parametrize("view", ["results", "best", "plot"])
def test_unknown_metric_is_refused(view: str, mlx: Shell) -> None:
    mlx.sweep(parameters=TWO)

    with pytest.raises(UsageError, match=r"Unknown metric 'val_los' in the sweep s.*Did you mean 'val_loss'"):
        mlx(view, "s", "--metric", "val_los")


@pytest.mark.parametrize("view", ["best", "plot"])
def test_sweep_without_results_says_where_to_look(view: str, mlx: Shell) -> None:
    mlx.sweep(parameters={RATE: [5]})
    (mlx.root / "outputs" / "s" / "sweep.jsonl").write_text("")

    with pytest.raises(HarnessError, match=r"The sweep s has no results yet.* mlx sweep status s$"):
        mlx(view, "s")


@pytest.mark.parametrize(
    ("fields", "metric", "goal"),
    [
        ({}, "val_loss", "maximize"),
        ({"metric": "a", "goal": "maximize"}, "a", "minimize"),
        ({"metric": "a", "goal": "minimize"}, "val_loss", "maximize"),
    ],
)
def test_goal_against_the_known_one_is_refused(fields: dict[str, Any], metric: str, goal: str, mlx: Shell) -> None:
    mlx.sweep(parameters=TWO, **fields)

    with pytest.raises(UsageError, match=f"--goal is {goal}, but '{metric}' is to"):
        mlx("best", "s", "--metric", metric, "--goal", goal)


def test_goal_of_a_metric_that_nobody_knows_is_taken(mlx: Shell) -> None:
    pytest.importorskip("pandas")
    mlx.sweep(parameters=TWO)

    found = json.loads(mlx("best", "s", "--metric", "wall_s", "--goal", "maximize", "--json").out)

    assert found["goal"] == "maximize"


def test_export_says_what_it_wrote_as_json(mlx: Shell) -> None:
    mlx.sweep(parameters=TWO)

    told = json.loads(mlx("export", "s", "--format", "csv", "--to", "all.csv", "--json").out)

    assert told == {"format": "csv", "to": "all.csv", "points": 2}
    assert len((mlx.root / "all.csv").read_text().splitlines()) == 3


# ---- the file


@pytest.mark.parametrize(
    ("metric", "meant"), [("val_los", "val_loss"), ("val_bbp", "val_bpb"), ("test_acuracy", "test_accuracy")]
)
def test_mistyped_metric_is_told_the_nearest(metric: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean the metric '{meant}'"):
        load_sweep_dict({"name": "s", "base": BASE, "metric": metric})


def test_metric_that_is_like_no_other_is_told_none() -> None:
    with pytest.raises(ConfigError) as refusal:
        load_sweep_dict({"name": "s", "base": BASE, "metric": "zebras"})

    assert "Did you mean" not in str(refusal.value)
