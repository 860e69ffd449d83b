"""`run_sweep`: a workflow on every point of a grid, from Python, each point in a process of its own."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import workflow_modules
from workflow_modules import Modules

from autoexperiment.errors import LabError, UsageError
from autoexperiment.files import Lock
from autoexperiment.workflow import Status, SweepStates, run_sweep

STEPS = """
import time
from dataclasses import dataclass
from pathlib import Path
from autoexperiment.workflow import Step, Workflow

@dataclass
class Take:
    factor: float
    seed: int = 0
    wait_s: float = 0.0
    note: str = ""

def take(config, inputs, context):
    with (context.root / "done.txt").open("a") as file:
        file.write(f"{config.factor} {config.seed}\\n")
    time.sleep(config.wait_s)
    if config.factor < 0 and not (context.root / "mended").exists():
        raise ValueError("a factor below 0")
    return {"scores": {"sum": {"total": config.factor * sum(inputs["numbers"]) + config.seed}}}

taking = Workflow(
    "taking", (Step("take", take, Take, {"numbers": list[int]}, {"scores": dict}),),
    atoms={"numbers": list[int]}, labels=("take.note",), seed_path="take.seed",
)
"""
NUMBERS = {"numbers": [1, 2, 3]}


@pytest.fixture
def modules(tmp_path: Path) -> Iterator[Modules]:
    with workflow_modules.modules(tmp_path / "workspace") as made:
        yield made


def taking(modules: Modules) -> Any:
    return modules.workflow(STEPS, name="sweep_steps", attribute="taking")


def sweep(modules: Modules, grid: dict[str, list[Any]], **more: Any) -> SweepStates:
    base = {"take": {"factor": 1.0, **more.pop("base", {})}}
    workflow = taking(modules)
    return asyncio.run(run_sweep(workflow, base, grid, NUMBERS, root=modules.root, max_parallel=2, **more))


def totals(states: list[Any]) -> list[float]:
    return [state.outputs["scores"]["sum"]["total"] for state in states]


def done(modules: Modules) -> list[str]:
    file = modules.root / "done.txt"
    return sorted(file.read_text().split("\n")[:-1]) if file.exists() else []


def test_states_come_in_the_grids_order_with_params_and_seed(modules: Modules) -> None:
    states = sweep(modules, {"take.factor": [3.0, 1.0, 2.0]}, seeds=[5, 6])

    assert totals(states) == [23, 24, 11, 12, 17, 18]  # factor * (1 + 2 + 3) + seed
    assert [(dict(state.params), state.seed) for state in states] == [
        ({"take.factor": factor}, seed) for factor in (3.0, 1.0, 2.0) for seed in (5, 6)
    ]
    assert not states.failed
    assert all(state.status is Status.FINISHED for state in states)


def test_same_call_runs_nothing_and_a_larger_grid_its_new_points(modules: Modules) -> None:
    first = sweep(modules, {"take.factor": [1.0, 2.0]})
    again = sweep(modules, {"take.factor": [1.0, 2.0]})
    larger = sweep(modules, {"take.factor": [2.0, 4.0]})

    assert list(again) == list(first)
    assert totals(larger) == [12, 24]
    assert larger.folder == first.folder
    assert done(modules) == ["1.0 0", "2.0 0", "4.0 0"]


def test_label_makes_no_other_point(modules: Modules) -> None:
    states = sweep(modules, {"take.note": ["a", "b"]})

    assert done(modules) == ["1.0 0"]
    assert [dict(state.params) for state in states] == [{}]  # neither note is the point's


def test_steps_are_done_again_without_the_cache(modules: Modules) -> None:
    for name, use_cache in (("one", True), ("two", True), ("three", False)):
        assert totals(sweep(modules, {"take.factor": [1.0]}, name=name, use_cache=use_cache)) == [6]

    assert done(modules) == ["1.0 0", "1.0 0"]


def test_failed_point_is_in_failed_and_is_run_again_when_that_is_asked_for(modules: Modules) -> None:
    told: list[str] = []
    grid = {"take.factor": [-1.0, 2.0]}
    first = sweep(modules, grid, on_progress=told.append)
    (modules.root / "mended").touch()

    left = sweep(modules, grid)
    again = sweep(modules, grid, retry_failed=True)

    assert totals(first) == [12]
    assert [state.params["take.factor"] for state in first.failed] == [-1.0]
    assert "a factor below 0" in first.failed[0].error
    assert any("take.factor=-1.0 failed" in line and "a factor below 0" in line for line in told)
    assert len(left.failed) == 1
    assert (totals(again), again.failed) == ([-6, 12], [])


def test_path_that_leads_nowhere_is_refused_before_anything_is_run(modules: Modules) -> None:
    with pytest.raises(LabError, match=r"trial 1 .*facto.*Did you mean 'factor'"):
        sweep(modules, {"take.factor": [1.0], "take.facto": [2.0]})
    with pytest.raises(LabError, match=r"Path 'tak.factor' leads nowhere.*Did you mean 'take'"):
        sweep(modules, {"tak.factor": [1.0]})

    assert not done(modules)
    assert not (modules.root / "outputs").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"executor": "ray"}, "Unknown executor 'ray'. Known: local, dask"),
        (
            {"executor": "dask"},
            r"'dask' and the address .* go together\. Type: --dask tcp://.*Python: executor='dask', address=",
        ),
        ({"max_parallel": 0}, "max_parallel is 0. Allowed: a whole number"),
        ({"max_parallel": "2"}, "max_parallel is '2'. Allowed: a whole number"),
        ({"root": "/no/such/folder"}, "there is no such folder"),
        ({"seeds": [1, 2, 1]}, "The value 1 stands twice"),
        ({"timeout_s": -1}, "Invalid value for 'timeout_s'"),
        ({"name": "../elsewhere"}, "Invalid value for 'name'"),
    ],
)
def test_wrong_words_are_refused(modules: Modules, more: dict[str, Any], message: str) -> None:
    workflow = taking(modules)
    with pytest.raises(LabError, match=message):
        asyncio.run(run_sweep(workflow, {"take": {"factor": 1.0}}, {}, NUMBERS, **{"root": modules.root, **more}))


@pytest.mark.parametrize("values", ["abc", 3.0, (n for n in range(2))])
def test_values_that_are_no_list_are_refused(modules: Modules, values: Any) -> None:
    with pytest.raises(UsageError, match=r"The values of 'take\.factor' are"):
        sweep(modules, {"take.factor": values})


def test_numpys_numbers_are_numbers(modules: Modules) -> None:
    states = sweep(modules, {"take.factor": np.linspace(1.0, 2.0, 2)}, base={"seed": np.int64(3)}, seeds=2)

    assert totals(states) == [7, 8, 13, 14]
    assert all(type(state.params["take.factor"]) is float for state in states)


def test_a_whole_number_and_the_same_as_float_are_one_point(modules: Modules) -> None:
    sweep(modules, {"take.factor": [2.0]})
    sweep(modules, {"take.factor": [2]})

    assert done(modules) == ["2.0 0"]


def test_empty_grid_is_one_point(modules: Modules) -> None:
    assert totals(sweep(modules, {})) == [6]


def test_cancelled_sweep_ends_its_points_and_keeps_the_others(modules: Modules) -> None:
    workflow = taking(modules)
    grid = {"take.wait_s": [0.0, 600.0]}

    async def cancelled() -> None:
        task = asyncio.ensure_future(
            run_sweep(workflow, {"take": {"factor": 1.0}}, grid, NUMBERS, root=modules.root, max_parallel=1)
        )
        deadline = time.monotonic() + 60
        while len(done(modules)) < 2:
            assert not task.done()
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began = time.monotonic()
    asyncio.run(cancelled())

    assert time.monotonic() - began < 300  # the point that takes 600 s was ended
    book = next(modules.root.glob("outputs/*/sweep.jsonl")).read_text()
    assert book.count('"kind":"ended"') == 1


def test_result_that_the_book_does_not_confirm_is_failed_with_why(modules: Modules) -> None:
    grid = {"take.factor": [1.0, 2.0, 3.0]}
    first = sweep(modules, grid)
    shutil.rmtree(modules.root / first[0].run_dir)
    state = modules.root / first[1].run_dir / "state.json"
    state.write_text(state.read_text().replace("12.0", "99.0"))

    again = sweep(modules, grid)

    assert totals(again) == [18]
    assert [state.status for state in again.failed] == [Status.FAILED] * 2
    assert "state.json is gone or damaged; its metrics are in the book" in again.failed[0].error
    assert "says other metrics than the book" in again.failed[1].error


def test_listener_that_fails_does_not_end_the_sweep(modules: Modules) -> None:
    def broken(line: str) -> None:
        raise BrokenPipeError

    assert totals(sweep(modules, {"take.factor": [1.0, 2.0]}, on_progress=broken)) == [6, 12]


def test_number_that_no_float_holds_ends_nothing(modules: Modules) -> None:
    states = sweep(modules, {"take.factor": [1.0, 2.0]}, base={"seed": 10**400})

    assert not states
    assert len(states.failed) == 2


def test_ctrl_c_under_a_loop_of_ones_own_ends_the_points(modules: Modules) -> None:
    workflow = taking(modules)
    loop = asyncio.new_event_loop()
    loop.call_later(3.0, signal.raise_signal, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(
            run_sweep(
                workflow,
                {"take": {"factor": 1.0}},
                {"take.wait_s": [600.0, 601.0]},
                NUMBERS,
                root=modules.root,
                max_parallel=1,
                name="one",
            )
        )

    lock = Lock(modules.root / "outputs" / "one" / ".sweep.lock")
    lock.acquire(timeout_s=60)  # the sweep's thread gives it back when its point has been ended
    lock.release()
    loop.run_until_complete(asyncio.sleep(0.1))  # what is pending comes to its end
    loop.close()
    assert len(done(modules)) <= 1
