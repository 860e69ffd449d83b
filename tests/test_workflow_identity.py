"""What decides a workflow's outputs, beside its configuration: folders, files that steps hand on, what backends read."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import standin
from workflow_modules import Modules, modules

from autoexperiment.errors import DataError, LabError, UsageError
from autoexperiment.sweep.points import key_of
from autoexperiment.sweep.workflows import WorkflowWork, make
from autoexperiment.workflow import WorkflowState, folders, run_workflow, sources, train_and_evaluate_workflow

RECIPE = "autoexperiment.workflow.train_and_evaluate:train_and_evaluate_workflow"

# The first step writes to one place, whatever its configuration: the place's name says nothing of what is there.
SHARED = """
from dataclasses import dataclass
from autoexperiment.workflow import Step, Workflow

@dataclass
class Make:
    count: int = 3

def make(config, inputs, context):
    (context.root / "kept").mkdir(exist_ok=True)
    for place in ("numbers.txt", "kept/numbers.txt"):
        (context.root / place).write_text(" ".join(map(str, range(config.count))))
    return {"place": "PLACE"}

def add(config, inputs, context):
    place = context.root / inputs["place"]
    place = place / "numbers.txt" if place.is_dir() else place
    return {"total": sum(map(int, place.read_text().split()))}

shared = Workflow(
    "shared", (Step("make", make, Make, outputs={"place": str}), Step("add", add, None, {"place": str}, {"total": int}))
)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Modules]:
    with modules(tmp_path / "workspace") as made:
        yield made


def run(place: Modules, workflow: Any, config: Any, run_dir: str = "run") -> WorkflowState:
    return asyncio.run(run_workflow(workflow, config, root=place.root, run_dir=run_dir, say=lambda _: None))


def key(made: WorkflowWork, params: dict[str, Any] | None = None) -> str:
    return key_of("workflow", made.identity(made.resolve(params or {}, None)))


# ---- steps


@pytest.mark.parametrize("where", ["numbers.txt", "kept"])
def test_what_an_earlier_step_wrote_in_place_counts_by_its_content(place: Modules, where: str) -> None:
    workflow = place.workflow(SHARED.replace("PLACE", where), attribute="shared")

    totals = [run(place, workflow, {"make": {"count": n}}).outputs["total"] for n in (3, 10, 100, 3)]

    assert totals == [3, 45, 4950, 3]


def test_a_folder_of_the_configuration_counts_by_its_content(place: Modules) -> None:
    source = SHARED.replace("count: int = 3", 'folder: str = "data"').replace(
        "range(config.count)", "[(context.root / config.folder / 'n').read_text()]"
    )
    workflow = place.workflow(source.replace("PLACE", "numbers.txt"), attribute="shared")
    (place.root / "data").mkdir()
    totals = []
    for number in ("5", "7", "7"):
        (place.root / "data" / "n").write_text(number)
        state = run(place, workflow, {})
        totals.append((state.outputs["total"], state.step("make").is_cached))

    assert totals == [(5, False), (7, False), (7, True)]


def test_a_step_that_is_not_kept_is_done_each_time(place: Modules) -> None:
    source = SHARED.replace('outputs={"place": str})', 'outputs={"place": str}, is_cached=False)')
    workflow = place.workflow(source.replace("PLACE", "numbers.txt"), attribute="shared")

    states = [run(place, workflow, {}) for _ in range(2)]

    assert [[step.is_cached for step in state.steps] for state in states] == [[False, False], [False, True]]


# ---- folders


def content(folder: Path) -> str:
    return sources.of_file(folder.name, root=folder.parent)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "a").write_text("one")
    return tmp_path / "data"


@pytest.mark.parametrize("remembered", [0, folders.REMEMBERED_BYTES])
def test_a_folder_is_what_its_files_are(folder: Path, monkeypatch: pytest.MonkeyPatch, remembered: int) -> None:
    monkeypatch.setattr(folders, "REMEMBERED_BYTES", remembered)
    seen = [content(folder)]
    (folder / "deep" / "a").write_text("two")
    seen.append(content(folder))
    (folder / "deep" / "a").rename(folder / "a")
    seen.append(content(folder))
    (folder / "~").mkdir()
    (folder / "~" / "b").write_text("")
    seen.append(content(folder))

    assert "" not in seen
    assert len(set(seen)) == 4
    assert content(folder) == seen[-1]
    assert (folder.parent / "outputs" / ".cache" / "folders").is_dir() is (remembered == 0)


def test_bytecode_that_a_run_leaves_in_a_folder_does_not_count(folder: Path) -> None:
    before = content(folder)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_text("x")

    assert content(folder) == before


def test_folders_behind_links_count_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MOST_FILES", 2)  # a link that leads round would bring the same file again and again
    (folder.parent / "elsewhere").mkdir()
    (folder / "link").symlink_to(folder.parent / "elsewhere")
    (folder / "round").symlink_to(folder)
    before = content(folder)
    (folder.parent / "elsewhere" / "b").write_text("x")

    assert content(folder) != before


@pytest.mark.parametrize(("limit", "value"), [("MOST_FILES", 1), ("MOST_BYTES", 3)])
def test_a_folder_that_holds_too_much_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    (folder / "b").write_text("x")
    monkeypatch.setattr(folders, limit, value)

    with pytest.raises(UsageError, match=r"The folder .*data holds more than .* Name a smaller one"):
        content(folder)


# ---- points of a sweep


def own(place: Modules, **hyperparameters: Any) -> WorkflowWork:
    """Rows and a task of the workspace, for the harness."""
    place.write(
        "mine",
        "from autoexperiment.workflow.backends.base import EvalTask\n"
        "def rows():\n    return [[float(i)] for i in range(20)], [2.0 * i for i in range(20)]\n"
        "def task():\n    return EvalTask('line', ('rmse',))\n",
    )
    base = {
        "prepare_dataset": {"dataset_loader": "mine:rows"},
        "submit_training": {"model": "linear_regression", "hyperparameters": hyperparameters},
        "evaluate_model": {"eval_task": "mine:task"},
    }
    return make(base, root=place.root, options={"workflow": train_and_evaluate_workflow})


@pytest.mark.parametrize("path", ["prepare_dataset.dataset_loader", "evaluate_model.eval_task"])
def test_a_module_that_is_not_there_is_refused_before_anything_is_run(place: Modules, path: str) -> None:
    with pytest.raises(UsageError, match=rf"{path} is 'mien:rows', and there is no module 'mien'"):
        own(place).resolve({path: "mien:rows"}, None)


def test_code_of_the_workspace_counts_wherever_the_program_was_started(
    place: Modules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(place.root))
    made = own(place)
    monkeypatch.undo()
    sys.path[:] = [folder for folder in sys.path if folder != str(place.root)]
    code = own(place).identity(made.resolve({}, None))["code"]

    assert "mine" in code


def test_a_loader_is_asked_each_time_and_equal_rows_are_not_trained_on_again(place: Modules) -> None:
    made = own(place)
    place.write(
        "mine",
        (place.root / "mine.py").read_text().replace("2.0 * i for", "float(open('slope').read()) * i for"),
    )
    config = made.resolve({"prepare_dataset.dataset_loader": "mine:rows"}, None)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.root)
        for slope in ("2", "2", "3"):
            (place.root / "slope").write_text(slope)
            state = run(place, train_and_evaluate_workflow, config, f"outputs/s/{len(seen)}")
            seen.append((state.step("wait_for_training").is_cached, state.outputs["dataset"]["sha256"]))

    assert [is_cached for is_cached, _ in seen] == [False, True, False]
    assert seen[0][1] == seen[1][1] != seen[2][1]


# ---- the recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[Modules]:
    with pytest.MonkeyPatch.context() as patch:
        root = standin.make_recipe(tmp_path_factory.mktemp("recipe"), prepared, patch)
        with modules(root) as made:
            made.write(
                "mine_gpt",
                "from autoexperiment.workflow.backends.base import EvalTask\n"
                "def data(name='pystdlib'):\n    print('noise')\n    return {'prepared': name}\n"
                "def rows():\n    return [{'prompt': 'a', 'completion': 'b'}]\n"
                "def broken():\n    return 1 / 0\n"
                "def task():\n    return EvalTask('t')\n",
            )
            yield made


BASE = {
    "prepare_dataset": {"dataset_loader": "mine_gpt:data"},
    "submit_training": {"model": "gpt", "backend_name": "gpt", "hyperparameters": {"budget": "steps:2"}},
    "evaluate_model": {"eval_task": "mine_gpt:task", "backend_name": "gpt"},
}


def gpt(place: Modules) -> WorkflowWork:
    return make(BASE, root=place.root, options={"workflow": RECIPE})


def test_an_edited_recipe_makes_other_points(recipe: Modules) -> None:
    script = recipe.root / "train.py"
    text, made = script.read_text(), gpt(recipe)
    before = key(made)

    try:
        script.write_text(text + "# edited\n")

        assert key(gpt(recipe)) != before
        assert key(made) == before  # within one sweep a point keeps its name
    finally:
        script.write_text(text)


def test_the_prepared_data_and_the_values_of_constants_are_known(recipe: Modules, prepared: Path) -> None:
    made = gpt(recipe)

    plain, other = (
        made.identity(made.resolve(params, None))["reads"]
        for params in ({}, {"submit_training.hyperparameters.matrix_lr": 0.5})
    )

    assert plain["snapshot"] == prepared.name
    assert plain["budget"] == "steps:2"
    assert plain["files"]["train.py"] != other["files"]["train.py"]
    assert plain["files"]["prepare.py"] == other["files"]["prepare.py"]


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"submit_training.hyperparameters.bogus": 1}, UsageError, "Unknown hyperparameter 'bogus'"),
        (
            {"prepare_dataset.dataset_loader": "mine_gpt:rows"},
            DataError,
            "gave a list, and the backend 'gpt' trains on",
        ),
        ({"prepare_dataset.dataset_loader": "mine_gpt:broken"}, DataError, "ZeroDivisionError"),
        ({"prepare_dataset.loader_kwargs.name": "nothing"}, DataError, "'nothing' is not prepared"),
    ],
)
def test_a_point_of_the_recipe_that_can_not_run_is_refused_beforehand(
    recipe: Modules, params: dict[str, Any], error: type[LabError], message: str
) -> None:
    with pytest.raises(error, match=message):
        gpt(recipe).resolve(params, None)


def test_hyperparameters_that_would_change_nothing_are_not_offered(recipe: Modules) -> None:
    with pytest.raises(UsageError) as caught:
        gpt(recipe).resolve({"submit_training.hyperparameters.bogus": 1}, None)

    known = str(caught.value).partition("Known: ")[2].replace(".", ",").split(", ")
    assert known.count("seed") == 1
    assert not {"time_budget", "dataset"} & {*known}


def test_a_recipe_that_was_edited_after_a_training_stopped_is_trained_as_it_is(recipe: Modules) -> None:
    script, harness = recipe.root / "train.py", recipe.root / "prepare.py"
    texts, errors = {file: file.read_text() for file in (script, harness)}, []
    script.write_text("from __future__ import annotations\nDATASET = 'pystdlib'\nraise RuntimeError('planted')\n")

    try:
        for number in (1, 2):
            harness.write_text(texts[harness] + f"# edit {number}\n")
            errors.append(run(recipe, train_and_evaluate_workflow, BASE, f"outputs/s/{number}").error)
    finally:
        for file, text in texts.items():
            file.write_text(text)

    assert ["RuntimeError at train.py:3" in error for error in errors] == [True, True]
