"""Evaluating a checkpoint: on other data, on other classes, and never one that is not the run's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trainings
from trainings import LINEAR, MLP, config, regression, request, train_here

from autoexperiment import datasets, models
from autoexperiment.datasets.base import Facts, Table
from autoexperiment.datasets.splits import split
from autoexperiment.errors import DataError
from autoexperiment.models import MLP as Perceptron
from autoexperiment.models.network import Network
from autoexperiment.training import evaluate

Array = np.ndarray[Any, Any]
NAMES = ("ant", "bee", "cat")
FLOWERS: dict[str, Any] = {"name": "mlp", "params": {"layer_sizes": [2, 8, 3], "activation": "tanh"}}


def checkpoints_of(folder: Path) -> Path:
    return folder / "run" / "checkpoints"


def load(folder: Path, what: dict[str, Any], name: str = "final") -> Network:
    return evaluate.load(folder / "run", name, config=what)[1]


def measured(model: Network, dataset: dict[str, Any], root: Path, part: str = "test") -> Any:
    splits = datasets.load(dataset, root=root)
    evaluate.check_fit(model, splits.facts, where=root)
    return evaluate.measure(model, splits.part(part), facts=splits.facts)


# ---- scaling


def write_line(path: Path, *, shift: float) -> None:
    """Rows around `shift`, with a target that is 3 times the first column minus the second."""
    X = np.random.default_rng(4).normal(shift, 5, size=(60, 2))
    np.save(path, np.column_stack([X, 3 * X[:, 0] - X[:, 1]]))


def test_other_data_is_scaled_as_the_runs_own_was(tmp_path: Path) -> None:
    write_line(tmp_path / "own.npy", shift=0)
    write_line(tmp_path / "other.npy", shift=1000)
    what = config(LINEAR, trainings.custom("own.npy", normalize=True))
    train_here(request(tmp_path, what))

    for normalize in (True, False):
        found = measured(load(tmp_path, what), trainings.custom("other.npy", normalize=normalize), tmp_path)

        assert found["r2"] == pytest.approx(1.0, abs=1e-9)
        assert found["mae"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("model", [LINEAR, {"name": "mlp", "params": {"layer_sizes": [2, 3, 1]}}])
def test_the_model_of_a_checkpoint_predicts_from_the_rows_of_the_file(tmp_path: Path, model: dict[str, Any]) -> None:
    write_line(tmp_path / "own.npy", shift=50)
    what = config(model, trainings.custom("own.npy", normalize=True))
    train_here(request(tmp_path, what))
    table = np.load(tmp_path / "own.npy")
    splits = datasets.load(what["dataset"], root=tmp_path)

    saved = models.load(checkpoints_of(tmp_path) / "checkpoint_final")
    error = saved.predict(table[splits.val.rows, :-1]) - table[splits.val.rows, -1]

    rows = (tmp_path / "run" / "metrics" / "metrics.ndjson").read_text().splitlines()
    assert json.loads(rows[-1])["val_loss"] == pytest.approx(np.mean(error**2), rel=1e-5, abs=1e-15)


def pictures(kind: str) -> Table:
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, size=(30, 2, 2, 1)).astype(kind)
    return Table(X, rng.normal(size=30))


@pytest.mark.parametrize(("own", "other"), [("u1", "f4"), ("f4", "u1")])
def test_pixels_and_other_numbers_are_not_taken_for_each_other(own: str, other: str) -> None:
    facts = Facts("regression", 30, (2, 2, 1))
    how: dict[str, Any] = {"val_fraction": 0.1, "test_fraction": 0.1, "seed": 1, "normalize": True}
    model = Perceptron([4, 1], facts=facts)
    model.scaling = split(pictures(own), facts, **how).train.scaling

    evaluate.measure(model, split(pictures(own), facts, **how).test, facts=facts)
    with pytest.raises(DataError, match="They are not scaled in the same way"):
        evaluate.measure(model, split(pictures(other), facts, **how).test, facts=facts)


# ---- classes


def write_classes(path: Path, names: tuple[str, ...], *, centres: tuple[int, ...]) -> dict[str, Any]:
    """A table whose classes lie around points on a line; its section."""
    rng = np.random.default_rng(2)
    labels = np.arange(60) % len(names)
    X = rng.normal(size=(60, 2)) * 0.1 + np.array(centres)[labels][:, None]
    lines = [f"{x[0]},{x[1]},{names[label]}" for x, label in zip(X, labels, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return trainings.custom(path.name, task="classification")


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a run on ants at -2, bees at 0 and cats at 2."""
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    dataset = write_classes(tmp_path / "zoo.csv", NAMES, centres=(-2, 0, 2))
    end, _ = train_here(request(tmp_path, config(FLOWERS, dataset, epochs=60, learning_rate=0.05)))
    assert end.exit_code == 0
    return tmp_path


def zoo_model(zoo: Path) -> Network:
    return load(zoo, config(FLOWERS, epochs=60))


def test_the_model_keeps_the_names_of_its_classes(zoo: Path) -> None:
    assert zoo_model(zoo).facts.classes == NAMES


def test_classes_of_other_data_are_taken_by_name(zoo: Path) -> None:
    other = write_classes(zoo / "other.csv", ("cat", "bee"), centres=(2, 0))

    found = measured(zoo_model(zoo), other, zoo)

    # counted by its own numbers, bee would be 0 and cat 1
    assert found["accuracy"] == 1.0
    assert found["confusion_matrix"] == [[0, 0, 0], [0, 3, 0], [0, 0, 3]]


def test_a_class_that_was_never_seen_is_refused_by_name(zoo: Path) -> None:
    other = write_classes(zoo / "other.csv", ("ant", "dog", "eel"), centres=(-2, 0, 2))

    with pytest.raises(DataError, match=r"not trained on: 'dog', 'eel'\. Allowed: 'ant', 'bee', 'cat'\."):
        measured(zoo_model(zoo), other, zoo)


def test_numbers_are_not_taken_for_names(zoo: Path) -> None:
    other = write_classes(zoo / "other.csv", ("0", "1", "2"), centres=(-2, 0, 2))

    with pytest.raises(DataError, match=r"classes with names: 'ant', .* The dataset's have numbers"):
        measured(zoo_model(zoo), other, zoo)


def test_names_are_not_taken_for_numbers(tmp_path: Path) -> None:
    model = Perceptron([2, 3])

    with pytest.raises(DataError, match=r"classes with numbers\. The dataset's have names: 'a', 'b'"):
        evaluate.check_fit(model, Facts("classification", 9, (2,), 2, classes=("a", "b")), where=tmp_path)


@pytest.mark.parametrize(("n_classes", "fits"), [(1, True), (2, True), (3, True), (4, False)])
def test_data_may_lack_classes_but_not_have_more(tmp_path: Path, n_classes: int, fits: bool) -> None:
    model, facts = Perceptron([2, 3]), Facts("classification", 9, (2,), n_classes)

    if fits:
        evaluate.check_fit(model, facts, where=tmp_path)
    else:
        with pytest.raises(DataError, match=r"2 numbers and 3 classes\. The dataset is a .* and 4 classes"):
            evaluate.check_fit(model, facts, where=tmp_path)


def test_many_names_are_not_all_listed(tmp_path: Path) -> None:
    names = tuple(f"c{i:03}" for i in range(100))
    model = Perceptron([2, 100], facts=Facts("classification", 0, (2,), 100, classes=names))

    with pytest.raises(DataError) as caught:
        evaluate.check_fit(model, Facts("classification", 9, (2,), 1, classes=("x" * 1000,)), where=tmp_path)

    assert "'c009' and 90 more" in str(caught.value) and len(str(caught.value)) < 800


def test_renamed_classes_are_other_data(zoo: Path) -> None:
    before = datasets.load(trainings.custom("zoo.csv", task="classification"), root=zoo).fingerprint
    renamed = write_classes(zoo / "zoo.csv", ("art", "bed", "car"), centres=(-2, 0, 2))

    assert datasets.load(renamed, root=zoo).fingerprint.rows != before.rows


def test_many_classes_make_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "_NUMBERS_AT_ONCE", 100)

    assert evaluate._rows_at_once(Facts("classification", 9, (2,), 50)) == 2
    assert evaluate._rows_at_once(Facts("classification", 9, (20,), 5)) == 5


# ---- whose checkpoint it is


@pytest.fixture
def run(tmp_path: Path) -> Path:
    train_here(request(tmp_path, config(MLP)))
    return tmp_path


def copied_from_another_run(run: Path, model: dict[str, Any]) -> None:
    train_here(request(run / "other", config(model)))
    shutil.rmtree(checkpoints_of(run) / "checkpoint_final")
    shutil.copytree(checkpoints_of(run / "other") / "checkpoint_final", checkpoints_of(run) / "checkpoint_final")


@pytest.mark.parametrize(
    "model",
    [
        LINEAR,
        {"name": "mlp", "params": {"layer_sizes": [trainings.FEATURES, 5, 1]}},
        {"name": "mlp", "params": {"layer_sizes": [trainings.FEATURES, 3, 1], "seed": 7}},
    ],
)
def test_a_checkpoint_of_another_model_is_refused(run: Path, model: dict[str, Any]) -> None:
    copied_from_another_run(run, model)

    with pytest.raises(DataError, match="another model than the run's configuration asks for"):
        load(run, config(MLP))


def test_a_model_that_the_configuration_could_not_ask_for_is_refused(run: Path) -> None:
    wide = {"name": "mlp", "params": {"layer_sizes": [9, 1]}}

    with pytest.raises(DataError, match="another model than the run's configuration asks for"):
        load(run, config(wide))


def test_a_link_to_a_checkpoint_is_none(run: Path) -> None:
    (checkpoints_of(run) / "checkpoint_epoch_9").symlink_to(checkpoints_of(run) / "checkpoint_epoch_2")

    with pytest.raises(DataError, match="Unknown checkpoint '9'"):
        load(run, config(MLP), "9")


def test_a_final_checkpoint_of_an_earlier_epoch_is_refused(run: Path) -> None:
    shutil.rmtree(checkpoints_of(run) / "checkpoint_final")
    shutil.copytree(checkpoints_of(run) / "checkpoint_epoch_2", checkpoints_of(run) / "checkpoint_final")

    with pytest.raises(DataError, match=r"epoch 2, and the run's last is 3.*checkpoint_epoch_2$"):
        load(run, config(MLP))
    assert load(run, config(MLP), "2").name == "mlp"


def test_a_regression_is_measured_on_other_generated_rows(run: Path) -> None:
    found = measured(load(run, config(MLP)), regression(seed=9), run)

    assert found["mse"] > 0
