"""Workflows in this process: how they are put together, what steps are given and give, how they end."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoexperiment.errors import HarnessError, UsageError
from autoexperiment.paths import RunPaths
from autoexperiment.workflow import Context, Retries, Step, Workflow, WorkflowState, atoms, load_state, run_workflow
from autoexperiment.workflow.running import save_state
from autoexperiment.workflow.state import Status, StepState

QUICK = Retries(3, 0.0)


@dataclass
class Options:
    size: int = 2
    names: list[str] = field(default_factory=list)


@dataclass
class Both:
    one: Options
    two: Options

    def __post_init__(self) -> None:
        if self.one.size > self.two.size:
            raise ValueError(f"one.size is {self.one.size}, which is more than two.size, {self.two.size}")


@dataclass(frozen=True)
class Pair:
    left: int
    right: int = 0


def nothing(config: Any, inputs: Any, context: Context) -> dict[str, Any]:
    return {}


def giving(outputs: Any) -> Callable[..., Any]:
    """A step's function that gives this, whatever it is asked."""

    def give(config: Any, inputs: Any, context: Context) -> Any:
        return outputs

    return give


def failing(*errors: BaseException, outputs: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """A step's function that raises one error after the other, and then gives its outputs."""
    left = list(errors)

    def fail(config: Any, inputs: Any, context: Context) -> Any:
        if left:
            raise left.pop(0)
        return outputs or {}

    return fail


def run(workflow: Workflow, folder: Path, config: Any = None, **more: Any) -> WorkflowState:
    return asyncio.run(
        run_workflow(
            workflow, config or {}, **{"root": folder, "run_dir": "run", "use_cache": False, "say": str, **more}
        )
    )


def one(function: Callable[..., Any], **more: Any) -> Workflow:
    """A workflow of one step."""
    return Workflow("small", (Step("only", function, **{"retries": QUICK, **more}),))


# ---- put together wrongly


def test_an_input_that_nobody_gives_is_refused() -> None:
    giver = Step("giver", nothing, outputs={"rows": int})

    with pytest.raises(UsageError, match=r"Unknown input 'row' in step 'taker' .* Did you mean 'rows'"):
        Workflow("w", (giver, Step("taker", nothing, inputs={"row": int})))


def test_an_input_of_a_later_step_is_refused() -> None:
    taker, giver = Step("taker", nothing, inputs={"rows": int}), Step("giver", nothing, outputs={"rows": int})

    with pytest.raises(UsageError, match="Unknown input 'rows' in step 'taker'"):
        Workflow("w", (taker, giver))


def test_an_input_of_another_type_is_refused() -> None:
    giver = Step("giver", nothing, outputs={"rows": str})

    with pytest.raises(UsageError, match="is declared a whole number, but what is given is text"):
        Workflow("w", (giver, Step("taker", nothing, inputs={"rows": int})))


def test_two_steps_or_outputs_of_one_name_are_refused() -> None:
    first = Step("a", nothing, outputs={"rows": int})

    with pytest.raises(UsageError, match="two steps 'a'"):
        Workflow("w", (first, Step("a", nothing)))
    with pytest.raises(UsageError, match="two outputs or atoms 'rows'"):
        Workflow("w", (first, Step("b", nothing, outputs={"rows": int})))
    with pytest.raises(UsageError, match="two outputs or atoms 'rows'"):
        Workflow("w", (first,), atoms={"rows": int})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "a.b"}, "can't be in a dot path"),
        ({"function": 3}, "has the function 3"),
        ({"config": dict}, "Needed: a dataclass"),
        ({"retries": Retries(0)}, "at least 1 try"),
        ({"retries": Retries(1, -1.0)}, "a wait of 0 s or more"),
        ({"inputs": {"rows": set}}, "input 'rows' has the type set"),
        ({"outputs": {"rows": Path}}, "output 'rows' has the type a path"),
    ],
)
def test_a_step_that_can_not_work_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Step(**{"name": "a", "function": nothing, **arguments})


def test_a_partial_function_is_refused_since_its_code_is_hidden() -> None:
    from functools import partial

    with pytest.raises(UsageError, match="Needed: a function of a module"):
        Step("a", partial(nothing))


def test_a_workflow_without_steps_is_refused() -> None:
    with pytest.raises(UsageError, match="has no steps"):
        Workflow("w", ())


def test_a_configuration_that_does_not_have_the_steps_is_refused() -> None:
    with pytest.raises(UsageError, match=r"fields are not its steps .*: one\."):
        Workflow("w", (Step("one", nothing, Options),), Both)


# ---- configurations


BOTH = Workflow("both", (Step("one", nothing, Options), Step("free", nothing), Step("two", nothing, Options)), Both)


def test_a_configuration_is_completed_with_every_default() -> None:
    assert BOTH.checked({"one": {"size": 1}}) == {"one": {"size": 1, "names": []}, "two": {"size": 2, "names": []}}
    assert BOTH.checked(Both(Options(1), Options(3)))["two"] == {"size": 3, "names": []}


def test_faults_of_all_sections_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        BOTH.checked({"one": {"size": "a"}, "to": {}, "two": {"sizes": 1}})

    text = str(caught.value)
    assert "one.size is 'a'" in text
    assert "Unknown section 'to'. Known: one, two. Did you mean 'two'?" in text
    assert "Unknown field 'sizes' in two" in text


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(UsageError, match=r"one\.size is 5, which is more than two\.size, 2"):
        BOTH.checked({"one": {"size": 5}})


@pytest.mark.parametrize("config", [None, [], "one", 3, {"free": {}}])
def test_what_is_no_configuration_is_refused(config: Any) -> None:
    with pytest.raises(UsageError, match="The configuration of workflow 'both'"):
        BOTH.checked(config)


def test_an_unsound_configuration_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        run(BOTH, tmp_path, {"one": 3})

    assert list(tmp_path.iterdir()) == []


# ---- what steps are given


def test_steps_get_their_configuration_inputs_and_context(tmp_path: Path) -> None:
    seen: list[Any] = []

    def first(config: Options, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:
        seen.append((config, dict(inputs), context.root, context.run_dir, context.user, context.attempt))
        context.say("hello")
        return {"pair": Pair(1)}

    async def second(config: None, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:
        await asyncio.sleep(0)
        seen.append((config, dict(inputs)))
        return {}

    said: list[str] = []
    workflow = Workflow(
        "two",
        (
            Step("first", first, Options, {"corpus": Path, "limit": Pair}, {"pair": Pair}),
            Step("second", second, None, {"pair": Pair}),
        ),
        atoms={"corpus": Path, "limit": Pair},
    )
    (tmp_path / "text.txt").write_text("a")
    atoms = {"corpus": Path("text.txt"), "limit": {"left": 5}}
    state = run(workflow, tmp_path, {"first": {"size": 7}}, input_atoms=atoms, user="eve", say=said.append)

    assert seen == [
        (Options(7), {"corpus": tmp_path / "text.txt", "limit": Pair(5)}, tmp_path, tmp_path / "run", "eve", 1),
        (None, {"pair": Pair(1, 0)}),
    ]
    assert said == ["hello"]
    assert state.outputs == {"pair": {"left": 1, "right": 0}}
    assert (state.status, state.user, state.run_dir) == (Status.FINISHED, "eve", "run")


def test_what_a_step_does_to_its_inputs_changes_nothing(tmp_path: Path) -> None:
    def spoil(config: Options, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:
        config.names.append("spoilt")
        inputs["rows"].append("spoilt")
        return {}

    workflow = Workflow(
        "w",
        (
            Step("give", giving({"rows": [[1]]}), outputs={"rows": list}),
            Step("spoil", spoil, Options, {"rows": list}),
        ),
    )

    state = run(workflow, tmp_path, {"spoil": {"names": ["a"]}})

    assert state.outputs == {"rows": [[1]]}
    assert state.config == {"spoil": {"size": 2, "names": ["a"]}}


def test_the_atoms_must_be_those_that_are_declared(tmp_path: Path) -> None:
    workflow = Workflow("w", (Step("a", nothing),), atoms={"corpus": Path, "limit": int, "pair": Pair})

    with pytest.raises(UsageError) as caught:
        run(workflow, tmp_path, input_atoms={"corpus": "text.txt", "limit": "5", "pairs": 1})

    text = str(caught.value)
    assert "Unknown atom 'pairs'. Known: corpus, limit, pair. Did you mean 'pair'?" in text
    assert "corpus is 'text.txt'. Needed: a path of a file or folder, given as a pathlib.Path" in text
    assert "limit is '5'. Needed: a whole number" in text
    assert "pair is missing" in text


@pytest.mark.parametrize("name", ["no.txt", "pipe"])
def test_an_atom_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    workflow = Workflow("w", (Step("a", nothing),), atoms={"corpus": Path})

    with pytest.raises(UsageError, match="there is no file or folder"):
        run(workflow, tmp_path, input_atoms={"corpus": Path(name)})


def test_an_atom_s_own_check_counts(tmp_path: Path) -> None:
    workflow = Workflow("w", (Step("a", nothing),), atoms={"both": Both})

    with pytest.raises(UsageError, match=r"both: one\.size is 5, which is more"):
        run(workflow, tmp_path, input_atoms={"both": {"one": {"size": 5}, "two": {}}})


def test_what_is_no_json_is_no_atom(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="limit is nan"):
        run(Workflow("w", (Step("a", nothing),), atoms={"limit": float}), tmp_path, input_atoms={"limit": math.nan})


def test_a_home_is_that_of_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/eve")

    assert atoms.encoded({"a": Path("~/x"), "b": {"path": "~/y"}, "c": "~/z"}) == {
        "a": {"path": "/home/eve/x"}, "b": {"path": "/home/eve/y"}, "c": "~/z",
    }  # fmt: skip


# ---- what steps give


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (None, "It gave None. Needed: a mapping with 'rows'"),
        ({}, "'rows' is missing"),
        ({"rows": [], "row": 1}, "'row' is not declared. Declared: 'rows'"),
        ({"rows": {1, 2}}, "rows is {1, 2}, a set"),
        ({"rows": [math.nan]}, "rows.0 is nan. Allowed: finite numbers"),
        ({"rows": "abc"}, "rows is 'abc'. Needed: a list"),
        ({"rows": [b"a"]}, "rows.0 is b'a', a bytes"),
        ({"rows": [10**5000]}, "integer string conversion"),
    ],
)
def test_hostile_outputs_fail_the_step(tmp_path: Path, outputs: Any, said: str) -> None:
    state = run(one(giving(outputs), outputs={"rows": list}), tmp_path)

    assert state.status is Status.FAILED
    assert said in state.step("only").error
    assert load_state(RunPaths(tmp_path / "run")) == state


def test_fifty_megabytes_of_output_fail_the_step(tmp_path: Path) -> None:
    state = run(one(giving({"rows": ["x" * 50_000_000]}), outputs={"rows": list}), tmp_path)

    assert "It gave 50000014 bytes of JSON. Allowed: 10000000." in state.error
    assert (tmp_path / "run" / "state.json").stat().st_size < 10_000


# ---- how they end


def test_a_failing_step_leaves_the_later_ones_pending(tmp_path: Path) -> None:
    workflow = Workflow(
        "w", (Step("a", nothing), Step("b", failing(ValueError("no rows"))), Step("c", failing(ValueError("never"))))
    )

    state = run(workflow, tmp_path)

    assert [step.status for step in state.steps] == [Status.FINISHED, Status.FAILED, Status.PENDING]
    assert state.error == "Step 'b' failed: ValueError: no rows"
    assert state.step("b").error == "ValueError: no rows"
    assert state.step("c").attempts == 0


class _Odd(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (HarnessError("The data are gone."), "The data are gone."),
        (SystemExit(3), "SystemExit: 3"),
        (_Odd("odd"), "_Odd: odd"),
        (RecursionError("deep"), "RecursionError: deep"),
        (ValueError("two\nlines \x1b[31mred\x00"), "ValueError: two lines red"),
        (KeyError(), "KeyError"),
    ],
)
def test_whatever_a_step_raises_is_its_failure(tmp_path: Path, error: BaseException, said: str) -> None:
    state = run(one(failing(error)), tmp_path)

    assert (state.status, state.step("only").error) == (Status.FAILED, said)


def test_an_error_that_can_not_show_itself_is_a_failure(tmp_path: Path) -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    state = run(one(failing(Hostile())), tmp_path)

    assert state.step("only").error == "Hostile: an error without words"


def test_the_log_has_the_traceback_of_foreign_errors_only(tmp_path: Path) -> None:
    said: list[str] = []

    run(one(failing(ValueError("mine"))), tmp_path, say=said.append)
    assert "Traceback" in said[0]

    said.clear()
    run(one(failing(HarnessError("ours"))), tmp_path, say=said.append)
    assert said == []


def test_the_state_is_on_the_disk_when_a_step_begins_and_at_the_end(tmp_path: Path) -> None:
    seen: list[WorkflowState] = []

    def look(config: Any, inputs: Any, context: Context) -> dict[str, Any]:
        seen.append(load_state(RunPaths(context.run_dir)))
        return {}

    told: list[str] = []
    workflow = Workflow("w", (Step("a", look), Step("b", look)))
    end = run(workflow, tmp_path, on_change=lambda state: told.append(" ".join(step.status for step in state.steps)))

    assert [[step.status for step in state.steps] for state in seen] == [
        [Status.RUNNING, Status.PENDING],
        [Status.FINISHED, Status.RUNNING],
    ]
    assert all(state.status is Status.RUNNING for state in seen)
    assert told == ["running pending", "finished running", "finished finished"]
    assert load_state(RunPaths(tmp_path / "run")) == end
    assert end.step("a").started_at.endswith("+00:00")


def test_an_interrupt_is_written_down_and_passed_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Workflow("w", (Step("a", failing(KeyboardInterrupt())), Step("b", nothing))), tmp_path)

    state = load_state(RunPaths(tmp_path / "run"))
    assert state.status is Status.INTERRUPTED
    assert [step.status for step in state.steps] == [Status.INTERRUPTED, Status.PENDING]


def test_a_workflow_whose_task_is_cancelled_is_interrupted(tmp_path: Path) -> None:
    async def wait(config: Any, inputs: Any, context: Context) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def cancel() -> None:
        begun = asyncio.Event()
        going = run_workflow(
            one(wait), {}, root=tmp_path, run_dir="run", use_cache=False, on_change=lambda state: begun.set()
        )
        task = asyncio.create_task(going)
        await begun.wait()
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel())

    assert load_state(RunPaths(tmp_path / "run")).status is Status.INTERRUPTED


# ---- tries


def test_an_error_that_passes_is_tried_again_and_counted(tmp_path: Path) -> None:
    function = failing(ConnectionResetError("gone"), TimeoutError("slow"), outputs={"n": 1})
    said: list[str] = []

    state = run(one(function, outputs={"n": int}), tmp_path, say=said.append)

    assert (state.status, state.step("only").attempts) == (Status.FINISHED, 3)
    assert said == [
        "note: step 'only' failed, tried again after 0 s: ConnectionResetError: gone",
        "note: step 'only' failed, tried again after 0 s: TimeoutError: slow",
    ]


def test_the_third_try_is_the_last(tmp_path: Path) -> None:
    state = run(one(failing(*[ConnectionResetError("gone")] * 3)), tmp_path)

    assert (state.step("only").attempts, state.error) == (3, "Step 'only' failed: ConnectionResetError: gone")


def test_an_error_that_stays_is_tried_once(tmp_path: Path) -> None:
    for error in (
        ValueError("a"),
        HarnessError("b"),
        FileNotFoundError(2, "c"),
        PermissionError(13, "d"),
        OSError("e"),
    ):
        assert run(one(failing(error)), tmp_path).step("only").attempts == 1


def test_the_waits_between_tries_double(tmp_path: Path) -> None:
    said: list[str] = []

    run(one(failing(*[TimeoutError("slow")] * 2), retries=Retries(3, 0.01)), tmp_path, say=said.append)

    assert ["0.01 s" in said[0], "0.02 s" in said[1]] == [True, True]


# ---- the state


WORDS = st.text(max_size=4)
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS
OBJECTS = st.dictionaries(WORDS, VALUES | st.lists(VALUES, max_size=2), max_size=2)
STATES = st.builds(
    WorkflowState,
    workflow=WORDS,
    config=OBJECTS,
    steps=st.lists(
        st.builds(StepState, name=WORDS, status=st.sampled_from(Status), config=OBJECTS, outputs=OBJECTS, error=WORDS),
        max_size=2,
    ).map(tuple),
    status=st.sampled_from(Status),
    params=OBJECTS,
    seed=st.none() | st.integers(),
)


@settings(max_examples=50, deadline=None)
@given(STATES)
def test_a_state_comes_back_from_its_json(state: WorkflowState) -> None:
    assert WorkflowState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_a_state_comes_back_from_its_file(tmp_path: Path) -> None:
    state = replace(run(one(nothing), tmp_path), error="half \udc80 a character")
    save_state(RunPaths(tmp_path), state)

    assert load_state(RunPaths(tmp_path)) == state


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"status": "done", "steps": []}', "null"])
def test_a_file_that_is_no_state_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)

    with pytest.raises(UsageError, match="is no state of a workflow"):
        load_state(RunPaths(tmp_path))


def test_a_state_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"state\.json is no state of a workflow: it is not there"):
        load_state(RunPaths(tmp_path))


def test_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys; from autoexperiment.workflow import Step, Workflow, run_workflow\n"
        "sys.exit(str({'numpy', 'mlx', 'psutil', 'pydantic', 'click', 'yaml'} & set(sys.modules) or 0))"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert answer.stderr.strip() in ("", "0")


def test_a_name_that_the_package_does_not_have_is_an_attribute_error() -> None:
    import autoexperiment.workflow

    with pytest.raises(AttributeError, match="has no attribute 'Stp'"):
        _ = autoexperiment.workflow.Stp  # type: ignore[attr-defined]
    assert "run_sweep" in dir(autoexperiment.workflow)
