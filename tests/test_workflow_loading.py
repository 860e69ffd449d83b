"""Objects by "module:attribute", and the words by which another process finds a workflow."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from workflow_modules import COUNTING, Modules, modules

from autoexperiment.errors import UsageError
from autoexperiment.workflow import Step, Workflow, loading


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Modules]:
    with modules(tmp_path / "workspace") as made:
        yield made


def nothing(config: object, inputs: object, context: object) -> dict[str, object]:
    return {}


def test_a_function_is_loaded_from_the_workspace(place: Modules) -> None:
    place.write("tasks.text", "def greet():\n    return 'hello'\n")
    sys.path.remove(str(place.root))

    assert loading.load_function("tasks.text:greet", root=place.root)() == "hello"
    assert sys.path[-1] == str(place.root)


@pytest.mark.parametrize(
    "reference", ["", "tasks", "tasks:", ":greet", "tasks/text.py:greet", "tasks:greet()", "a b:c", "a:b\n"]
)
def test_words_of_another_form_are_refused(place: Modules, reference: str) -> None:
    with pytest.raises(UsageError, match="is not of the form"):
        loading.load(reference, root=place.root)


def test_a_module_that_was_written_just_now_is_loaded(place: Modules) -> None:
    times = place.root.stat()
    place.write("tasks", "")
    os.utime(place.root, ns=(times.st_atime_ns, times.st_mtime_ns))
    loading.load("tasks:__name__", root=place.root)  # the finder remembers what the folder holds

    (place.root / "late.py").write_text("x = 1\n")
    os.utime(place.root, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert loading.load("late:x", root=place.root) == 1
    del sys.modules["late"]


@pytest.mark.parametrize("reference", ["nowhere:f", "tasks.nowhere:f", "nowhere.deep:f"])
def test_a_module_that_is_not_there_is_named(place: Modules, reference: str) -> None:
    place.write("tasks.__init__", "")

    with pytest.raises(UsageError, match=r"There is no module '(tasks\.)?nowhere' for"):
        loading.load(reference, root=place.root)


def test_a_name_that_is_not_there_is_corrected(place: Modules) -> None:
    place.write("tasks", "from json import dumps as great\ndef greet(): ...\n")

    with pytest.raises(UsageError, match=r"Unknown name 'gret' in .*tasks.py.*Known: greet\. Did you mean 'greet'"):
        loading.load("tasks:gret", root=place.root)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def (", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_a_module_that_fails_when_it_is_imported_is_a_refusal(place: Modules, source: str, said: str) -> None:
    place.write("broken", source)

    with pytest.raises(UsageError, match=f"Importing 'broken:f' failed: {said}"):
        loading.load("broken:f", root=place.root)


def test_what_is_no_function_or_no_workflow_is_refused(place: Modules) -> None:
    place.write("tasks", "rows = [1]\n")

    with pytest.raises(UsageError, match="is a list, not a function"):
        loading.load_function("tasks:rows", root=place.root)
    with pytest.raises(UsageError, match="is a list, not a Workflow"):
        loading.load_workflow("tasks:rows", root=place.root)


# ---- references


def test_a_workflow_knows_the_module_that_it_is_made_in(place: Modules) -> None:
    place.write("another", "from flow import counting as borrowed\n")
    workflow = place.workflow()
    loading.load("another:borrowed", root=place.root)

    assert loading.reference_of(workflow) == "flow:counting"
    assert loading.load_workflow("flow:counting", root=place.root) is workflow


def test_a_reference_that_is_given_is_taken(place: Modules) -> None:
    assert loading.reference_of(replace(place.workflow(), reference="elsewhere:mine")) == "elsewhere:mine"


def test_a_workflow_that_is_no_variable_of_a_module_is_refused() -> None:
    with pytest.raises(UsageError, match="is no module's variable"):
        loading.reference_of(Workflow("local", (Step("a", nothing),)))


def test_a_workflow_of_the_program_itself_is_refused(place: Modules) -> None:
    place.write("flow", COUNTING)
    program = place.root / "program.py"
    program.write_text(
        "from autoexperiment.workflow import Step, Workflow, loading\n"
        "from flow import draw\n"
        "def own(config, inputs, context): return {}\n"
        "imported = Workflow('imported', (Step('a', draw),))\n"
        "defined = Workflow('defined', (Step('a', own),))\n"
        "for act, one in ((loading.reference_of, imported), (loading.check_importable, defined)):\n"
        "    try:\n"
        "        act(one)\n"
        "    except Exception as error:\n"
        "        print(error)\n"
    )

    said = subprocess.run([sys.executable, str(program)], capture_output=True, text=True).stdout.splitlines()

    assert len(said) == 2
    assert "is made in the program itself (__main__)" in said[0]
    assert "The function of step 'a' is defined in the program itself (__main__)" in said[1]
    assert all("module" in line for line in said)
