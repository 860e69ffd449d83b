"""The script to start from: it learns, keeps its budget, repeats itself, and needs nothing of this repository."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "time_budget_train.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, small enough for a test."""
    for name in ("TIME_BUDGET", "STEP_BUDGET", "SEED"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("time_budget_train", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in (("LENGTH", 16), ("BATCH", 8), ("WIDTH", 32), ("EVAL_ROWS", 8)):
        monkeypatch.setattr(module, name, value)
    return module


def train(script: ModuleType, out: Path, *, steps: int, seed: int = 1) -> dict[str, Any]:
    out.mkdir()
    result: dict[str, Any] = script.run(SCRIPT.read_bytes(), budget=("steps", steps), seed=seed, out=out)
    return result


def test_longer_training_scores_better(script: ModuleType, tmp_path: Path) -> None:
    short, long = train(script, tmp_path / "short", steps=1), train(script, tmp_path / "long", steps=150)

    assert long["result"]["val_bpb"] < short["result"]["val_bpb"] - 1


def test_same_seed_gives_the_same_bytes(script: ModuleType, tmp_path: Path) -> None:
    results = [train(script, tmp_path / name, steps=3) for name in "ab"]

    assert results[0]["result"] == results[1]["result"]
    a, b = (tmp_path / name / "checkpoint" / "model.safetensors" for name in "ab")
    assert a.read_bytes() == b.read_bytes()


def test_checkpoint_gives_the_reported_score(script: ModuleType, tmp_path: Path) -> None:
    result = train(script, tmp_path / "run", steps=2)
    folder = tmp_path / "run" / "checkpoint"

    model = script.build_model(json.loads((folder / "config.json").read_text()))
    model.load_weights(str(folder / "model.safetensors"))

    _, rows = script.split_text(SCRIPT.read_bytes())
    assert script.bits_per_byte(model, rows) == pytest.approx(result["result"]["val_bpb"], abs=1e-6)


def test_uniform_guess_costs_8_bits_a_byte(script: ModuleType) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (20, 9)).astype(np.int32)

    def uniform(x: Any) -> Any:
        return script.mx.zeros((*x.shape, 256))

    assert script.bits_per_byte(uniform, rows) == pytest.approx(8.0)


def test_validation_text_is_never_trained_on(script: ModuleType) -> None:
    text = bytes(range(200)) * 2  # the last tenth is 360..399, as bytes 160..199

    data, rows = script.split_text(text)

    assert len(data) == 360
    assert rows.shape == (2, 17)
    assert rows[0, 0] == 160


def test_schedule_rises_and_falls_by_share_of_the_budget(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LR", 1.0), ("WARMUP", 0.2), ("FINAL_LR", 0.1)):
        monkeypatch.setattr(script, name, value)

    found = [script.lr_at(progress) for progress in (0.0, 0.2, 0.6, 1.0, 1.5)]

    assert found == pytest.approx([0.01 / 0.21, 1.0, 0.55, 0.1, 0.1])


def test_warm_up_is_no_free_training(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    make = script.make_step

    def watched(model: Any, optimizer: Any) -> Any:
        seen.append(float(script.mx.abs(model.head.weight).sum().item()))
        return make(model, optimizer)

    monkeypatch.setattr(script, "make_step", watched)
    train(script, tmp_path / "run", steps=1)

    assert len(seen) == 2 and seen[0] == seen[1]


@pytest.mark.parametrize("loss", [math.nan, math.inf, 101.0])
def test_bad_loss_ends_with_1_and_no_result(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    loss: float,
) -> None:
    losses = itertools.repeat(loss)
    monkeypatch.setattr(script, "make_step", lambda model, optimizer: lambda x, y: next(losses))
    (tmp_path / "last_run.json").write_text("{}")

    assert script.main(["--budget", "5", "--out", str(tmp_path)]) == 1

    assert capsys.readouterr().err.startswith("diverged: loss ")
    assert not (tmp_path / "last_run.json").exists()


@pytest.mark.parametrize("words", [["--budget", "-1"], ["--budget", "0"], ["--budget", "nan"], ["--data", "/nowhere"]])
def test_wrong_words_end_with_2(script: ModuleType, words: list[str], tmp_path: Path) -> None:
    assert script.main([*words, "--out", str(tmp_path)]) == 2


def test_short_text_is_refused(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("too short")

    assert script.main(["--data", str(tmp_path / "text"), "--out", str(tmp_path)]) == 2

    assert "has 9 bytes" in capsys.readouterr().err


def test_alone_in_a_folder_it_prints_the_block(tmp_path: Path) -> None:
    (tmp_path / "my_train.py").write_bytes(SCRIPT.read_bytes())
    env = {k: v for k, v in os.environ.items() if k not in ("TIME_BUDGET", "STEP_BUDGET")}

    answer = subprocess.run(
        [sys.executable, "my_train.py"], cwd=tmp_path, env={**env, "STEP_BUDGET": "2"}, capture_output=True, text=True
    )

    assert answer.returncode == 0, answer.stderr
    block = answer.stdout.partition("---\n")[2].splitlines()
    assert block[0].startswith("val_bpb: ") and block[-1] == "Wrote: data/last_run.json"
    assert json.loads((tmp_path / "data" / "last_run.json").read_text())["training"]["total_steps"] == 2


def test_it_does_not_wait_for_a_compiler(tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path), "STEP_BUDGET": "1"}

    answer = subprocess.run([sys.executable, str(SCRIPT)], cwd=tmp_path, env=env, capture_output=True, text=True)

    assert answer.returncode == 0, answer.stderr
    assert not list((tmp_path / "mlx").rglob("*.so"))


def test_it_stands_without_this_repository() -> None:
    tree = ast.parse(SCRIPT.read_text())

    needed = {name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names}
    needed |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}

    roots = {name.partition(".")[0] for name in needed}
    assert roots - set(sys.stdlib_module_names) == {"mlx", "numpy"}
    assert len(SCRIPT.read_text().splitlines()) <= 250
