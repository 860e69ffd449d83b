"""The sealed evaluation: honest numbers from honest models, and nothing but a reason from the others."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoexperiment.measure import wire
from autoexperiment.measure.scorer import Score, ScoreRequest

ROOT = Path(__file__).resolve().parent.parent
HARNESS = ("prepare.py", "data_sources.py")

MODEL = """\
import prepare
import mlx.core as mx
import mlx.nn as nn

class Bigram(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.table = nn.Embedding(vocab, vocab)
    def __call__(self, x):
        return self.table(x)

def build_model(config):
    return Bigram(config["vocab_size"])
"""


def score(folder: Path, prepared: Path, train: str, *, table: np.ndarray | None = None) -> Score:
    """Score a candidate whose weights are a bigram table of logits (zeros when None)."""
    import mlx.core as mx

    vocab = json.loads((prepared / "manifest.json").read_text())["vocab_size"]
    for place in ("harness", "candidate"):
        (folder / place).mkdir()
        for name in HARNESS:
            (folder / place / name).write_text((ROOT / name).read_text())
    (folder / "candidate" / "train.py").write_text(train)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    weights = np.zeros((vocab, vocab), dtype=np.float32) if table is None else table
    mx.save_safetensors(str(checkpoint / "model.safetensors"), {"table.weight": mx.array(weights)})
    (checkpoint / "config.json").write_text(json.dumps({"vocab_size": vocab}))
    ScoreRequest(str(folder / "harness"), str(folder / "candidate"), str(checkpoint)).save(folder / "request.json")
    command = [
        sys.executable,
        "-m",
        "autoexperiment.measure.scorer",
        str(folder / "request.json"),
        str(folder / "result.json"),
    ]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "AUTOEXPERIMENT_DATA": str(prepared)}
    subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True)
    return Score.load(folder / "result.json")


def random_table(prepared: Path) -> np.ndarray:
    vocab = json.loads((prepared / "manifest.json").read_text())["vocab_size"]
    return np.random.default_rng(0).normal(size=(vocab, vocab)).astype(np.float32)


def expected_bpb(prepared: Path, table: np.ndarray) -> float:
    """Bits per byte of a bigram table, worked out here in float64 from the files alone."""
    manifest = json.loads((prepared / "manifest.json").read_text())
    width = manifest["seq_len"] + 1
    rows = np.fromfile(prepared / "val.bin", dtype="<u2").reshape(-1, width).astype(np.int64)
    import prepare

    sizes = prepare.load_dataset().token_bytes.astype(np.int64)
    logits = table.astype(np.float64)
    log_total = np.log(np.exp(logits).sum(axis=1))
    x, y = rows[:, :-1], rows[:, 1:]
    losses = log_total[x] - logits[x, y]
    counted = sizes[y] > 0
    return float(losses[counted].sum() / (math.log(2) * sizes[y].sum()))


def test_score_is_bits_per_byte_worked_out_by_hand(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOEXPERIMENT_DATA", str(prepared))
    table = random_table(prepared)

    found = score(tmp_path, prepared, MODEL, table=table)

    assert found.problem == ""
    assert found.val_bpb == pytest.approx(expected_bpb(prepared, table), abs=1e-6)
    assert found.tokens == 65_536


def test_uniform_model_scores_the_vocabulary_s_logarithm(tmp_path: Path, prepared: Path) -> None:
    found = score(tmp_path, prepared, MODEL)

    vocab = json.loads((prepared / "manifest.json").read_text())["vocab_size"]
    assert found.nats is not None and found.val_bpb is not None
    counted = found.nats / math.log(vocab)
    assert counted == pytest.approx(round(counted), abs=1e-2)
    assert found.val_bpb == pytest.approx(math.log2(vocab) * round(counted) / found.text_bytes, rel=1e-6)


CHEATS = {
    "patches arithmetic in its own process": "import math, prepare\nmath.log = lambda *a: 1e9\nprepare.bpb = lambda *a: 0.1\n",
    "rewrites the evaluation beside it": "open('prepare.py', 'a').write('\\ndef bpb(*a): return 0.1\\n')\n",
    "prints a result": "print('val_bpb: 0.1', flush=True)\n",
    "writes a result file": "open('../result.json', 'w').write('{\"val_bpb\": 0.1}')\n",
}


@pytest.mark.parametrize("cheat", CHEATS.values(), ids=CHEATS.keys())
def test_cheat_does_not_change_the_number(
    tmp_path: Path, prepared: Path, cheat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOEXPERIMENT_DATA", str(prepared))
    table = random_table(prepared)

    found = score(tmp_path, prepared, cheat + MODEL, table=table)

    assert found.val_bpb == pytest.approx(expected_bpb(prepared, table), abs=1e-6)


def test_model_is_given_inputs_and_no_targets(tmp_path: Path, prepared: Path) -> None:
    told = MODEL.replace(
        "def __call__(self, x):", "def __call__(self, x, *more, **named):\n        assert not more and not named"
    )

    assert score(tmp_path, prepared, told).problem == ""


BROKEN = {
    "fails on import": ("raise RuntimeError('no')\n" + MODEL, "crashed"),
    "kills itself": ("import os\n" + MODEL.replace("return self.table(x)", "os._exit(0)"), "crashed"),
    "gives another shape": (MODEL.replace("return self.table(x)", "return self.table(x)[:, :, :-1]"), "shape"),
    "gives one number": (MODEL.replace("return self.table(x)", "return self.table(x).sum()"), "shape"),
    "gives nan": (MODEL.replace("return self.table(x)", "return self.table(x) * float('nan')"), "nonfinite"),
    "gives infinity": (MODEL.replace("return self.table(x)", "return self.table(x) + float('inf')"), "nonfinite"),
    "has no build_model": (MODEL.replace("def build_model", "def make_model"), "crashed"),
}


@pytest.mark.parametrize(("train", "problem"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_model_has_a_reason_and_no_number(tmp_path: Path, prepared: Path, train: str, problem: str) -> None:
    found = score(tmp_path, prepared, train)

    assert found.problem == problem
    assert found.val_bpb is None
    assert found.message


def test_scorer_s_source_never_imports_the_candidate() -> None:
    source = (ROOT / "autoexperiment" / "measure" / "scorer.py").read_text()

    assert source.count("import_module(") == 1
    assert 'import_module("prepare")' in source


def test_pipe_frames_survive_short_reads() -> None:
    import os

    read_end, write_end = os.pipe()
    wire.write_all(write_end, wire.pack_request(1, 7) + b"x" * 28)
    os.close(write_end)

    assert wire.read_request(read_end) == (1, 7)
    assert wire.read_exactly(read_end, 28) == b"x" * 28
    assert wire.read_request(read_end) is None
    os.close(read_end)
