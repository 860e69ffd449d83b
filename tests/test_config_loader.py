"""From a file to experiments: one or several, with `--set`, and every fault at its line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_documents import CONFIGS, LOADER, SMALL, changed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoexperiment.config import ConfigLoader
from autoexperiment.errors import ConfigError

RANDOM = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
TEXT = json.dumps(SMALL)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def told(path: Path, *overrides: str) -> list[str]:
    """The faults of a file, without the title; its own name is cut from them."""
    with pytest.raises(ConfigError) as caught:
        ConfigLoader.load_all(path, overrides)
    title, *lines = str(caught.value).replace(str(path), path.name).split("\n  - ")
    assert title == "Configuration validation failed:"
    return lines


# files of one experiment


@RANDOM
@given(CONFIGS)
def test_a_configuration_is_the_same_from_json_yaml_and_a_dictionary(value: dict[str, Any]) -> None:
    whole = ConfigLoader.load_from_dict(value)

    assert ConfigLoader.load_from_text(json.dumps(value, indent=2)).to_json() == whole.to_json()
    assert ConfigLoader.load_from_text(yaml.safe_dump(value, allow_unicode=True), "yaml").to_json() == whole.to_json()


@RANDOM
@given(st.text(st.sampled_from("a:-[]{}&*!|>%@\"'#,\n\t ?<=~1.0éx"), max_size=40), st.sampled_from(["json", "yaml"]))
def test_no_text_leads_to_anything_but_a_refusal(text: str, kind: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ConfigLoader.load_from_text(text, kind)

    assert str(caught.value).replace("\n", "").isprintable()


@RANDOM
@given(CONFIGS)
def test_the_whole_form_reads_back_as_itself(value: dict[str, Any]) -> None:
    whole = ConfigLoader.load_from_dict(value).to_json()

    again = ConfigLoader.load_from_text(json.dumps(whole)).to_json()

    assert json.dumps(again) == json.dumps(whole)


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", TEXT), ("a.yml", yaml.safe_dump(SMALL)), ("b.json", f"[{TEXT}]")]
)
def test_a_file_of_one_experiment_is_that_experiment(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path / name, text)

    assert ConfigLoader.load_from_file(path).given() == SMALL
    assert ConfigLoader.load_from_file(str(path)).given() == SMALL
    assert [config.name for config in ConfigLoader.load_all(path)] == ["first"]


@pytest.mark.parametrize("kind", ["jsn", ".yaml", "JSON", "", None])
def test_a_text_of_an_unknown_kind_is_refused(kind: Any) -> None:
    with pytest.raises(ConfigError, match=r"Unknown kind of text '.*'\. Known: json, yaml\."):
        ConfigLoader.load_from_text(TEXT, kind)


def test_a_few_lines_of_yaml_are_a_configuration() -> None:
    text = (
        "name: short\ndescription: A few lines of YAML\ndataset:\n  name: synthetic_regression\n"
        "model:\n  name: linear_regression\ntraining:\n  epochs: 10\n  learning_rate: 1e-3\n"
    )

    config = ConfigLoader.load_from_text(text, "yaml")

    assert (config.name, config.training.epochs, config.training.learning_rate) == ("short", 10, 0.001)


def test_an_editors_key_for_the_schema_means_nothing(tmp_path: Path) -> None:
    one = ConfigLoader.load_from_text(json.dumps({"$schema": "experiment.schema.json", **SMALL}))
    many = write(tmp_path / "a.json", json.dumps({"$schema": "x", "experiments": [SMALL]}))

    assert one.given() == SMALL
    assert ConfigLoader.load_from_file(many).given() == SMALL


# files of several


@pytest.mark.parametrize("wrap", [lambda many: many, lambda many: {"experiments": many}])
def test_a_file_may_hold_several_experiments_in_order(tmp_path: Path, wrap: Any) -> None:
    path = write(tmp_path / "a.json", json.dumps(wrap([SMALL, {**SMALL, "name": "second"}, SMALL])))

    assert [config.name for config in ConfigLoader.load_all(path)] == ["first", "second", "first"]


def test_several_experiments_are_not_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", f"[{TEXT}, {TEXT}]")

    with pytest.raises(ConfigError, match=r"holds 2 experiments\. .*load_all"):
        ConfigLoader.load_from_file(path)


@pytest.mark.parametrize("text", ["[]", '{"experiments": []}'])
def test_an_empty_list_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="Configuration list is empty"):
        ConfigLoader.load_all(write(tmp_path / "a.json", text))


def test_settings_beside_the_list_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", f'{{"experiments": [{TEXT}],\n "training": {{}},\n "seed": 1}}')

    assert told(path) == [
        "Unknown key 'training' beside 'experiments': each experiment has settings of its own (a.json:2)",
        "Unknown key 'seed' beside 'experiments': each experiment has settings of its own (a.json:3)",
    ]


def test_experiments_that_are_no_list_are_refused(tmp_path: Path) -> None:
    assert told(write(tmp_path / "a.yaml", "\nexperiments: 5"))[0] == "'experiments' must be a list, got 5 (a.yaml:2)"


def test_the_faults_of_all_experiments_are_told_with_their_lines(tmp_path: Path) -> None:
    text = """\
experiments:
  - name: one
    dataset: {name: synthetic_regression}
    model:
      name: linear_regresion
  - &base
    name: two
    dataset:
      name: synthetic_regression
      params:
        n_samples: 10
        n_features: no
    model: {name: linear_regression}
    training:
      epochs: 1
      epochs: 2
  - 7
  - <<: *base
    name: a b
    trainig: {}
"""

    found = told(write(tmp_path / "a.yaml", text))

    places = [line.rpartition("(")[2].rstrip(")") for line in found]
    assert places == [
        "a.yaml:16",
        "a.yaml:5, experiment 1 'one', model.name",
        "a.yaml:12, experiment 2 'two', dataset.params.n_features",
        "a.yaml:17, experiment 3",
        "a.yaml:19, experiment 4 'a b', name",
        "a.yaml:12, experiment 4 'a b', dataset.params.n_features",
        "a.yaml:20, experiment 4 'a b', trainig",
    ]
    assert "Did you mean 'training'?" in found[-1]


def test_at_least_ten_faults_stand_in_one_message_at_their_lines(tmp_path: Path) -> None:
    lines = [
        '{ "name": "..",', '"description": 1,', '"dataset": {"name": "mnist",', '"path": 3,', '"params": {',
        '"normalize": "no",', '"seed": 1e99 }},', '"model": {"name": "mlp", "params": {', '"layer_sizes": [1],',
        '"activation": "rely",', '"seed": true,', '"dropout": 0.5 }},', '"training": {', '"epochs": 2.5,',
        '"optimizer": null,', '"momentum": 0.9 },', '"output": [] }',
    ]  # fmt: skip

    found = told(write(tmp_path / "a.json", "\n".join(lines)))

    assert [int(line.rpartition("a.json:")[2].partition(",")[0]) for line in found] == [
        1, 2, 4, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17,
    ]  # fmt: skip


def test_a_missing_field_stands_at_what_it_is_missing_in(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '\n{"name": "a", "dataset": {"name": "custom"},\n"model": {"name": "mlp"}}')

    found = told(path)

    assert found[0].endswith("(a.json:2, dataset.path)")
    assert found[1].endswith("(a.json:3, model.params)")


# --set


def overridden(*overrides: str, base: dict[str, Any] = SMALL) -> dict[str, Any]:
    return ConfigLoader.load_from_dict(base, overrides).to_json()


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.epochs=3", "training", "epochs", 3),
        ("training.learning_rate=1e-3", "training", "learning_rate", 0.001),
        ("training.learning_rate = .5", "training", "learning_rate", 0.5),
        ("training.optimizer=sgd", "training", "optimizer", "sgd"),
        ("training.optimizer='sgd'", "training", "optimizer", "sgd"),
        ("training.timeout_s=null", "training", "timeout_s", None),
        ("output.save_logs=false", "output", "save_logs", False),
        ("output.directory=a=b", "output", "directory", "a=b"),
        ("output={directory: x, save_logs: false}", "output", "directory", "x"),
        ("dataset.params.n_samples=7", "dataset", "params",
         {"n_samples": 7, "n_features": 5, "n_informative": None, "noise_std": 0.1, "seed": 42}),
    ],
)  # fmt: skip
def test_a_value_is_set_from_the_command_line(override: str, section: str, key: str, value: Any) -> None:
    assert overridden(override)[section][key] == value


def test_the_last_of_two_settings_counts() -> None:
    assert overridden("training.epochs=3", "training.epochs=4")["training"]["epochs"] == 4


def test_one_size_of_a_layer_is_set_by_its_number() -> None:
    base = {**SMALL, "model": {"name": "mlp", "params": {"layer_sizes": [5, 8, 1]}}}

    assert overridden("model.params.layer_sizes.1=12", base=base)["model"]["params"]["layer_sizes"] == [5, 12, 1]
    assert overridden("model.params.layer_sizes=[5, 1]", base=base)["model"]["params"]["layer_sizes"] == [5, 1]
    assert base["model"]["params"]["layer_sizes"] == [5, 8, 1]


def test_a_model_is_changed_whole_by_several_settings() -> None:
    made = overridden("model.name=mlp", "model.params.layer_sizes=[5, 1]")

    assert made["model"]["params"]["layer_sizes"] == [5, 1]


def test_a_setting_reaches_into_a_section_that_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", f"{yaml.safe_dump(SMALL)}training:\n")

    assert ConfigLoader.load_from_file(path, ["training.epochs=3"]).training.epochs == 3


def test_a_setting_goes_to_each_experiment_and_does_not_leak_through_an_alias(tmp_path: Path) -> None:
    text = "- &a {name: one, dataset: {name: mnist}, model: {name: resnet}, training: &t {epochs: 1}}\n- {<<: *a, name: two}\n"
    path = write(tmp_path / "a.yaml", text)

    configs = ConfigLoader.load_all(path, ["training.epochs=5", "model.params.depth=8"])

    assert [(config.name, config.training.epochs, config.model.params.depth) for config in configs] == [
        ("one", 5, 8), ("two", 5, 8),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epochs=0", "Invalid value for 'epochs': must be positive integer, got 0. Allowed: 1 to 1000000000 "
                              "(--set training.epochs=0)"),
        ("training.lr=0.1", "Did you mean 'learning_rate'? (--set training.lr=0.1)"),
        ("traning.epochs=3", "Did you mean 'training'? (--set traning.epochs=3)"),
        ("training={epochs: 0}", "(--set training={epochs: 0}, training.epochs)"),
        ("name=", "got null"),
        ("name.x=3", "--set name.x=3 sets 'x' inside of 'first', which is no object and no list"),
        ("model={name: mlp}", "Model 'mlp' requires 'layer_sizes' parameter"),
    ],
)  # fmt: skip
def test_a_fault_of_a_setting_names_the_setting(tmp_path: Path, override: str, said: str) -> None:
    found = told(write(tmp_path / "a.json", TEXT), override)

    assert len(found) == 1
    assert said in found[0]
    assert "--set" in found[0]


@pytest.mark.parametrize("number", ["2", "-1", "x", "9999999999", "²", "\u0660"])
def test_a_setting_past_the_end_of_a_list_is_refused(tmp_path: Path, number: str) -> None:
    text = json.dumps({**SMALL, "model": {"name": "mlp", "params": {"layer_sizes": [5, 1]}}})

    found = told(write(tmp_path / "a.json", text), f"model.params.layer_sizes.{number}=3")

    assert found[0].endswith(f"names {number!r} in a list of 2 items. Allowed: 0 to 1")


@pytest.mark.parametrize("override", ["training.epochs", "=3", "a..b=3", ".a=3", ""])
def test_what_is_no_setting_is_refused_with_an_example(tmp_path: Path, override: str) -> None:
    found = told(write(tmp_path / "a.json", TEXT), override)

    assert "is not of the form name=value. For example: --set training.epochs=3" in found[0]


@pytest.mark.parametrize("value", ["[1, 2", "{a: 1, a: 2}", "!!python/name:os.system x", "*a", "9" * 500])
def test_a_setting_whose_value_is_not_yaml_is_refused(tmp_path: Path, value: str) -> None:
    assert told(write(tmp_path / "a.json", TEXT), f"training.epochs={value}")[0].startswith("--set training.epochs=")


def test_a_fault_of_a_setting_is_told_once_for_all_experiments(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", f"[{TEXT}, {TEXT}, {TEXT}]")

    assert len(told(path, "training.epochs=0")) == 1


def test_a_fault_of_the_file_beside_a_setting_keeps_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps(changed({"training.batch_size": 0})))

    assert told(path, "training.epochs=3")[0].endswith("(a.json:1, training.batch_size)")


def test_a_setting_that_did_not_fit_is_not_blamed_for_what_is_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps({**SMALL, "name": "../x"}))

    found = told(path, "name.x=3")

    assert len(found) == 2
    assert found[1].endswith("(a.json:1, name)")


@pytest.mark.parametrize(("text", "got"), [("", "null"), ("- 5", "number")])
def test_settings_make_no_experiment_of_what_is_none(tmp_path: Path, text: str, got: str) -> None:
    found = told(write(tmp_path / "a.yaml", text), "name=a", "model.name=resnet", "dataset.name=mnist")

    assert found == [f"Configuration must be a JSON/YAML object (dictionary), but got {got} (a.yaml:1)"]


def test_parameters_of_a_loader_are_set_at_any_depth() -> None:
    made = overridden("dataset.params.a.b=[1, {c: 2}]", base={**SMALL, "dataset": LOADER})

    assert made["dataset"]["params"]["a"] == {"b": [1, {"c": 2}]}


# start-up


@pytest.mark.parametrize(
    "overrides", [[], ["training.epochs=3", "training.learning_rate=1e-3", "output.directory=my runs"]]
)
def test_a_json_file_is_read_without_importing_yaml(tmp_path: Path, overrides: list[str]) -> None:
    path = write(tmp_path / "a.json", TEXT)
    code = (
        "import sys\nfrom autoexperiment.config import ConfigLoader\n"
        f"ConfigLoader.load_all({str(path)!r}, {overrides!r})[0].to_json()\n"
        "sys.exit(str({'yaml', 'numpy', 'mlx', 'click'} & set(sys.modules) or ''))"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert answer.stderr.strip() == ""
