"""The train-and-evaluate workflow: its configuration, what a loader may give, and that it runs and remembers."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoexperiment.errors import DataError, LabError, UsageError
from autoexperiment.workflow import (
    TrainAndEvaluateConfig,
    WorkflowState,
    datasets,
    run_workflow,
    tasks,
    train_and_evaluate_workflow,
)
from autoexperiment.workflow.backends.base import Dataset
from autoexperiment.workflow.state import Status
from autoexperiment.workflow.train_and_evaluate import EvaluateModel, PrepareDataset, SubmitTraining, WaitForTraining

LOADER = "autoexperiment.zoo.hello_world:generate_hello_world_dataset"
TASK = "autoexperiment.zoo.hello_world:hello_world"
SMALL: dict[str, Any] = {
    "prepare_dataset": {"dataset_loader": LOADER, "loader_kwargs": {"num_samples": 40}},
    "submit_training": {"model": "mlp", "hyperparameters": {"n_epochs": 1, "hidden_sizes": [4], "n_features": 16}},
    "wait_for_training": {},
    "evaluate_model": {"eval_task": TASK},
}


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    return {name: {**section, **sections.get(name, {})} for name, section in SMALL.items()}


def run(root: Path, config: Any = SMALL, name: str = "one") -> WorkflowState:
    whole = config if isinstance(config, TrainAndEvaluateConfig) else TrainAndEvaluateConfig(**config)
    return asyncio.run(run_workflow(train_and_evaluate_workflow, whole, root=root, run_dir=f"outputs/s/{name}"))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Writes a module of the workspace, and says its name; it is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"own_{abs(hash(tmp_path))}"

    def write(text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    sys.modules.pop(name, None)


# ---- the configuration


def test_sections_may_be_mappings_or_objects() -> None:
    objects = TrainAndEvaluateConfig(
        prepare_dataset=PrepareDataset(LOADER, {"num_samples": 40}),
        submit_training=SubmitTraining("mlp", {"n_epochs": 1, "hidden_sizes": [4], "n_features": 16}),
        wait_for_training=WaitForTraining(),
        evaluate_model=EvaluateModel(TASK),
    )

    assert objects == TrainAndEvaluateConfig(**SMALL)
    assert objects.submit_training.backend_name == "harness"
    assert objects.wait_for_training.timeout_s is None


def test_the_whole_configuration_says_every_default() -> None:
    assert TrainAndEvaluateConfig(**SMALL).to_json() == {
        "prepare_dataset": {"dataset_loader": LOADER, "loader_kwargs": {"num_samples": 40}},
        "submit_training": {
            "model": "mlp", "hyperparameters": {"n_epochs": 1, "hidden_sizes": [4], "n_features": 16}, "suffix": "",
            "backend_name": "harness",
        },
        "wait_for_training": {"timeout_s": None},
        "evaluate_model": {"eval_task": TASK, "eval_kwargs": {}, "backend_name": "harness"},
    }  # fmt: skip


FEW = settings(max_examples=40, deadline=None)
WORDS = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True)
REFERENCES = st.builds("{}.{}:{}".format, WORDS, WORDS, WORDS)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@FEW
@given(
    loader=REFERENCES, kwargs=st.dictionaries(st.text(), VALUES, max_size=3), task=REFERENCES,
    n_epochs=st.integers(1, 10**9), suffix=st.text("abc-é 1", max_size=100), timeout_s=st.none() | st.floats(0.1, 1e9),
)  # fmt: skip
def test_a_configuration_is_the_same_after_a_trip_through_json(
    loader: str, kwargs: dict[str, Any], task: str, n_epochs: int, suffix: str, timeout_s: float | None
) -> None:
    config = TrainAndEvaluateConfig(
        prepare_dataset={"dataset_loader": loader, "loader_kwargs": kwargs},
        submit_training={"model": "mlp", "hyperparameters": {"n_epochs": n_epochs}, "suffix": suffix},
        wait_for_training={"timeout_s": timeout_s},
        evaluate_model={"eval_task": task, "eval_kwargs": kwargs},
    )

    again = TrainAndEvaluateConfig(**json.loads(json.dumps(config.to_json(), allow_nan=False)))

    assert again == config
    assert train_and_evaluate_workflow.checked(config) == config.to_json()


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("prepare_dataset", {"dataset_loader": "hello_world"}, "prepare_dataset: dataset_loader is 'hello_world'. Needed"),
        ("prepare_dataset", {"dataset_loader": "a b:c"}, "as module:function"),
        ("prepare_dataset", {"dataset_loader": 5}, "prepare_dataset.dataset_loader is 5. Needed: text"),
        ("prepare_dataset", {"data_loader": "a:b"}, "Unknown field 'data_loader' in prepare_dataset.*Did you mean 'dataset_loader'"),
        ("prepare_dataset", {"loader_kwargs": [1]}, "loader_kwargs is .*Needed: an object"),
        ("prepare_dataset", {"loader_kwargs": {"x": float("nan")}}, "loader_kwargs.x is nan"),
        ("submit_training", {"model": None}, "submit_training.model is None"),
        ("submit_training", {"hyperparameters": {"lr": 1}}, "Unknown hyperparameter 'lr'"),
        ("submit_training", {"model": "gpt"}, "Unknown model of the backend 'harness' 'gpt'"),
        ("submit_training", {"backend_name": "tinker"}, "Unknown backend 'tinker'. Known: harness"),
        ("submit_training", {"suffix": "a\nb"}, "suffix is .*printable"),
        ("submit_training", {"suffix": "a" * 101}, "up to 100"),
        ("wait_for_training", {"timeout_s": 0}, "timeout_s is 0.*seconds above 0"),
        ("wait_for_training", {"timeout_s": -1.5}, "timeout_s is -1.5"),
        ("wait_for_training", {"timeout_s": "60"}, "timeout_s is '60'"),
        ("evaluate_model", {"eval_task": "task"}, "evaluate_model: eval_task is 'task'"),
        ("evaluate_model", {"backend_name": "inspect"}, "Unknown backend 'inspect'"),
        ("evaluate_model", {"backend_name": "gpt"},
         "evaluate_model.backend_name is 'gpt', and the model is trained by 'harness'.*Set .* to 'harness'"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_not_sound_is_refused(section: str, values: dict[str, Any], message: str) -> None:
    config = changed(**{section: values})

    with pytest.raises(UsageError, match=message):
        TrainAndEvaluateConfig(**config)
    with pytest.raises(UsageError, match=message):
        train_and_evaluate_workflow.checked(config)


@pytest.mark.parametrize("section", ["mlp", {"hyperparameters": 3, "backend_name": "gpt"}])
def test_whether_an_unsound_configuration_is_clocked_is_no_error(section: Any) -> None:
    is_clocked = train_and_evaluate_workflow.is_clocked

    assert is_clocked is not None
    assert not is_clocked(train_and_evaluate_workflow.filled({"submit_training": section}))


def test_all_faults_of_a_configuration_are_told_at_once() -> None:
    config = changed(prepare_dataset={"dataset_loader": "x"}, evaluate_model={"eval_task": "y", "more": 1})

    with pytest.raises(UsageError) as caught:
        TrainAndEvaluateConfig(**config)

    assert all(word in str(caught.value) for word in ("dataset_loader is 'x'", "Unknown field 'more'"))


# ---- what a loader gives


def keep(root: Path, what: Any) -> Dataset:
    return datasets.keep(what, root=root, loader="own:rows")


def row(prompt: Any = "a", completion: Any = "b") -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion}


@FEW
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)] * 2), min_size=1
    )
)
def test_rows_of_text_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    root = tmp_path_factory.getbasetemp() / "texts"

    dataset = keep(root, [row(*pair) for pair in pairs])

    assert datasets.texts(dataset, root=root) == pairs
    assert (dataset.kind, dataset.n_rows) == ("text", len(pairs))


def test_equal_rows_are_one_file_that_is_named_by_its_content(tmp_path: Path) -> None:
    first, second = keep(tmp_path, [row()]), keep(tmp_path, [{"completion": "b", "prompt": "a"}])

    other = keep(tmp_path, [row(), row("c")])

    assert first == second != other
    assert len(list((tmp_path / "outputs/.cache/datasets").iterdir())) == 2
    assert Path(first.path).stem in first.sha256


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ([], "own:rows gave no rows"),
        (None, "gave a NoneType. Needed: a list of"),
        ("prompt", "gave a str"),
        (iter([row()]), "gave a list_iterator"),
        ([row(), ["a", "b"]], "row 1, counted from 0, is a list"),
        ([{"prompt": "a"}], "row 0, counted from 0, has the names prompt. Needed: prompt and completion"),
        ([{**row(), "id": 1}], "has the names prompt, completion, id"),
        ([{}], "has the names of nothing"),
        ([row(), row(5)], "row 1, counted from 0, has a prompt that is a int"),
        ([row(completion=None)], "has a completion that is a NoneType"),
        ([row(" \n")], "has a prompt that is empty"),
        ([row(completion="")], "has a completion that is empty"),
        ([row("\ud800")], "half a character"),
        (([[1.0], [1.0, 2.0]], [0, 1]), "x is no array of numbers: its rows differ in length"),
        (([[1.0], [None]], [0, 1]), "x is a list of object"),
        (([["a"], ["b"]], [0, 1]), "X has shape"),
        (([[1.0], [float("nan")]], [0, 1]), "X has the value nan in row 1"),
        (([[1.0], [2.0]], [0.5, float("inf")]), "y has the value inf in row 1"),
        (([[1.0], [2.0]], [0]), "y has shape"),
        (([[1.0], [2.0]], [[0], [1]]), "y has shape"),
        ((1.0, 2.0), "X has shape"),
        ((np.empty((0, 3)), np.empty(0)), "gave no rows"),
        (([[1.0], [2.0]], [0, 0]), "one class only"),
        (([[1.0], [2.0]], ["a", "a"]), "one class only"),
        (([[1.0], [2.0]], [0, -1]), "has the class -1"),
        (([[1.0], [2.0]], ["a", " "]), "is empty in row 1"),
        ((np.ma.masked_array([[1.0], [2.0]], [[0], [1]]), [0, 1]), "masked"),
        (([[1j], [2j]], [0, 1]), "x is a list of complex128"),
        ({"prepared": "../secret"}, "gave an object with prepared"),
        ({"prepared": "pystdlib", "more": 1}, "gave an object with prepared, more"),
        ({}, "gave an object with nothing in it"),
        ({"prepared": 5}, "gave an object"),
    ],
)  # fmt: skip
def test_what_nothing_can_be_trained_on_is_refused_and_not_kept(tmp_path: Path, what: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        keep(tmp_path, what)

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("y", "kept"),
    [
        ([0.5, 1.0, 2.0], np.array([0.5, 1.0, 2.0])),
        ([0, 2, 1], np.array([0, 2, 1], np.int32)),
        ([True, False, True], np.array([1, 0, 1], np.int32)),
        (["pear", "apple", "pear"], np.array([1, 0, 1], np.int32)),
        (np.array([0, 1, 1], ">i8"), np.array([0, 1, 1], np.int32)),
    ],
)
def test_a_table_is_kept_as_the_harness_reads_it(tmp_path: Path, y: Any, kept: Any) -> None:
    x = np.arange(6.0).reshape(3, 2)

    dataset = keep(tmp_path, (x.tolist(), y))

    with np.load(tmp_path / dataset.path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["X"], x)
        np.testing.assert_array_equal(arrays["y"], kept)
        assert arrays["y"].dtype == kept.dtype
    assert (dataset.kind, dataset.n_rows) == ("table", 3)


def test_a_prepared_dataset_counts_by_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path))
    home = tmp_path / "pystdlib"
    for snapshot in ("1234", "5678"):
        (home / snapshot).mkdir(parents=True)
        (home / snapshot / "manifest.json").write_text("{}")
    (home / "current").write_text("1234\n")

    dataset = keep(tmp_path / "root", {"prepared": "pystdlib"})

    assert dataset == Dataset("pystdlib", "prepared", "1234", 0)
    assert datasets.is_there(dataset, root=tmp_path)
    (home / "current").write_text("5678\n")
    assert not datasets.is_there(dataset, root=tmp_path)


@pytest.mark.parametrize("current", [None, "1234\n"])
def test_a_dataset_that_is_not_prepared_is_told_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, current: str | None
) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path))
    if current:
        (tmp_path / "pystdlib").mkdir()
        (tmp_path / "pystdlib" / "current").write_text(current)

    with pytest.raises(DataError, match=r"Type: python prepare.py --dataset pystdlib"):
        keep(tmp_path, {"prepared": "pystdlib"})


# ---- functions by name


def test_a_function_is_called_with_its_arguments(tmp_path: Path, module: Any) -> None:
    name = module("def rows(n, word='x'):\n    return [word] * n\n")

    assert tasks.call(f"{name}:rows", {"n": 2}, root=tmp_path) == ["x", "x"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "can't be called with no arguments: missing a required argument: 'n'. It takes"),
        ({"n": 1, "m": 2}, "can't be called with n, m: got an unexpected keyword argument 'm'"),
    ],
)
def test_arguments_that_a_function_does_not_take_are_refused(
    tmp_path: Path, module: Any, arguments: dict[str, Any], message: str
) -> None:
    name = module("def rows(n):\n    return n\n")

    with pytest.raises(UsageError, match=message):
        tasks.call(f"{name}:rows", arguments, root=tmp_path)


@pytest.mark.parametrize("error", ["ValueError('bad')", "SystemExit('bad')", "TypeError('bad')"])
def test_a_failing_function_is_named_with_its_line(tmp_path: Path, module: Any, error: str) -> None:
    name = module(f"def rows():\n    x = 1\n    raise {error}\n")

    with pytest.raises(DataError, match=rf"{name}:rows failed in {name}.py, line 3: \w+: bad. Correct it there"):
        tasks.call(f"{name}:rows", {}, root=tmp_path)


@pytest.mark.parametrize("error", ["ConnectionError('gone')", "FileNotFoundError('gone')"])
def test_an_error_of_the_system_is_passed_on_for_another_try(tmp_path: Path, module: Any, error: str) -> None:
    name = module(f"def rows():\n    raise {error}\n")

    with pytest.raises(OSError, match="gone"):
        tasks.call(f"{name}:rows", {}, root=tmp_path)


def test_the_line_of_an_error_is_the_function_s_own(tmp_path: Path, module: Any) -> None:
    name = module("import os\n\ndef rows():\n    return os.environ['MY_TOKEN']\n")

    with pytest.raises(DataError, match=rf"failed in {name}\.py, line 4: KeyError: 'MY_TOKEN'"):
        tasks.call(f"{name}:rows", {}, root=tmp_path)


def test_our_own_errors_keep_their_words(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"^num_samples of the hello-world dataset is 0"):
        tasks.call(LOADER, {"num_samples": 0}, root=tmp_path)


# ---- the whole


def test_the_workflow_trains_and_evaluates(tmp_path: Path) -> None:
    state = run(tmp_path)

    assert (state.status, state.error) == (Status.FINISHED, "")
    assert list(state.outputs) == ["dataset", "job", "model", "eval_results"]
    results = state.step("evaluate_model").outputs["eval_results"]
    assert results.keys() == {"hello_world"}
    assert results["hello_world"].keys() == {"accuracy", "f1_score"}
    assert results["hello_world"]["accuracy"] in (0, 0.25, 0.5, 0.75, 1)  # a tenth of 40 rows
    assert (tmp_path / state.outputs["model"]["run_dir"]).is_relative_to(tmp_path / "outputs/s/one")


def test_a_label_does_not_train_again(tmp_path: Path) -> None:
    first = run(tmp_path)

    second = run(tmp_path, changed(submit_training={"suffix": "other"}), name="two")

    assert second.outputs == first.outputs
    assert second.step("wait_for_training").is_cached and second.step("evaluate_model").is_cached


def test_a_model_that_was_changed_is_trained_again(tmp_path: Path) -> None:
    first = run(tmp_path).outputs["model"]
    (tmp_path / first["run_dir"] / "checkpoints/checkpoint_final/layer_0_bias.npy").write_bytes(b"")

    state = run(tmp_path, name="two")

    assert not state.step("wait_for_training").is_cached
    assert state.outputs["model"]["sha256"] == first["sha256"]
    assert state.outputs["model"]["run_dir"].startswith("outputs/s/two/")


def test_data_that_were_removed_are_prepared_again(tmp_path: Path) -> None:
    dataset = run(tmp_path).outputs["dataset"]
    (tmp_path / dataset["path"]).unlink()

    state = run(tmp_path, name="two")

    assert not state.step("prepare_dataset").is_cached
    assert state.outputs["dataset"] == dataset
    assert (tmp_path / dataset["path"]).is_file()


@pytest.mark.parametrize(
    ("sections", "step", "message"),
    [
        ({"prepare_dataset": {"loader_kwargs": {"num_samples": 1}}}, "prepare_dataset", "num_samples .* is 1"),
        ({"prepare_dataset": {"loader_kwargs": {"n": 1}}}, "prepare_dataset", "unexpected keyword argument 'n'"),
        ({"prepare_dataset": {"dataset_loader": "no_such_module:rows"}}, "prepare_dataset", "no_such_module"),
        (
            {"submit_training": {"model": "linear_regression", "hyperparameters": {}}},
            "submit_training",
            "predicts numbers",
        ),
        ({"evaluate_model": {"eval_task": LOADER}}, "evaluate_model", "gave a list. Needed: an EvalTask"),
    ],
)
def test_a_step_that_fails_says_why(tmp_path: Path, sections: dict[str, Any], step: str, message: str) -> None:
    state = run(tmp_path, changed(**sections))

    assert state.status is Status.FAILED
    assert state.step(step).status is Status.FAILED
    with pytest.raises(LabError, match=message):
        raise LabError(state.error)


def test_a_loader_and_a_task_of_ones_own_are_found_in_the_workspace(tmp_path: Path, module: Any) -> None:
    name = module(
        "from autoexperiment.workflow.backends.base import EvalTask\n"
        "def rows(n):\n    return [[float(i)] for i in range(n)], [2.0 * i + 1 for i in range(n)]\n"
        "def task():\n    return EvalTask('line', metrics=('rmse',))\n"
    )
    config = {
        "prepare_dataset": {"dataset_loader": f"{name}:rows", "loader_kwargs": {"n": 30}},
        "submit_training": {"model": "linear_regression"},
        "wait_for_training": {},
        "evaluate_model": {"eval_task": f"{name}:task"},
    }

    state = run(tmp_path, config)

    assert state.error == ""
    assert state.outputs["eval_results"]["line"]["rmse"] == pytest.approx(0, abs=1e-6)
