"""Points that are workflows: their configuration, their identity, and how their processes end."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from workflow_modules import COUNTING, Modules, modules

from autoexperiment import history
from autoexperiment.errors import UsageError
from autoexperiment.files import lock_holder
from autoexperiment.paths import OutputPaths, RunPaths, new_run
from autoexperiment.run import Run
from autoexperiment.supervisor import Signals
from autoexperiment.sweep import work
from autoexperiment.sweep.points import Order, Point, Result, key_of
from autoexperiment.sweep.workflows import WorkflowWork, make, metrics_of
from autoexperiment.vocabulary import Outcome, RunStatus, TrustLevel
from autoexperiment.workflow import WorkflowState, load_state
from autoexperiment.workflow.state import Status, StepState


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Modules]:
    with modules(tmp_path / "workspace") as made:
        yield made


def counting(place: Modules, base: Any = None, *, source: str = COUNTING, **options: Any) -> WorkflowWork:
    place.write("flow", source)
    return make(base or {}, root=place.root, options={"workflow": "flow:counting", **options})


def key(made: WorkflowWork, params: dict[str, Any] | None = None, seed: int | None = None) -> str:
    return key_of("workflow", made.identity(made.resolve(params or {}, seed)))


def order_of(place: Modules, made: WorkflowWork, *, seed: int | None = None, **more: Any) -> Order:
    config = made.resolve({}, seed)
    key = key_of("workflow", made.identity(config))
    point = Point(4, 2, {"draw.count": 3}, seed, config, key)
    order = Order("workflow", point, str(place.root), "outputs/sums", options=made.options, **more)
    return Order.from_json(json.loads(json.dumps(order.to_json())))  # as it gets to another machine


def perform(order: Order, *, signals: Signals | None = None) -> tuple[Result, RunPaths]:
    run = new_run(Path(order.root) / order.folder, datetime(2026, 1, 2, 3, 4, 5))
    return work.run_point(order, run, signals=signals), run


def doing(line: str) -> str:
    """The counting workflow with one more line in its step `add`."""
    return "import os, sys, time\n" + COUNTING.replace('    _done(context, "add")\n', f"    {line}\n")


# ---- configurations


def test_parameters_and_seed_are_put_into_the_completed_base(place: Modules) -> None:
    made = counting(place, {"draw": {"count": 5}})

    config = made.resolve({"score.scale": 2, "draw.options.new": [1]}, 9)

    assert config == {
        "draw": {"count": 5, "seed": 9, "label": "", "options": {"new": [1]}},
        "score": {"scale": 2.0},
    }


def test_a_base_that_only_the_parameters_complete_is_fine(place: Modules) -> None:
    made = counting(place, source=COUNTING.replace("    count: int = 3\n", "    count: int\n"))

    assert made.resolve({"draw.count": 1}, None)["draw"]["count"] == 1
    with pytest.raises(UsageError, match=r"draw\.count is missing"):
        made.resolve({}, None)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"drow.count": 1}, "Did you mean 'draw'"),
        ({"draw.cont": 1}, r"Unknown field 'cont' in draw\. .*Did you mean 'count'"),
        ({"draw.count": "3"}, r"draw\.count is '3'. Needed: a whole number"),
    ],
)
def test_unsound_points_are_refused(place: Modules, params: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        counting(place).resolve(params, None)


def test_a_seed_needs_a_place_of_its_own(place: Modules) -> None:
    lost = counting(place, source=COUNTING.replace('    seed_path="draw.seed",\n', ""))

    with pytest.raises(UsageError, match=r"Where a seed goes .* is not known"):
        lost.resolve({}, 1)
    with pytest.raises(UsageError, match=r"'draw\.seed' is a parameter and the seeds' place"):
        counting(place).resolve({"draw.seed": 2}, 1)
    assert counting(place, seed_path="draw.count").resolve({}, 7)["draw"]["count"] == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workflw": "a:b"}, "Unknown option 'workflw'.*Did you mean 'workflow'"),
        ({"workflow": None}, "The workflow is None. Needed"),
        ({"workflow": "flow:nothing"}, "Unknown name 'nothing'"),
        ({"input_atoms": {"a": 1}}, "Unknown atom 'a'"),
    ],
)
def test_unsound_options_are_refused(place: Modules, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        counting(place, **options)


def test_the_workflow_itself_stands_for_its_words(place: Modules) -> None:
    made = make({}, root=place.root, options={"workflow": place.workflow()})

    assert made.options["workflow"] == "flow:counting"
    json.dumps(made.options)


def test_a_workflow_of_the_program_itself_is_refused(place: Modules) -> None:
    workflow = place.workflow()
    workflow.step("add").function.__module__ = "__main__"

    with pytest.raises(UsageError, match="is defined in the program itself"):
        make({}, root=place.root, options={"workflow": workflow})


# ---- identity


def test_points_are_told_apart_by_what_decides(place: Modules) -> None:
    made = counting(place)
    base = key(made)

    assert key(made, {"draw.count": 3}) == base
    assert key(made, {"score.scale": 1}) == base
    assert key(made, {"draw.label": "other"}) == base  # a label
    assert (
        len({base, key(made, {"draw.count": 4}), key(made, {}, 1), key(made, {}, 2), key(made, {"score.scale": 2.0})})
        == 5
    )
    assert key(counting(place, user="eve", use_cache=False)) == base


def test_changed_code_makes_other_points(place: Modules) -> None:
    before = key(counting(place))

    assert key(counting(place, source=COUNTING + "# changed\n")) != before


def test_code_that_the_configuration_names_counts(place: Modules) -> None:
    place.write("loaders", "rows = 1\n")
    params = {"draw.options.loader": "loaders:rows"}
    made = counting(place)
    before = key(made, params)
    place.write("loaders", "rows = 2\n")

    assert key(counting(place), params) != before
    assert key(made, params) == before  # within one sweep a point keeps its name


def test_a_file_that_the_configuration_names_counts(place: Modules) -> None:
    (place.root / "rows.csv").write_text("one")
    params = {"draw.options.rows": "rows.csv"}
    made = counting(place)
    before, labelled = key(made, params), key(made, {"draw.label": "rows.csv"})
    (place.root / "rows.csv").write_text("two!")

    assert key(counting(place), params) != before
    assert key(counting(place), {"draw.label": "rows.csv"}) == labelled
    assert key(made, params) == before  # within one sweep a point keeps its name


def test_a_folder_that_the_configuration_names_counts(place: Modules) -> None:
    (place.root / "rows" / "deep").mkdir(parents=True)
    (place.root / "rows" / "deep" / "a.csv").write_text("one")
    params = {"draw.options.folder": "rows"}
    before = key(counting(place), params)
    (place.root / "rows" / "deep" / "a.csv").write_text("two!")

    assert key(counting(place), params) != before


ATOMS = COUNTING.replace("    labels=", '    atoms={"corpus": Path},\n    labels=').replace(
    "from dataclasses", "from pathlib import Path\nfrom dataclasses"
)


def test_files_from_outside_count_by_what_they_hold(place: Modules) -> None:
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (place.root / name).write_text(text)

    a, b, c = (key(counting(place, source=ATOMS, input_atoms={"corpus": Path(name)})) for name in "abc")

    assert a == b
    assert a != c


def test_a_label_that_is_not_there_is_no_fault(place: Modules) -> None:
    made = counting(
        place, source=COUNTING.replace('("draw.label",)', '("draw.label", "draw.options.note", "nowhere.x")')
    )

    assert key(made, {"draw.options.note": "a"}) == key(made)


# ---- runs


def test_a_point_leaves_a_whole_run_directory(place: Modules) -> None:
    result, run = perform(order_of(place, counting(place, user="eve"), seed=7))

    assert result.status is RunStatus.COMPLETED
    assert result.metrics["total"] == 24.0  # 7 + 8 + 9
    assert (result.trust["total"], result.trust["wall_s"]) == ("self_reported", "measured")
    assert sorted(os.listdir(run.folder)) == [".lock", "config.json", "run.json", "run.log", "state.json"]
    assert json.loads(run.config.read_text())["workflow"] == "flow:counting"
    assert json.loads(run.config.read_text())["config"]["draw"]["seed"] == 7
    state = load_state(run)
    assert (state.params, state.seed, state.user, state.run_dir) == (
        {"draw.count": 3}, 7, "eve", "outputs/sums/20260102_030405",
    )  # fmt: skip
    record = Run.load(run)
    assert (record.outcome, record.seed, record.metrics["total"]) == (Outcome.OK, 7, 24.0)
    assert record.trust["total"] is TrustLevel.SELF_REPORTED
    assert record.provenance["point"] == 4


def test_the_history_lists_it(place: Modules) -> None:
    perform(order_of(place, counting(place)))

    (entry,) = history.sync(OutputPaths(place.root / "outputs"))

    assert (entry["experiment"], entry["status"]) == ("sums", "completed")
    assert entry["final_metrics"] is not None
    assert entry["final_metrics"]["total"] == 3.0


def test_steps_work_in_the_workspace_and_know_no_secrets(place: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    monkeypatch.setenv("AUTORESEARCH_CACHE", "/the/cache")
    monkeypatch.setenv("XDG_STATE_HOME", "/the/state")
    shows = 'print("SEEN", os.getcwd(), sorted(os.environ.items()), flush=True)'

    _, run = perform(order_of(place, counting(place, source=doing(shows)), threads=3))

    log = run.log.read_text()
    assert f"SEEN {place.root}" in log
    assert "('AUTORESEARCH_CACHE', '/the/cache')" in log
    assert "('XDG_STATE_HOME', '/the/state')" in log
    assert "('OPENBLAS_NUM_THREADS', '3')" in log
    assert "PYTHONPATH" not in log
    assert "SOME_TOKEN" not in log
    assert not run.private.exists()


def test_its_modules_are_found_as_in_the_sweep_s_process(place: Modules, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    with modules(elsewhere) as other:
        other.write("beside", "NUMBER = 100\n")
        order = order_of(place, counting(place, source=doing("import beside; return {'total': beside.NUMBER}")))

    result, _ = perform(order)

    assert result.metrics["total"] == 100.0


def test_files_reach_the_steps(place: Modules) -> None:
    (place.root / "a.txt").write_text("12345")
    source = ATOMS.replace(
        '{"numbers": list[int]}, {"total"', '{"numbers": list[int], "corpus": Path}, {"total"'
    ).replace('sum(inputs["numbers"])', 'int(inputs["corpus"].read_text())')

    result, _ = perform(order_of(place, counting(place, source=source, input_atoms={"corpus": Path("a.txt")})))

    assert result.metrics["total"] == 12345.0


def test_a_configuration_longer_than_a_command_line_gets_through(place: Modules) -> None:
    made = counting(place, {"draw": {"options": {"text": "x" * 300_000}}})

    assert perform(order_of(place, made))[0].is_ok


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('raise ValueError("no rows")', "Step 'add' failed: ValueError: no rows"),
        ("os._exit(0)", "Step 'add' did not come to its end: Code of a step has ended the process."),
        ('print("about to", flush=True); os._exit(7)', "Step 'add' did not come to its end: exit 7: about to"),
        ("os.kill(os.getpid(), 11)", "Step 'add' did not come to its end: SIGSEGV"),
        ("(context.run_dir / 'state.json').write_text('{'); os._exit(0)", "Code of a step has ended the process."),
    ],
)
def test_a_faulty_point_is_a_result_with_its_reason(place: Modules, line: str, reason: str) -> None:
    result, run = perform(order_of(place, counting(place, source=doing(line))))

    assert (result.status, result.reason, result.metrics) == (RunStatus.FAILED, reason, {})
    state = load_state(run)
    assert (state.status, state.error, state.params) == (Status.FAILED, reason, {"draw.count": 3})
    assert Run.load(run).reason == reason
    assert "total" not in Run.load(run).metrics
    assert not any(step.status is Status.RUNNING for step in state.steps)


def test_a_workflow_that_is_gone_is_a_result_with_its_reason(place: Modules) -> None:
    order = order_of(place, counting(place), seed=3)
    (place.root / "flow.py").unlink()

    result, run = perform(order)

    assert result.status is RunStatus.FAILED
    assert "There is no module 'flow'" in result.reason
    state = load_state(run)
    assert (state.seed, state.params) == (3, {"draw.count": 3})
    assert (state.workflow, [step.name for step in state.steps]) == ("counting", ["draw", "add", "score"])


def test_a_process_that_left_no_state_is_a_state_with_every_step(place: Modules) -> None:
    order = order_of(place, counting(place, source=doing("(context.run_dir / 'state.json').unlink(); os._exit(7)")))

    _, run = perform(order)

    state = load_state(run)
    assert (state.workflow, state.status) == ("counting", Status.FAILED)
    assert state.step("score").status is Status.PENDING


@pytest.mark.parametrize("what", ["code", "rows.csv", "folder/a"])
def test_what_changed_since_the_sweep_began_is_not_run_as_the_old_point(place: Modules, what: str) -> None:
    (place.root / "folder").mkdir()
    for name in ("rows.csv", "folder/a"):
        (place.root / name).write_text("one")
    order = order_of(place, counting(place, {"draw": {"options": {"rows": "rows.csv", "folder": "folder"}}}))
    if what == "code":
        place.write("flow", COUNTING + "# edited\n")
    else:
        (place.root / what).write_text("two!")

    result, _ = perform(order)

    assert result.status is RunStatus.FAILED
    assert result.reason.startswith("Code, files or data that decide this point are not as they were when")
    assert place.done() == []


def test_a_point_that_takes_too_long_is_timed_out(place: Modules) -> None:
    result, run = perform(order_of(place, counting(place, source=doing("time.sleep(300)")), timeout_s=1.0))

    assert result.status is RunStatus.TIMED_OUT
    assert result.reason == "Step 'add' did not come to its end: It took longer than 1 s, which timeout_s allows."
    assert [step.status for step in load_state(run).steps] == [Status.FINISHED, Status.FAILED, Status.PENDING]


def test_a_step_that_makes_an_error_of_the_timeout_is_timed_out_too(place: Modules) -> None:
    source = doing("try: time.sleep(300)\n    except KeyboardInterrupt: raise ValueError('interrupted')")

    result, _ = perform(order_of(place, counting(place, source=source), timeout_s=1.0))

    assert (result.status, result.reason) == (
        RunStatus.TIMED_OUT, "It took longer than 1 s, which timeout_s allows.",
    )  # fmt: skip


def test_a_signal_interrupts_a_point(place: Modules) -> None:
    order = order_of(place, counting(place, source=doing('(context.run_dir / "begun").touch(); time.sleep(300)')))
    signals = Signals()
    held: list[int | None] = []
    is_over = threading.Event()

    def stop() -> None:
        folder = place.root / "outputs" / "sums" / "20260102_030405"
        while not (folder / "begun").exists() and not is_over.wait(0.01):
            pass
        held.append(lock_holder(folder / ".lock"))
        signals.end()

    stopper = threading.Thread(target=stop)
    stopper.start()
    result, run = perform(order, signals=signals)
    is_over.set()
    stopper.join()

    assert result.status is RunStatus.INTERRUPTED
    assert load_state(run).status is Status.INTERRUPTED
    assert held == [os.getpid()]


def test_a_process_that_was_stopped_from_outside_is_interrupted(place: Modules) -> None:
    result, run = perform(order_of(place, counting(place, source=doing("os.kill(os.getpid(), 15)"))))

    assert result.status is RunStatus.INTERRUPTED
    assert load_state(run).status is Status.INTERRUPTED


def test_a_point_that_the_supervisor_does_not_believe_has_failed(place: Modules) -> None:
    line = "(context.run_dir / 'run.log').unlink(); (context.run_dir / 'run.log').mkdir()"

    result, _ = perform(order_of(place, counting(place, source=doing(line))))

    assert (result.status, result.metrics) == (RunStatus.FAILED, {})
    assert "in the place of its log" in result.reason


def test_what_was_done_for_another_point_is_not_done_again(place: Modules) -> None:
    order = order_of(place, counting(place))

    perform(order)
    result, run = perform(order)

    assert result.metrics["total"] == 3.0
    assert place.done() == ["draw", "add", "score"]
    assert all(step.is_cached for step in load_state(run).steps)
    perform(order_of(place, counting(place, use_cache=False)))
    assert place.done() == ["draw", "add", "score"] * 2


# ---- metrics


def state_with(*outputs: dict[str, Any]) -> WorkflowState:
    steps = tuple(StepState(f"s{i}", Status.FINISHED, outputs=values) for i, values in enumerate(outputs))
    return WorkflowState("w", {}, steps, Status.FINISHED)


@pytest.mark.parametrize(
    ("outputs", "metrics"),
    [
        ([{"evals": {"a": {"acc": 0.5, "f1": None}}}], {"acc": 0.5, "f1": None}),
        ([{"evals": {"a": {"acc": 1}, "b": {"acc": 0}}}], {"a.acc": 1, "b.acc": 0}),
        ([{"one": {"a": {"acc": 1}}}, {"two": {"b": {"acc": 0}}}], {"a.acc": 1, "b.acc": 0}),
        (
            [{"before": {"a": {"acc": 0.1, "f1": 0.2}}}, {"after": {"a": {"acc": 0.9}}}],
            {"before.a.acc": 0.1, "a.f1": 0.2, "after.a.acc": 0.9},
        ),
        ([{"evals": {"a": {"acc": 10**400, "f1": 1}}}], {"acc": None, "f1": 1}),
        ([{"evals": {"a": {"acc": 1, "stats": {"n": [1]}}}}], {"acc": 1}),
        ([{"model": {"run_dir": "x", "metrics": {"loss": 1.0}}}], {}),
        ([{"job": {"a": {"name": "x"}}}, {"n": 3}, {"l": [1]}, {"empty": {}}, {"half": {"a": {}}}], {}),
        ([{"flags": {"a": {"is_done": True}}}], {}),
        ([], {}),
    ],
)
def test_metrics_are_outputs_by_task(outputs: list[dict[str, Any]], metrics: dict[str, Any]) -> None:
    assert metrics_of(state_with(*outputs)) == metrics
