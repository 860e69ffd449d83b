"""The GPT recipe as a backend of the train-and-evaluate workflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import standin

from autoexperiment.errors import DataError, HarnessError, LabError, Refused, UsageError
from autoexperiment.paths import RunPaths
from autoexperiment.workflow.backends.base import Dataset, EvalTask, Place, Training, backend

GPT = backend("gpt")
TASK = EvalTask("validation")
SMALL = {"budget": "steps:2", "seed": 3, "heads": 2, "MATRIX_LR": 0.05}


@dataclass(frozen=True)
class Lab:
    """A workspace with the recipe, its prepared data, and a job."""

    place: Place
    dataset: Dataset
    job: dict[str, Any]

    def submit(self, **hyperparameters: Any) -> dict[str, Any]:
        return GPT.submit(Training(self.dataset, "gpt", hyperparameters), self.place)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as patch:
        root = standin.make_recipe(tmp_path_factory.mktemp("gpt"), prepared, patch)
        place = Place(root, root / "outputs" / "trained" / "20260101_000000")
        dataset = Dataset("pystdlib", "prepared", prepared.name, 0)
        yield Lab(place, dataset, GPT.submit(Training(dataset, "gpt", SMALL), place))


@pytest.fixture(scope="module")
def model(lab: Lab) -> dict[str, Any]:
    left = lab.place.run_dir / "training" / "left.txt"
    left.parent.mkdir(parents=True)
    left.write_text("of an attempt that was killed")
    return GPT.wait(lab.job, lab.place, timeout_s=None)


def test_job_is_complete_plain_and_the_same_each_time(lab: Lab) -> None:
    again = lab.submit(**SMALL)

    assert again == lab.job == json.loads(json.dumps(again))
    assert lab.job["config"]["constants"] == {"HEADS": 2, "MATRIX_LR": 0.05}
    assert (lab.job["config"]["seed"], lab.job["config"]["budget"]) == (3, "steps:2")


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"dept": 2}, "Unknown hyperparameter 'dept'.*Did you mean 'depth'"),
        ({"Depth": 2}, "Unknown hyperparameter 'Depth'"),
        ({"depth": 2, "DEPTH": 3}, "given twice"),
        ({"depth": 2.5}, "does not fit"),
        ({"time_budget": 3.0}, "Set 'budget' instead"),
        ({"budget": "soon"}, "not an amount"),
        ({"seed": -1}, "'seed' is -1"),
    ],
)
def test_hyperparameter_that_is_not_sound_is_refused(lab: Lab, hyperparameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        lab.submit(**hyperparameters)


@pytest.mark.parametrize("hyperparameters", [{"budget": "soon"}, {"seed": -1}])
def test_budget_and_seed_are_looked_at_without_a_recipe(hyperparameters: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        GPT.check("gpt", hyperparameters)  # type: ignore[attr-defined]


def test_other_models_are_refused(lab: Lab) -> None:
    with pytest.raises(UsageError, match="Unknown model of the backend 'gpt' 'mlp'"):
        GPT.submit(Training(lab.dataset, "mlp", {}), lab.place)


def test_data_that_prepare_has_not_made_are_refused(lab: Lab) -> None:
    with pytest.raises(DataError, match=r"of the kind 'text'.*\"prepared\": \"pystdlib\""):
        GPT.submit(Training(replace(lab.dataset, kind="text"), "gpt", {}), lab.place)


def test_data_that_changed_since_they_were_prepared_are_refused(lab: Lab) -> None:
    with pytest.raises(DataError, match="made for 0123"):
        GPT.submit(Training(replace(lab.dataset, sha256="0123"), "gpt", {}), lab.place)


def test_recipe_that_was_edited_since_the_job_was_made_is_not_run(lab: Lab) -> None:
    script = lab.place.root / "train.py"
    before = script.read_text()
    script.write_text(before + "# edited\n")

    try:
        with pytest.raises(Refused, match="not as it was when the job was made"):
            GPT.wait(lab.job, lab.place, timeout_s=None)
    finally:
        script.write_text(before)


def test_evaluation_is_that_of_the_run(lab: Lab, model: dict[str, Any]) -> None:
    record = json.loads(RunPaths(lab.place.root / model["run_dir"]).record.read_text())

    found = GPT.evaluate(model, TASK, lab.place)

    assert found == {"validation": {"val_bpb": record["evaluation"]["val_bpb"]}}
    assert model["trust"]["val_bpb"] == "recomputed"
    assert model["run_dir"] == "outputs/trained/20260101_000000/training"
    assert not (lab.place.run_dir / "training" / "left.txt").exists()


def test_task_chooses_among_the_run_s_metrics(lab: Lab, model: dict[str, Any]) -> None:
    found = GPT.evaluate(model, EvalTask("t", ("num_steps", "val_bpb")), lab.place)

    assert found["t"] == {"num_steps": 2.0, "val_bpb": model["metrics"]["val_bpb"]}


@pytest.mark.parametrize(
    ("task", "message"),
    [(EvalTask("t", ("val_bbp",)), "Did you mean 'val_bpb'"), (EvalTask("t", samples=(("a", "b"),)), "answers none")],
)
def test_task_that_does_not_fit_is_refused(lab: Lab, model: dict[str, Any], task: EvalTask, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GPT.evaluate(model, task, lab.place)


@pytest.mark.parametrize(
    "name", ["run.json", "work/data/checkpoint/model.safetensors", "work/data/checkpoint/config.json"]
)
def test_model_is_there_as_long_as_its_files_are_as_they_were(lab: Lab, model: dict[str, Any], name: str) -> None:
    file = lab.place.root / model["run_dir"] / name
    before = file.read_bytes()

    assert GPT.is_there(model, lab.place)
    file.write_bytes(before[:-1])
    assert not GPT.is_there(model, lab.place)
    file.unlink()
    assert not GPT.is_there(model, lab.place)
    file.write_bytes(before)
    assert GPT.is_there(model, lab.place)


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("raise RuntimeError('planted')", HarnessError, "The training failed: RuntimeError at .*planted"),
        ("print('diverged: loss nan', file=sys.stderr); sys.exit(3)", HarnessError, "The training diverged: "),
        ("time.sleep(600)", HarnessError, "The training took too long: "),
        ("os.kill({pid}, 15); time.sleep(600)", KeyboardInterrupt, "^$"),
    ],
)
def test_training_that_does_not_end_well_is_an_error(
    lab: Lab, tmp_path: Path, line: str, error: type[BaseException], message: str
) -> None:
    import os

    script = lab.place.root / "train.py"
    before = script.read_text()
    script.write_text(
        f"from __future__ import annotations\nimport os, sys, time\nDATASET = 'pystdlib'\n{line.format(pid=os.getpid())}\n"
    )
    place = Place(lab.place.root, tmp_path)

    try:
        job = lab.submit(budget="steps:2")
        with pytest.raises(error, match=message):
            GPT.wait(job, place, timeout_s=1.0)
    finally:
        script.write_text(before)


def test_missing_recipe_is_an_error_for_the_user(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"There is no file train\.py"):
        GPT.submit(Training(lab.dataset, "gpt", {}), Place(tmp_path, tmp_path))
