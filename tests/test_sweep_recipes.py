"""Points that are the GPT recipe: their configuration, their identity, and their runs."""

from __future__ import annotations

import ast
import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import standin
from hypothesis import given
from hypothesis import strategies as st

from autoexperiment import constants, machine
from autoexperiment.config.sweep_loader import load_sweep
from autoexperiment.errors import DataError, LabError, UsageError
from autoexperiment.paths import RunPaths
from autoexperiment.run import Run
from autoexperiment.supervisor import Signals
from autoexperiment.sweep import plans, recipes, work
from autoexperiment.sweep.points import Order, Point, Result, key_of
from autoexperiment.sweep.recipes import RecipeWork
from autoexperiment.vocabulary import Outcome, RunStatus, TrustLevel

SCRIPT = """\
import os, sys, time
from pathlib import Path

def pick(*, cpu, gpu):
    return cpu

DATASET = pick(cpu="tiny", gpu="large")
SEED = 1
TIME_BUDGET = 300.0
DEPTH = pick(cpu=2, gpu=2)  # layers
LR = 0.02; MODE = "fine"
TIED = True
TABLE = {"a": 1}
TWICE = 1
TWICE = 2
"""
PREPARE = """\
from types import SimpleNamespace
from autoexperiment.errors import Refused

def load_dataset(name):
    name = name or "tiny"
    if name == "absent":
        raise Refused("Dataset 'absent' is not prepared. Type: python prepare.py --dataset absent")
    return SimpleNamespace(name=name, snapshot=f"{name}-1", folder=f"/nowhere/{name}")
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a recipe that trains nothing, and its data."""
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AUTOEXPERIMENT_DATA", raising=False)
    (tmp_path / "cache" / "tiny" / "tiny-1").mkdir(parents=True)
    folder = tmp_path / "workspace"
    folder.mkdir()
    for name, text in (("train.py", SCRIPT), ("prepare.py", PREPARE), ("data_sources.py", "")):
        (folder / name).write_text(text)
    return folder


def make(root: Path, **base: Any) -> RecipeWork:
    return recipes.make({"budget": "steps:3", **base}, root=root, options={})


def order(made: RecipeWork, root: Path, params: Mapping[str, Any], *, seed: int | None = None, **more: Any) -> Order:
    config = made.resolve(params, seed)
    point = Point(1, 1, params, seed, config, key_of("gpt", made.identity(config)))
    whole = Order("gpt", point, str(root), "outputs/lr", options=made.options, **more)
    return Order.from_json(json.loads(json.dumps(whole.to_json())))  # as a worker elsewhere gets it


def new_run(root: Path, name: str = "20260101_000000") -> RunPaths:
    run = RunPaths(root / "outputs" / "lr" / name)
    run.folder.mkdir(parents=True)
    return run


def run_script(root: Path, lines: str, *, signals: Signals | None = None, **more: Any) -> tuple[Result, RunPaths]:
    """What becomes of a point whose training does this."""
    with (root / "train.py").open("a") as file:
        file.write(lines)
    run = new_run(root)
    return recipes.perform(order(make(root), root, {}, **more), run, signals=signals), run


# ---- constants


def set_constants(source: str, values: Mapping[str, Any], device: str = "cpu") -> str:
    found = constants.plain(source, device=device)
    return constants.rewritten(source, found, values, where="train.py")


def test_plain_constants_are_those_with_one_literal_value() -> None:
    found = {constant.name: constant.value for constant in constants.plain(SCRIPT, device="gpu")}

    assert found == {
        "DATASET": "large", "SEED": 1, "TIME_BUDGET": 300.0, "DEPTH": 2, "LR": 0.02, "MODE": "fine", "TIED": True
    }  # fmt: skip


def test_constants_are_set_exactly_and_nothing_else_changes() -> None:
    changed = set_constants(SCRIPT, {"MODE": "it's", "LR": 0.0123456789, "DEPTH": 7})

    assert 'LR = 0.0123456789; MODE = "it\'s"\n' in changed
    assert "DEPTH = pick(cpu=7, gpu=2)  # layers\n" in changed
    same = [old == new for old, new in zip(SCRIPT.split("\n"), changed.split("\n"), strict=True)]
    assert same.count(False) == 2


def test_constant_of_the_other_device_stays() -> None:
    assert "pick(cpu=2, gpu=7)" in set_constants(SCRIPT, {"DEPTH": 7}, "gpu")


def test_value_that_is_there_already_changes_no_byte() -> None:
    source = "RATE = 10_000.0\nSIZE = 2**16\n"

    assert set_constants(source, {"RATE": 10000, "SIZE": 65536}) == source


def test_annotated_constant_can_be_set() -> None:
    assert set_constants("LR: float = 0.1\n", {"LR": 2}) == "LR: float = 2.0\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEPTH", 2.0), ("DEPTH", True), ("DEPTH", "2"), ("LR", True), ("LR", "0.1"), ("LR", float("nan")),
        ("LR", 2**60), ("TIED", 1), ("MODE", 1), ("MODE", None),
    ],
)  # fmt: skip
def test_value_of_another_kind_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"{name} = .* does not fit train\.py, where .* stands\. Allowed: "):
        set_constants(SCRIPT, {name: value})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("DEPHT", "Did you mean 'DEPTH'"),
        ("depth", "Did you mean 'DEPTH'"),
        ("TABLE", "Known: DATASET"),
        ("TWICE", "Known"),
    ],
)
def test_unknown_constant_is_refused_with_the_list(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=rf"Unknown constant '{name}' in train\.py.*{hint}"):
        set_constants(SCRIPT, {name: 1})


texts = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)


@given(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), texts, texts)
def test_values_that_were_set_are_found_again(depth: int, lr: float, tied: bool, mode: str, before: str) -> None:
    values = {"DEPTH": depth, "LR": lr, "TIED": tied, "MODE": mode}
    source = f"BEFORE = {before!r}; DEPTH = pick(gpu=1, cpu=-2); LR = 1e-3\nTIED = False  # ü\nMODE = '''ß'''\n"

    changed = set_constants(source, values)

    found = {constant.name: constant.value for constant in constants.plain(changed, device="cpu")}
    assert found == {"BEFORE": before, **values}
    ast.parse(changed)


# ---- a point's configuration


def test_what_is_not_given_is_as_in_the_recipe(root: Path) -> None:
    config = recipes.make({}, root=root, options={}).resolve({}, None)

    assert config == {
        "recipe": ".", "dataset": "tiny", "snapshot": "tiny-1", "budget": "300s", "seed": 1, "constants": {}
    }  # fmt: skip


def test_parameters_and_seed_are_put_into_the_base(root: Path) -> None:
    made = make(root, constants={"DEPTH": 1})

    config = made.resolve({"constants.LR": 0.1, "budget": "tokens:2k", "dataset": "other"}, 5)

    assert config["constants"] == {"DEPTH": 1, "LR": 0.1}
    assert (config["budget"], config["dataset"], config["snapshot"], config["seed"]) == (
        "tokens:2000", "other", "other-1", 5
    )  # fmt: skip


def test_one_point_with_a_budget_in_seconds_keeps_the_others_from_running_beside_it(root: Path) -> None:
    file = root / "budgets.json"
    sweep = {"name": "b", "work": "gpt", "base": {"budget": "steps:3"}, "parameters": {"budget": ["20s", "steps:7"]}}
    file.write_text(json.dumps(sweep))

    one = plans.make_plan(load_sweep(file), root=root)
    many = plans.make_plan(load_sweep(file, ["parameters.budget=[steps:3, steps:7]"]), root=root)

    assert (one.slots, many.slots) == (1, len(os.sched_getaffinity(0)) if machine.device_class() == "cpu" else 1)


@pytest.mark.parametrize(("budget", "seconds"), [("20s", 20.0), (20, 20.0), ("2m", 120.0), ("steps:5", None)])
def test_only_a_budget_in_seconds_says_how_long_it_takes(root: Path, budget: Any, seconds: float | None) -> None:
    made = make(root, budget=budget)

    assert made.expected_s(made.resolve({}, None)) == seconds
    assert made.is_clocked(made.base) == (seconds is not None)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"constants.DEPHT": 1}, "Did you mean 'DEPTH'"),
        ({"depth": 1}, r"Unknown field 'depth'.*Did you mean 'constants\.DEPTH'"),
        ({"constants": [1]}, "'constants' is"),
        ({"constants.SEED": 3}, "Set 'seed' instead"),
        ({"constants.TIME_BUDGET": 3.0}, "Set 'budget' instead"),
        ({"constants.DATASET": "other"}, "Set 'dataset' instead"),
        ({"budget": "epochs:3"}, "'steps:200'"),
        ({"budget": "whole"}, "'steps:200'"),
        ({"budget": True}, "'steps:200'"),
        ({"budget": "soon"}, "not an amount"),
        ({"seed": -1}, r"2\*\*63"),
        ({"seed": 2**63}, r"2\*\*63"),
        ({"seed": True}, r"2\*\*63"),
        ({"seed": 1.0}, r"2\*\*63"),
        ({"dataset": 3}, "'dataset' is 3"),
        ({"dataset": "absent"}, r"Type: python prepare\.py --dataset absent"),
        ({"snapshot": "tiny-0"}, "made for tiny-0"),
        ({"recipe": "other"}, "A sweep is of one recipe"),
    ],
)
def test_point_that_is_not_sound_is_refused(root: Path, params: dict[str, Any], message: str) -> None:
    made = make(root)

    with pytest.raises(LabError, match=message):
        made.resolve(params, None)


@pytest.mark.parametrize(
    ("base", "options", "message"),
    [
        ({"constant": {}}, {}, "Did you mean 'constants'"),
        ({"constants": {"DEPTH": "deep"}}, {}, "does not fit"),
        ({"recipe": "elsewhere"}, {}, r"There is no file train\.py in"),
        ({"recipe": 3}, {}, "'recipe' is 3"),
        ({}, {"keep_checkpoint": True}, "Did you mean 'keep_checkpoints'"),
    ],
)
def test_base_that_is_not_sound_is_refused(
    root: Path, base: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        recipes.make(base, root=root, options=options)


def test_script_that_is_no_text_is_refused(root: Path) -> None:
    (root / "train.py").write_bytes(b"# \xff\n")

    with pytest.raises(UsageError, match=r"train\.py is no UTF-8 text"):
        make(root)


def test_data_of_the_name_are_taken_whatever_the_environment_says(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AUTOEXPERIMENT_DATA wins over every name in prepare.py: all datasets of a sweep would be the same one."""
    monkeypatch.setenv("AUTOEXPERIMENT_DATA", "/elsewhere")
    with (root / "prepare.py").open("a") as file:
        file.write("import os\nassert 'AUTOEXPERIMENT_DATA' not in os.environ\n")

    assert make(root).resolve({}, None)["snapshot"] == "tiny-1"


def test_prepare_that_fails_is_an_error_with_its_last_words(root: Path) -> None:
    (root / "prepare.py").write_text("raise RuntimeError('planted')\n")

    with pytest.raises(DataError, match="planted"):
        make(root).resolve({}, None)


def test_protocol_of_the_recipe_gives_rules_and_budget(root: Path) -> None:
    own = json.loads((Path(__file__).parent.parent / "protocol.json").read_text())
    own["execution"]["stopCondition"]["trainingSecondsBudget"] = 77
    (root / "protocol.json").write_text(json.dumps(own))

    source = recipes.Source.read(root)

    assert (str(source.budget), source.rules.hard_timeout_s) == ("77s", 900.0)
    assert source.rules.oom == "reduce_batch"


def test_protocol_of_something_else_is_passed_over(root: Path) -> None:
    own = json.loads((Path(__file__).parent.parent / "protocol.json").read_text())
    own["execution"]["command"] = "{python} other.py"
    (root / "protocol.json").write_text(json.dumps(own))

    source = recipes.Source.read(root)

    assert (source.rules.command, str(source.budget)) == (("{python}", "train.py"), "300s")


# ---- identity


def identity(root: Path, params: Mapping[str, Any] = {}, *, seed: int | None = None, **base: Any) -> str:
    made = make(root, **base)
    return key_of("gpt", made.identity(made.resolve(params, seed)))


def test_equal_points_have_one_identity_however_they_are_written(root: Path) -> None:
    usual = identity(root)

    assert identity(root, {"constants.DEPTH": 2, "constants.LR": 0.02}) == usual
    assert identity(root, constants={"DEPTH": 5}, budget="steps:3") != usual
    assert identity(root, {"constants.DEPTH": 2, "budget": "steps:3"}, budget="20", constants={"DEPTH": 5}) == usual


@pytest.mark.parametrize(
    "params", [{"constants.DEPTH": 3}, {"constants.LR": 0.3}, {"budget": "steps:4"}, {"seed": 2}, {"dataset": "other"}]
)
def test_everything_that_decides_the_result_changes_the_identity(root: Path, params: dict[str, Any]) -> None:
    assert identity(root, params) != identity(root)


@pytest.mark.parametrize("name", ["train.py", "prepare.py", "data_sources.py"])
def test_every_file_of_the_recipe_changes_the_identity(root: Path, name: str) -> None:
    before = identity(root)
    with (root / name).open("a") as file:
        file.write("# changed\n")

    assert identity(root) != before


# ---- runs of a script that trains nothing


def test_crash_is_a_result_with_its_reason(root: Path) -> None:
    found, run = run_script(root, "raise RuntimeError('planted')\n")

    assert found == Result(
        RunStatus.FAILED, reason=f"RuntimeError at train.py:{SCRIPT.count(chr(10)) + 1} in <module>: planted"
    )
    assert Run.load(run).outcome is Outcome.CRASHED
    assert not run.work.exists()
    assert not run.private.exists()


def test_constants_seed_budget_and_threads_reach_the_script(root: Path) -> None:
    names = ("SEED", "STEP_BUDGET", "OPENBLAS_NUM_THREADS", "AUTOEXPERIMENT_DATA")
    with (root / "train.py").open("a") as file:
        file.write(f"raise RuntimeError([DEPTH, *(os.environ.get(name) for name in {names})])\n")
    asked = order(make(root), root, {"constants.DEPTH": 9}, seed=42, threads=3)

    found = recipes.perform(asked, new_run(root), signals=None)

    assert f"[9, '42', '3', '3', '{root.parent}/cache/tiny/tiny-1']" in found.reason


def test_loss_that_is_not_finite_is_diverged(root: Path) -> None:
    found, _ = run_script(root, "print('diverged: loss nan at step 3', file=sys.stderr)\nsys.exit(3)\n")

    assert (found.status, found.reason) == (RunStatus.DIVERGED, "diverged: loss nan at step 3")


def test_point_that_takes_too_long_is_killed(root: Path) -> None:
    found, run = run_script(root, "time.sleep(600)\n", timeout_s=0.5)

    assert (found.status, found.reason) == (RunStatus.TIMED_OUT, "Killed after 0.5 s, the hard timeout.")
    assert not run.work.exists()


def test_run_that_leaves_no_model_is_a_failure(root: Path) -> None:
    found, _ = run_script(root, "print('num_steps:  3')\n")

    assert (found.status, found.metrics) == (RunStatus.FAILED, {})
    assert found.reason == "The run left no checkpoint: model.safetensors is missing."


def test_signal_before_a_point_begins_stops_it(root: Path) -> None:
    began = root / "began"

    found, run = run_script(root, f"open({str(began)!r}, 'w')\n", signals=Signals([signal.SIGINT]))

    assert (found.status, found.reason) == (RunStatus.INTERRUPTED, "Stopped by SIGINT.")
    assert not began.exists()
    assert Run.load(run).outcome is Outcome.INTERRUPTED


def test_signal_to_the_sweep_ends_a_point_in_a_thread(root: Path) -> None:
    signals, began, found = Signals(), root / "began", list[Result]()

    def train() -> None:
        found.append(run_script(root, f"open({str(began)!r}, 'w')\ntime.sleep(600)\n", signals=signals)[0])

    thread = threading.Thread(target=train)
    thread.start()
    while not began.exists() and thread.is_alive():
        time.sleep(0.01)
    signals.received.append(signal.SIGTERM)
    thread.join()

    assert (found[0].status, found[0].reason) == (RunStatus.INTERRUPTED, "Stopped by SIGTERM.")
    assert not (root / "outputs" / "lr" / "20260101_000000" / "work").exists()


def test_signal_that_reaches_the_run_first_is_told_to_the_sweep(root: Path) -> None:
    signals = Signals()

    found, _ = run_script(root, f"os.kill({os.getpid()}, 15)\ntime.sleep(600)\n", signals=signals)

    assert found.status is RunStatus.INTERRUPTED
    assert signals.received == [signal.SIGTERM]


def test_data_that_another_machine_lacks_is_a_failed_point(root: Path) -> None:
    asked = order(make(root), root, {})
    (root.parent / "cache" / "tiny" / "tiny-1").rmdir()
    (root / "prepare.py").write_text(PREPARE.replace('f"{name}-1"', '"tiny-2"'))
    run = new_run(root)

    found = recipes.perform(asked, run, signals=None)

    assert found.status is RunStatus.FAILED
    assert "is tiny-2 on this machine, and the sweep began with tiny-1" in found.reason
    assert Run.load(run).outcome is Outcome.CRASHED


def test_data_in_another_place_are_found_by_prepare(root: Path) -> None:
    (root.parent / "cache" / "tiny" / "tiny-1").rmdir()

    found, _ = run_script(root, "raise RuntimeError(os.environ['AUTOEXPERIMENT_DATA'])\n")

    assert "/nowhere/tiny" in found.reason


def test_kernels_are_compiled_once_for_all_seeds(root: Path) -> None:
    with (root / "train.py").open("a") as file:
        file.write("kernel = Path(os.environ['TMPDIR'], 'mlx', 'k.so')\nis_known = kernel.exists()\n")
        file.write("kernel.parent.mkdir(exist_ok=True)\nkernel.touch()\nraise RuntimeError(is_known)\n")
    made = make(root)

    points = [({}, 1), ({}, 2), ({"constants.DEPTH": 3}, 1)]
    reasons = [
        recipes.perform(
            order(made, root, params, seed=seed), new_run(root, f"20260101_00000{number}"), signals=None
        ).reason
        for number, (params, seed) in enumerate(points)
    ]

    assert [reason.rpartition(" ")[2] for reason in reasons] == ["False", "True", "False"]


# ---- a real run


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Any:
    """A run of the recipe in a tree with uncommitted changes, which was edited after the sweep had begun."""
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        root = standin.make_recipe(folder, prepared, patch)
        script = (root / "train.py").read_text()
        (root / "train.py").write_text(script + "# uncommitted\n")
        made = work.make("gpt", {"budget": "steps:2"}, root=root, options={})
        asked = order(made, root, {"constants.HEADS": 2, "constants.MATRIX_LR": 0.05}, seed=7)  # type: ignore[arg-type]
        (root / "train.py").write_text("raise SystemExit(1)\n")
        before = standin.git(root, "status", "--porcelain"), standin.git(root, "for-each-ref")
        run = new_run(root)
        found = work.run_point(asked, run)
        yield (
            found,
            run,
            asked,
            before == (standin.git(root, "status", "--porcelain"), standin.git(root, "for-each-ref")),
        )


def test_metric_comes_from_the_sealed_evaluation(real: Any) -> None:
    found, run, _, _ = real

    assert found.status is RunStatus.COMPLETED
    assert found.trust["val_bpb"] == "recomputed"
    assert found.metrics["num_steps"] == 2
    record = Run.load(run)
    assert record.evaluation["val_bpb"] == found.metrics["val_bpb"] == record.metrics["val_bpb"]
    assert {name: TrustLevel(level) for name, level in found.trust.items()} == record.trust


def test_run_is_of_the_bytes_that_the_sweep_began_with(real: Any) -> None:
    _, run, asked, _ = real

    reported = json.loads(run.kept_report.read_text())
    assert (reported["config"]["HEADS"], reported["config"]["MATRIX_LR"], reported["seed"]) == (2, 0.05, 7)
    assert json.loads(run.config.read_text()) == dict(asked.point.config)
    assert Run.load(run).provenance["files"]["train.py"] != asked.options["files"]["train.py"]


def test_run_leaves_no_model_and_the_users_tree_as_it_was(real: Any) -> None:
    _, run, _, is_untouched = real

    assert is_untouched
    assert not run.work.exists()
    assert not run.private.exists()
