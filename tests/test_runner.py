"""The harness from outside: runs, how they end, going on with them, evaluating them, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from workspaces import LINEAR, LONG, MLP, Workspace, bytes_of, wait_for

from autoexperiment import runner
from autoexperiment.config import ConfigLoader
from autoexperiment.errors import ConfigError, HarnessError


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.of(tmp_path) as place:
        yield place


def changed(config: dict[str, Any], **sections: dict[str, Any]) -> dict[str, Any]:
    """A configuration with other values in some sections."""
    return {**config, **{name: {**config.get(name, {}), **values} for name, values in sections.items()}}


# ---- a run


def test_run_leaves_the_whole_layout(place: Workspace) -> None:
    summary = place.run(LINEAR)

    folder = Path(summary["run_dir"])
    assert folder.parent == place.root / "outputs" / "line"
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "summary.json", "run.json", "run.log", "metrics", "checkpoints", ".lock",
    }  # fmt: skip
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {
        "checkpoint_epoch_2", "checkpoint_epoch_4", "checkpoint_final",
    }  # fmt: skip
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert (summary["status"], summary["epochs"], summary["final_metrics"]["epoch"]) == ("completed", 4, 4)


def test_record_says_how_each_number_was_obtained(place: Workspace) -> None:
    summary = place.run(LINEAR)

    record = json.loads((Path(summary["run_dir"]) / "run.json").read_text())
    assert record["outcome"] == "ok"
    assert record["trust"]["val_loss"] == "self_reported"
    assert record["trust"]["wall_s"] == "measured"
    assert set(record["trust"]) == set(record["metrics"])


def test_kept_configuration_is_whole_and_runs_again(place: Workspace) -> None:
    first = place.run(MLP)

    config = json.loads((Path(first["run_dir"]) / "config.json").read_text())
    again = place.run(config)
    assert config["training"]["batch_size"] == 32
    assert bytes_of(first["run_dir"]) == bytes_of(again["run_dir"])


def test_override_takes_the_place_of_the_files_value(place: Workspace) -> None:
    summary = place.run(LINEAR, "--set", "training.epochs=3", "--set", "name=other")

    assert (summary["experiment"], summary["epochs"]) == ("other", 3)


def test_steps_are_told_in_order(place: Workspace) -> None:
    printed = place.mlx("run-experiment", "--config", place.write(LINEAR))

    steps = [line for line in printed.splitlines() if line.startswith(("[", "      ✓"))]
    assert [step.split("]")[0] for step in steps if step.startswith("[")] == [f"[{n}/5" for n in range(1, 6)]
    assert len(steps) == 10
    assert "\r" not in printed


def test_log_is_removed_when_it_is_not_wanted(place: Workspace) -> None:
    summary = place.run(changed(LINEAR, output={"save_logs": False}))

    assert not (Path(summary["run_dir"]) / "run.log").exists()


def test_experiments_of_one_file_run_in_order(place: Workspace) -> None:
    place.mlx("run-experiment", "--config", place.write([LINEAR, MLP, {**LINEAR, "name": "third"}]))

    assert [(run["experiment"], run["status"]) for run in place.index()] == [
        ("line", "completed"), ("net", "completed"), ("third", "completed"),
    ]  # fmt: skip


def test_first_failure_ends_the_rest(place: Workspace) -> None:
    wild = {**changed(MLP, training={"learning_rate": 1e30, "optimizer": "sgd"}), "name": "wild"}

    printed = place.mlx("run-experiment", "--config", place.write([LINEAR, wild, {**LINEAR, "name": "third"}]), code=1)

    assert [run["status"] for run in place.index()] == ["completed", "diverged"]
    assert "Not run, because an experiment before did not complete: third." in printed


def test_every_experiment_of_a_file_is_checked_before_the_first_is_run(place: Workspace) -> None:
    misfit = changed(MLP, model={"params": {"layer_sizes": [7, 8, 1]}})

    printed = place.mlx("run-experiment", "--config", place.write([LINEAR, misfit]), code=1)

    assert "layer_sizes" in printed
    assert not (place.root / "outputs").exists()


# ---- dry runs


def test_dry_run_writes_nothing(place: Workspace) -> None:
    answer = place.run(LINEAR, "--dry-run")

    assert answer["status"] == "dry_run"
    assert answer["data"] == {
        "task": "regression", "rows": 100, "shape": [5], "classes": 0,
        "parts": {"train": 80, "val": 10, "test": 10}, "to_fetch": [],
    }  # fmt: skip
    assert [p.name for p in place.root.iterdir()] == ["config.json"]


def test_dry_run_says_what_the_model_does_not_fit(place: Workspace) -> None:
    misfit = changed(MLP, model={"params": {"layer_sizes": [7, 8, 3]}})

    printed = place.mlx("run-experiment", "--dry-run", "--config", place.write(misfit), code=1)

    assert printed.startswith("Error: Configuration validation failed:\n  - ")
    assert "7" in printed and "5" in printed


def test_dry_run_says_that_data_is_missing(place: Workspace) -> None:
    table = {**LINEAR, "dataset": {"name": "custom", "path": "no/such.csv"}}

    printed = place.mlx("run-experiment", "--dry-run", "--config", place.write(table), code=1)

    assert "no/such.csv" in printed


LOADER = """\
from autoexperiment.datasets import BaseDataset, Table
import numpy as np, os
class Mine(BaseDataset):
    def __init__(self, fails="", marker=""):
        self.fails = fails
        self.marker = marker
        if fails == "made":
            raise RuntimeError("no such thing")
    def load(self):
        print("epoch 99/100: loss 0.0")
        if self.fails == "trained" and os.path.exists(self.marker):
            os._exit(9)  # not in the dry run: there is no output folder yet
        if self.fails == "shape":
            return Table(np.zeros((20, 3)), np.zeros(7))
        return Table(np.arange(60.0).reshape(20, 3), np.arange(20.0))
"""


def with_loader(**params: Any) -> dict[str, Any]:
    return {**LINEAR, "dataset": {"name": "custom", "loader": "mine:Mine", "params": params}}


def test_own_dataset_trains(place: Workspace) -> None:
    (place.root / "mine.py").write_text(LOADER)

    summary = place.run(with_loader())

    assert summary["status"] == "completed"
    assert summary["final_metrics"]["epoch"] == 4  # what the class prints is no metric


NOISE = """\
        import threading
        threading.Thread(target=lambda: [os.write(1, b".") for _ in range(10**6)], daemon=True).start()
"""
LIE = """\
        if os.path.exists(self.marker):
            os.write(1, b"done: 4 epochs\\n")
            os._exit(0)
"""
LOADING = "    def load(self):\n"


def test_noise_of_a_library_is_no_failure(place: Workspace) -> None:
    (place.root / "mine.py").write_text(LOADER.replace(LOADING, LOADING + NOISE))

    assert place.run(with_loader())["status"] == "completed"


def test_words_of_an_own_dataset_are_no_success(place: Workspace) -> None:
    (place.root / "mine.py").write_text(LOADER.replace(LOADING, LOADING + LIE))

    summary = place.run(with_loader(marker=str(place.root / "outputs")), code=1)

    assert (summary["status"], summary["epochs"]) == ("failed", 0)


@pytest.mark.parametrize("fails, told", [("made", "no such thing"), ("shape", "one target for each of the 20 rows")])
def test_dry_run_runs_the_code_of_an_own_dataset(place: Workspace, fails: str, told: str) -> None:
    (place.root / "mine.py").write_text(LOADER)

    printed = place.mlx("run-experiment", "--dry-run", "--config", place.write(with_loader(fails=fails)), code=1)

    assert told in printed
    assert "Traceback" not in printed


# ---- how runs end


def test_divergence_ends_with_nulls_and_no_final_checkpoint(place: Workspace) -> None:
    summary = place.run(changed(MLP, training={"learning_rate": 1e30, "optimizer": "sgd"}), code=1)

    assert summary["status"] == "diverged"
    assert summary["final_metrics"]["loss"] is None
    assert not Path(summary["checkpoint_dir"], "checkpoint_final").exists()
    assert place.index()[0]["status"] == "diverged"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_whole_files_and_exit_code_130(place: Workspace, number: signal.Signals) -> None:
    config = place.write(changed(MLP, training=LONG, output={"checkpoint_frequency": 10}))
    process = place.start("run-experiment", "--config", config, "--json")
    wait_for(process, "outputs/net/*/checkpoints/checkpoint_epoch_10/manifest.json", place.root)

    process.send_signal(number)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130
    summary = json.loads(out)
    rows = json.loads(Path(summary["metrics_dir"], "metrics.json").read_text())["metrics"]
    assert summary["status"] == "interrupted"
    assert [row["epoch"] for row in rows] == list(range(1, summary["epochs"] + 1))
    assert f"--resume {summary['run_dir']}" in err
    assert place.index()[0]["status"] == "interrupted"


def test_interruption_ends_the_rest_of_a_file(place: Workspace) -> None:
    config = place.write([changed(MLP, training=LONG), LINEAR])
    process = place.start("run-experiment", "--config", config)
    wait_for(process, "outputs/net/*/metrics/metrics.ndjson", place.root)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "Not run, because an experiment before did not complete: line." in err


def test_run_over_its_time_is_ended_and_can_go_on(place: Workspace) -> None:
    summary = place.run(changed(MLP, training={**LONG, "timeout_s": 2}), code=1)

    assert summary["status"] == "timed_out"
    assert summary["epochs"] > 0


def test_failure_of_the_process_is_told_with_its_log(place: Workspace) -> None:
    (place.root / "mine.py").write_text(LOADER)
    config = {**with_loader(fails="trained", marker=str(place.root / "outputs")), "output": {"save_logs": False}}

    printed = place.mlx("run-experiment", "--config", place.write(config), code=1)

    assert "The experiment failed" in printed
    log = next((place.root / "outputs" / "line").glob("*/run.log"))
    assert str(log) in printed


# ---- going on


def interrupted_run(place: Workspace, config: dict[str, Any]) -> str:
    """The folder of a run that was stopped after its first checkpoint."""
    process = place.start("run-experiment", "--config", place.write(config), "--json")
    wait_for(process, f"outputs/{config['name']}/*/checkpoints/checkpoint_epoch_*/manifest.json", place.root)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    folder: str = json.loads(out)["run_dir"]
    return folder


SLOW = changed(MLP, training={"epochs": 150, "batch_size": 2}, output={"checkpoint_frequency": 20})


def test_resumed_run_ends_with_the_bytes_of_one_that_was_never_stopped(place: Workspace) -> None:
    folder = interrupted_run(place, SLOW)
    assert json.loads(Path(folder, "summary.json").read_text())["status"] == "interrupted"

    resumed = json.loads(place.mlx("run-experiment", "--resume", folder, "--json"))
    whole = place.run(SLOW)

    assert resumed["status"] == "completed"
    assert bytes_of(folder) == bytes_of(whole["run_dir"])
    assert [run["status"] for run in place.index()] == ["completed", "completed"]


def test_completed_run_is_left_as_it_is(place: Workspace) -> None:
    summary = place.run(LINEAR)
    before = bytes_of(summary["run_dir"])

    printed = place.mlx("run-experiment", "--resume", summary["run_dir"])

    assert "completed already" in printed
    assert bytes_of(summary["run_dir"]) == before


def test_diverged_run_is_not_gone_on_with(place: Workspace) -> None:
    summary = place.run(changed(MLP, training={"learning_rate": 1e30, "optimizer": "sgd"}), code=1)

    printed = place.mlx("run-experiment", "--resume", summary["run_dir"], code=1)

    assert "would do so again" in printed and "learning_rate" in printed


def test_run_that_is_going_on_is_not_resumed(place: Workspace) -> None:
    process = place.start("run-experiment", "--config", place.write(changed(MLP, training=LONG)))
    lock = wait_for(process, "outputs/net/*/metrics/metrics.ndjson", place.root)

    try:
        printed = place.mlx("run-experiment", "--resume", str(lock.parent.parent), code=1)
        assert "going on in another process" in printed
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_run_keeps_its_configuration(place: Workspace) -> None:
    summary = place.run(LINEAR)
    config = place.write(LINEAR)

    same = place.mlx("run-experiment", "--resume", summary["run_dir"], "--config", config)
    other = place.mlx(
        "run-experiment", "--resume", summary["run_dir"], "--config", config, "--set", "training.epochs=9", code=1
    )

    assert "completed already" in same
    assert "differs" in other and "training" in other


# ---- evaluating


def test_evaluation_uses_rows_that_were_not_trained_on(place: Workspace) -> None:
    summary = place.run(LINEAR)

    answer = json.loads(place.mlx("eval", "--run-dir", summary["run_dir"], "--json"))

    assert (answer["split"], answer["n_rows"], answer["checkpoint"]) == ("test", 10, "checkpoint_final")
    assert set(answer["metrics"]) == {"mse", "rmse", "mae", "r2"}
    assert answer["trust"] == "recomputed"
    assert json.loads(Path(answer["saved"]).read_text()) == answer
    assert Path(answer["saved"]).parent == Path(summary["checkpoint_dir"])


def test_evaluation_of_the_validation_part_agrees_with_training(place: Workspace) -> None:
    summary = place.run(MLP)

    answer = json.loads(place.mlx("eval", "--run-dir", summary["run_dir"], "--split", "val", "--json"))

    assert answer["metrics"]["mse"] == pytest.approx(summary["final_metrics"]["val_loss"], rel=1e-5)


def test_checkpoint_and_metrics_are_chosen(place: Workspace) -> None:
    summary = place.run(changed(MLP, training={"learning_rate": 0.05}))

    early = json.loads(
        place.mlx("eval", "--run-dir", summary["run_dir"], "--checkpoint", "2", "--metrics", "r2,mse", "--json")
    )
    late = json.loads(place.mlx("eval", "--run-dir", summary["run_dir"], "--json"))

    assert set(early["metrics"]) == {"r2", "mse"}
    assert (early["checkpoint"], early["epoch"]) == ("checkpoint_epoch_2", 2)
    assert early["metrics"]["mse"] > late["metrics"]["mse"]


def test_other_dataset_is_kept_apart_from_the_runs_own(place: Workspace) -> None:
    summary = place.run(LINEAR)
    other = place.write(
        changed(LINEAR, dataset={"params": {"n_samples": 100, "n_features": 5, "seed": 7}}), "other.json"
    )

    own = json.loads(place.mlx("eval", "--run-dir", summary["run_dir"], "--json"))
    elsewhere = json.loads(place.mlx("eval", "--run-dir", summary["run_dir"], "--config", other, "--json"))

    assert elsewhere["dataset"]["params"]["seed"] == 7
    assert elsewhere["metrics"]["mse"] > 10 * own["metrics"]["mse"]
    assert elsewhere["saved"] != own["saved"]
    assert (own["own_data"], elsewhere["own_data"]) == (True, False)


def test_rows_of_the_run_split_in_another_way_are_not_held_out(place: Workspace) -> None:
    summary = place.run(LINEAR)
    other = place.write({**LINEAR, "dataset": {**LINEAR["dataset"], "test_fraction": 0.5}}, "other.json")

    printed = place.mlx("eval", "--run-dir", summary["run_dir"], "--config", other, code=1)

    assert "rows that the run was trained on" in printed


TABLE = "x,y\n" + "".join(f"{n},{2 * n}\n" for n in range(40))


def test_data_that_changed_is_neither_gone_on_with_nor_evaluated(place: Workspace) -> None:
    table = place.root / "table.csv"
    table.write_text(TABLE)
    config = {
        **LINEAR,
        "dataset": {"name": "custom", "path": "table.csv"},
        "model": {"name": "mlp", "params": {"layer_sizes": [1, 4, 1]}},
    }
    folder = interrupted_run(place, changed(config, training=LONG))
    head, *rows = TABLE.splitlines(keepends=True)
    table.write_text(head + "".join(reversed(rows)))

    resumed = place.mlx("run-experiment", "--resume", folder, code=1)
    evaluated = place.mlx("eval", "--run-dir", folder, "--checkpoint", "2", code=1)

    assert "data" in resumed and "changed" in resumed
    assert "The data changed since the run" in evaluated


def test_classification_is_evaluated_with_its_own_metrics(place: Workspace) -> None:
    config = {
        **MLP,
        "dataset": {"name": "synthetic_classification", "params": {"n_samples": 200, "class_sep": 4.0}},
        "model": {"name": "mlp", "params": {"layer_sizes": [10, 8, 2]}},
        "training": {"epochs": 20, "learning_rate": 0.02},
    }

    summary = place.run(config)
    printed = place.mlx("eval", "--run-dir", summary["run_dir"])
    answer = json.loads(place.mlx("eval", "--run-dir", summary["run_dir"], "--json"))

    assert answer["metrics"]["accuracy"] > 0.9
    assert sum(map(sum, answer["metrics"]["confusion_matrix"])) == 20
    assert "confusion_matrix (rows: true class, columns: predicted):" in printed
    assert summary["final_metrics"]["accuracy"] > 0.9


def test_dry_evaluation_computes_nothing(place: Workspace) -> None:
    summary = place.run(LINEAR)

    answer = json.loads(place.mlx("eval", "--dry-run", "--run-dir", summary["run_dir"], "--json"))

    assert answer["status"] == "dry_run"
    assert not Path(answer["would_save"]).exists()


@pytest.mark.parametrize(
    "words, code, told",
    [
        (("--checkpoint", "checkpoint_epoch_3"), 1, "checkpoint_epoch_2, checkpoint_epoch_4, checkpoint_final"),
        (("--metrics", "mse,accuray"), 1, "Unknown metric of a regression 'accuray'"),
        (("--metrics", "mse,,"), 2, "a name that is empty"),
        (("--split", "tset"), 2, "'train', 'val', 'test'"),
    ],
)
def test_wrong_words_of_an_evaluation_are_refused(
    place: Workspace, words: tuple[str, ...], code: int, told: str
) -> None:
    summary = place.run(LINEAR)

    printed = place.mlx("eval", "--run-dir", summary["run_dir"], *words, code=code)

    assert told in printed


def test_result_holds_all_metrics_also_when_few_are_shown(place: Workspace) -> None:
    summary = place.run(LINEAR)

    answer = json.loads(place.mlx("eval", "--run-dir", summary["run_dir"], "--metrics", "mse", "--json"))

    assert set(answer["metrics"]) == {"mse"}
    assert set(json.loads(Path(answer["saved"]).read_text())["metrics"]) == {"mse", "rmse", "mae", "r2"}


def test_model_of_other_data_is_told_apart_before_anything_is_computed(place: Workspace) -> None:
    summary = place.run(LINEAR)
    other = place.write(changed(LINEAR, dataset={"params": {"n_samples": 100, "n_features": 9}}), "other.json")

    printed = place.mlx("eval", "--dry-run", "--run-dir", summary["run_dir"], "--config", other, code=1)

    assert "was trained for a regression with rows of 5 numbers. The dataset is a regression with rows of 9" in printed


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_result_is_shown_where_it_can_not_be_saved(place: Workspace) -> None:
    summary = place.run(LINEAR)
    Path(summary["checkpoint_dir"]).chmod(0o500)

    answer = json.loads(place.mlx("eval", "--run-dir", summary["run_dir"], "--json"))

    assert answer["saved"] is None
    assert answer["metrics"]["r2"] > 0.9


def test_damaged_checkpoint_is_not_evaluated(place: Workspace) -> None:
    summary = place.run(LINEAR)
    file = Path(summary["checkpoint_dir"], "checkpoint_final", "weights.npy")
    blob = bytearray(file.read_bytes())
    blob[-1] ^= 1
    file.write_bytes(blob)

    printed = place.mlx("eval", "--run-dir", summary["run_dir"], code=1)

    assert "weights.npy" in printed


def test_run_of_the_loop_is_no_run_of_the_harness(place: Workspace) -> None:
    folder = place.root / "outputs" / "autoresearch-mar5" / "20260305_120000"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")

    printed = place.mlx("eval", "--run-dir", str(folder), code=1)

    assert "run of the loop" in printed


# ---- whoever reads along, and whoever stops


@pytest.mark.parametrize("reader", ["| head -n 1", "> /dev/full", ">&-"])
def test_run_goes_on_when_nobody_hears_of_it(place: Workspace, reader: str) -> None:
    config = place.write([MLP, LINEAR])

    subprocess.run(
        ["bash", "-c", f"{sys.executable} -m autoexperiment run-experiment --config {config} {reader}"],
        cwd=place.root, env=place.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip

    assert [run["status"] for run in place.index()] == ["completed", "completed"]


def test_signal_between_two_experiments_ends_the_rest(place: Workspace) -> None:
    (place.root / "mine.py").write_text(LOADER)  # whose facts take a process of their own: a moment to stop in
    config = place.write([with_loader(), with_loader()])
    process = place.start("run-experiment", "--config", config)

    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, out + err
    assert "nterrupted" in err


def test_impatient_signals_lose_nothing(place: Workspace) -> None:
    config = place.write(changed(MLP, training=LONG))
    process = place.start("run-experiment", "--config", config)
    wait_for(process, "outputs/net/*/metrics/metrics.ndjson", place.root)

    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    process.communicate()

    folder = next((place.root / "outputs" / "net").iterdir())
    assert process.returncode in (130, -signal.SIGINT)  # the last one may come when Python itself is ending
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    assert place.index()[0]["status"] == "interrupted"


def test_several_experiments_print_a_list_also_when_one_fails(place: Workspace) -> None:
    wild = {**changed(MLP, training={"learning_rate": 1e30, "optimizer": "sgd"}), "name": "wild"}
    process = place.start("run-experiment", "--json", "--config", place.write([wild, LINEAR]))

    out, _ = process.communicate(timeout=60)

    assert [(one["experiment"], one["status"]) for one in json.loads(out)] == [
        ("wild", "diverged"),
        ("line", "not_run"),
    ]


# ---- runs that were tampered with


def test_moved_run_is_finished_and_enters_nobody_elses_history(place: Workspace) -> None:
    folder = interrupted_run(place, SLOW)
    site = place.root / "site"
    shutil.move(folder, site / "sub" / "run")
    (site / "index.json").write_text('{"my": "page"}')

    answer = json.loads(place.mlx("run-experiment", "--resume", str(site / "sub" / "run"), "--json"))

    assert answer["status"] == "completed"
    assert answer["run_dir"] == str(site / "sub" / "run")
    assert {p.name for p in site.iterdir()} == {"sub", "index.json"}
    assert (site / "index.json").read_text() == '{"my": "page"}'


@pytest.mark.parametrize("text", ["[]", "{", '{"status": "interrupted"}'])
def test_damaged_summary_is_no_obstacle(place: Workspace, text: str) -> None:
    folder = interrupted_run(place, SLOW)
    Path(folder, "summary.json").write_text(text)

    answer = json.loads(place.mlx("run-experiment", "--resume", folder, "--json"))

    assert answer["status"] == "completed"


def test_summary_of_a_completed_run_is_told_from_its_files(place: Workspace) -> None:
    summary = place.run(LINEAR)
    Path(summary["run_dir"], "summary.json").write_text('{"status": "completed"}')

    assert json.loads(place.mlx("run-experiment", "--resume", summary["run_dir"], "--json")) == summary


def test_killed_resume_leaves_nothing_that_speaks_of_an_end(place: Workspace) -> None:
    folder = Path(interrupted_run(place, changed(MLP, training=LONG, output={"checkpoint_frequency": 5})))
    process = place.start("run-experiment", "--resume", str(folder))

    while (folder / "summary.json").exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()

    assert not (folder / "run.json").exists()
    listed = json.loads(place.mlx("history", "list", "--json"))["runs"]
    assert (listed[0]["status"], listed[0]["final_metrics"]) == ("interrupted", None)


def test_advice_follows_what_the_run_left(place: Workspace) -> None:
    config = place.write(changed(MLP, training=LONG, output={"save_checkpoints": False}))
    process = place.start("run-experiment", "--config", config)
    wait_for(process, "outputs/net/*/metrics/metrics.ndjson", place.root)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert "It has no checkpoint, so it would begin anew" in err


def test_full_disk_leaves_no_half_made_run(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.root)
    config = ConfigLoader.load_from_dict({**LINEAR, "description": "x" * 3000})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(HarnessError, match="Make room"):
            runner.run_experiment(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert not list((place.root / "outputs" / "line").iterdir())


# ---- the library


def test_library_runs_and_evaluates_as_the_command_does(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.root)
    place.write(LINEAR)
    config = ConfigLoader.load_from_file("config.json")

    result = runner.run_experiment(config)
    answer = runner.run_evaluation(Path(result["run_dir"]), checkpoint_name="checkpoint_final")

    assert result["status"] == "completed"
    assert answer["metrics"]["r2"] > 0.99


def test_library_refuses_before_anything_is_written(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.root)
    config = ConfigLoader.load_from_dict(changed(MLP, model={"params": {"layer_sizes": [7, 1]}}))

    with pytest.raises(ConfigError, match="layer_sizes"):
        runner.run_experiment(config)

    assert not list(place.root.iterdir())


@pytest.mark.parametrize("given", ["config.json", LINEAR])
def test_library_says_how_a_configuration_is_loaded(given: Any) -> None:
    with pytest.raises(HarnessError, match="ConfigLoader"):
        runner.run_experiment(given)


def test_one_metric_may_be_named_without_a_list(place: Workspace) -> None:
    summary = place.run(LINEAR)

    assert set(runner.run_evaluation(summary["run_dir"], metrics="mse")["metrics"]) == {"mse"}


def test_output_folder_that_is_a_file_is_refused(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.root)
    (place.root / "outputs").write_text("")

    with pytest.raises(HarnessError, match="is a file"):
        runner.run_experiment(ConfigLoader.load_from_dict(LINEAR))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_output_folder_without_permission_is_refused(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.root)
    (place.root / "outputs").mkdir(mode=0o500)

    with pytest.raises(HarnessError, match="Permission denied: 'outputs'"):
        runner.run_experiment(ConfigLoader.load_from_dict(LINEAR))


def test_command_line_without_a_configuration_is_wrong_usage(place: Workspace) -> None:
    assert "--config" in place.mlx("run-experiment", code=2)
    assert "--run-dir" in place.mlx("eval", code=2)


# ---- on a terminal


def test_terminal_shows_a_moving_line_with_the_time_that_is_left(place: Workspace) -> None:
    import pty

    config = place.write(changed(MLP, training={"epochs": 60, "batch_size": 2}))
    ours, theirs = pty.openpty()
    process = place.start("run-experiment", "--config", config, stdout=theirs)
    os.close(theirs)

    blob = b""
    with contextlib.suppress(OSError):  # Linux says so at the end
        while piece := os.read(ours, 1 << 16):
            blob += piece
    process.wait(timeout=60)
    os.close(ours)

    moving = [line for line in blob.split(b"\r\x1b[K") if line.startswith(b"      [#")]
    assert len(moving) > 5
    assert b" 30/60 loss" in blob and b" s left" in blob
    assert all(len(line) < 80 for line in moving)
