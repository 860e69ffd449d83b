"""What a configuration may say: every field and every rule, with a mistake for each; and its JSON Schema."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from config_documents import CLASSES, CONFIGS, GONE, LOADER, MLP, SMALL, TABLE, changed, faults
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoexperiment.config import ConfigLoader, ExperimentConfig
from autoexperiment.config.document import LinearRegression, Training, check_output
from autoexperiment.config.schema import json_schema
from autoexperiment.errors import ConfigError

DATA, MODEL = "dataset.params", "model.params"

# what is changed, where the fault is reported, words of it; a schema can say the same
PLAIN: list[tuple[dict[str, Any], str, str]] = [
    ({"name": GONE}, "name", "Missing required field: 'name'"),
    ({"dataset": GONE}, "dataset", "Missing required field: 'dataset'"),
    ({"model": GONE}, "model", "Missing required field: 'model'"),
    ({"name": 2024}, "name", "got 2024"),
    ({"name": ""}, "name", "1 to 100"),
    ({"name": "a" * 101}, "name", "1 to 100"),
    ({"name": "a/b"}, "name", "got text 'a/b'"),
    ({"name": "a\n"}, "name", "letters, digits"),
    ({"name": ".hidden"}, "name", "a letter or digit first"),
    ({"name": "-rf"}, "name", "a letter or digit first"),
    ({"name": "a."}, "name", "no '.' last"),
    ({"name": "autoresearch-mar5"}, "name", "the loop's own runs"),
    ({"description": 5}, "description", "printable"),
    ({"description": "x" * 10_001}, "description", "10000"),
    ({"dataset": "mnist"}, "dataset", "Field 'dataset' must be an object (mapping), but got text"),
    ({"dataset.name": GONE}, "dataset.name", "Missing required field: 'dataset.name'"),
    ({"dataset.name": 5}, "dataset.name", "Dataset name must be text, got 5"),
    ({"dataset.name": "my_dataset"}, "dataset.name",
     "Unknown dataset 'my_dataset'. Currently supported: synthetic_regression, synthetic_classification"),
    ({"dataset.name": "cifar-10"}, "dataset.name", "Did you mean 'cifar10'?"),
    ({"dataset.name": "custom_table"}, "dataset.name", "Unknown dataset"),
    ({"dataset.path": "x.csv"}, "dataset.path", "does not apply to dataset 'synthetic_regression'"),
    ({"dataset.loader": "a:B"}, "dataset.loader", "does not apply"),
    ({"dataset.params": None}, "dataset.params", "but got null. Leave it out for the defaults"),
    ({"dataset.params": []}, "dataset.params", "but got list"),
    ({"dataset.n_samples": 5}, "dataset.n_samples", "It belongs into 'dataset.params'"),
    ({"dataset.val_fraction": 1.0}, "dataset.val_fraction", "below 1"),
    ({"dataset.test_fraction": -0.1}, "dataset.test_fraction", "number from 0"),
    ({"dataset.test_fraction": True}, "dataset.test_fraction", "got true"),
    ({f"{DATA}.n_samples": -5}, f"{DATA}.n_samples",
     "Invalid value for 'n_samples': must be positive integer, got -5. Allowed: 1 to 1000000000"),
    ({f"{DATA}.n_samples": True}, f"{DATA}.n_samples", "got true"),
    ({f"{DATA}.n_samples": "100"}, f"{DATA}.n_samples", "Write it as a number: 100"),
    ({f"{DATA}.n_samples": "1_000"}, f"{DATA}.n_samples", "Write it as a number: 1000"),
    ({f"{DATA}.n_samples": 10**9 + 1}, f"{DATA}.n_samples", "positive integer"),
    ({f"{DATA}.n_features": 1.5}, f"{DATA}.n_features", "got 1.5"),
    ({f"{DATA}.n_features": None}, f"{DATA}.n_features", "got null"),
    ({f"{DATA}.n_informative": 0}, f"{DATA}.n_informative", "or null for all features"),
    ({f"{DATA}.noise_std": -0.1}, f"{DATA}.noise_std", "non-negative number, got -0.1"),
    ({f"{DATA}.noise_std": True}, f"{DATA}.noise_std", "non-negative number, got true"),
    ({f"{DATA}.noise_std": 1e31}, f"{DATA}.noise_std", "0 to 1e+15"),
    ({f"{DATA}.noise": 0.1}, f"{DATA}.noise", "Did you mean 'noise_std'?"),
    ({f"{DATA}.seed": -1}, f"{DATA}.seed", "0 to 9223372036854775807"),
    ({f"{DATA}.seed": 2**63}, f"{DATA}.seed", "0 to 9223372036854775807"),
    ({f"{DATA}.seed": None}, f"{DATA}.seed", "non-negative integer, got null"),
    ({"dataset": CLASSES, f"{DATA}.n_classes": 1}, f"{DATA}.n_classes", "integer >= 2"),
    ({"dataset": CLASSES, f"{DATA}.class_sep": 0}, f"{DATA}.class_sep", "positive number, got 0"),
    ({"dataset": CLASSES, f"{DATA}.class_sep": 1e300}, f"{DATA}.class_sep", "1e-30 to 1e+15"),
    ({"dataset": {"name": "mnist"}, "dataset.test_fraction": 0.1}, "dataset.test_fraction",
     "Key 'test_fraction' with 0.1 does not apply to dataset 'mnist'. Leave it out"),
    ({"dataset": {"name": "cifar100"}, "dataset.test_fraction": 0}, "dataset.test_fraction", "does not apply to"),
    ({"dataset": CLASSES, f"{DATA}.noise_std": 1}, f"{DATA}.noise_std", "Unknown key 'noise_std' in 'dataset.params'"),
    ({"dataset": {"name": "custom"}}, "dataset.path", "Dataset 'custom' requires 'path'"),
    ({"dataset": {"name": "custom", "path": None}}, "dataset.path", "or 'loader' (module:Class)"),
    ({"dataset": TABLE, "dataset.loader": "a:B"}, "dataset.path", "takes 'path' or 'loader', not both"),
    ({"dataset": TABLE, "dataset.path": ""}, "dataset.path", "1 to 1024"),
    ({"dataset": TABLE, f"{DATA}.task": "regresion"}, f"{DATA}.task", "Did you mean 'regression'?"),
    ({"dataset": TABLE, f"{DATA}.target": True}, f"{DATA}.target", "a column's name or number"),
    ({"dataset": TABLE, f"{DATA}.target": -1}, f"{DATA}.target", "a number from 0"),
    ({"dataset": TABLE, f"{DATA}.normalize": "yes"}, f"{DATA}.normalize", "Write it without quotation marks: true"),
    ({"dataset": TABLE, f"{DATA}.normalize": 1}, f"{DATA}.normalize", "must be true or false, got 1"),
    ({"dataset": TABLE, f"{DATA}.sha256": "abc"}, f"{DATA}.sha256", "64 digits"),
    ({"dataset": TABLE, f"{DATA}.sha256": "a" * 64, f"{DATA}.url": "ftp://h/x"}, f"{DATA}.url", "http or https"),
    ({"dataset": TABLE, f"{DATA}.n_samples": 5}, f"{DATA}.n_samples", "Unknown key"),
    ({"dataset": LOADER, "dataset.loader": "my_data"}, "dataset.loader", "module:Class"),
    ({"dataset": LOADER, "dataset.loader": "my-data:Prices"}, "dataset.loader", "my_data:Prices"),
    ({"dataset": LOADER, f"{DATA}.seed": "x"}, f"{DATA}.seed", "non-negative integer"),
    ({"dataset": LOADER, f"{DATA}.normalize": 1}, f"{DATA}.normalize", "true or false"),
    ({"dataset": {"name": "mnist", "params": {"labels": "fine"}}}, f"{DATA}.labels", "Unknown key"),
    ({"dataset": {"name": "cifar100", "params": {"labels": "rough"}}}, f"{DATA}.labels", "fine, coarse"),
    ({"model": 5}, "model", "Field 'model' must be an object (mapping), but got number"),
    ({"model.name": "vgg"}, "model.name", "Unknown model 'vgg'. Currently supported: linear_regression, mlp, resnet"),
    ({"model.name": "MLP"}, "model.name", "Did you mean 'mlp'?"),
    ({"model": {"name": "mlp"}}, MODEL, "Model 'mlp' requires 'layer_sizes' parameter"),
    ({"model": {"name": "mlp", "params": {}}}, f"{MODEL}.layer_sizes", "Model 'mlp' requires 'layer_sizes' parameter"),
    ({"model": MLP, f"{MODEL}.layer_sizes": [5]}, f"{MODEL}.layer_sizes", "2 or more positive integers"),
    ({"model": MLP, f"{MODEL}.layer_sizes": 5}, f"{MODEL}.layer_sizes", "a list of 2 or more"),
    ({"model": MLP, f"{MODEL}.layer_sizes": [5, 0, 1]}, f"{MODEL}.layer_sizes.1", "'layer_sizes[1]': must be positive integer"),
    ({"model": MLP, f"{MODEL}.activation": "gelu"}, f"{MODEL}.activation", "relu, tanh, sigmoid"),
    ({"model": MLP, f"{MODEL}.output_activation": "relu"}, f"{MODEL}.output_activation", "sigmoid, softmax"),
    ({"model": MLP, f"{MODEL}.lora_rank": 0}, f"{MODEL}.lora_rank", "positive integer, got 0. Allowed: 1 to 1000000000, or null"),
    ({"model": MLP, f"{MODEL}.lora_rank": True}, f"{MODEL}.lora_rank", "positive integer, got true"),
    ({"model": MLP, f"{MODEL}.lora_rank": "4"}, f"{MODEL}.lora_rank", "Write it as a number: 4"),
    ({"model.params": {"lora_rank": 4}}, f"{MODEL}.lora_rank", "Unknown key 'lora_rank'"),
    ({"model.params": {"use_gradient_descent": 0}}, f"{MODEL}.use_gradient_descent", "true or false"),
    ({"model.params": {"l2_regularization": -1}}, f"{MODEL}.l2_regularization", "non-negative number"),
    ({"model.params": {"l2": 1}}, f"{MODEL}.l2", "Did you mean 'l2_regularization'?"),
    ({"model": {"name": "resnet", "params": {"depth": 18}}}, f"{MODEL}.depth", "one of 8, 14, 20, 32, 44, 56, got 18"),
    ({"model": {"name": "resnet", "params": {"width": 0}}}, f"{MODEL}.width", "1 to 4096"),
    ({"training": []}, "training", "Field 'training' must be an object (mapping), but got list"),
    ({"training.epochs": 0}, "training.epochs", "positive integer, got 0"),
    ({"training.batch_size": -1}, "training.batch_size", "positive integer, got -1"),
    ({"training.learning_rate": 0}, "training.learning_rate", "positive number, got 0"),
    ({"training.learning_rate": "1e-3"}, "training.learning_rate", "Write it as a number: 0.001"),
    ({"training.optimizer": "adamax"}, "training.optimizer", "Unknown optimizer 'adamax'. Currently supported: adam, sgd"),
    ({"training.optimizer": 3}, "training.optimizer", "must be one of adam, sgd, rmsprop, adamw, got 3"),
    ({"training.seed": 1.5}, "training.seed", "non-negative integer"),
    ({"training.timeout_s": 0}, "training.timeout_s", "or null for no limit"),
    ({"training.lr": 0.1}, "training.lr", "Did you mean 'learning_rate'?"),
    ({"epochs": 5}, "epochs", "Unknown key 'epochs'. It belongs into 'training'"),
    ({"seed": 5}, "seed", "'training' or 'dataset.params' or 'model.params'"),
    ({"output.directory": ""}, "output.directory", "1 to 1024"),
    ({"output.directory": 5}, "output.directory", "must be text, got 5"),
    ({"output.directory": "/tmp/runs"}, "output.directory", "Absolute paths"),
    ({"output.directory": "~/runs"}, "output.directory", "'~'"),
    ({"output.directory": "a:b"}, "output.directory", "every system allows"),
    ({"output.directory": "a\x00b"}, "output.directory", "printable"),
    ({"output.save_checkpoints": "true"}, "output.save_checkpoints", "Write it without quotation marks: true"),
    ({"output.checkpoint_frequency": 0}, "output.checkpoint_frequency", "positive integer"),
    ({"output.save_logs": None}, "output.save_logs", "true or false, got null"),
    ({"name": "CON"}, "name", "device on Windows"),
    ({"name": "com1.x"}, "name", "device on Windows"),
    ({"name": "Index.json"}, "name", "the history's file"),
    ({"name": "AutoResearch-x"}, "name", "the loop's own runs"),
    ({"description": "a\x1b[2J"}, "description", "printable"),
    ({"description": "a\u202eb"}, "description", "printable"),
    ({"output.directory": "a\u202eb"}, "output.directory", "printable"),
    ({"dataset": TABLE, "dataset.path": "a.xlsx"}, "dataset.path", ".csv, .npy, .npz, .parquet"),
    ({"dataset": TABLE, "dataset.path": "~/a.csv"}, "dataset.path", "'~'"),
    ({"dataset": TABLE, "dataset.path": "a\n.csv"}, "dataset.path", "printable"),
    ({"dataset": TABLE, f"{DATA}.url": "https://h/x.csv"}, f"{DATA}.url", "'url' needs 'sha256'"),
    ({"output.directory": "../runs"}, "output.directory", "resolves outside the workspace"),
    ({"output.directory": "a/../../runs"}, "output.directory", "resolves outside the workspace"),
    ({"output.directory": "a/.git/x"}, "output.directory", "the part '.git'"),
    ({"output.directory": "a./x"}, "output.directory", "the part 'a.'"),
    ({"output.directory": "nul"}, "output.directory", "the part 'nul'"),
    ({"output.directory": "x" * 1025}, "output.directory", "1 to 1024"),
    ({"name": "index.json.bak"}, "name", "the history's file"),
    ({"dataset": {"name": "mnist", "path": "~/mnist"}}, "dataset.path", "'~'"),
    ({"dataset": {"name": "cifar100", "path": "a\x1bb"}}, "dataset.path", "printable"),
    ({"dataset": TABLE, f"{DATA}.url": "https://h/x.csv", f"{DATA}.sha256": None}, f"{DATA}.url", "'url' needs 'sha256'"),
    ({"output.directory": ".GIT"}, "output.directory", "the part '.GIT'"),
    ({"output.directory": "runs/COM1.x"}, "output.directory", "the part 'COM1.x'"),
    ({"output.directory": "a /b"}, "output.directory", "the part 'a '"),
    ({"output.directory": "./.."}, "output.directory", "resolves outside the workspace"),
    ({"output.directory": "a/b/c/../../../.."}, "output.directory", "resolves outside the workspace"),
    ({"output.directory": "a/b/../c/./..//../.."}, "output.directory", "resolves outside the workspace"),
]  # fmt: skip
# rules between fields and others that no schema says
RULES: list[tuple[dict[str, Any], str, str]] = [
    ({"dataset.val_fraction": 0.5, "dataset.test_fraction": 0.5}, "dataset.test_fraction", "Their sum must be below 1"),
    ({f"{DATA}.n_informative": 6}, f"{DATA}.n_informative", "'n_informative' (6) cannot exceed 'n_features' (5)"),
    ({f"{DATA}.noise_std": float("nan")}, f"{DATA}.noise_std", "got nan"),
    ({"training.learning_rate": float("inf")}, "training.learning_rate", "got inf"),
    ({"training.learning_rate": 10**400}, "training.learning_rate", "more than 30 digits"),
    ({f"{DATA}.n_samples": 250_000, f"{DATA}.n_features": 501}, f"{DATA}.n_features",
     "Dataset too large: estimated 1002 MB. Reduce n_samples or n_features to stay under 1000 MB"),
    ({"dataset": CLASSES, f"{DATA}.n_samples": 3, f"{DATA}.n_classes": 4}, f"{DATA}.n_classes",
     "'n_samples' (3) must be >= 'n_classes' (4)"),
    ({"dataset": CLASSES, f"{DATA}.n_samples": 1}, f"{DATA}.n_classes", "'n_samples' (1) must be >= 'n_classes' (2)"),
    ({"dataset": TABLE, "dataset.path": "folder", f"{DATA}.sha256": "a" * 64}, DATA,
     "'sha256' in 'params' needs a file, and dataset.path is a folder. Name a file of the types .csv"),
    ({"dataset": TABLE, "dataset.path": "a.csv/", f"{DATA}.download": True}, DATA, "'download' in 'params' needs a file"),
    ({"dataset": TABLE, "dataset.path": "f", f"{DATA}.sha256": "a" * 64, f"{DATA}.url": "https://h/x"}, DATA,
     "'sha256', 'url' in 'params' needs a file"),
    ({"dataset": LOADER, f"{DATA}.x": [1, {"y": float("nan")}]}, f"{DATA}.x", "without NaN and infinity"),
    ({"dataset": LOADER, f"{DATA}.x": {1, 2}}, f"{DATA}.x", "a value of JSON"),
    ({"dataset": LOADER, f"{DATA}.x": {1: 2}}, f"{DATA}.x", "a value of JSON"),
    ({"model": MLP, f"{MODEL}.output_activation": "softmax"}, f"{MODEL}.output_activation", "softmax of one output"),
    ({"model": MLP, f"{MODEL}.layer_sizes": [100_000, 10_001, 1]}, f"{MODEL}.layer_sizes", "Allowed: up to 1000000000"),
    ({"output.directory": "a/b/c/d/../../../../.."}, "output.directory", "resolves outside the workspace"),
]  # fmt: skip
SOUND: list[dict[str, Any]] = [
    {},
    {"name": "lr-0.001_B.2"},
    {"name": "9"},
    {"name": "console"},
    {"name": "index"},
    {"description": "Zwei\n\tZeilen: ü 😀"},
    {"dataset.path": None, "dataset.loader": None},
    {"dataset.val_fraction": 0, "dataset.test_fraction": 0.5},
    {f"{DATA}.n_informative": 5, f"{DATA}.noise_std": 0},
    {f"{DATA}.n_informative": None, f"{DATA}.seed": 2**63 - 1},
    {f"{DATA}.n_samples": 250_000, f"{DATA}.n_features": 500},
    {"dataset": CLASSES, f"{DATA}.n_samples": 2},
    {"dataset": TABLE, f"{DATA}.target": 0},
    {
        "dataset": TABLE,
        f"{DATA}.target": "price",
        f"{DATA}.url": "https://h/x",
        f"{DATA}.sha256": "Ab" * 32,
        f"{DATA}.download": True,
    },
    {"dataset": {"name": "custom", "path": "/path/to/dataset", "params": {"normalize": True}}},
    {"dataset": TABLE, "dataset.path": "data.v2/"},
    {"dataset": LOADER, DATA: {"anything": [None, {"a": 1}], "seed": 1, "normalize": True, "model_config": 1, "_x": 2}},
    {"dataset": {"name": "mnist", "path": "not~a-home", "params": {"normalize": False}}},
    {"dataset": {"name": "cifar10"}},
    {"dataset": {"name": "mnist"}, "dataset.test_fraction": None},
    {"dataset": TABLE, f"{DATA}.sha256": "a" * 64},
    {"dataset": TABLE, "dataset.path": "folder", f"{DATA}.download": False, f"{DATA}.sha256": None},
    {f"{DATA}.noise_std": 1e15},
    {"dataset": {"name": "cifar100", "params": {"labels": "coarse"}}},
    {"model": MLP, f"{MODEL}.output_activation": None},
    {"model": MLP, f"{MODEL}.layer_sizes": [5, 3, 2], f"{MODEL}.output_activation": "softmax"},
    {"model": {"name": "resnet"}},
    {"training": {}, "output": {}},
    {"training.learning_rate": 1, "training.timeout_s": 0.5},
    {"output.directory": "a/../b"},
    {"output.directory": "."},
    {"output.directory": "./a.b/...c/.gitignore/console/nul-x/../x/../../y"},
    {"dataset": TABLE, f"{DATA}.url": None},
]
RANDOM = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize(("changes", "place", "word"), [*PLAIN, *RULES])
def test_a_mistake_is_the_one_fault_at_its_place(changes: dict[str, Any], place: str, word: str) -> None:
    found = faults(changed(changes))

    assert len(found) == 1, found
    assert found[0].endswith(f"({place})")
    assert word in found[0]
    assert "pydantic" not in found[0] and "Input should" not in found[0]


@pytest.mark.parametrize("changes", SOUND)
def test_what_is_allowed_has_no_fault(changes: dict[str, Any]) -> None:
    assert faults(changed(changes)) == []


@pytest.mark.parametrize("value", [None, 5, "x", [], [SMALL], True])
def test_what_is_no_object_is_no_configuration(value: Any) -> None:
    assert faults(value)[0].startswith("Configuration must be a JSON/YAML object (dictionary), but got ")


def test_all_faults_of_a_configuration_are_told_at_once() -> None:
    wrong = changed({
        "name": "a b", "dataset": {"name": "synthetic_classification", "val_fraction": 2},
        f"{DATA}.n_samples": 0, f"{DATA}.n_features": 2, f"{DATA}.n_informative": 3, f"{DATA}.sed": 1, f"{DATA}.n_classes": "3",
        "model": MLP, f"{MODEL}.layer_sizes": [2, 0, "x", 1], f"{MODEL}.activation": "none",
        "training.epochs": True, "training.optimizer": "sdg", "output.directory": "/", "output.save_logs": 1, "lr": 1,
    })  # fmt: skip

    found = faults(wrong)

    assert [line.rpartition("(")[2].rstrip(")") for line in found] == [
        "name", "dataset.val_fraction", f"{DATA}.n_samples", f"{DATA}.n_classes", f"{DATA}.n_informative", f"{DATA}.sed",
        f"{MODEL}.layer_sizes.1", f"{MODEL}.layer_sizes.2", f"{MODEL}.activation", "training.epochs", "training.optimizer",
        "output.directory", "output.save_logs", "lr",
    ]  # fmt: skip


def test_many_faults_are_counted_not_listed() -> None:
    found = faults(changed({f"training.k{n}": n for n in range(60)}))

    assert len(found) == 51
    assert found[-1] == "… and 10 more"


def test_what_is_shown_of_a_value_is_bounded_and_printable() -> None:
    name = "\x1b[31m\u202e\ud800" + "x" * 5000

    found = faults({**SMALL, "name": name, "\x1b]0;t\x07" * 100: 1, "model": {"name": "\x07" * 999}})

    assert len(found) == 3
    assert all(line.isprintable() and len(line) < 500 for line in found)


def test_the_defaults_are_those_of_the_guide() -> None:
    config = ConfigLoader.load_from_dict(SMALL)

    assert json.dumps(config.to_json()) == json.dumps({
        "name": "first", "description": None,
        "dataset": {
            "name": "synthetic_regression", "path": None, "loader": None, "val_fraction": 0.1, "test_fraction": 0.1,
            "params": {"n_samples": 100, "n_features": 5, "n_informative": None, "noise_std": 0.1, "seed": 42},
        },
        "model": {
            "name": "linear_regression", "params": {"seed": 42, "use_gradient_descent": False, "l2_regularization": 0.0},
        },
        "training": {
            "epochs": 10, "batch_size": 32, "learning_rate": 0.001, "optimizer": "adam", "seed": 42, "timeout_s": None,
        },
        "output": {"directory": "outputs", "save_checkpoints": True, "checkpoint_frequency": 1, "save_logs": True},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("section", "value", "defaults"),
    [
        ("dataset", {"name": "synthetic_classification"},
         {"n_samples": 1000, "n_features": 10, "n_classes": 2, "class_sep": 1.0, "n_informative": None, "seed": 42}),
        ("dataset", TABLE, {"task": "regression", "target": None, "normalize": False, "sha256": None,
                            "url": None, "download": False, "seed": 42}),
        ("dataset", LOADER, {"normalize": False}),
        ("dataset", {"name": "mnist"}, {"normalize": True, "download": False, "seed": 42}),
        ("dataset", {"name": "cifar100"}, {"normalize": True, "download": False, "seed": 42, "labels": "fine"}),
        ("model", MLP, {"layer_sizes": [5, 1], "activation": "relu", "output_activation": None, "seed": 42,
                        "l2_regularization": 0.0}),
        ("model", {"name": "resnet"}, {"depth": 20, "width": 16, "seed": 42, "l2_regularization": 0.0}),
    ],
)  # fmt: skip
def test_each_dataset_and_model_has_its_defaults(section: str, value: Any, defaults: dict[str, Any]) -> None:
    config = ConfigLoader.load_from_dict({**SMALL, section: value})

    assert config.to_json()[section]["params"] == defaults


def test_the_parts_of_a_configuration_are_attributes_that_do_not_change() -> None:
    config = ConfigLoader.load_from_dict(SMALL)

    assert (config.name, config.dataset.name, config.dataset.params.n_samples) == ("first", "synthetic_regression", 100)
    assert (config.training.epochs, config.output.directory) == (10, "outputs")
    with pytest.raises(ValueError, match="frozen"):
        config.training.epochs = 3  # type: ignore[misc]


def test_given_is_what_was_written() -> None:
    config = ConfigLoader.load_from_dict(SMALL)

    assert config.given() == SMALL
    assert config.dataset.given()["params"] == {"n_samples": 100, "n_features": 5}


def test_whole_numbers_may_be_written_with_a_point() -> None:
    config = ConfigLoader.load_from_dict(changed({"training.epochs": 1e3, f"{DATA}.seed": 7.0}))

    assert json.dumps(config.to_json()["training"]).startswith('{"epochs": 1000, ')
    assert type(config.dataset.params.seed) is int


def test_a_float_that_has_lost_digits_is_no_whole_number() -> None:
    assert len(faults(changed({f"{DATA}.seed": float(2**53 + 2)}))) == 1


def test_the_seed_of_a_loader_is_there_only_if_it_was_given() -> None:
    without = ConfigLoader.load_from_dict(changed({"dataset": LOADER, f"{DATA}.seed": None, f"{DATA}.b": 1}))
    given_seed = ConfigLoader.load_from_dict(changed({"dataset": LOADER, f"{DATA}.seed": 7}))

    assert without.to_json()["dataset"]["params"] == {"normalize": False, "b": 1}
    assert given_seed.to_json()["dataset"]["params"] == {"normalize": False, "seed": 7}


@pytest.mark.parametrize(("given", "kept"), [(4, {"lora_rank": 4}), (4.0, {"lora_rank": 4}), (None, {})])
def test_the_rank_is_there_only_if_there_is_one(given: float | None, kept: dict[str, int]) -> None:
    params = {"layer_sizes": [5, 1], "lora_rank": given}

    whole = ConfigLoader.load_from_dict({**SMALL, "model": {"name": "mlp", "params": params}}).to_json()

    found = whole["model"]["params"]
    assert {name: value for name, value in found.items() if name == "lora_rank"} == kept
    assert ConfigLoader.load_from_dict(whole).to_json() == whole


def test_a_hash_is_kept_in_small_letters() -> None:
    config = ConfigLoader.load_from_dict(changed({"dataset": TABLE, f"{DATA}.sha256": "AB" * 32}))

    assert config.to_json()["dataset"]["params"]["sha256"] == "ab" * 32


def test_pydantics_switch_for_plugins_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "other")
    ConfigLoader.load_from_dict(SMALL)
    assert os.environ["PYDANTIC_DISABLE_PLUGINS"] == "other"

    monkeypatch.delenv("PYDANTIC_DISABLE_PLUGINS")
    ConfigLoader.load_from_dict(SMALL)
    assert "PYDANTIC_DISABLE_PLUGINS" not in os.environ


# where the runs go


def output_of(root: Path, directory: str, name: str = "first") -> Path:
    return check_output(ConfigLoader.load_from_dict(changed({"output.directory": directory, "name": name})), root)


def test_outputs_lie_below_the_root_and_nothing_is_made(tmp_path: Path) -> None:
    assert output_of(tmp_path, "a/b") == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []


def test_a_link_inside_the_workspace_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "runs").symlink_to("real")

    assert output_of(tmp_path, "runs") == tmp_path / "runs"


@pytest.mark.parametrize("link", ["runs", "runs/first"])
def test_a_link_out_of_the_workspace_is_refused(tmp_path: Path, link: str) -> None:
    (tmp_path / "outside").mkdir()
    root = tmp_path / "root"
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(tmp_path / "outside")

    with pytest.raises(ConfigError, match="resolves outside the workspace"):
        output_of(root, "runs")


def test_dots_after_a_link_do_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "outside" / "deep")

    with pytest.raises(ConfigError, match="resolves outside the workspace"):
        output_of(root, "link/../runs")


def test_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to("runs")

    with pytest.raises(ConfigError, match="Output directory 'runs'"):
        output_of(tmp_path, "runs")


@pytest.mark.parametrize("taken", ["runs", "runs/first"])
def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_text("")

    with pytest.raises(ConfigError, match=f"'{taken}' is a file"):
        output_of(tmp_path, "runs")


@pytest.mark.parametrize(
    "changes",
    [{"name": "/tmp/x"}, {"name": "../../x"}, {"name": "a\0b"}, {"name": ""}, {"name": "CON"}, {"name": "x" * 5000},
     {"directory": "/tmp/x"}, {"directory": "../x"}, {"directory": "a\0b"}, {"directory": ""}, {"directory": ".git"}],
)  # fmt: skip
def test_names_that_no_configuration_has_are_refused_in_a_copy_too(tmp_path: Path, changes: dict[str, str]) -> None:
    config = ConfigLoader.load_from_dict(SMALL)
    output = config.output.model_copy(update=changes)
    copy = config.model_copy(update={"output": output} if "directory" in changes else changes)

    with pytest.raises(ConfigError, match=r"Invalid value for '(name|directory)'"):
        check_output(copy, tmp_path)


# made from Python


def test_a_configuration_that_is_made_directly_is_one() -> None:
    parts = {
        "dataset": SMALL["dataset"],
        "model": LinearRegression(name="linear_regression"),
        "training": Training(epochs=3),
    }

    made = ExperimentConfig(name="first", **parts)

    assert made == ConfigLoader.load_from_dict(changed({"training.epochs": 3, "model.params": {}}))
    assert pickle.loads(pickle.dumps(made)) == made == made.model_copy()


@pytest.mark.parametrize(("changes", "place", "word"), [*PLAIN, *RULES])
def test_a_configuration_made_directly_is_refused_in_the_loaders_words(
    changes: dict[str, Any], place: str, word: str
) -> None:
    wrong = changed(changes)

    with pytest.raises(ConfigError) as caught:
        ExperimentConfig(**wrong)

    assert str(caught.value) == "\n  - ".join(["Configuration validation failed:", *faults(wrong)])


# the JSON Schema


def accepted(value: Any) -> bool:
    return bool(VALIDATOR.is_valid(value))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("changes", SOUND)
def test_the_schema_accepts_what_is_allowed(changes: dict[str, Any]) -> None:
    one = changed(changes)

    assert accepted(one)
    assert accepted([one, SMALL])
    assert accepted({"$schema": "https://example.org/s.json", "experiments": [one]})


@pytest.mark.parametrize(("changes", "place", "word"), PLAIN)
def test_the_schema_refuses_the_mistakes_that_it_can_say(changes: dict[str, Any], place: str, word: str) -> None:
    assert not accepted(changed(changes))
    assert not accepted([SMALL, changed(changes)])


@pytest.mark.parametrize("value", [[], {}, {"experiments": []}, {"experiments": [SMALL], "name": "a"}, 5, None])
def test_the_schema_refuses_what_is_no_configuration(value: Any) -> None:
    assert not accepted(value)


@RANDOM
@given(CONFIGS)
def test_the_schema_accepts_every_sound_configuration_and_its_whole_form(value: dict[str, Any]) -> None:
    whole = ConfigLoader.load_from_dict(value).to_json()

    assert accepted(value)
    assert accepted(whole)


# where the rules for names turn, piece by piece
_PIECES = ["con", "COM1", "lpt", "nul", ".git", ".Git", "index.json", "autoresearch-", "Autoresearch", "..", ".", "/", "a",
           "-", " ", "~", "\x1b", "\n", "\t", "\u202e", "é", "😀", "\\"]  # fmt: skip
PIECED = st.lists(st.sampled_from(_PIECES), min_size=1, max_size=7).map("".join)


@settings(RANDOM, max_examples=400)
@given(PIECED, st.sampled_from(["name", "description", "output.directory"]))
def test_the_schema_refuses_the_texts_that_the_loader_refuses(text: str, place: str) -> None:
    value = changed({place: text})

    assert accepted(value) == (not faults(value))


@settings(RANDOM, max_examples=200)
@given(st.lists(st.sampled_from(["..", ".", "", "a", "a.b", ".c"]), min_size=1, max_size=7).map("/".join))
def test_the_schema_follows_folders_that_are_left_again(directory: str) -> None:
    value = changed({"output.directory": directory})

    assert accepted(value) == (not faults(value))


def test_the_schema_has_keywords_of_its_draft_only() -> None:
    assert '"discriminator"' not in json.dumps(json_schema())


def test_every_field_of_the_schema_is_explained_or_obvious() -> None:
    obvious = {
        "name",
        "path",
        "loader",
        "params",
        "dataset",
        "model",
        "training",
        "output",
        "optimizer",
        "save_checkpoints",
    }

    bare = {
        key
        for section in json_schema()["$defs"].values()
        for key, field in section.get("properties", {}).items()
        if "description" not in field
    }

    assert bare <= obvious


@pytest.mark.parametrize(
    ("words", "title"), [(["experiment"], "autoexperiment experiment"), (["protocol"], "autoexperiment protocol")]
)
def test_the_command_prints_a_schema(words: list[str], title: str) -> None:
    answer = subprocess.run([sys.executable, "-m", "autoexperiment", "schema", *words], capture_output=True, text=True)

    assert json.loads(answer.stdout)["title"] == title


@pytest.mark.parametrize("words", [[], ["experimnt"]])
def test_the_command_names_the_schemas_there_are(words: list[str]) -> None:
    answer = subprocess.run([sys.executable, "-m", "autoexperiment", "schema", *words], capture_output=True, text=True)

    assert answer.returncode == 2
    assert "Known: protocol, experiment" in answer.stderr


_KEYS = st.sampled_from(
    ["name", "dataset", "model", "training", "output", "params", "path", "loader", "seed", "epochs", "x"]
)
_GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["custom", "mlp", "mnist", "a:B", "x.csv", "synthetic_regression"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=6), max_leaves=25,
)  # fmt: skip


@RANDOM
@given(st.dictionaries(_KEYS, _GARBAGE, max_size=6))
def test_whatever_is_wrong_is_said_in_words_of_ours(value: dict[str, Any]) -> None:
    found = faults(value)

    assert found
    assert all(line.isprintable() and "is not allowed here" not in line for line in found)


@RANDOM
@given(CONFIGS, st.data())
def test_what_the_models_allow_the_schema_allows(value: dict[str, Any], data: st.DataObject) -> None:
    section = data.draw(st.sampled_from([part for part in (value, *value.values()) if isinstance(part, dict)]))
    key = data.draw(st.sampled_from(sorted(section) or ["x"]))
    section[key] = data.draw(_GARBAGE.filter(lambda made: made == made))

    if not faults(value):
        assert accepted(value)
