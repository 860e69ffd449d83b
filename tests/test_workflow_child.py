"""The process of a workflow: its exit codes, its state at every moment, signals and kills."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from workflow_modules import COUNTING, Modules, modules

from autoexperiment.paths import RunPaths
from autoexperiment.workflow import WorkflowState, load_state
from autoexperiment.workflow.request import Request
from autoexperiment.workflow.state import Status

# Steps that say that they have begun, and wait for a file before they go on.
WAITING = COUNTING.replace(
    '    with (context.root / "done.txt")',
    '    import time\n'
    '    (context.run_dir / (name + ".begun")).touch()\n'
    '    while not (context.root / (name + ".go")).exists():\n'
    '        time.sleep(0.01)\n'
    '    with (context.root / "done.txt")',
)  # fmt: skip
STEPS = ("draw", "add", "score")
STARTED: list[subprocess.Popen[str]] = []  # by this test


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Modules]:
    with modules(tmp_path / "workspace") as made:
        yield made
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.communicate()


class Child:
    """A workflow's process, in a run directory of its own."""

    def __init__(self, place: Modules, folder: str = "run", **more: Any) -> None:
        self.run = RunPaths(place.root / folder)
        self.run.folder.mkdir()
        request = Request(
            **{
                "workflow": "flow:counting",
                "config": {},
                "root": str(place.root),
                "run_dir": str(self.run.folder),
                **more,
            }
        )
        file = self.run.folder / "request.json"
        request.save(file)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "autoexperiment.workflow.child", str(file)],
            cwd=place.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        STARTED.append(self.process)
        self.said = ""

    def end(self) -> int:
        self.said = self.process.communicate(timeout=60)[0]
        STARTED.remove(self.process)
        return self.process.returncode

    def wait_for(self, step: str) -> None:
        while not (self.run.folder / f"{step}.begun").exists():
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.005)

    @property
    def state(self) -> WorkflowState:
        return load_state(self.run)


def statuses(state: WorkflowState) -> list[str]:
    return [str(step.status) for step in state.steps]


def test_a_finished_workflow_exits_with_0(place: Modules) -> None:
    place.write("flow", COUNTING)

    child = Child(place, config={"draw": {"count": 2}}, params={"draw.count": 2}, seed=7, user="eve")

    assert child.end() == 0, child.said
    assert child.state.outputs["eval_results"] == {"sum": {"total": 1.0}}
    assert (child.state.params, child.state.seed, child.state.user) == ({"draw.count": 2}, 7, "eve")
    assert child.state.run_dir == "run"


def test_a_failed_step_exits_with_1(place: Modules) -> None:
    place.write("flow", COUNTING.replace('return {"total": sum', 'raise ValueError("no")\n    return {"total": sum'))

    child = Child(place)

    assert child.end() == 1
    assert child.state.error == "Step 'add' failed: ValueError: no"
    assert "Traceback" in child.said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"workflow": "nowhere:counting"}, "There is no module 'nowhere'"),
        ({"config": {"draw": {"cont": 1}}}, "Unknown field 'cont' in draw"),
        ({"atoms": {"corpus": 1}}, "Unknown atom 'corpus'"),
        ({"key": "0" * 20}, "not as they were when the sweep began"),
        ({"workflow": "broken:counting"}, "Importing 'broken:counting' failed: ZeroDivisionError"),
    ],
)
def test_what_can_not_be_begun_is_a_failed_state(place: Modules, more: dict[str, Any], said: str) -> None:
    place.write("flow", COUNTING)
    place.write("broken", "1 / 0")

    child = Child(place, seed=3, name="counting", steps=STEPS, **more)

    assert child.end() == 1
    assert child.state.status is Status.FAILED
    assert (child.state.workflow, child.state.step("add").status) == ("counting", Status.PENDING)
    assert said in child.state.error
    assert child.state.seed == 3


def test_modules_are_looked_for_as_the_caller_does(place: Modules, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, number in ((first, 1), (second, 2)):
        folder.mkdir()
        (folder / "constants_here.py").write_text(f"NUMBER = {number}\n")
    place.write("flow", COUNTING.replace("sum(inputs", "__import__('constants_here').NUMBER + sum(inputs"))

    child = Child(place, path=(str(first), str(second), "/nowhere"))

    assert child.end() == 0, child.said
    assert child.state.outputs["total"] == 4


def test_the_workspace_can_not_take_the_place_of_a_library(place: Modules) -> None:
    place.write("flow", COUNTING)
    (place.root / "json.py").write_text("raise SystemExit('shadowed')\n")
    (place.root / "asyncio.py").write_text("raise SystemExit('shadowed')\n")

    child = Child(place)

    assert child.end() == 0, child.said


def test_what_the_caller_put_before_a_library_stays_before_it(place: Modules, tmp_path: Path) -> None:
    (tmp_path / "tabulate.py").write_text("NUMBER = 40\n")
    place.write("flow", COUNTING.replace("sum(inputs", "__import__('tabulate').NUMBER + sum(inputs"))

    child = Child(place, path=(str(tmp_path),))

    assert child.end() == 0, child.said
    assert child.state.outputs["total"] == 43


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_interrupts_the_step(place: Modules, number: signal.Signals) -> None:
    place.write("flow", WAITING)
    child = Child(place)
    child.wait_for("draw")

    child.process.send_signal(number)

    assert child.end() == 130
    assert (child.state.status, statuses(child.state)) == (Status.INTERRUPTED, ["interrupted", "pending", "pending"])


def test_a_signal_interrupts_a_coroutine_that_waits(place: Modules) -> None:
    waiting = "import asyncio\n" + COUNTING.replace("def draw(", "async def draw(").replace(
        '    _done(context, "draw")\n',
        '    (context.run_dir / "draw.begun").touch()\n    await asyncio.Event().wait()\n',
    )
    place.write("flow", waiting)
    child = Child(place)
    child.wait_for("draw")

    child.process.terminate()

    assert child.end() == 130
    assert child.state.status is Status.INTERRUPTED


def test_a_second_signal_does_not_disturb_the_end_of_the_first(place: Modules) -> None:
    source = WAITING.replace(
        '    _done(context, "draw")\n',
        '    try:\n        _done(context, "draw")\n'
        '    except KeyboardInterrupt:\n        _done(context, "clean")\n        raise\n',
    )
    place.write("flow", source)
    child = Child(place)
    child.wait_for("draw")
    child.process.terminate()
    child.wait_for("clean")

    child.process.send_signal(signal.SIGINT)
    (place.root / "clean.go").touch()

    assert child.end() == 130
    assert place.done() == ["clean"]


def test_a_step_that_swallows_the_signal_is_the_last(place: Modules) -> None:
    source = WAITING.replace(
        '    _done(context, "draw")\n',
        '    try:\n        _done(context, "draw")\n    except KeyboardInterrupt:\n        pass\n',
    )
    place.write("flow", source)
    child = Child(place)
    child.wait_for("draw")

    child.process.terminate()

    assert child.end() == 130
    assert child.state.status is Status.INTERRUPTED
    assert place.done() == []


@pytest.mark.parametrize("act", ["os._exit(0)", "os._exit(7)", "os.kill(os.getpid(), 11)"])
def test_a_step_that_ends_the_process_leaves_a_state_that_says_running(place: Modules, act: str) -> None:
    source = "import os\n" + COUNTING.replace('    _done(context, "add")\n', f"    {act}\n")
    place.write("flow", source)
    child = Child(place)

    assert child.end() in (0, 7, -11)
    assert (child.state.status, statuses(child.state)) == (Status.RUNNING, ["finished", "running", "pending"])


def test_a_thread_that_a_step_has_left_keeps_nothing_waiting(place: Modules) -> None:
    source = COUNTING.replace(
        '    _done(context, "score")\n',
        "    import threading, time\n    threading.Thread(target=time.sleep, args=(300,)).start()\n",
    )
    place.write("flow", source)

    assert Child(place).end() == 0


def test_killed_at_any_step_the_next_one_goes_on_there(place: Modules) -> None:
    place.write("flow", WAITING)
    order = random.Random(6).sample(STEPS, 3)

    for number, victim in enumerate(sorted(order, key=STEPS.index)):
        child = Child(place, f"run{number}")
        child.wait_for(victim)
        child.process.kill()
        assert child.end() == -signal.SIGKILL
        state = child.state
        at = STEPS.index(victim)
        assert state.status is Status.RUNNING
        assert statuses(state) == [*["finished"] * at, "running", *["pending"] * (2 - at)]
        assert [step.is_cached for step in state.steps[:at]] == [True] * max(at - 1, 0) + [False] * min(at, 1)
        (place.root / f"{victim}.go").touch()
    last = Child(place, "last")

    assert last.end() == 0, last.said
    assert place.done() == list(STEPS)  # each once, over all four processes
    assert last.state.outputs["total"] == 3


def test_killed_at_any_moment_a_whole_state_is_left(place: Modules) -> None:
    place.write("flow", COUNTING)
    delays = random.Random(1)

    for number in range(6):
        child = Child(place, f"run{number}")
        time.sleep(delays.uniform(0.05, 0.4))
        child.process.kill()
        child.end()
        if child.run.state.exists():
            assert child.state.status in (Status.RUNNING, Status.FINISHED)
    last = Child(place, "last")

    assert last.end() == 0, last.said
    assert last.state.outputs["total"] == 3
    assert not list((place.root / "outputs" / ".cache" / "steps").glob(".*.tmp"))


def test_a_request_comes_back_from_its_file(tmp_path: Path) -> None:
    request = Request(
        "a:b", {"s": {"x": 1}}, "/r", "/r/d", {"c": {"path": "x"}}, "eve", ("/p", "/q"), {"s.x": 1}, 5, use_cache=False
    )
    request.save(tmp_path / "request.json")

    assert Request.load(tmp_path / "request.json") == request
    assert replace(request, seed=None) != request


def test_steps_may_have_event_loops_of_their_own(place: Modules) -> None:
    source = COUNTING.replace(
        'return {"total": sum(inputs["numbers"])}',
        'import asyncio; asyncio.run(asyncio.sleep(0)); return {"total": sum(inputs["numbers"])}',
    ).replace("def score(config", "async def score(config")
    place.write("flow", source.replace('_done(context, "score")', "import asyncio; await asyncio.sleep(0)"))

    child = Child(place)

    assert child.end() == 0, child.said
    assert child.state.outputs["eval_results"] == {"sum": {"total": 3.0}}


def test_an_awaited_step_is_interrupted_too(place: Modules) -> None:
    source = COUNTING.replace("def add(config", "async def add(config").replace(
        '_done(context, "add")', '(context.run_dir / "add.begun").touch(); import asyncio; await asyncio.sleep(600)'
    )
    place.write("flow", source)

    child = Child(place)
    child.wait_for("add")
    child.process.send_signal(signal.SIGTERM)

    assert child.end() == 130, child.said
    assert child.state.status is Status.INTERRUPTED
    assert statuses(child.state) == ["finished", "interrupted", "pending"]
