"""Checkpoints are whole or absent, say when they were damaged, and are found by name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trainings

from autoexperiment.errors import DataError, HarnessError
from autoexperiment.models import LinearRegression
from autoexperiment.paths import RunPaths
from autoexperiment.training import checkpoints
from autoexperiment.training.checkpoints import State

SLOTS = np.arange(6, dtype=np.float32).reshape(2, 3)


def model(value: float = 1.5) -> LinearRegression:
    made = LinearRegression(n_features=2)
    made.set_arrays({"weights": np.array([value, -2.0]), "bias": np.array([0.5])})
    return made


def save(folder: Path, epoch: int, *, final: bool = False, slots: Any = SLOTS) -> Path:
    state = State({"steps": epoch, "metrics_sha256": "ab"}, slots)
    return checkpoints.save(RunPaths(folder), epoch, model=model(), state=state, final=final).folder


def test_the_layout_and_the_manifest(tmp_path: Path) -> None:
    folder = save(tmp_path, 10)

    assert folder == tmp_path / "checkpoints" / "checkpoint_epoch_10"
    kept = {"config.json", "weights.npy", "bias.npy", "state.json", "state.npy"}
    assert set(os.listdir(folder)) == kept | {"manifest.json"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["epoch"] == 10
    assert manifest["files"] == {
        name: {"size": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
        for name in kept
        for blob in [(folder / name).read_bytes()]
    }
    assert np.load(folder / "weights.npy", allow_pickle=False).tolist() == [1.5, -2.0]
    assert np.load(folder / "bias.npy").dtype == np.float64


def test_the_model_can_be_loaded_from_it(tmp_path: Path) -> None:
    folder = save(tmp_path, 10, final=True)

    loaded = LinearRegression().load(folder)

    assert folder.name == "checkpoint_final"
    assert loaded.predict(np.array([[2.0, 1.0]])).tolist() == [2 * 1.5 - 2.0 + 0.5]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = save(tmp_path / "a", 1), save(tmp_path / "b", 1)

    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in other.iterdir()}


def test_the_state_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint = checkpoints.verify(save(tmp_path, 4))
    without = checkpoints.verify(save(tmp_path, 5, slots=None))

    state = checkpoints.load_state(checkpoint)

    assert state.facts == {"steps": 4, "metrics_sha256": "ab"}
    assert state.slots is not None
    assert np.array_equal(state.slots, SLOTS)
    assert checkpoints.load_state(without).slots is None


FILES = ["config.json", "weights.npy", "bias.npy", "state.json", "state.npy", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["flip", "cut", "grow", "gone", "link", "pipe", "folder"])
def test_a_damaged_file_is_found(tmp_path: Path, name: str, harm: str) -> None:
    file = save(tmp_path, 1) / name
    blob = file.read_bytes()
    file.unlink()
    if harm in ("flip", "cut", "grow"):
        changed = {"flip": blob[:-2] + bytes([blob[-2] ^ 255]) + blob[-1:], "cut": blob[:-2], "grow": blob + b"}"}
        file.write_bytes(changed[harm])
    elif harm == "link":
        (tmp_path / "other").write_bytes(blob)
        file.symlink_to(tmp_path / "other")
    elif harm == "pipe":
        os.mkfifo(file)
    elif harm == "folder":
        file.mkdir()

    with pytest.raises(DataError, match=name):
        checkpoints.verify(file.parent)


ENTRY = {"size": 1, "sha256": "a"}


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "[" * 50_000,
        '{"epoch": NaN, "files": {}}',
        json.dumps({"epoch": 1}),
        json.dumps({"epoch": True, "files": {"config.json": ENTRY, "state.json": ENTRY}}),
        json.dumps({"epoch": 0, "files": {"config.json": ENTRY, "state.json": ENTRY}}),
        json.dumps({"epoch": 1, "files": {"config.json": ENTRY}}),
        json.dumps({"epoch": 1, "files": {"config.json": ENTRY, "state.json": {"size": "1"}}}),
        json.dumps({"epoch": 1, "files": {"config.json": ENTRY, "state.json": ENTRY, "../secret": ENTRY}}),
        json.dumps({"epoch": 1, "files": {"config.json": ENTRY, "state.json": ENTRY, "..": ENTRY}}),
    ],
)
def test_a_hostile_manifest_is_refused(tmp_path: Path, text: str) -> None:
    folder = save(tmp_path, 1)
    (folder / "manifest.json").write_text(text)

    with pytest.raises(DataError, match=r"manifest\.json is no checkpoint's manifest"):
        checkpoints.verify(folder)


def test_a_manifest_without_end_is_not_read(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    with open(folder / "manifest.json", "a") as file:
        file.write(" " * checkpoints.SMALL_FILE)

    with pytest.raises(DataError, match=r"manifest\.json is larger than 1048576 bytes"):
        checkpoints.verify(folder)


def test_a_checkpoint_under_another_epochs_name_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    moved = shutil.move(folder, folder.with_name("checkpoint_epoch_7"))

    with pytest.raises(DataError, match="checkpoint of epoch 1: it was moved"):
        checkpoints.verify(Path(moved))


@pytest.mark.parametrize("slots", [np.zeros(3, np.float32), np.zeros((1, 3)), np.array([[None]], dtype=object)])
def test_a_state_that_no_optimizer_has_is_refused(tmp_path: Path, slots: Any) -> None:
    checkpoint = checkpoints.verify(save(tmp_path, 1))
    np.save(checkpoint.folder / "state.npy", slots, allow_pickle=True)

    with pytest.raises(DataError, match=r"state\.npy"):
        checkpoints.load_state(checkpoint)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 50_000])
def test_a_state_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    checkpoint = checkpoints.verify(save(tmp_path, 1))
    (checkpoint.folder / "state.json").write_text(text)

    with pytest.raises(DataError, match=r"state\.json"):
        checkpoints.load_state(checkpoint)


def test_names_are_in_the_order_of_their_epochs_and_nothing_else_counts(tmp_path: Path) -> None:
    for epoch in (9, 10, 2):
        save(tmp_path, epoch)
    save(tmp_path, 10, final=True)
    for other in (".checkpoint_epoch_3.tmp", "checkpoint_epoch_03", "checkpoint_epoch_", "checkpoint_epoch_x", "mine"):
        (tmp_path / "checkpoints" / other).mkdir()
    (tmp_path / "checkpoints" / "checkpoint_epoch_4").write_text("a file")

    found = checkpoints.names(RunPaths(tmp_path))

    assert found == ["checkpoint_epoch_2", "checkpoint_epoch_9", "checkpoint_epoch_10", "checkpoint_final"]


def test_links_are_no_checkpoints(tmp_path: Path) -> None:
    run = RunPaths(tmp_path)
    save(tmp_path, 1)
    (run.checkpoints / "checkpoint_epoch_2").symlink_to(run.checkpoints / "checkpoint_epoch_1")
    run.final_checkpoint.symlink_to(run.checkpoints / "checkpoint_epoch_1")

    assert checkpoints.names(run) == ["checkpoint_epoch_1"]


def test_the_newest_sound_one_is_the_latest_and_the_others_are_named(tmp_path: Path) -> None:
    for epoch in (1, 2, 10):
        save(tmp_path, epoch)
    (tmp_path / "checkpoints" / "checkpoint_epoch_10" / "weights.npy").write_bytes(b"")
    said: list[str] = []

    found = checkpoints.latest(RunPaths(tmp_path), say=said.append)

    assert found is not None
    assert found.name == "checkpoint_epoch_2"
    assert (
        len(said) == 1 and said[0].startswith("note: checkpoint_epoch_10 is passed over: ") and "weights.npy" in said[0]
    )


def test_a_run_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    assert checkpoints.latest(RunPaths(tmp_path), say=pytest.fail) is None


@pytest.mark.parametrize(
    ("word", "name"),
    [("checkpoint_final", "checkpoint_final"), ("final", "checkpoint_final"), ("10", "checkpoint_epoch_10"),
     ("checkpoint_epoch_10", "checkpoint_epoch_10"), ("epoch_10", "checkpoint_epoch_10")],
)  # fmt: skip
def test_a_checkpoint_is_found_by_what_people_call_it(tmp_path: Path, word: str, name: str) -> None:
    save(tmp_path, 10)
    save(tmp_path, 10, final=True)

    found = checkpoints.find(RunPaths(tmp_path), word)

    assert (found.name, found.epoch) == (name, 10)


@pytest.mark.parametrize("word", ["20", "../checkpoints/checkpoint_epoch_10", "", "."])
def test_an_unknown_checkpoint_is_refused_with_those_that_exist(tmp_path: Path, word: str) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)

    with pytest.raises(DataError, match=r"Unknown checkpoint .*Known: checkpoint_epoch_5, checkpoint_epoch_10"):
        checkpoints.find(RunPaths(tmp_path), word)


def refusal(folder: Path, word: str) -> str:
    with pytest.raises(DataError) as caught:
        checkpoints.find(RunPaths(folder), word)
    return str(caught.value)


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("57", "epoch_10, checkpoint_epoch_20, …, checkpoint_epoch_50, checkpoint_epoch_60, checkpoint_epoch_70, …, "),
        ("9999", "epoch_10, checkpoint_epoch_20, …, checkpoint_epoch_2980, "),
        ("3", "epoch_10, checkpoint_epoch_20, checkpoint_epoch_30, …, "),
        ("finally", "epoch_10, checkpoint_epoch_20, …, "),
    ],
)
def test_of_many_checkpoints_the_first_the_last_and_the_nearest_are_listed(
    tmp_path: Path, word: str, shown: str
) -> None:
    for epoch in range(10, 3010, 10):
        (tmp_path / "checkpoints" / f"checkpoint_epoch_{epoch}").mkdir(parents=True)
    (tmp_path / "checkpoints" / "checkpoint_final").mkdir()

    message = refusal(tmp_path, word)

    last = "checkpoint_epoch_2990, checkpoint_epoch_3000, checkpoint_final."
    assert f"Known: checkpoint_{shown}{last}" in message


def test_up_to_ten_checkpoints_are_listed_whole(tmp_path: Path) -> None:
    for epoch in range(1, 11):
        (tmp_path / "checkpoints" / f"checkpoint_epoch_{epoch}").mkdir(parents=True)

    names = ", ".join(f"checkpoint_epoch_{epoch}" for epoch in range(1, 11))
    assert f"Known: {names}." in refusal(tmp_path, "11")


RESUME = "mlx run-experiment --resume"


@pytest.mark.parametrize(
    ("save", "status", "reason", "advice"),
    [
        (False, "completed", "output.save_checkpoints is false", "--set output.save_checkpoints=true"),
        (False, None, "output.save_checkpoints is false", "--set output.save_checkpoints=true"),
        (True, "diverged", "it diverged before the first was saved", "a smaller training.learning_rate"),
        (True, "completed", "it was completed and had one", "start another run"),
        (True, "interrupted", "has no checkpoints yet", RESUME),
        (True, None, "has no checkpoints yet", RESUME),
        (None, None, "has no checkpoints yet", RESUME),
    ],
)
def test_a_run_without_checkpoints_says_why_and_what_helps(
    tmp_path: Path, save: bool | None, status: str | None, reason: str, advice: str
) -> None:
    if save is not None:
        (tmp_path / "config.json").write_text(json.dumps({"output": {"save_checkpoints": save}}))
    if status:
        (tmp_path / "summary.json").write_text(json.dumps({"status": status}))

    message = refusal(tmp_path, "final")

    assert reason in message and advice in message
    assert (RESUME in message) == (advice == RESUME)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 50_000, '{"output": 1}'])
def test_a_damaged_configuration_hides_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "summary.json").write_text("[1]")

    assert "has no checkpoints yet" in refusal(tmp_path, "final")


def test_a_damaged_one_is_not_found(tmp_path: Path) -> None:
    (save(tmp_path, 5) / "bias.npy").unlink()

    with pytest.raises(DataError, match=r"bias\.npy can't be read"):
        checkpoints.find(RunPaths(tmp_path), "5")


def test_saving_again_takes_the_place_of_what_is_there_and_of_what_a_killed_writer_left(tmp_path: Path) -> None:
    (save(tmp_path, 1) / "weights.npy").write_bytes(b"damaged")
    left = tmp_path / "checkpoints" / ".checkpoint_epoch_9.tmp"
    left.mkdir()
    (left / "weights.npy").write_bytes(b"half")

    folder = save(tmp_path, 1)

    assert checkpoints.verify(folder).epoch == 1
    assert os.listdir(tmp_path / "checkpoints") == ["checkpoint_epoch_1"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from autoexperiment.errors import HarnessError
from autoexperiment.models import LinearRegression
from autoexperiment.paths import RunPaths
from autoexperiment.training import checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
model, state = LinearRegression(n_features=2), checkpoints.State({"steps": 1}, np.zeros((2, 3), np.float32))
checkpoints.save(RunPaths(folder), 1, model=model, state=state)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for room in (0, 100, 200, 500):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        checkpoints.save(RunPaths(folder), 2, model=model, state=state)
    except HarnessError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        print(error)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["checkpoint_epoch_1"]
    checkpoints.verify(folder / "checkpoints" / "checkpoint_epoch_1")
checkpoints.save(RunPaths(folder), 2, model=model, state=state)
"""


def test_a_full_disk_leaves_the_earlier_ones_and_nothing_of_the_new_one(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(trainings.ROOT)},
    )  # fmt: skip

    said = answer.stdout.splitlines()
    assert (answer.returncode, len(said)) == (0, 4), answer.stderr
    for line in said:
        assert "checkpoint_epoch_2 can't be written: File too large. Earlier checkpoints are as they were." in line
        assert line.endswith(f"mlx run-experiment --resume {tmp_path}")


def test_a_folder_that_nobody_may_write_is_said(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in the folder's place")

    with pytest.raises(HarnessError, match=r"checkpoint_epoch_1 can't be written: Not a directory"):
        save(tmp_path, 1)
