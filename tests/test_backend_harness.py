"""The harness as a backend of workflows: text as numbers, hyperparameters as a configuration, models and their metrics."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, log_loss, mean_squared_error, r2_score

from autoexperiment import datasets as harness_datasets
from autoexperiment import models
from autoexperiment.config import ConfigLoader
from autoexperiment.errors import DataError, HarnessError, LabError, UsageError
from autoexperiment.workflow import datasets
from autoexperiment.workflow.backends.base import Dataset, EvalTask, Place, Training
from autoexperiment.workflow.backends.harness import BACKEND
from autoexperiment.workflow.backends.hashing import features

SMALL: dict[str, Any] = {"n_epochs": 2, "batch_size": 8, "learning_rate": 0.01, "hidden_sizes": [4], "n_features": 16}
WORDS = ("red apple", "green apple", "blue sky", "grey sky", "old song", "new song")
ANSWERS = {"apple": "fruit", "sky": "air", "song": " music\n"}


def rows(n: int = 60) -> list[dict[str, str]]:
    """Prompts of two words and a number; the answer is the last word's."""
    texts = [f"{number} {WORDS[number % len(WORDS)]}" for number in range(n)]
    return [{"prompt": text, "completion": ANSWERS[text.split()[-1]]} for text in texts]


def table(n: int = 40, *, whole: bool = False) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3))
    return (x, (x[:, 0] > 0).astype(int)) if whole else (x, x @ [1.0, -2.0, 0.5])


def place_of(folder: Path, name: str = "one") -> Place:
    return Place(folder, folder / "outputs" / "sweep" / name)


def submitted(folder: Path, what: Any = None, *, model: str = "mlp", **hyperparameters: Any) -> dict[str, Any]:
    dataset = datasets.keep(rows() if what is None else what, root=folder, loader="rows")
    given = hyperparameters if what is not None else {**SMALL, **hyperparameters}
    return BACKEND.submit(Training(dataset, model, given), place_of(folder))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, Any]]:
    """A classifier of the rows, and where it is; no test changes it."""
    place = place_of(tmp_path_factory.mktemp("trained"))
    return place, BACKEND.wait(submitted(place.root, n_epochs=20), place, timeout_s=None)


@pytest.fixture
def copied(trained: tuple[Place, dict[str, Any]], tmp_path: Path) -> tuple[Place, dict[str, Any]]:
    """The same, in a folder that a test may change."""
    place, model = trained
    shutil.copytree(place.root, tmp_path, dirs_exist_ok=True)
    return place_of(tmp_path), model


def predictions(folder: Path, model: Mapping[str, Any], split: str) -> tuple[Any, Any, Any]:
    """True classes or targets, predictions, and probabilities if there are such, from the files alone."""
    run = folder / model["run_dir"]
    parts = harness_datasets.load(json.loads((run / "config.json").read_text())["dataset"], root=folder)
    network = models.load(run / "checkpoints" / "checkpoint_final")
    x, y = parts.part(split).take(slice(None))
    return y, network.predict(x), network.predict_proba(x) if parts.facts.n_classes else None


# ---- text as rows of numbers


def hashed_again(text: str, n_features: int) -> list[float]:
    """The definition a second time: signed counts of words and pairs, scaled to a mean square of 1."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    row = [0.0] * n_features
    for term in [*words, *(f"{one}\x1f{other}" for one, other in pairwise(words))]:
        number = int(hashlib.blake2b(term.encode(), digest_size=8).hexdigest(), 16)
        row[number // 2 % n_features] += 1 if number % 2 else -1
    length = math.sqrt(sum(value**2 for value in row) / n_features)
    return [value / length if length else 0.0 for value in row]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=5), st.integers(1, 50)
)
def test_features_are_signed_counts_of_words_and_pairs(texts: list[str], n_features: int) -> None:
    found = features(texts, n_features)

    assert (found.shape, found.dtype) == ((len(texts), n_features), np.float32)
    np.testing.assert_allclose(found, [hashed_again(text, n_features) for text in texts], rtol=1e-6)


def test_features_tell_the_order_of_words_and_not_their_case() -> None:
    found = features(["dog bites man", "man bites dog", "DOG Bites man"], 64)

    assert not np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


# ---- the job


def test_a_job_is_a_whole_configuration_of_the_harness(tmp_path: Path) -> None:
    job = submitted(tmp_path, optimizer="sgd", seed=5, lora_rank=2, activation="tanh", l2_regularization=0.1,
                    val_fraction=0.2, test_fraction=0.3, normalize=True)  # fmt: skip

    config = job["config"]
    assert ConfigLoader.load_from_dict(config).to_json() == config
    assert config["model"]["params"] == {
        "layer_sizes": [16, 4, 3], "activation": "tanh", "output_activation": None, "lora_rank": 2, "seed": 5,
        "l2_regularization": 0.1,
    }  # fmt: skip
    assert config["training"] == {
        "epochs": 2, "batch_size": 8, "learning_rate": 0.01, "optimizer": "sgd", "seed": 5, "timeout_s": None,
    }  # fmt: skip
    dataset = config["dataset"]
    assert (dataset["val_fraction"], dataset["test_fraction"], dataset["params"]["normalize"]) == (0.2, 0.3, True)
    assert (dataset["params"]["task"], job["text"]["classes"]) == ("classification", ["air", "fruit", "music"])
    json.dumps(job, allow_nan=False)


def test_what_is_left_out_has_the_defaults_of_the_harness(tmp_path: Path) -> None:
    job = submitted(tmp_path, rows())

    params, training = job["config"]["model"]["params"], job["config"]["training"]
    assert params["layer_sizes"] == [64, 32, 3] and "lora_rank" not in params and params["seed"] == 42
    assert (training["epochs"], training["batch_size"], training["learning_rate"]) == (10, 32, 0.001)


def test_rows_of_the_job_are_the_prompts_and_the_numbers_of_the_answers(tmp_path: Path) -> None:
    job = submitted(tmp_path)

    with np.load(tmp_path / job["config"]["dataset"]["path"]) as arrays:
        x, y = arrays["X"], arrays["y"]
    np.testing.assert_array_equal(x, features([row["prompt"] for row in rows()], 16))
    assert y.tolist() == [{"apple": 1, "sky": 0, "song": 2}[row["prompt"].split()[-1]] for row in rows()]


def test_a_job_is_a_pure_function_of_its_content(tmp_path: Path) -> None:
    dataset = datasets.keep(rows(), root=tmp_path, loader="rows")

    jobs = [
        BACKEND.submit(Training(dataset, "mlp", SMALL, suffix), place_of(tmp_path, name))
        for suffix, name in (("a", "one"), ("b", "two"))
    ]

    assert jobs[0] == jobs[1]


@pytest.mark.parametrize(
    ("whole", "sizes", "task"), [(False, [3, 5, 1], "regression"), (True, [3, 5, 2], "classification")]
)
def test_whole_targets_of_a_table_are_classes_and_others_numbers(
    tmp_path: Path, whole: bool, sizes: list[int], task: str
) -> None:
    job = submitted(tmp_path, table(whole=whole), hidden_sizes=[5])

    assert job["config"]["model"]["params"]["layer_sizes"] == sizes
    assert job["task"] == task == job["config"]["dataset"]["params"]["task"]


@pytest.mark.parametrize(
    ("model", "hyperparameters", "message"),
    [
        ("resnet", {}, "Unknown model of the backend 'harness' 'resnet'. Known: mlp, linear_regression"),
        (
            "mlp",
            {"epochs": 3},
            r"Unknown hyperparameter 'epochs' in model 'mlp'. Known: n_epochs.*Did you mean 'n_epochs'",
        ),
        ("mlp", {"lerning_rate": 3}, "Did you mean 'learning_rate'"),
        ("mlp", {"weight_decay": 0.1}, "Unknown hyperparameter 'weight_decay'"),
        ("linear_regression", {"lora_rank": 2}, "Unknown hyperparameter 'lora_rank' in model 'linear_regression'"),
        ("mlp", {"n_epochs": 0}, r"'n_epochs': must be positive integer, got 0.*\(hyperparameters.n_epochs\)"),
        ("mlp", {"seed": -1}, r"\(hyperparameters.seed\)"),
        ("mlp", {"optimizer": "adma"}, r"Did you mean 'adam'\? \(hyperparameters.optimizer\)"),
        ("mlp", {"lora_rank": 0, "batch_size": 2.5}, r"(?s)'lora_rank'.*\(hyperparameters.lora_rank\).*'batch_size'"),
        ("mlp", {"learning_rate": "0.1"}, "Write it as a number"),
        ("mlp", {"val_fraction": 0.6, "test_fraction": 0.4}, "leave nothing to train on"),
        ("mlp", {"n_features": 0}, "'n_features' is 0. Allowed: whole numbers from 1"),
        ("mlp", {"n_features": True}, "'n_features' is True"),
        ("mlp", {"n_features": 1_000_001}, "'n_features' is 1000001"),
        ("mlp", {"hidden_sizes": 32}, "'hidden_sizes' is 32. Allowed: a list"),
        ("mlp", {"hidden_sizes": "32"}, "'hidden_sizes' is '32'"),
        ("mlp", {"hidden_sizes": ""}, "'hidden_sizes' is ''"),
        ("mlp", {"hidden_sizes": [32, 0]}, r"'hidden_sizes' is \[32, 0\]"),
        ("mlp", {"hidden_sizes": [True]}, r"'hidden_sizes' is \[True\]"),
    ],
)
def test_what_is_no_hyperparameter_is_refused_before_there_is_any_data(
    tmp_path: Path, model: str, hyperparameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        BACKEND.check(model, hyperparameters)

    dataset = datasets.keep(rows(), root=tmp_path, loader="rows")
    with pytest.raises(UsageError, match=message):
        BACKEND.submit(Training(dataset, model, hyperparameters), place_of(tmp_path))


@pytest.mark.parametrize(
    ("what", "model", "hyperparameters", "message"),
    [
        (rows()[0::6], "mlp", {}, "1 different completions.*2 to 1000.*mlx_lm"),
        ([{"prompt": "p", "completion": str(i)} for i in range(1001)], "mlp", {}, "1001 different completions"),
        (rows(), "linear_regression", {}, "predicts numbers, and the dataset is a classification"),
        (table(whole=True), "linear_regression", {}, "predicts numbers"),
        (table(), "mlp", {"n_features": 8}, "'n_features' is for text.*Leave it out"),
        (table(), "mlp", {"hidden_sizes": [1_000_000, 100_000]}, "Allowed: up to"),
    ],
)
def test_what_the_data_does_not_fit_is_refused_before_training(
    tmp_path: Path, what: Any, model: str, hyperparameters: dict[str, Any], message: str
) -> None:
    dataset = datasets.keep(what, root=tmp_path, loader="rows")

    with pytest.raises(LabError, match=message):
        BACKEND.submit(Training(dataset, model, hyperparameters), place_of(tmp_path))


def test_a_prepared_dataset_is_of_another_backend(tmp_path: Path) -> None:
    dataset = Dataset("pystdlib", "prepared", "0" * 20, 0)

    with pytest.raises(DataError, match="backend_name 'gpt'"):
        BACKEND.submit(Training(dataset, "mlp"), place_of(tmp_path))


def test_data_that_was_changed_is_not_submitted(tmp_path: Path) -> None:
    dataset = datasets.keep(rows(), root=tmp_path, loader="rows")
    with (tmp_path / dataset.path).open("a") as file:
        file.write('{"prompt": "one more", "completion": "air"}\n')

    with pytest.raises(DataError, match="was changed"):
        BACKEND.submit(Training(dataset, "mlp"), place_of(tmp_path))


# ---- training


def test_a_model_is_a_run_of_the_harness_in_the_workflows_folder(trained: tuple[Place, dict[str, Any]]) -> None:
    place, model = trained

    run = place.root / model["run_dir"]
    assert run.parent == place.run_dir / "training"
    assert json.loads((run / "run.json").read_text())["outcome"] == "ok"
    assert [folder.name for folder in (run / "checkpoints").iterdir()] == ["checkpoint_final"]
    assert model["metrics"].keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}
    json.dumps(model, allow_nan=False)


def test_the_same_job_gives_the_same_model(trained: tuple[Place, dict[str, Any]], tmp_path: Path) -> None:
    _, model = trained

    again = BACKEND.wait(submitted(tmp_path, n_epochs=20), place_of(tmp_path), timeout_s=None)

    assert again["sha256"] == model["sha256"]
    assert again["metrics"] == model["metrics"]


def test_rows_that_were_cleaned_up_are_made_again(copied: tuple[Place, dict[str, Any]]) -> None:
    place, model = copied
    (place.root / model["rows"]["path"]).unlink()

    results = BACKEND.evaluate(model, EvalTask("task"), place)

    assert results["task"]["accuracy"] is not None


@pytest.mark.parametrize(
    ("hyperparameters", "timeout_s", "message"),
    [
        ({"learning_rate": 1e30, "optimizer": "sgd", "n_epochs": 5}, None, "The training diverged: loss is"),
        ({"n_epochs": 1_000_000}, 0.5, "The training took too long: "),
    ],
)
def test_a_training_that_does_not_end_well_is_an_error(
    tmp_path: Path, hyperparameters: dict[str, Any], timeout_s: float | None, message: str
) -> None:
    job = submitted(tmp_path, **hyperparameters)

    with pytest.raises(HarnessError, match=message):
        BACKEND.wait(job, place_of(tmp_path), timeout_s=timeout_s)


def test_a_stopped_training_stops_the_one_who_waits(tmp_path: Path) -> None:
    job = submitted(tmp_path, n_epochs=1_000_000)
    (tmp_path / "job.json").write_text(json.dumps(job))
    code = (
        "import json; from pathlib import Path\n"
        "from autoexperiment.workflow.backends.base import Place\n"
        "from autoexperiment.workflow.backends.harness import BACKEND\n"
        f"root = Path({str(tmp_path)!r})\n"
        "try: BACKEND.wait(json.loads((root / 'job.json').read_text()), Place(root, root / 'outputs/a/b'), timeout_s=60)\n"
        "except KeyboardInterrupt: print('stopped')\n"
    )

    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("outputs/a/b/training/*/metrics/metrics.ndjson")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)

    assert process.communicate(timeout=60)[0] == "stopped\n"


def test_a_place_outside_of_the_workspace_is_refused(tmp_path: Path) -> None:
    job = submitted(tmp_path / "root")

    with pytest.raises(HarnessError, match="outside of"):
        BACKEND.wait(job, Place(tmp_path / "root", tmp_path / "elsewhere"), timeout_s=None)


# ---- evaluation


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_metrics_of_classes_are_those_of_scikit_learn(trained: tuple[Place, dict[str, Any]], split: str) -> None:
    place, model = trained

    results = BACKEND.evaluate(model, EvalTask("task", split=split), place)

    y, predicted, shares = predictions(place.root, model, split)
    assert results["task"] == {
        "accuracy": pytest.approx(accuracy_score(y, predicted)),
        "f1_score": pytest.approx(f1_score(y, predicted, average="macro")),
        "log_loss": pytest.approx(log_loss(y, shares, labels=[0, 1, 2]), rel=1e-4),
    }


def test_metrics_of_numbers_are_those_of_scikit_learn(tmp_path: Path) -> None:
    place = place_of(tmp_path)

    model = BACKEND.wait(submitted(tmp_path, table(), model="linear_regression"), place, timeout_s=None)
    results = BACKEND.evaluate(model, EvalTask("line"), place)

    y, predicted, _ = predictions(tmp_path, model, "test")
    assert results["line"].keys() == {"mse", "rmse", "mae", "r2"}
    assert results["line"]["mse"] == pytest.approx(mean_squared_error(y, predicted), rel=1e-3, abs=1e-12)
    assert results["line"]["r2"] == pytest.approx(r2_score(y, predicted), abs=1e-6)


def test_only_the_tasks_metrics_are_reported(trained: tuple[Place, dict[str, Any]]) -> None:
    place, model = trained

    results = BACKEND.evaluate(model, EvalTask("task", metrics=("f1_score",)), place)

    assert list(results["task"]) == ["f1_score"]


def test_samples_of_the_task_are_asked_instead_of_rows(trained: tuple[Place, dict[str, Any]]) -> None:
    place, model = trained
    asked = (("a pink apple", "fruit"), ("a low sky", "air "), ("a long song", "music"), ("another apple", "music"))

    results = BACKEND.evaluate(model, EvalTask("mine", samples=asked), place)

    network = models.load(place.root / model["run_dir"] / "checkpoints" / "checkpoint_final")
    predicted = network.predict(features([prompt for prompt, _ in asked], 16))
    assert results["mine"]["accuracy"] == np.mean(predicted == [1, 0, 2, 2])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            EvalTask("t", metrics=("accuracy", "f1")),
            "Unknown metric of a classification 'f1' in task 't'. Known: accuracy, f1_score",
        ),
        (EvalTask("t", metrics=("mse",)), "Known: accuracy, f1_score, log_loss"),
        (EvalTask("t", split="tests"), "Unknown split 'tests'"),
        (
            EvalTask("t", samples=(("a", "vegetable"),)),
            "'vegetable', which no row of the dataset has. Known: 'air', 'fruit'",
        ),
        (EvalTask("t", samples=(("a", "air"),), match="contains"), "match 'contains'.*Allowed: exact"),
    ],
)
def test_a_task_that_the_model_cannot_do_is_refused(
    trained: tuple[Place, dict[str, Any]], task: EvalTask, message: str
) -> None:
    place, model = trained

    with pytest.raises(LabError, match=message):
        BACKEND.evaluate(model, task, place)


def test_samples_need_a_model_of_text(tmp_path: Path) -> None:
    place = place_of(tmp_path)
    model = {**submitted(tmp_path, table(whole=True)), "run_dir": "nowhere", "sha256": ""}

    with pytest.raises(UsageError, match="trained on a table"):
        BACKEND.evaluate(model, EvalTask("t", samples=(("a", "b"),)), place)


# ---- whether a model is still there


def test_a_model_is_there_as_long_as_its_files_are_as_they_were(copied: tuple[Place, dict[str, Any]]) -> None:
    place, model = copied
    weights = place.root / model["run_dir"] / "checkpoints" / "checkpoint_final" / "layer_0_weights.npy"
    assert BACKEND.is_there(model, place)

    blob = bytearray(weights.read_bytes())
    blob[-1] ^= 1
    weights.write_bytes(blob)

    assert not BACKEND.is_there(model, place)


def test_a_checkpoint_of_another_training_is_not_the_model(copied: tuple[Place, dict[str, Any]]) -> None:
    place, model = copied

    assert not BACKEND.is_there({**model, "sha256": "0" * 64}, place)


def test_a_model_whose_run_was_removed_is_not_there(copied: tuple[Place, dict[str, Any]]) -> None:
    place, model = copied
    shutil.rmtree(place.root / model["run_dir"])

    assert not BACKEND.is_there(model, place)


def test_samples_that_are_the_dataset_are_refused_in_the_words_of_tasks(trained: tuple[Place, dict[str, Any]]) -> None:
    """The message of `mlx eval` named an option that a workflow does not have."""
    place, model = trained
    own = tuple((row["prompt"], row["completion"]) for row in rows())

    with pytest.raises(UsageError, match=r"The 60 samples of task 'mine' are the rows of the dataset") as refused:
        BACKEND.evaluate(model, EvalTask("mine", samples=own), place)

    assert "--config" not in str(refused.value)
