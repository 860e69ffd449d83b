"""The recipe: honest about its budget, the same from run to run, and in the form that the harness reads."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoexperiment import constants

ROOT = Path(__file__).resolve().parent.parent
SOURCE = (ROOT / "train.py").read_text()

prepare = importlib.import_module("prepare")  # before mlx
train = importlib.import_module("train")
import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

SMALL = train.Config(32, 8, 2, 2, 8, 2, 10_000.0, True, "float32")


def run_train(folder: Path, data: Path, *, script: Path = ROOT / "train.py", **settings: str) -> Any:
    """Run the recipe as the harness does: in a folder of its own, set by the environment alone."""
    dropped = {*train.BUDGETS, "SEED", "AUTOEXPERIMENT_SKIP_EVAL"}
    clean = {k: v for k, v in os.environ.items() if k not in dropped}
    env = {**clean, "AUTOEXPERIMENT_DATA": str(data), "PYTHONDONTWRITEBYTECODE": "1", **settings}
    folder.mkdir(exist_ok=True)
    return subprocess.run([sys.executable, str(script)], cwd=folder, env=env, capture_output=True, text=True)


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "data" / "last_run.json").read_text())


def edited(folder: Path, old: str, new: str) -> Path:
    """A copy of the recipe with one line changed."""
    assert SOURCE.count(old) == 1
    for name in ("prepare.py", "data_sources.py"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "train.py").write_text(SOURCE.replace(old, new))
    return folder / "train.py"


def small_trainer(config: Any = SMALL, *, rows: int = 2) -> Any:
    mx.random.seed(0)
    return train.Trainer(train.build_model(dataclasses.asdict(config)), config, rows=rows)


def some_batch(rows: int, length: int = 8, *, seed: int = 0) -> tuple[mx.array, mx.array]:
    tokens = np.random.default_rng(seed).integers(0, 32, (rows, length + 1)).astype(np.int32)
    return mx.array(tokens[:, :-1]), mx.array(tokens[:, 1:])


def leaves(tree: Any) -> dict[str, np.ndarray]:
    return {name: np.array(leaf) for name, leaf in tree_flatten(tree)}


# --- whole runs ---


def test_same_seed_and_steps_give_the_same_bytes(tmp_path: Path, prepared: Path) -> None:
    for name in ("a", "b"):
        assert run_train(tmp_path / name, prepared, STEP_BUDGET="3", SEED="5").returncode == 0

    first, second = record(tmp_path / "a"), record(tmp_path / "b")
    for result in (first, second):
        for key in ("total_seconds", "timestamp", "device"):
            del result[key]
        measured = [key for key in result["training"] if "sec" in key or "_mb" in key or "mfu" in key]
        for key in measured:
            del result["training"][key]
    assert json.dumps(first) == json.dumps(second)
    assert first["result"]["val_bpb"] > 0
    for file in ("model.safetensors", "config.json"):
        a, b = (tmp_path / name / "data" / "checkpoint" / file for name in ("a", "b"))
        assert a.read_bytes() == b.read_bytes()


def test_seed_changes_the_run(tmp_path: Path, prepared: Path) -> None:
    for seed in ("1", "2"):
        run_train(tmp_path / seed, prepared, STEP_BUDGET="1", SEED=seed, AUTOEXPERIMENT_SKIP_EVAL="1")

    one, two = (tmp_path / seed / "data" / "checkpoint" / "model.safetensors" for seed in ("1", "2"))
    assert one.read_bytes() != two.read_bytes()


def test_time_budget_prints_the_block(tmp_path: Path, prepared: Path) -> None:
    answer = run_train(tmp_path, prepared, TIME_BUDGET="1.5")

    assert answer.returncode == 0, answer.stderr
    before, _, block = answer.stdout.partition("---\n")
    assert [line.partition(":")[0] for line in block.splitlines()] == [
        "val_bpb", "training_seconds", "total_seconds", "train_peak_mb", "peak_memory_mb", "peak_vram_mb",
        "mfu_percent", "eval_seconds", "total_tokens_M", "avg_tok_sec", "num_steps", "num_params_M", "depth",
        "dmodel_scale",
    ]  # fmt: skip
    assert before.splitlines()[0].startswith("training started after ")
    assert any(line.startswith("step ") for line in before.splitlines())
    result = record(tmp_path)
    assert f"val_bpb:          {result['result']['val_bpb']:.6f}" in block
    assert result["training"]["training_seconds"] >= 1.5
    assert result["budget"] == {"kind": "seconds", "amount": 1.5}
    assert result["data"]["snapshot"] == prepared.name
    archives = list((tmp_path / "data").glob("run_????????_??????.json"))
    assert [json.loads(file.read_text()) for file in archives] == [result]


def test_skipped_evaluation_leaves_its_lines_out(tmp_path: Path, prepared: Path) -> None:
    answer = run_train(tmp_path, prepared, STEP_BUDGET="1", AUTOEXPERIMENT_SKIP_EVAL="1")

    assert "val_bpb" not in answer.stdout
    assert "eval_seconds" not in answer.stdout
    assert "num_steps:        1" in answer.stdout
    assert record(tmp_path)["result"] == {"val_bpb": None}


def test_token_budget_ends_at_the_first_step_that_reaches_it(tmp_path: Path, prepared: Path) -> None:
    run_train(tmp_path, prepared, STEP_BUDGET="1", AUTOEXPERIMENT_SKIP_EVAL="1")
    a_step = record(tmp_path)["training"]["total_tokens"]

    run_train(tmp_path, prepared, TOKEN_BUDGET=str(a_step + 1), AUTOEXPERIMENT_SKIP_EVAL="1")

    assert record(tmp_path)["training"]["total_steps"] == 2


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"SEED": "one"}, "SEED='one'"),
        ({"SEED": "-1"}, "SEED=-1"),
        ({"TIME_BUDGET": "0"}, "TIME_BUDGET=0"),
        ({"TIME_BUDGET": "nan"}, "TIME_BUDGET=nan"),
        ({"TIME_BUDGET": "soon"}, "TIME_BUDGET='soon'"),
        ({"STEP_BUDGET": "1.5"}, "STEP_BUDGET='1.5'"),
        ({"STEP_BUDGET": "5", "TIME_BUDGET": "5"}, "TIME_BUDGET and STEP_BUDGET are both set"),
    ],
)
def test_bad_setting_is_refused_with_its_value(settings: dict[str, str], named: str) -> None:
    with pytest.raises(train.BadSetting) as refusal:
        train.read_settings(settings)

    assert named in str(refusal.value)


def test_bad_setting_ends_with_2_and_removes_the_last_result(tmp_path: Path, prepared: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "last_run.json").write_text("{}")

    answer = run_train(tmp_path, prepared, SEED="one")

    assert answer.returncode == 2
    assert answer.stderr.splitlines()[-1].startswith("train.py: SEED='one'")
    assert not (tmp_path / "data" / "last_run.json").exists()


def test_missing_data_says_what_to_type(tmp_path: Path) -> None:
    answer = run_train(tmp_path, tmp_path / "nothing")

    assert answer.returncode == 1
    assert answer.stderr.startswith("train.py: ") and "prepare.py" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_absurd_loss_ends_with_3_and_no_result(tmp_path: Path, prepared: Path) -> None:
    script = edited(tmp_path, "MAX_LOSS = 100.0", "MAX_LOSS = 1.0")

    answer = run_train(tmp_path, prepared, script=script, STEP_BUDGET="2")

    assert answer.returncode == 3
    assert answer.stderr.startswith("diverged: loss ") and answer.stderr.endswith(" at step 1\n")
    assert not (tmp_path / "data" / "last_run.json").exists()


@pytest.mark.parametrize("compiled", ["True", "False"])
def test_run_without_a_compiler_works(tmp_path: Path, prepared: Path, compiled: str) -> None:
    script = edited(tmp_path, "COMPILE = pick(cpu=False", f"COMPILE = pick(cpu={compiled}")
    nothing = tmp_path / "nothing"  # neither programs nor kernels that an earlier run compiled
    nothing.mkdir()
    settings = {"PATH": str(nothing), "TMPDIR": str(nothing), "AUTOEXPERIMENT_SKIP_EVAL": "1", "STEP_BUDGET": "1"}

    answer = run_train(tmp_path, prepared, script=script, **settings)

    assert answer.returncode == 0, answer.stderr


@pytest.mark.skipif(train.IS_GPU, reason="a GPU run does compile")
def test_cpu_run_does_not_wait_for_a_compiler(tmp_path: Path, prepared: Path) -> None:
    answer = run_train(tmp_path, prepared, STEP_BUDGET="1", AUTOEXPERIMENT_SKIP_EVAL="1", TMPDIR=str(tmp_path))

    assert answer.returncode == 0
    assert not (tmp_path / "mlx").exists()  # where MLX leaves the kernels it compiles


def test_importing_trains_and_writes_nothing(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.dont_write_bytecode = True; import train"

    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert answer.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_gives_the_reported_score_at_any_batch_size(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_train(tmp_path, prepared, STEP_BUDGET="2", AUTOEXPERIMENT_SKIP_EVAL="1")
    folder = tmp_path / "data" / "checkpoint"
    monkeypatch.setenv("AUTOEXPERIMENT_DATA", str(prepared))
    dataset = prepare.load_dataset()
    few = dataclasses.replace(dataset, val_rows=dataset.val_rows[:12])

    model = train.build_model(json.loads((folder / "config.json").read_text()))
    model.load_weights(str(folder / "model.safetensors"))

    scores = [prepare.evaluate_bpb(model, few, batch_size=size) for size in (1, 5, 12)]
    assert max(scores) - min(scores) < 1e-6
    assert model(mx.zeros((2, 7), mx.int32)).shape == (2, 7, dataset.vocab_size)


# --- model ---


def test_model_does_not_look_ahead() -> None:
    trainer = small_trainer()
    x, y = some_batch(2)
    for _ in range(3):  # until the matrices that start at zero matter
        _, trainer.weights, trainer.state = trainer.step(itertools.repeat((x, y)), 1.0)
    trainer.model.update(trainer.weights)
    changed = mx.concatenate([x[:, :5], (x[:, 5:] + 1) % 32], axis=1)

    before, after = np.array(trainer.model(x)), np.array(trainer.model(changed))

    assert np.array_equal(before[:, :5], after[:, :5])
    assert not np.allclose(before[:, 5:], after[:, 5:])


def test_fresh_model_gives_every_token_the_same_chance() -> None:
    x, y = some_batch(2)

    loss = train.loss_of(train.build_model(dataclasses.asdict(SMALL)), x, y)

    assert loss.item() == pytest.approx(math.log(32))


def test_build_model_reads_its_config_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEPTH", "HEADS", "HEAD_DIM", "MLP_RATIO"):
        monkeypatch.delattr(train, name)

    model = train.build_model(dataclasses.asdict(SMALL))

    assert model(mx.zeros((1, 4), mx.int32)).shape == (1, 4, 32)


def test_numpy_loss_and_gradient_match_mlx() -> None:
    logits = mx.array(np.random.default_rng(1).normal(0, 3, (2, 5, 11)).astype(np.float32))
    targets = mx.array(np.random.default_rng(2).integers(0, 11, (2, 5)).astype(np.int32))
    weight = mx.array([[1.0, 2, 3, 4, 5], [6, 7, 8, 9, 10]])

    ours = mx.value_and_grad(lambda z: (train.numpy_cross_entropy(z, targets)[0] * weight).sum())(logits)
    theirs = mx.value_and_grad(lambda z: (nn.losses.cross_entropy(z, targets) * weight).sum())(logits)

    for a, b in zip(ours, theirs, strict=True):
        assert np.allclose(np.array(a), np.array(b), atol=1e-5)


def test_flops_count_each_product_once() -> None:
    model = train.build_model(dataclasses.asdict(SMALL))

    # width 16; a layer has 3*16*16 + 16*16 + 2 * 32*16 weights, the output 32*16; attention 6 * 2 layers * 16 * 8
    assert train.flops_per_token(model) == 6 * (2 * 2048 + 512) + 6 * 2 * 16 * 8


def test_dmodel_scale_at_width_256() -> None:
    assert train.dmodel_scale(dataclasses.replace(SMALL, heads=4, head_dim=64)) == pytest.approx(1.7321, abs=1e-4)


# --- step, schedule, loop ---


def test_warm_up_leaves_no_trace() -> None:
    trainer = small_trainer()
    weights, state = leaves(trainer.weights), leaves(trainer.state)

    trainer.warm_up()

    for before, after in ((weights, leaves(trainer.weights)), (state, leaves(trainer.state))):
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[name], after[name]) for name in before)


def test_first_step_is_the_same_with_and_without_warm_up() -> None:
    cold, warm = small_trainer(), small_trainer()
    warm.warm_up()

    first, second = (leaves(t.step(itertools.repeat(some_batch(2)), 1.0)[1]) for t in (cold, warm))

    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_two_passes_give_the_gradient_of_one_large_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "TOTAL_BATCH_SIZE", 32)
    whole, halves = small_trainer(rows=4), small_trainer(rows=2)
    x, y = some_batch(4)
    assert (whole.passes, halves.passes) == (1, 2)

    one = whole.step(iter([(x, y)]), 1.0)
    two = halves.step(iter([(x[:2], y[:2]), (x[2:], y[2:])]), 1.0)

    assert one[0].item() == pytest.approx(two[0].item(), abs=1e-6)
    moments = [leaves(t) for t in (one[2], two[2])]
    assert all(np.allclose(moments[0][name], moments[1][name], atol=1e-6) for name in moments[0])


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_compiled_step_matches_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "COMPILE", False)
    plain = small_trainer()
    monkeypatch.setattr(train, "COMPILE", True)
    compiled = small_trainer()
    batch = itertools.repeat(some_batch(2))

    for trainer in (plain, compiled):
        for _ in range(3):
            _, trainer.weights, trainer.state = trainer.step(batch, 0.5)

    first, second = leaves(plain.weights), leaves(compiled.weights)
    assert all(np.allclose(first[name], second[name], atol=1e-3) for name in first)


def test_no_compiler_means_no_compilation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(train, "COMPILE", True)
    monkeypatch.setattr(train, "IS_GPU", False)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert not train.is_compilable()


def test_training_lowers_the_loss() -> None:
    trainer = small_trainer()
    settings = train.Settings(1, "steps", 40, True)

    done = train.train(trainer, itertools.repeat(some_batch(2)), settings)

    assert done.steps == 40
    assert done.tokens == 40 * trainer.step_tokens
    assert done.loss < math.log(32) / 2


def test_every_part_of_the_model_learns() -> None:
    trainer = small_trainer()
    before = leaves(trainer.weights)

    train.train(trainer, itertools.repeat(some_batch(2)), train.Settings(1, "steps", 4, True))

    after = leaves(trainer.weights)
    assert [name for name in before if np.array_equal(before[name], after[name])] == []


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Training switches the garbage collector off; the other tests want it on."""
    yield
    gc.unfreeze()
    gc.enable()


class FakeTrainer:
    """Steps with a given loss."""

    step_tokens = 1
    weights = state = None
    ring = train.ALONE

    def __init__(self, *losses: float) -> None:
        self.losses = iter(losses)

    def step(self, batches: Any, multiplier: float) -> tuple[mx.array, None, None]:
        return mx.array(next(self.losses)), None, None


@pytest.mark.parametrize(("loss", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (100.5, "100.5")])
def test_bad_loss_stops_at_its_step(loss: float, shown: str) -> None:
    with pytest.raises(train.Diverged, match=f"loss {shown} at step 3"):
        train.train(FakeTrainer(2.0, 2.0, loss), iter(()), train.Settings(1, "steps", 9, True))


def test_average_loss_has_no_bias_towards_zero() -> None:
    done = train.train(FakeTrainer(2.0, 2.0, 2.0), iter(()), train.Settings(1, "steps", 3, True))

    assert done.loss == pytest.approx(2.0)


def test_schedule_rises_holds_and_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WARMUP", 0.1), ("WARMDOWN", 0.5), ("FINAL_LR", 0.2)):
        monkeypatch.setattr(train, name, value)

    found = [train.lr_multiplier(progress) for progress in (0.0, 0.1, 0.5, 0.75, 1.0, 1.1)]

    assert found == pytest.approx([0.01 / 0.11, 1.0, 1.0, 0.6, 0.2, 0.2])


# --- several processes (those that do exchange something: tests/test_train_ring.py) ---


def test_one_process_exchanges_nothing() -> None:
    loss, gradients = mx.array(1.0), {"a": [mx.array([2.0])]}

    averages = train.ALONE.mean(loss, gradients)

    assert averages[0] is loss and averages[1] is gradients
    assert train.ALONE.longest(1 / 3) == 1 / 3
    assert list(train.ALONE.part(iter("abc"))) == ["a", "b", "c"]
    assert train.join({"MLX_RANK": "0"}) is train.ALONE


@pytest.mark.parametrize(
    ("size", "step_rows", "most", "rows"), [(1, 24, 8, 8), (2, 8, 8, 4), (2, 16, 8, 8), (2, 12, 4, 3), (8, 8, 8, 1)]
)
def test_processes_share_the_rows_of_a_step(size: int, step_rows: int, most: int, rows: int) -> None:
    assert train.Ring(0, size).share(step_rows, most=most) == rows


def test_processes_that_cannot_share_a_step_are_told_how_many_can() -> None:
    with pytest.raises(train.BadSetting) as refusal:
        train.Ring(0, 5).share(12, most=8)

    assert "5 processes can't share a step of 12 rows evenly. Allowed: one of [1, 2, 3, 4, 6, 12]" in str(refusal.value)
    assert "Type: mlx ring -n 4 " in str(refusal.value)


def test_group_makes_the_steps_of_one_process_in_its_own_passes() -> None:
    mx.random.seed(0)
    model = train.build_model(dataclasses.asdict(SMALL))

    alone = train.Trainer(model, SMALL, rows=4)
    shared = train.Trainer(model, SMALL, rows=4, ring=train.Ring(1, 4))

    assert shared.step_tokens == alone.step_tokens == train.TOTAL_BATCH_SIZE
    assert (shared.rows, shared.passes * 4) == (4, alone.passes)


@dataclasses.dataclass(frozen=True)
class FakeRing:
    """A process of a group, in which the slowest one has trained for 5 s."""

    rank: int

    def longest(self, seconds: float) -> float:
        return 5.0


@pytest.mark.parametrize(("rank", "lines"), [(0, 1), (1, 0)])
def test_group_goes_by_its_slowest_clock_and_its_first_process_tells(
    rank: int, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = FakeTrainer(2.0, 2.0)
    trainer.ring = FakeRing(rank)

    done = train.train(trainer, iter(()), train.Settings(1, "seconds", 4.5, True))

    assert (done.steps, done.seconds) == (1, 5.0)
    assert capsys.readouterr().out.count("step 1 |") == lines


# --- constants ---


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_search_ranges_hold_their_defaults(device: str) -> None:
    found = constants.find(SOURCE, device=device)

    assert 10 <= len(found) <= 18
    assert [constant.name for constant in found if not constant.range.contains(constant.value)] == []


def test_ends_of_the_architecture_ranges_build() -> None:
    names = {"DEPTH": "depth", "HEADS": "heads", "HEAD_DIM": "head_dim", "MLP_RATIO": "mlp_ratio"}
    ranges = {c.name: c.range for c in constants.find(SOURCE, device="cpu")}

    for end in (0, -1):
        values = {
            names[name]: ranges[name].choices[end]
            if ranges[name].choices
            else (ranges[name].low, ranges[name].high)[end]
            for name in names
            if name in ranges
        }
        config = dataclasses.replace(SMALL, **{name: int(value) for name, value in values.items()})
        assert train.GPT(config)(mx.zeros((1, 4), mx.int32)).shape == (1, 4, 32)
