"""What makes a step another one, and what is kept of finished ones."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from workflow_modules import COUNTING, Modules, modules

from autoexperiment import __version__
from autoexperiment.workflow import Context, Step, Workflow, WorkflowState, cache, run_workflow, sources
from autoexperiment.workflow.state import Status


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Modules]:
    with modules(tmp_path / "workspace") as made:
        yield made


def run(place: Modules, workflow: Workflow, config: Any = None, *, run_dir: str = "run", **more: Any) -> WorkflowState:
    return asyncio.run(run_workflow(workflow, config or {}, root=place.root, run_dir=run_dir, **{"say": str, **more}))


def entries(place: Modules) -> list[Path]:
    return sorted((place.root / "outputs" / ".cache" / "steps").glob("*.json"))


def test_an_equal_workflow_does_nothing_again(place: Modules) -> None:
    workflow = place.workflow()

    first = run(place, workflow)
    again = run(place, workflow, run_dir="other", user="eve")

    assert place.done() == ["draw", "add", "score"]
    assert again.outputs == first.outputs == {"numbers": [0, 1, 2], "total": 3, "eval_results": {"sum": {"total": 3.0}}}
    assert [(step.is_cached, step.attempts, step.status) for step in again.steps] == [(True, 0, Status.FINISHED)] * 3
    assert not any(step.is_cached for step in first.steps)


def test_a_changed_configuration_does_what_follows_from_it(place: Modules) -> None:
    workflow = place.workflow()
    run(place, workflow)

    run(place, workflow, {"score": {"scale": 2.0}})
    run(place, workflow, {"draw": {"count": 4}})

    assert place.done() == ["draw", "add", "score", "score", "draw", "add", "score"]


def test_a_change_that_comes_to_the_same_ends_there(place: Modules) -> None:
    workflow = place.workflow()
    run(place, workflow)

    run(place, workflow, {"draw": {"label": "other"}})  # the same numbers, so that nothing else is done

    assert place.done() == ["draw", "add", "score", "draw"]


def test_the_order_of_names_and_a_default_that_is_given_change_nothing(place: Modules) -> None:
    workflow = place.workflow()
    run(place, workflow, {"draw": {"options": {"a": 1, "b": 2}}})

    run(place, workflow, {"score": {"scale": 1}, "draw": {"count": 3, "options": {"b": 2, "a": 1}}})

    assert place.done() == ["draw", "add", "score"]


def test_changed_code_is_done_again(place: Modules) -> None:
    run(place, place.workflow())

    state = run(place, place.workflow(COUNTING.replace("sum(inputs", "10 + sum(inputs")))

    assert state.outputs["total"] == 13
    assert place.done() == ["draw", "add", "score"] * 2


def test_a_changed_helper_of_ones_own_is_done_again(place: Modules) -> None:
    source = "from parts import adding\n" + COUNTING.replace("sum(inputs", "adding.up(inputs")
    place.write("parts.adding", "from . import deeper\ndef up(numbers): return deeper.BASE + sum(numbers)\n")
    place.write("parts.deeper", "BASE = 0\n")
    run(place, place.workflow(source))
    place.write("parts.deeper", "BASE = 100\n")

    state = run(place, place.workflow(source))

    assert state.outputs["total"] == 103


def test_changed_code_that_the_configuration_names_is_done_again(place: Modules) -> None:
    place.write("folder.loaders", "rows = 1\n")
    workflow, config = place.workflow(), {"draw": {"options": {"loader": "folder.loaders:rows"}}}
    run(place, workflow, config)
    place.write("folder.loaders", "rows = 2\n")

    run(place, place.workflow(), config)

    assert place.done() == ["draw", "add", "score", "draw"]


def test_another_version_of_the_package_does_all_again(place: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = place.workflow()
    run(place, workflow)
    monkeypatch.setattr(cache, "__version__", __version__ + ".1")

    run(place, workflow)

    assert place.done() == ["draw", "add", "score"] * 2


def test_a_workflow_of_another_name_does_all_again(place: Modules) -> None:
    workflow = place.workflow()
    run(place, workflow)

    run(place, replace(workflow, name="other"))

    assert place.done() == ["draw", "add", "score"] * 2


def test_without_the_cache_all_is_done_and_nothing_kept(place: Modules) -> None:
    workflow = place.workflow()

    run(place, workflow, use_cache=False)
    run(place, workflow, use_cache=False)

    assert place.done() == ["draw", "add", "score"] * 2
    assert entries(place) == []


def test_a_step_that_failed_is_not_kept(place: Modules) -> None:
    broken = COUNTING.replace('return {"total": sum', 'raise ValueError("no")\n    return {"total": sum')

    run(place, place.workflow(broken))

    assert len(entries(place)) == 1
    assert run(place, place.workflow(broken)).step("draw").is_cached
    assert place.done() == ["draw", "add", "add"]


# ---- files


def test_a_file_that_the_configuration_names_counts_by_what_it_holds(place: Modules) -> None:
    workflow, config = place.workflow(), {"draw": {"options": {"rows": ["rows.csv"]}}}
    for text in ("one", "one", "two"):
        (place.root / "rows.csv").write_text(text)
        run(place, workflow, config)

    assert place.done() == ["draw", "add", "score", "draw"]


def test_texts_that_name_no_file_are_passed_over(place: Modules) -> None:
    (place.root / "outputs" / "deep").mkdir(parents=True)
    (place.root / "a").write_text("x")
    os.mkfifo(place.root / "pipe")
    texts = [
        "a",
        str(place.root / "a"),
        "",
        ".",
        "..",
        "/",
        "outputs",
        "outputs/deep/..",
        "pipe",
        "nowhere",
        "a\0b",
        "x" * 5000,
        "/proc/self/mem",
        "\udc80",
    ]

    assert list(sources.of_files({"deep": [{"er": texts}]}, root=place.root)) == [str(place.root / "a"), "a"]


READING = """
from pathlib import Path
from autoexperiment.workflow import Step, Workflow

def read(config, inputs, context):
    with (context.root / "done.txt").open("a") as file:
        file.write("read\\n")
    place = inputs["corpus"]
    files = sorted(place.rglob("*.txt")) if place.is_dir() else [place]
    return {"text": "".join(file.read_text() for file in files)}

reading = Workflow("reading", (Step("read", read, None, {"corpus": Path}, {"text": str}),), atoms={"corpus": Path})
"""


def test_a_file_counts_by_what_it_holds(place: Modules) -> None:
    workflow = place.workflow(READING, attribute="reading")
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (place.root / name).write_text(text)

    texts = [run(place, workflow, input_atoms={"corpus": Path(name)}).outputs["text"] for name in "abc"]

    assert texts == ["one", "one", "two"]
    assert place.done() == ["read", "read"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/mem is a file that nobody can read from its start")
def test_a_file_that_can_not_be_read_fails_the_step(place: Modules) -> None:
    workflow = place.workflow(READING, attribute="reading")

    state = run(place, workflow, input_atoms={"corpus": Path("/proc/self/mem")})

    assert state.step("read").error.startswith("Cannot read /proc/self/mem, an input of the workflow: ")
    assert place.done() == []


def test_a_folder_counts_by_its_names_and_what_they_hold(place: Modules) -> None:
    workflow = place.workflow(READING, attribute="reading")
    corpus = place.root / "corpus"
    (corpus / "deep").mkdir(parents=True)
    file = corpus / "deep" / "a.txt"
    texts = []
    for text in ("one", "one", "two"):
        file.write_text(text)
        texts.append(run(place, workflow, input_atoms={"corpus": corpus}).outputs["text"])
    file.rename(file.with_name("b.txt"))
    run(place, workflow, input_atoms={"corpus": corpus})

    assert texts == ["one", "one", "two"]
    assert place.done() == ["read"] * 3


def test_the_same_file_by_json_is_the_same(place: Modules) -> None:
    workflow = place.workflow(READING, attribute="reading")
    (place.root / "a").write_text("one")
    run(place, workflow, input_atoms={"corpus": Path("a")})

    run(place, workflow, input_atoms={"corpus": {"path": str(place.root / "a")}})

    assert place.done() == ["read"]


def test_an_atom_counts_by_its_value(place: Modules) -> None:
    source = READING.replace('{"corpus": Path}', '{"corpus": Pair}').replace(
        "from pathlib import Path",
        "from dataclasses import dataclass\n@dataclass\nclass Pair:\n    a: int\n    b: int = 2",
    )
    source = (
        source[: source.index("    place = ")]
        + '    return {"text": str(inputs["corpus"])}\n'
        + source[source.index("reading =") :]
    )
    workflow = place.workflow(source, attribute="reading")

    for atom in ({"a": 1}, {"b": 2, "a": 1}, {"a": 3}):
        run(place, workflow, input_atoms={"corpus": atom})

    assert place.done() == ["read", "read"]


# ---- entries


def damaged(damage: Callable[[str], str]) -> Callable[[Path], None]:
    def act(file: Path) -> None:
        file.write_text(damage(file.read_text()))

    return act


@pytest.mark.parametrize(
    "damage",
    [
        damaged(lambda text: ""),
        damaged(lambda text: text[: len(text) // 2]),
        damaged(lambda text: text.replace('"total": 3', '"total": 4')),
        damaged(lambda text: "[]"),
        damaged(lambda text: "null"),
        damaged(lambda text: '{"key": "x", "outputs": {}}'),
        damaged(lambda text: "[" * 100_000),
        damaged(lambda text: text.replace('"sha256"', '"sha"')),
        lambda file: file.write_bytes(b"\xff\xfe"),
        lambda file: (file.unlink(), file.mkdir()),
        lambda file: (file.unlink(), file.symlink_to("/dev/zero")),
    ],
)
def test_a_damaged_entry_is_a_miss(place: Modules, damage: Callable[[Path], Any]) -> None:
    workflow = place.workflow()
    run(place, workflow)
    for file in entries(place):
        if '"total": 3' in (text := file.read_text()) and "eval" not in text:
            damage(file)

    state = run(place, workflow)

    assert state.outputs["total"] == 3
    assert [step.is_cached for step in state.steps] == [True, False, True]


def test_an_entry_of_another_key_is_a_miss(place: Modules) -> None:
    workflow = place.workflow()
    run(place, workflow, {"draw": {"count": 4}})
    run(place, workflow, {"draw": {"count": 5}})
    texts = [file.read_text() for file in entries(place)]
    for file, text in zip(entries(place), texts[1:] + texts[:1], strict=True):
        file.write_text(text)

    state = run(place, workflow, {"draw": {"count": 4}})

    assert not any(step.is_cached for step in state.steps)


def test_an_entry_that_is_not_of_the_declared_types_is_a_miss(place: Modules) -> None:
    store = cache.Cache(place.root)
    workflow = place.workflow()
    key = cache.key_of("counting", workflow.step("draw"), workflow.checked({})["draw"], {}, root=place.root)
    assert key is not None
    store.put(key, {"numbers": "1, 2"})

    assert run(place, workflow).outputs["total"] == 3


def test_outputs_that_are_not_valid_any_more_are_a_miss(place: Modules) -> None:
    asked: list[tuple[dict[str, Any], int]] = []
    answers = [False, True]

    def is_valid(outputs: Any, context: Context) -> bool:
        asked.append((dict(outputs), context.attempt))
        return answers.pop(0)

    def give(config: Any, inputs: Any, context: Context) -> dict[str, Any]:
        return {"n": 1}

    workflow = Workflow("w", (Step("give", give, outputs={"n": int}, is_valid=is_valid),))
    cached = [run(place, workflow).step("give").is_cached for _ in range(3)]

    assert cached == [False, False, True]
    assert asked == [({"n": 1}, 0), ({"n": 1}, 0)]


def test_a_look_that_fails_is_a_miss_that_is_said(place: Modules) -> None:
    def is_valid(outputs: Any, context: Context) -> bool:
        raise OSError("the disk is away")

    def give(config: Any, inputs: Any, context: Context) -> dict[str, Any]:
        return {}

    said: list[str] = []
    workflow = Workflow("w", (Step("give", give, is_valid=is_valid),))
    run(place, workflow)
    state = run(place, workflow, say=said.append)

    assert (state.status, state.step("give").is_cached) == (Status.FINISHED, False)
    assert said == ["note: what is known of step 'give' can't be used: OSError: the disk is away"]


def test_a_cache_that_can_not_be_written_is_said_and_ends_nothing(place: Modules) -> None:
    (place.root / "outputs").mkdir()
    (place.root / "outputs" / ".cache").write_text("in the way")
    said: list[str] = []

    state = run(place, place.workflow(), say=said.append)

    assert state.status is Status.FINISHED
    assert len(said) == 3
    assert said[0].startswith("note: the outputs could not be kept for later: ")


def test_code_that_is_in_no_file_is_never_taken_for_known(place: Modules) -> None:
    names: dict[str, Any] = {"__name__": "typed_in"}
    exec("def give(config, inputs, context): return {'n': 1}", names)
    workflow = Workflow("w", (Step("give", names["give"], outputs={"n": int}),))

    run(place, workflow)

    assert entries(place) == []
    assert not run(place, workflow).step("give").is_cached


def test_processes_at_once_leave_whole_entries(place: Modules) -> None:
    place.write("flow", COUNTING)
    code = (
        "import asyncio, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from flow import counting; from autoexperiment.workflow import run_workflow\n"
        "state = asyncio.run(run_workflow(counting, {}, root=Path(sys.argv[1]), run_dir=sys.argv[2]))\n"
        "sys.exit(state.error or 0)"
    )
    started = [subprocess.Popen([sys.executable, "-B", "-c", code, str(place.root), f"run{i}"]) for i in range(3)]

    assert [process.wait() for process in started] == [0, 0, 0]

    assert len(entries(place)) == 3
    assert len({json.loads(file.read_text())["key"] for file in entries(place)}) == 3
    place.forget()
    assert all(step.is_cached for step in run(place, place.workflow()).steps)


# ---- sources


def test_words_are_found_wherever_they_stand() -> None:
    config = {
        "a": "one:f", "b": ["x.two:g.h", {"c": "three:h"}], "d": "http://host:80", "e": "steps:200", "f": "12:30",
        "g": "one f:g", "h": 3, "i": "ünï.côde:f", "j": ":f", "k": "a:", "l": "a..b:c",
    }  # fmt: skip

    assert list(sources.words(config)) == ["one", "x.two", "three", "ünï.côde"]


def test_a_module_is_found_without_being_imported(place: Modules) -> None:
    place.write("bad.worse.worst", "raise SystemExit(1)\n")
    place.write("bad.__init__", "raise SystemExit(1)\n")  # `worse` is a folder without one

    assert sources.file_of("bad.worse.worst") == place.root / "bad/worse/worst.py"
    assert sources.file_of("bad") == place.root / "bad/__init__.py"
    assert not any(name.startswith("bad") for name in sys.modules)


def test_a_module_in_folders_without_init_is_found(place: Modules) -> None:
    file = place.write("one.two.three.four", "")

    assert sources.file_of("one.two.three.four") == file


@pytest.mark.parametrize("name", ["nowhere", "nowhere.deep", "json.nowhere", "flow.deep", "sys", "__main__.x"])
def test_a_module_that_has_no_file_is_none(place: Modules, name: str) -> None:
    place.write("flow", "")
    place.write("deep", "")

    assert sources.file_of(name) is None


def test_imports_are_followed_through_code_of_ones_own_only(place: Modules) -> None:
    place.write("a", "import json, numpy, b\nfrom autoexperiment.workflow import Step\n")
    place.write("b", "def f():\n    from c import d\n    import nowhere\n")
    place.write("c.__init__", "from .e import *\nfrom .. import beyond\n")
    place.write("c.d", "from a import x\n")
    place.write("c.e", "this is no python")
    place.write("c.unused", "")

    assert list(sources.of_modules(["a"])) == ["a", "b", "c", "c.d", "c.e"]


def test_an_installed_module_counts_when_it_is_named_itself() -> None:
    assert list(sources.of_modules(["json.decoder"])) == ["json.decoder"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/mem is a file that nobody can read from its start")
def test_a_module_that_can_not_be_read_counts_as_missing(place: Modules) -> None:
    (place.root / "flow.py").symlink_to("/proc/self/mem")

    assert sources.file_of("flow") is not None
    assert sources.of_modules(["flow"]) == {}


def test_a_module_that_was_written_just_now_is_found(place: Modules) -> None:
    times = place.root.stat()
    place.write("flow", "")
    os.utime(place.root, ns=(times.st_atime_ns, times.st_mtime_ns))
    sources.of_modules(["flow"])  # the finder remembers what the folder holds

    (place.root / "late.py").write_text("")
    os.utime(place.root, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert list(sources.of_modules(["late"])) == ["late"]


def test_a_file_that_was_changed_is_read_again(place: Modules) -> None:
    place.write("flow", "x = 1\n")
    before = sources.of_modules(["flow"])

    place.write("flow", "x = 12\n")

    assert sources.of_modules(["flow"]) != before
