"""Training: the arithmetic of a step, what each setting does, how it ends, and how it goes on."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trainings
from hypothesis import given, settings
from hypothesis import strategies as st
from trainings import (
    CLASSIFIER,
    DESCENT,
    LINEAR,
    MLP,
    classification,
    config,
    files_of,
    regression,
    request,
    train_here,
)

from autoexperiment import datasets, files, models
from autoexperiment.errors import DataError, HarnessError
from autoexperiment.paths import RunPaths
from autoexperiment.training import checkpoints
from autoexperiment.training.checkpoints import State
from autoexperiment.training.descent import Descent
from autoexperiment.training.feed import Feed, shuffled
from autoexperiment.training.flat import Layout
from autoexperiment.training.optimizers import RULES
from autoexperiment.training.replay import replayed

OPTIMIZERS = ["adam", "sgd", "rmsprop", "adamw"]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / "metrics" / "metrics.ndjson").read_text().splitlines()]


def trained(folder: Path, what: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a run that must end well."""
    end, _ = train_here(request(folder, what))
    assert end.exit_code == 0
    return rows_of(folder)


def splits_of(what: dict[str, Any]) -> Any:
    return datasets.load(what["dataset"], root=Path())


def model_of(folder: Path, name: str = "checkpoint_final") -> Any:
    return models.load(folder / "run" / "checkpoints" / name)


def stop_after(batches: int) -> Callable[[], bool]:
    """Says yes when it has been asked so often."""
    asked = itertools.count(1)
    return lambda: next(asked) > batches


# ---- the vector and the order


shapes = st.dictionaries(st.text("abc", min_size=1), st.lists(st.integers(1, 3), max_size=3).map(tuple), min_size=1)


@given(shapes)
def test_arrays_come_back_from_the_flat_vector(wanted: dict[str, tuple[int, ...]]) -> None:
    layout = Layout(wanted)
    arrays = {
        name: np.random.default_rng(i).random(shape, np.float32) for i, (name, shape) in enumerate(wanted.items())
    }

    flat = layout.flatten(arrays)

    assert flat.shape == (layout.size,) == (sum(array.size for array in arrays.values()),)
    assert all(np.array_equal(array, arrays[name]) for name, array in layout.split(flat).items())
    first = next(iter(wanted))
    assert layout.mask([first]).tolist() == [1.0] * arrays[first].size + [0.0] * (layout.size - arrays[first].size)


def test_each_epoch_has_an_order_of_its_own_that_depends_on_no_other() -> None:
    orders = {(seed, epoch): shuffled(50, seed=seed, epoch=epoch).tolist() for seed in (1, 2) for epoch in (1, 2)}

    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 4
    assert shuffled(50, seed=2, epoch=2).tolist() == orders[2, 2]


@given(n_batch=st.integers(1, 30), resident=st.sampled_from([0, 1 << 20]))
@settings(max_examples=20)
def test_batches_are_the_rows_in_their_order_wherever_the_part_lies(n_batch: int, resident: int) -> None:
    part = splits_of(config(MLP, regression(n_samples=30))).train
    order = shuffled(len(part), seed=1, epoch=1)
    X, y = part.take(order)

    batches = list(Feed(part, n_features=trainings.FEATURES, resident_bytes=resident).batches(order, n_batch))

    assert [len(targets) for _, targets in batches[:-1]] == [n_batch] * (len(batches) - 1)
    assert np.array_equal(np.concatenate([np.array(rows) for rows, _ in batches]), X)
    assert np.array_equal(np.concatenate([np.array(targets) for _, targets in batches]), y)


def test_a_part_that_is_put_into_order_in_blocks_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    part = splits_of(config(MLP)).train
    order = shuffled(len(part), seed=1, epoch=1)
    monkeypatch.setattr("autoexperiment.training.feed.BLOCK_BYTES", 2 * 5 * 4 * trainings.FEATURES)

    rows = [np.array(x) for x, _ in Feed(part, n_features=trainings.FEATURES).batches(order, 5)]

    assert [len(x) for x in rows] == [5] * 6 + [2]
    assert np.array_equal(np.concatenate(rows), part.take(order)[0])


# ---- one step


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_the_one_of_mlx(name: str) -> None:
    import mlx.core as mx
    import mlx.optimizers as reference

    made = {
        "adam": reference.Adam(0.05, bias_correction=True),
        "sgd": reference.SGD(0.05),
        "rmsprop": reference.RMSprop(0.05),
        "adamw": reference.AdamW(0.05, bias_correction=True),
    }
    rng = np.random.default_rng(3)
    start = mx.array(rng.normal(size=20).astype(np.float32))
    rule, expected = RULES[name], {"p": start}
    flat, slots = start, tuple(mx.zeros_like(start) for _ in range(rule.n_slots))
    for step in range(1, 30):
        gradient = mx.array(rng.normal(size=20).astype(np.float32))

        scalars = [mx.array(value) for value in rule.scalars(step, 0.05)]
        flat, *rest = rule.update(flat, gradient, slots, scalars)
        slots = tuple(rest)
        expected = made[name].apply_gradients({"p": gradient}, expected)

    assert len(slots) == rule.n_slots
    assert np.allclose(np.array(flat), np.array(expected["p"]), rtol=1e-4, atol=1e-5)
    assert not np.allclose(np.array(flat), np.array(start), atol=0.1)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "adamw"])
def test_the_smallest_gradients_are_divided_by_epsilon_as_its_source_says(name: str) -> None:
    import mlx.core as mx

    rule, start, rate = RULES[name], mx.array([1.0, 2.0]), 0.5
    flat, slots = start, tuple(mx.zeros_like(start) for _ in range(rule.n_slots))
    gradient = np.array([1e-9, -3e-9])
    place, mean, square = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)
    for step in range(1, 4):
        scalars = [mx.array(value) for value in rule.scalars(step, rate)]
        flat, *rest = rule.update(flat, mx.array(gradient, mx.float32), slots, scalars)
        slots = tuple(rest)
        if name == "rmsprop":
            square = 0.99 * square + 0.01 * gradient**2
            place = place - rate * gradient / (np.sqrt(square) + 1e-8)
            continue
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        place = place * (1 - rate * 0.01 if name == "adamw" else 1)
        place = place - rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)

    # the gradients are a tenth of epsilon: were it another number, so would each step be
    assert np.array(flat) == pytest.approx(place, rel=1e-5)
    assert np.abs(np.array(flat) - [1.0, 2.0]).min() > 0.01


@pytest.mark.parametrize("l2", [0.0, 30.0])
def test_a_step_of_gradient_descent_is_the_one_worked_out_by_hand(tmp_path: Path, l2: float) -> None:
    model = {"name": "linear_regression", "params": {"use_gradient_descent": True, "l2_regularization": l2}}
    what = config(model, epochs=1, batch_size=1000, learning_rate=0.1, optimizer="sgd")
    x, y = splits_of(what).train.take(slice(None), np.float64)
    first = models.make(model, splits_of(what).facts).initial()
    w, b = first["weights"].astype(float), first["bias"].astype(float)
    error = x @ w + b - y

    rows = trained(tmp_path, what)

    after = model_of(tmp_path).arrays()
    assert rows[0]["loss"] == pytest.approx(np.mean(error**2), rel=1e-5)  # before the step, without the penalty
    gradient = 2 * x.T @ error / len(y) + 2 * l2 * w / len(y)
    assert np.allclose(after["weights"], w - 0.1 * gradient, atol=1e-5)
    assert np.allclose(after["bias"], b - 0.1 * 2 * np.mean(error), atol=1e-5)


def test_the_last_short_batch_is_used_and_counts_by_its_rows(tmp_path: Path) -> None:
    what = config(MLP, epochs=1, batch_size=15, learning_rate=1e-30, optimizer="sgd")  # nothing moves
    x, y = splits_of(what).train.take(slice(None))
    assert len(y) == 32

    rows = trained(tmp_path, what)

    model = model_of(tmp_path)
    assert rows[0]["loss"] == pytest.approx(np.mean((model.predict(x) - y) ** 2), rel=1e-5)
    last = checkpoints.find(RunPaths(tmp_path / "run"), "final")
    assert checkpoints.load_state(last).facts["steps"] == 3


def test_a_classification_also_counts_what_is_right(tmp_path: Path) -> None:
    smooth = {"name": "mlp", "params": {**CLASSIFIER["params"], "activation": "tanh"}}  # no dead rows, so no ties
    what = config(smooth, classification(), epochs=2, learning_rate=1e-30, optimizer="sgd", batch_size=7)

    rows = trained(tmp_path, what)

    splits, model = splits_of(what), model_of(tmp_path)
    assert list(rows[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy"]
    for name, part in (("accuracy", splits.train), ("val_accuracy", splits.val)):
        x, y = part.take(slice(None))
        assert rows[1][name] == pytest.approx(np.mean(model.predict(x) == y))
    x, y = splits.val.take(slice(None))
    chosen = model.predict_proba(x)[np.arange(len(y)), y]
    assert rows[1]["val_loss"] == pytest.approx(-np.mean(np.log(chosen)), rel=1e-4)


def test_a_validation_in_parts_is_that_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoexperiment.training.descent._NUMBERS_AT_ONCE", 24)  # 3 of the 4 rows, then 1
    what = config(MLP, epochs=1)

    row = trained(tmp_path, what)[0]

    x, y = splits_of(what).val.take(slice(None))
    assert row["val_loss"] == pytest.approx(np.mean((model_of(tmp_path).predict(x) - y) ** 2), rel=1e-5)


def test_without_validation_rows_there_is_no_validation(tmp_path: Path) -> None:
    for i, model in enumerate((LINEAR, MLP)):
        what = config(model, {**regression(), "val_fraction": 0.0})

        assert list(trained(tmp_path / str(i), what)[0]) == ["epoch", "loss"]


def test_a_step_that_is_replayed_is_the_step() -> None:
    what = config(CLASSIFIER, classification(n_samples=64), batch_size=8)
    splits = splits_of(what)
    direct, replay = (
        Descent(models.make(CLASSIFIER, splits.facts), splits, what["training"], should_stop=lambda: False)
        for _ in range(2)
    )
    direct._replay = direct._advance

    assert [direct.epoch(n) for n in (1, 2)] == [replay.epoch(n) for n in (1, 2)]

    assert replay._replay not in (None, replay._advance)
    for name, array in arrays_of(direct).items():
        assert array.tobytes() == arrays_of(replay)[name].tobytes()


@pytest.mark.parametrize("batch_size", [32, 33, 1000])
def test_a_batch_of_all_rows_is_replayed_too(batch_size: int) -> None:
    what = config(MLP, batch_size=batch_size)
    splits = splits_of(what)
    trainer = Descent(models.make(MLP, splits.facts), splits, what["training"], should_stop=lambda: False)
    assert len(splits.train) == 32

    trainer.epoch(1)

    assert trainer._replay not in (None, trainer._advance)


def arrays_of(trainer: Descent) -> dict[str, Any]:
    trainer.state()
    return trainer.model.arrays()


@pytest.mark.parametrize("way", ["eval", "async_eval"])
def test_waiting_for_each_step_or_not_gives_the_same(way: str) -> None:
    import mlx.core as mx

    what = config(MLP, regression(n_samples=64), batch_size=8)
    splits = splits_of(what)
    usual, other = (
        Descent(models.make(MLP, splits.facts), splits, what["training"], should_stop=lambda: False) for _ in "ab"
    )
    other._evaluate = getattr(mx, way)

    assert usual.epoch(1) == other.epoch(1)

    for name, array in arrays_of(usual).items():
        assert array.tobytes() == arrays_of(other)[name].tobytes()


def test_a_step_that_has_no_written_form_is_taken_as_it_is() -> None:
    import mlx.core as mx

    unwritable = mx.custom_function(lambda x: 2 * x)

    @unwritable.vjp
    def back(primal: Any, cotangent: Any, output: Any) -> Any:
        return cotangent

    def step(x: Any) -> Any:
        return [unwritable(x)]

    function = replayed(step, mx.array(1.0))

    assert float(np.array(function(mx.array(3.0))[0])) == 6.0


# ---- what each setting does


@pytest.mark.parametrize(
    ("setting", "value"),
    [("learning_rate", 0.02), ("batch_size", 8), ("seed", 2), *(("optimizer", n) for n in OPTIMIZERS[1:])],
)
def test_a_setting_of_the_training_takes_effect(tmp_path: Path, setting: str, value: Any) -> None:
    usual = trained(tmp_path / "usual", config(MLP))

    other = trained(tmp_path / "other", config(MLP, **{setting: value}))

    assert other[-1]["loss"] != usual[-1]["loss"]


def test_training_learns(tmp_path: Path) -> None:
    rows = trained(tmp_path, config(MLP, epochs=60, learning_rate=0.05, output={"checkpoint_frequency": 60}))

    assert [row["epoch"] for row in rows] == list(range(1, 61))
    assert rows[-1]["loss"] < rows[0]["loss"] / 10


def test_gradient_descent_comes_to_the_closed_form(tmp_path: Path) -> None:
    params = {"l2_regularization": 5.0}
    closed = {"name": "linear_regression", "params": params}
    descent = {"name": "linear_regression", "params": {**params, "use_gradient_descent": True}}

    trained(tmp_path / "closed", config(closed, epochs=1))
    seldom = {"checkpoint_frequency": 1000}
    what = config(descent, output=seldom, epochs=150, batch_size=100, learning_rate=0.3, optimizer="sgd")
    trained(tmp_path / "descent", what)

    for name, array in model_of(tmp_path / "closed").arrays().items():
        assert np.allclose(model_of(tmp_path / "descent").arrays()[name], array, atol=1e-3)


def test_the_closed_form_is_solved_once_and_repeated(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression  # type: ignore[import-untyped]

    what = config(LINEAR, epochs=4)
    splits = splits_of(what)
    x, y = splits.train.take(slice(None), np.float64)
    vx, vy = splits.val.take(slice(None), np.float64)
    reference = LinearRegression().fit(x, y)

    rows = trained(tmp_path, what)

    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert row["loss"] == pytest.approx(np.mean((reference.predict(x) - y) ** 2))
        assert row["val_loss"] == pytest.approx(np.mean((reference.predict(vx) - vy) ** 2))


@pytest.mark.parametrize("model", [LINEAR, MLP])
@pytest.mark.parametrize(
    ("output", "names"),
    [
        (
            {},
            [
                "checkpoint_epoch_1",
                "checkpoint_epoch_2",
                "checkpoint_epoch_3",
                "checkpoint_epoch_4",
                "checkpoint_final",
            ],
        ),
        ({"checkpoint_frequency": 3}, ["checkpoint_epoch_3", "checkpoint_final"]),
        ({"checkpoint_frequency": 4}, ["checkpoint_epoch_4", "checkpoint_final"]),
        ({"checkpoint_frequency": 9}, ["checkpoint_final"]),
        ({"save_checkpoints": False}, []),
    ],
)
def test_checkpoints_are_saved_as_configured(
    tmp_path: Path, model: dict[str, Any], output: dict[str, Any], names: list[str]
) -> None:
    trained(tmp_path, config(model, epochs=4, output=output))

    run = RunPaths(tmp_path / "run")
    assert checkpoints.names(run) == names
    assert [checkpoints.find(run, name).epoch for name in names] == [
        4 if name == "checkpoint_final" else int(name[-1]) for name in names
    ]


@pytest.mark.parametrize("model", [LINEAR, MLP])
def test_the_same_configuration_gives_the_same_bytes(tmp_path: Path, model: dict[str, Any]) -> None:
    for name in ("a", "b"):
        trained(tmp_path / name, config(model))

    assert files_of(tmp_path / "a" / "run") == files_of(tmp_path / "b" / "run")


# ---- ends


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    end, said = train_here(request(tmp_path, config(DESCENT, epochs=9, learning_rate=1e19, optimizer="sgd")))

    rows = rows_of(tmp_path)
    assert end.exit_code == 3
    assert end.line == f"diverged: loss is {end.line.split()[3]} in epoch {len(rows)}"
    assert rows[-1]["loss"] is None and len(rows) < 9
    assert "checkpoint_final" not in checkpoints.names(RunPaths(tmp_path / "run"))
    assert f"checkpoint_epoch_{len(rows)}" not in checkpoints.names(RunPaths(tmp_path / "run"))
    view = json.loads((tmp_path / "run" / "metrics" / "metrics.json").read_text())
    assert view["metrics"] == rows
    assert said[-1].startswith(f"epoch {len(rows)}/9: loss ")


def test_parameters_that_are_no_numbers_end_the_run_though_the_loss_was_one(tmp_path: Path) -> None:
    what = config(DESCENT, epochs=9, batch_size=1000, learning_rate=1e300, optimizer="sgd")

    end, _ = train_here(request(tmp_path, what))

    assert (end.exit_code, end.line) == (3, "diverged: a parameter is not a finite number after epoch 1")
    assert math.isfinite(rows_of(tmp_path)[0]["loss"])
    assert checkpoints.names(RunPaths(tmp_path / "run")) == []


def test_a_run_that_is_stopped_drops_the_epoch_that_goes_on(tmp_path: Path) -> None:
    # asked before each epoch and after each of its 2 batches: 3 times an epoch
    end, said = train_here(request(tmp_path, config(MLP, epochs=9)), stop_after(3 + 2))

    assert (end.exit_code, end.line) == (130, "interrupted: after epoch 1 of 9")
    assert [row["epoch"] for row in rows_of(tmp_path)] == [1]
    assert json.loads((tmp_path / "run" / "metrics" / "metrics.json").read_text())["metrics"] == rows_of(tmp_path)
    assert checkpoints.names(RunPaths(tmp_path / "run")) == ["checkpoint_epoch_1"]
    assert [line.split(":")[0] for line in said] == ["metrics", "epoch 1/9"]


def test_a_stop_between_two_epochs_is_heard(tmp_path: Path) -> None:
    end, _ = train_here(
        request(tmp_path, config(LINEAR, epochs=9)), stop_after(4 + 2)
    )  # 4 to solve and measure, 2 epochs more

    assert end.line == "interrupted: after epoch 3 of 9"


def test_a_stop_while_the_closed_form_is_solved_is_heard(tmp_path: Path) -> None:
    end, _ = train_here(request(tmp_path, config(LINEAR, epochs=9)), stop_after(1))

    assert end.line == "interrupted: after epoch 0 of 9"


def test_a_checkpoint_that_cannot_be_saved_leaves_the_metrics_so_far(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("in the folder's place")

    with pytest.raises(HarnessError, match=r"checkpoint_epoch_2 can't be written"):
        train_here(request(tmp_path, config(LINEAR, output={"checkpoint_frequency": 2})))

    view = json.loads((tmp_path / "run" / "metrics" / "metrics.json").read_text())["metrics"]
    assert view == rows_of(tmp_path) and len(view) == 2


def test_of_two_failures_the_first_is_told(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def spoil() -> bool:
        if (run / "metrics").is_dir():
            shutil.rmtree(run / "metrics")
            (run / "metrics").write_text("in the folder's place")
            (run / "checkpoints").write_text("in the folder's place")
        return False

    with pytest.raises(HarnessError, match=r"checkpoint_epoch_1 can't be written"):
        train_here(request(tmp_path, config(LINEAR)), spoil)


def test_rows_are_safe_before_the_checkpoint_that_needs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, synced = tmp_path / "run" / "metrics" / "metrics.ndjson", list[str]()

    def sync(fd: int) -> None:
        kept, here = stream.exists() and stream.stat().st_ino, os.fstat(fd).st_ino
        manifests = [file.stat().st_ino for file in (tmp_path / "run").rglob("manifest.json")]
        if here == kept:
            synced.append(f"{len(stream.read_bytes().splitlines())} rows")
        if here in manifests:
            synced.append("checkpoint")

    monkeypatch.setattr(files, "fsync", sync)

    trained(tmp_path, config(LINEAR, epochs=2))

    assert synced == ["1 rows", "checkpoint", "2 rows", "checkpoint", "2 rows", "checkpoint", "2 rows"]


# ---- going on


@pytest.mark.parametrize("model", [LINEAR, DESCENT, MLP, CLASSIFIER])
@pytest.mark.parametrize("frequency", [1, 2])
def test_a_run_that_was_stopped_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, model: dict[str, Any], frequency: int
) -> None:
    data = classification() if model is CLASSIFIER else regression()
    what = config(model, data, epochs=5, output={"checkpoint_frequency": frequency})
    trained(tmp_path / "whole", what)
    asked = request(tmp_path / "stopped", what)
    train_here(asked, stop_after(11 if model is not LINEAR else 5))

    end, said = train_here(replace(asked, resume=True))

    assert end.line == "done: 5 epochs"
    n = len(rows_of(tmp_path / "whole")) - sum(line.startswith("epoch") for line in said)
    assert f"note: resumed from checkpoint_epoch_{n}, after epoch {n} of 5" in said
    assert files_of(tmp_path / "stopped" / "run") == files_of(tmp_path / "whole" / "run")


def spoiled(folder: Path, what: dict[str, Any], spoil: Callable[[Path], object]) -> tuple[list[str], bool]:
    """The lines of resuming a run of which something was spoiled, and whether it ended with the right bytes."""
    trained(folder, what)
    expected = files_of(folder / "run")
    spoil(folder / "run")
    end, said = train_here(request(folder, what, resume=True))
    assert end.exit_code == 0
    return said, files_of(folder / "run") == expected


def write_rows(folder: Path, seed: int) -> dict[str, Any]:
    """A data file in a workspace, and its section."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "t.npy", np.random.default_rng(seed).normal(size=(40, trainings.FEATURES + 1)))
    return trainings.custom("t.npy")


@pytest.mark.parametrize("model", [LINEAR, MLP])
def test_every_checkpoint_says_what_data_it_was_trained_on(tmp_path: Path, model: dict[str, Any]) -> None:
    what = config(model, write_rows(tmp_path, 1), epochs=2)

    trained(tmp_path, what)

    expected = datasets.load(what["dataset"], root=tmp_path).fingerprint
    run = RunPaths(tmp_path / "run")
    for name in checkpoints.names(run):
        found = checkpoints.find(run, name)
        assert checkpoints.data_of(checkpoints.load_state(found), where=found.folder) == expected


def test_a_run_is_not_gone_on_with_on_other_data(tmp_path: Path) -> None:
    what = config(MLP, write_rows(tmp_path, 1), epochs=9)
    asked = request(tmp_path, what)
    train_here(asked, stop_after(3 + 3 + 1))
    kept = files_of(tmp_path / "run")
    write_rows(tmp_path, 2)

    with pytest.raises(HarnessError, match=r"The data changed since .*/run was started.*--config .*/run/config\.json$"):
        train_here(replace(asked, resume=True))

    assert files_of(tmp_path / "run") == kept
    write_rows(tmp_path, 1)  # as it was
    assert train_here(replace(asked, resume=True))[0].line == "done: 9 epochs"


def test_a_checkpoint_that_does_not_say_its_data_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("autoexperiment.datasets.fingerprints.Fingerprint.to_json", lambda _: None)
        trained(tmp_path, config(LINEAR))

    _, said = train_here(request(tmp_path, config(LINEAR), resume=True))

    assert sum("state.json: it does not say what data it was trained on." in line for line in said) == 4
    assert "note: there is no checkpoint to go on from: training begins with the first epoch" in said


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    def spoil(run: Path) -> None:
        for name in ("checkpoint_final", "checkpoint_epoch_3"):
            (run / "checkpoints" / name / "state.npy").write_bytes(b"")

    said, is_same = spoiled(tmp_path, config(MLP), spoil)

    assert is_same
    assert [line.split(" ")[:2] for line in said[:2]] == [
        ["note:", "checkpoint_final"],
        ["note:", "checkpoint_epoch_3"],
    ]
    assert "note: resumed from checkpoint_epoch_2, after epoch 2 of 3" in said


def test_without_the_rows_that_led_to_it_no_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    def spoil(run: Path) -> None:
        file = run / "metrics" / "metrics.ndjson"
        file.write_text(file.read_text().replace('"epoch": 2', '"epoch": 7'))

    said, is_same = spoiled(tmp_path, config(MLP), spoil)

    assert is_same
    assert "note: resumed from checkpoint_epoch_1, after epoch 1 of 3" in said
    assert (
        "note: checkpoint_epoch_2 is passed over: metrics.ndjson does not have the rows of its 2 epochs any more."
        in said
    )


def test_a_checkpoint_of_another_model_is_passed_over(tmp_path: Path) -> None:
    trained(tmp_path, config(MLP))
    other = {"name": "mlp", "params": {**MLP["params"], "activation": "tanh"}}  # type: ignore[dict-item]

    end, said = train_here(request(tmp_path, config(other), resume=True))

    assert end.exit_code == 0
    assert sum("it is of another model" in line for line in said) == 4
    assert not any("resumed" in line for line in said)


def test_an_earlier_checkpoint_in_the_place_of_the_final_one_is_passed_over(tmp_path: Path) -> None:
    def spoil(run: Path) -> None:
        shutil.rmtree(run / "checkpoints" / "checkpoint_final")
        shutil.copytree(run / "checkpoints" / "checkpoint_epoch_1", run / "checkpoints" / "checkpoint_final")

    said, is_same = spoiled(tmp_path, config(MLP), spoil)

    assert is_same
    assert "holds the checkpoint of epoch 1, and the run's last is 3" in said[0]
    assert "note: resumed from checkpoint_epoch_3, after epoch 3 of 3" in said


def test_a_checkpoint_holds_the_scaling_of_its_data(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.random.default_rng(0).normal(7, 3, size=(40, trainings.FEATURES + 1)))
    for name, normalize in (("scaled", True), ("plain", False)):
        what = config(MLP, trainings.custom("../t.npy", normalize=normalize))
        (tmp_path / name).mkdir()
        trained(tmp_path / name, what)

    saved = model_of(tmp_path / "scaled").scaling
    rows = datasets.load(trainings.custom("t.npy"), root=tmp_path).train.rows

    assert model_of(tmp_path / "plain").config()["scaling"] is None
    train = np.load(tmp_path / "t.npy")[rows, :-1]
    assert saved.divisor == 1.0
    assert saved.mean == pytest.approx(train.mean(axis=0)) and saved.deviation == pytest.approx(train.std(axis=0))


def test_a_state_of_another_optimizer_is_passed_over(tmp_path: Path) -> None:
    trained(tmp_path, config(MLP, optimizer="sgd"))

    _, said = train_here(request(tmp_path, config(MLP), resume=True))

    assert sum("Needed for adam: 2 x 19, after 1 step or more." in line for line in said) == 4


@pytest.mark.parametrize("steps", [0, True, 2.0, "3", None])
def test_a_state_without_a_count_of_steps_is_refused(steps: Any) -> None:
    what = config(MLP)
    splits = splits_of(what)
    model = models.make(MLP, splits.facts)
    trainer = Descent(model, splits, what["training"], should_stop=lambda: False)

    with pytest.raises(DataError, match="after 1 step or more"):
        trainer.restore(model.arrays(), State({"steps": steps}, np.zeros((2, 19), np.float32)), [])


def test_a_run_that_is_complete_is_not_trained_again(tmp_path: Path) -> None:
    folders: list[int] = []

    def spoil(run: Path) -> None:
        folders.append((run / "checkpoints" / "checkpoint_final").stat().st_ino)
        (run / "metrics" / "metrics.md").unlink()

    said, is_same = spoiled(tmp_path, config(LINEAR), spoil)

    assert is_same
    assert (tmp_path / "run" / "checkpoints" / "checkpoint_final").stat().st_ino == folders[0]
    assert said == ["metrics: ready", "note: resumed from checkpoint_final, after epoch 3 of 3"]


def test_without_checkpoints_a_run_starts_anew(tmp_path: Path) -> None:
    what = config(MLP, output={"save_checkpoints": False})

    said, is_same = spoiled(tmp_path, what, lambda run: None)

    assert is_same
    assert [line.split(":")[0] for line in said] == ["metrics", "note", "epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert said[1] == "note: there is no checkpoint to go on from: training begins with the first epoch"


@pytest.mark.parametrize(
    ("what", "first", "stride"),
    [
        (config(LINEAR, epochs=2), 1, 3),
        *((config(MLP, epochs=2, optimizer=name), i, 4) for i, name in enumerate(OPTIMIZERS, 1)),  # each point once
    ],
    ids=["closed form", *OPTIMIZERS],
)
def test_a_kill_anywhere_and_another_while_it_goes_on_cost_nothing(
    tmp_path: Path, what: dict[str, Any], first: int, stride: int
) -> None:
    words = [sys.executable, trainings.__file__, str(tmp_path), json.dumps(what), str(first), str(stride)]

    answer = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(trainings.ROOT)}
    )

    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) >= 28
