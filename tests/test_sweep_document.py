"""What a sweep's file may say: every field and every rule, with a mistake for each; lines, overrides, and the schema."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from config_documents import GONE, SMALL, changed
from hypothesis import given, settings
from hypothesis import strategies as st

from autoexperiment.config.sweep_loader import load_sweep, load_sweep_dict
from autoexperiment.config.sweep_parameters import NumberRange, ValueList, first_repeat
from autoexperiment.config.sweep_schema import json_schema
from autoexperiment.dotpaths import canonical
from autoexperiment.errors import ConfigError
from autoexperiment.goals import known_goal
from autoexperiment.vocabulary import Goal

LR = "training.learning_rate"
RANGE = {"low": 0.001, "high": 0.1}
SWEEP: dict[str, Any] = {"name": "rates", "base": SMALL, "parameters": {LR: [0.1, 0.01]}}
RANDOM: dict[str, Any] = {"sampler": {"name": "random", "trials": 4}}
WORKFLOW: dict[str, Any] = {"work": "workflow:my.flows:train", "base": {}, "parameters": {"a.b": [1, 2]}}


def ranged(**more: Any) -> dict[str, Any]:
    return {"parameters": {"x": {"low": 1, "high": 9, **more}}, "work": "gpt", **RANDOM}


def faults(value: Any, overrides: tuple[str, ...] = ()) -> list[str]:
    """The sentences about a sweep, without the title; [] when it is sound."""
    try:
        load_sweep_dict(value, overrides)
    except ConfigError as error:
        title, *lines = str(error).split("\n  - ")
        assert title == "Configuration validation failed:"
        return lines
    return []


# what is changed, where the fault is reported, words of it; a schema can say the same
PLAIN: list[tuple[dict[str, Any], str, str]] = [
    ({"name": GONE}, "name", "Missing required field: 'name'"),
    ({"name": "a/b"}, "name", "got text 'a/b'"),
    ({"description": 5}, "description", "printable"),
    ({"colour": 1}, "colour", "Unknown key 'colour'. Known: name, description"),
    ({"samplers": "grid"}, "samplers", "Did you mean 'sampler'?"),
    ({"work": "training"}, "work", "must be a kind of work, got text 'training'. Allowed: experiment, gpt, or"),
    ({"work": "workflow:flows"}, "work", "workflow:module:attribute"),
    ({"base": 5}, "base", "must be an object, or the path of an experiment's file, got 5"),
    ({"parameters": [1]}, "parameters", "Field 'parameters' must be an object (mapping), but got list"),
    ({"parameters": {"a..b": [1]}}, "parameters.a..b", "must be a dot path, got text 'a..b'"),
    ({"parameters": {"a b": [1]}}, "parameters.a b", "names with dots between"),
    ({"parameters": {"": [1]}}, "parameters.", "must be a dot path"),
    ({"parameters": {"x": 5}}, "parameters.x", "must be a list of values, or an object with 'values' or"),
    ({"parameters": {"x": []}}, "parameters.x", "must be a list, got []. Allowed: 1 to 10000 values"),
    ({"parameters": {"x": {"values": []}}}, "parameters.x.values", "1 to 10000 values"),
    ({"parameters": {"x": [1, 2, 1.0]}}, "parameters.x", "The value 1.0 stands twice in a list"),
    ({"parameters": {"x": [[1], [1]]}}, "parameters.x", "The value [1] stands twice"),
    ({"parameters": {"x": {"values": [1], "low": 1}}}, "parameters.x.low", "Unknown key 'low' in 'parameters.x'"),
    ({"parameters": {"x": {"low": 1}}}, "parameters.x.high", "Missing required field"),
    ({"parameters": {"x": {**RANGE, "hihg": 1}}}, "parameters.x.hihg", "Did you mean 'high'?"),
    (ranged(low="1"), "parameters.x.low", "must be a number, got text '1'. Allowed: -1e+30 to 1e+30. Write it as"),
    (ranged(high=1e31), "parameters.x.high", "-1e+30 to 1e+30"),
    (ranged(low=-1e31), "parameters.x.low", "-1e+30 to 1e+30"),
    (ranged(step=0), "parameters.x.step", "must be a positive number, got 0"),
    (ranged(log="yes"), "parameters.x.log", "Write it without quotation marks: true"),
    (ranged(whole=1), "parameters.x.whole", "must be true or false"),
    ({"sampler": "genetic"}, "sampler", "Unknown sampler 'genetic'. Currently supported: grid, random, sobol"),
    ({"sampler": {"name": "genetic"}}, "sampler", "Unknown sampler 'genetic'. Currently supported: grid"),
    ({"sampler": 5}, "sampler", "must be an object"),
    ({"sampler": {"name": "random", "trails": 4}}, "sampler.trails", "Did you mean 'trials'?"),
    ({"sampler": {"name": "random", "trials": 0}}, "sampler.trials", "1 to 100000"),
    ({"sampler": {"name": "random", "trials": 100_001}}, "sampler.trials", "1 to 100000"),
    ({"sampler": {"seed": -1}}, "sampler.seed", "0 to 4294967295"),
    ({"sampler": {"seed": 2**32}}, "sampler.seed", "0 to 4294967295"),
    ({"seeds": 0}, "seeds", "must be a number of seeds, or a list of distinct ones, got 0"),
    ({"seeds": 1001}, "seeds", "1 to 1000"),
    ({"seeds": 10**18}, "seeds", "1 to 1000"),
    ({"seeds": True}, "seeds", "got true"),
    ({"seeds": []}, "seeds", "1 to 1000"),
    ({"seeds": [1, 2, 1]}, "seeds", "The value 1 stands twice"),
    ({"seeds": [1, -1]}, "seeds.1", "non-negative integer"),
    ({"seeds": 2, "seed_paths": ["a."]}, "seed_paths.0", "must be a dot path"),
    ({"seeds": 2, "seed_paths": []}, "seed_paths", "a list of dot paths"),
    ({"seeds": 2, "seed_paths": ["a", "a"]}, "seed_paths", "stands twice"),
    ({"metric": "val loss"}, "metric", "must be a metric's name"),
    ({"metric": "val_loss", "goal": "down"}, "goal", "Unknown goal 'down'. Currently supported: minimize, maximize"),
    ({"metric": "val_loss", "halving": {"resource": "training.epochs"}}, "halving.max", "Missing required field"),
    ({"metric": "val_loss", "halving": {"resource": "training.epochs", "max": 9, "factor": 1}}, "halving.factor",
     "must be a whole number, got 1. Allowed: 2 to 1000"),
    ({"metric": "val_loss", "halving": {"resource": "training.epochs", "max": 9, "rungs": 1}}, "halving.rungs",
     "Unknown key 'rungs' in 'halving'"),
    ({"max_parallel": 0}, "max_parallel", "1 to 1024"),
    ({"timeout_s": 0}, "timeout_s", "positive number of seconds"),
    ({"evaluate": "train"}, "evaluate", "Unknown evaluate 'train'. Currently supported: val, test"),
    ({"output": "/tmp/x"}, "output", "not a path relative to the workspace's root"),
    ({"options": []}, "options", "must be an object"),
]  # fmt: skip
# rules between two fields, and others that only the loader knows
RULES: list[tuple[dict[str, Any], str, str]] = [
    ({"base": GONE}, "base", "Missing required field: 'base'"),
    ({"parameters": {"training": [1], LR: [1]}}, "parameters", f"Parameter {LR!r} lies inside of parameter 'training'"),
    ({"parameters": {"x": [1, float("nan")]}}, "parameters.x.1", "a value of JSON"),
    ({"base": {"a": float("inf")}}, "base.a", "a value of JSON"),
    (ranged(low=9), "parameters.x.high", "'high' (9) must be above 'low' (9)"),
    (ranged(low=0, log=True), "parameters.x.log", "'log' needs 'low' above 0, and it is 0"),
    (ranged(log=True, step=1), "parameters.x.step", "'step' and 'log' exclude each other"),
    (ranged(step=8.5), "parameters.x.step", "'step' (8.5) must make 2 to"),
    (ranged(step=1e-15), "parameters.x.step", "must make 2 to 1e+15 values"),
    (ranged(whole=True, low=0.5), "parameters.x.whole", "'whole' needs a whole 'low'"),
    (ranged(whole=True, high=9.5), "parameters.x.whole", "'whole' needs a whole 'high' of at most 1e+15, and it is 9.5"),
    (ranged(whole=True, high=1e16), "parameters.x.whole", "'whole' needs a whole 'high'"),
    (ranged(whole=True, step=0.5), "parameters.x.whole", "'whole' needs a whole 'step'"),
    ({"sampler": {"name": "grid", "trials": 3}}, "sampler.trials", "A grid runs all combinations"),
    ({"sampler": "random"}, "sampler", "Sampler 'random' needs 'trials'. For example: {name: random, trials: 32}"),
    ({"parameters": {LR: RANGE}}, "sampler", f"Sampler 'grid' needs a list of values for {LR!r}"),
    ({"parameters": {}, **RANDOM}, "sampler", "Sampler 'random' has no 'parameters'"),
    ({"sampler": {"name": "cmaes", "trials": 9}}, "sampler", f"{LR!r} is a list of values. Choose the sampler tpe"),
    ({"parameters": {"a": RANGE, "b": RANGE, "c": [1]}, "work": "gpt", "sampler": {"name": "cmaes", "trials": 9}}, "sampler",
     "'c' is a list of values"),
    ({"parameters": {LR: RANGE}, "sampler": {"name": "cmaes", "trials": 9}}, "sampler", f"{LR!r} is the only one"),
    ({"parameters": {"a": list(range(400)), "b": list(range(300))}, "work": "gpt"}, "seeds", "The sweep has 120000 points"),
    ({"sampler": {"name": "random", "trials": 60_000}, "seeds": 2}, "seeds", "120000 points. Allowed: up to 100000"),
    ({"seed_paths": ["training.seed"]}, "seed_paths", "'seed_paths' needs 'seeds' beside it"),
    ({"seeds": 2, "seed_paths": [LR]}, "seed_paths", f"'seed_paths' and 'parameters' both set {LR!r}"),
    ({"seeds": 2, "seed_paths": ["training"]}, "seed_paths", "both set 'training'"),
    ({"metric": "latency"}, "goal", "Missing required field: 'goal' of metric 'latency'"),
    ({"goal": "minimize"}, "goal", "'goal' needs 'metric' beside it"),
    ({"metric": "val_loss", "goal": "maximize"}, "goal", "'val_loss' is better when it is smaller"),
    ({"metric": "accuracy", "goal": "minimize"}, "goal", "'accuracy' is better when it is larger"),
    ({**WORKFLOW, "sampler": {"name": "tpe", "trials": 3}}, "metric", "Sampler 'tpe' needs 'metric'"),
    ({**WORKFLOW, "halving": {"resource": "n", "max": 9}}, "halving", "'halving' needs 'metric'"),
    ({"halving": {"resource": "training.epochs", "min": 9, "max": 9}}, "halving.max", "'max' (9) must be above 'min' (9)"),
    ({"halving": {"resource": "training.epochs", "max": 2e9}}, "halving.max", "at most 1000000000"),
    ({"halving": {"resource": LR, "max": 9}}, "halving", f"'halving.resource' ({LR!r}) is a parameter or a seed"),
    ({"halving": {"resource": "training.seed", "max": 9}, "seeds": 2, "seed_paths": ["training.seed"]}, "halving",
     "is a parameter or a seed"),
    ({"halving": {"resource": "training.epochs", "max": 9}, "parameters": {LR: [1]}}, "halving", "two or more trials"),
    ({"halving": {"resource": "training.epochs", "max": 9}, "sampler": {"name": "tpe", "trials": 9}}, "halving",
     "exclude each other"),
    ({**WORKFLOW, "evaluate": "val"}, "evaluate", "'evaluate' applies to experiments"),
    ({"parameters": {"training.learning_rat": [1]}}, "parameters.training.learning_rat",
     "Unknown key 'learning_rat' in 'training'"),
    ({"parameters": {"trainning.epochs": [1]}}, "parameters.trainning.epochs", "Did you mean 'training'?"),
]  # fmt: skip
SOUND: list[dict[str, Any]] = [
    {},
    {"$schema": "https://example.org/sweep.json"},
    {"parameters": {}, "seeds": 3},
    {"parameters": {"x": [1, True, "1", None, [1], {"a": 1}]}, "work": "gpt"},
    {"parameters": {LR: {"values": [1, 2]}}},
    {"parameters": {LR: RANGE}, **RANDOM},
    {"parameters": {LR: {**RANGE, "log": True}, "training.epochs": {"low": 1, "high": 9, "step": 2, "whole": True}},
     "sampler": {"name": "cmaes", "trials": 16, "seed": 7}, "metric": "val_loss"},
    {"seeds": [7, 11], "seed_paths": ["training.seed", "dataset.params.seed"]},
    {"metric": "latency", "goal": "minimize", "max_parallel": 2, "timeout_s": 60, "evaluate": "test"},
    {"halving": {"resource": "training.epochs", "min": 1, "max": 27, "factor": 3}},
    {"sampler": {"name": "random", "trials": 1e3}, "max_parallel": 2.0, "seeds": 3.0},
    {"output": "night/outputs", "options": {"threads": 1}},
    WORKFLOW,
]  # fmt: skip


def made(changes: dict[str, Any]) -> dict[str, Any]:
    """The small sweep with other fields; a field that is GONE is left out."""
    value = {**copy.deepcopy(SWEEP), **copy.deepcopy(changes)}
    return {key: item for key, item in value.items() if item is not GONE and changes.get(key) is not GONE}


@pytest.mark.parametrize(("changes", "place", "words"), PLAIN + RULES)
def test_a_mistake_is_told_with_its_place(changes: dict[str, Any], place: str, words: str) -> None:
    found = faults(made(changes))

    assert [line for line in found if words in line and line.endswith(f"({place})")], found


@pytest.mark.parametrize(("changes", "words"), [(changes, words) for changes, _, words in PLAIN])
def test_the_schema_refuses_the_same_mistakes(changes: dict[str, Any], words: str) -> None:
    if "dataset" in words or "not a path" in words:
        return

    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(made(changes))


@pytest.mark.parametrize("changes", SOUND)
def test_what_is_sound_is_accepted_by_loader_and_schema(changes: dict[str, Any]) -> None:
    value = made(changes)

    assert faults(value) == []
    jsonschema.Draft202012Validator(json_schema()).validate(value)


def test_the_schema_is_one_of_the_draft() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_all_mistakes_are_told_at_once() -> None:
    value = made({"name": "a/b", "seeds": 0, "colour": 1, "parameters": {"x": [1, 1], "y": {"low": 1}}})
    value["base"] = changed({"training.epoch": 3})

    found = faults(value)

    assert len(found) == 6
    assert any("Unknown key 'epoch' in 'training'" in line for line in found)


@pytest.mark.parametrize("value", [None, [], "grid", 5])
def test_what_is_no_object_is_refused(value: Any) -> None:
    assert "must be a JSON/YAML object" in faults(value)[0]


def test_a_file_gives_the_whole_sweep(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "name: rates\n"
        f"base: {json.dumps(SMALL)}\n"
        "parameters:\n"
        "  training.learning_rate: [1e-3, 1e-2]\n"
        "  training.epochs: {low: 1, high: 5, whole: true}\n"
        "sampler: {name: tpe, trials: 20, seed: 3}\n"
        "seeds: 2\n"
        "metric: val_loss\n"
    )

    sweep = load_sweep(file)

    assert (sweep.name, sweep.kind, sweep.workflow, sweep.base) == ("rates", "experiment", "", SMALL)
    assert sweep.parameters == {
        LR: ValueList(values=[1e-3, 1e-2]),
        "training.epochs": NumberRange(low=1, high=5, whole=True),
    }
    assert (sweep.sampler.name, sweep.sampler.trials, sweep.sampler.seed, sweep.trials) == ("tpe", 20, 3, 20)
    assert (sweep.replicates, sweep.direction) == ((1, 2), Goal.MINIMIZE)
    assert (sweep.output, sweep.max_parallel, sweep.timeout_s, sweep.options) == ("outputs", None, None, {})


def test_the_order_of_the_parameters_is_kept() -> None:
    sweep = load_sweep_dict({"name": "s", "work": "gpt", "parameters": {"z": [1], "a": [2], "m": [3]}})

    assert list(sweep.parameters) == ["z", "a", "m"]


def test_a_workflow_is_named_by_module_and_attribute() -> None:
    sweep = load_sweep_dict(made(WORKFLOW))

    assert (sweep.kind, sweep.workflow) == ("workflow", "my.flows:train")


def test_without_seeds_each_trial_has_one_point() -> None:
    sweep = load_sweep_dict(SWEEP)

    assert (sweep.seeds, sweep.replicates, sweep.trials) == (None, (None,), 2)


def test_a_grid_has_all_combinations() -> None:
    sweep = load_sweep_dict(made({"parameters": {LR: [1, 2, 3], "training.epochs": [1, 2]}}))

    assert sweep.trials == 6


@pytest.mark.parametrize(
    ("least", "most", "bounds"), [(1, 27, (1, 27)), (1.0, 27.0, (1, 27)), (0.5, 4, (0.5, 4.0)), (1, 4.5, (1.0, 4.5))]
)
def test_a_resource_is_whole_when_both_bounds_are(least: float, most: float, bounds: tuple[float, float]) -> None:
    sweep = load_sweep_dict(made({"halving": {"resource": "training.epochs", "min": least, "max": most}}))

    assert sweep.halving is not None
    assert (sweep.halving.bounds, type(sweep.halving.bounds[0])) == (bounds, type(bounds[0]))


@pytest.mark.parametrize(
    ("metric", "goal"),
    [("val_loss", "minimize"), ("val_bpb", "minimize"), ("accuracy", "maximize"), ("test_accuracy", "maximize"),
     ("val_rmse", "minimize"), ("latency", None)],
)  # fmt: skip
def test_known_metrics_need_no_goal(metric: str, goal: str | None) -> None:
    assert known_goal(metric) == (Goal(goal) if goal else None)


# --- lines, the base's own file, and what the command line sets


def lines_of(error: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    return str(error.value).split("\n  - ")[1:]


def test_faults_have_the_lines_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    file.write_text(
        '{"name": "s", "base": {\n"dataset": {"name": "mnistt"},\n"model": {"name": "linear_regression"}},\n'
        '"parameters": {\n"x": [1,\nNaN,\n2],\n"y": {"low": 5,\n"high": 1}}}'.replace("NaN", "[1e999]")
    )

    with pytest.raises(ConfigError) as error:
        load_sweep(file)

    found = lines_of(error)
    assert [line for line in found if "a value of JSON" in line and f"{file}:6, parameters.x.1" in line], found
    assert [line for line in found if "'high' (1)" in line and f"{file}:9, parameters.y.high" in line], found
    assert [line for line in found if "Unknown dataset 'mnistt'" in line and f"{file}:2, base.dataset" in line], found


def test_a_key_that_stands_twice_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("name: s\nwork: gpt\nparameters:\n  a: [1]\n  a: [2]\n")

    with pytest.raises(ConfigError, match=r"Key 'a' stands twice, first in line 4. Keep one of them \(.*yaml:5\)"):
        load_sweep(file)


def test_the_base_may_be_a_file_beside_the_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "small.yaml").write_text(json.dumps({"$schema": "x", **SMALL}))
    (tmp_path / "sweep.json").write_text(json.dumps({**SWEEP, "base": "bases/small.yaml"}))
    monkeypatch.chdir("/")

    sweep = load_sweep(tmp_path / "sweep.json")

    assert sweep.base == SMALL


def test_faults_of_the_bases_file_name_that_file(tmp_path: Path) -> None:
    base = tmp_path / "base.json"
    base.write_text(json.dumps(changed({"training.epochs": 0}), indent=0))
    line = base.read_text().split("\n").index('"epochs": 0') + 1
    (tmp_path / "sweep.json").write_text(json.dumps({**SWEEP, "base": "base.json"}))

    with pytest.raises(ConfigError) as error:
        load_sweep(tmp_path / "sweep.json")

    assert [one for one in lines_of(error) if f"({base}:{line}, base.training.epochs)" in one], error.value


def test_a_key_that_stands_twice_in_the_bases_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: a\nname: b\ndataset: {name: mnist}\nmodel: {name: linear_regression}\n")
    (tmp_path / "sweep.json").write_text(json.dumps({**SWEEP, "base": "base.yaml"}))

    with pytest.raises(ConfigError, match=r"Key 'name' stands twice, first in line 1.*base.yaml:2"):
        load_sweep(tmp_path / "sweep.json")


def test_a_base_that_is_missing_is_told_with_the_place_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("name: s\nbase: gone.json\n")

    with pytest.raises(ConfigError, match=r"base cannot be read \(.*sweep.yaml:2, base\)[\s\S]*not found: .*gone.json"):
        load_sweep(tmp_path / "sweep.yaml")


def test_a_base_of_several_experiments_is_refused(tmp_path: Path) -> None:
    (tmp_path / "many.json").write_text(json.dumps({"experiments": [SMALL, SMALL]}))
    (tmp_path / "sweep.yaml").write_text("name: s\nbase: many.json\n")

    with pytest.raises(ConfigError, match="holds several experiments"):
        load_sweep(tmp_path / "sweep.yaml")


def set_in(value: dict[str, Any], *overrides: str, folder: Path = Path()) -> dict[str, Any]:
    return load_sweep_dict(value, overrides, folder=folder).to_json()


def test_a_parameter_is_set_by_its_dot_path() -> None:
    found = set_in(SWEEP, "parameters.training.epochs=[1, 2]", f"parameters.{LR}=[0.5]")

    assert found["parameters"] == {LR: {"values": [0.5]}, "training.epochs": {"values": [1, 2]}}


def test_a_bound_of_a_range_is_set_inside_of_its_parameter() -> None:
    found = set_in(
        made({"parameters": {LR: RANGE}, **RANDOM}), f"parameters.{LR}.low=1e-5", f"parameters.{LR}.log=true"
    )

    assert found["parameters"][LR] == {"low": 1e-5, "high": 0.1, "log": True, "step": None, "whole": False}


def test_a_value_of_a_list_is_set_by_its_position() -> None:
    assert set_in(SWEEP, f"parameters.{LR}.1=0.3")["parameters"] == {LR: {"values": [0.1, 0.3]}}


def test_a_sampler_that_is_a_name_takes_further_settings() -> None:
    found = set_in(made({"sampler": "random"}), "sampler.trials=3", "sampler.seed=5")

    assert found["sampler"] == {"name": "random", "trials": 3, "seed": 5}


def test_values_are_set_in_the_base_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(json.dumps(SMALL))

    found = set_in({**SWEEP, "base": "small.json"}, "base.training.epochs=3", folder=tmp_path)

    assert found["base"] == changed({"training.epochs": 3})


def test_a_base_that_is_set_has_no_lines_of_the_file_that_it_replaces(tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    other = f"base={json.dumps(changed({'training.epochs': 0}))}"

    with pytest.raises(ConfigError) as error:
        set_in({**SWEEP, "base": "small.json"}, "base.training.epochs=3", other, folder=tmp_path)

    assert "small.json" not in str(error.value)
    assert "must be positive integer, got 0" in str(error.value)
    assert "(--set base={" in str(error.value)


def test_whether_a_value_is_sound_is_the_points_question() -> None:
    assert faults(made({"parameters": {LR: [-1, 0.1]}})) == []


def test_the_base_itself_can_be_set(tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(json.dumps(SMALL))

    assert set_in({**SWEEP, "base": "gone.json"}, "base=small.json", folder=tmp_path)["base"] == SMALL


@pytest.mark.parametrize(
    ("override", "words"),
    [("seeds", "is not of the form name=value"), ("seeds.x=1", "which is no object and no list"),
     ("seeds=0", "(--set seeds=0)"), (f"parameters.{LR}=5", f"(--set parameters.{LR}=5)"),
     ("base.training.epochs=0", "must be positive integer, got 0. Allowed: 1 to 1000000000 (--set base.training")],
)  # fmt: skip
def test_what_the_command_line_sets_wrongly_is_told_with_its_words(override: str, words: str) -> None:
    found = faults(made({"seeds": 3}), (override,))

    assert [line for line in found if words in line], found


# --- identity of values, and random documents

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    SCALARS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def is_same(left: Any, right: Any) -> bool:
    """Python's equality, but for booleans."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(is_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(is_same(left[key], right[key]) for key in left)
    return isinstance(left, bool) == isinstance(right, bool) and left == right


@settings(max_examples=100, deadline=None)
@given(JSON, JSON)
def test_two_values_are_the_same_when_python_says_so_but_for_booleans(left: Any, right: Any) -> None:
    assert (canonical(left) == canonical(right)) == is_same(left, right)


@pytest.mark.parametrize(
    ("left", "right", "are_same"),
    [(1, 1.0, True), (0.0, -0.0, True), (True, 1, False), ("1", 1, False), (None, "null", False),
     ([1, 2], [1.0, 2], True), ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}, True), (0.1, 0.1000001, False)],
)  # fmt: skip
def test_the_identity_of_values(left: Any, right: Any, are_same: bool) -> None:
    assert (canonical(left) == canonical(right)) is are_same
    assert first_repeat([7, left, right]) == (2 if are_same else None)


PATHS = st.lists(st.from_regex(r"[a-z_]{1,4}", fullmatch=True), min_size=1, max_size=3).map(".".join)
LISTS = st.lists(JSON, min_size=1, max_size=4, unique_by=canonical)
RANGES = st.fixed_dictionaries(
    {"low": st.floats(-1e3, 1), "high": st.floats(2, 1e6)}, optional={"step": st.floats(0.001, 0.5)}
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(PATHS.map(lambda path: f"p.{path}.x"), LISTS | RANGES, min_size=1, max_size=4),
    st.integers(1, 50),
    st.none() | st.integers(1, 9) | st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3, unique=True),
)
def test_a_sound_sweep_is_read_as_it_was_written(parameters: dict[str, Any], trials: int, seeds: Any) -> None:
    value = {"name": "s", "work": "gpt", "parameters": parameters, "seeds": seeds}
    value["sampler"] = {"name": "random", "trials": trials, "seed": 1}
    paths = sorted(parameters)
    if any(other.startswith(f"{path}.") for path in paths for other in paths):
        return

    sweep = load_sweep_dict(value)

    assert load_sweep_dict(sweep.to_json()) == sweep
    for path, given_one in parameters.items():
        read = sweep.parameters[path]
        if isinstance(given_one, list):
            assert isinstance(read, ValueList)
            assert read.values == given_one
        else:
            assert read.given() == given_one


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from([*SWEEP, "sampler", "seeds", "halving", "metric", "x"]), JSON, max_size=4))
def test_whatever_stands_in_a_file_is_read_or_refused_in_words(changes: dict[str, Any]) -> None:
    found = faults({**SWEEP, "base": SMALL, **{key: item for key, item in changes.items() if key != "base"}})

    assert all(isinstance(line, str) and line for line in found)
