"""Train a byte-level language model for a fixed time on any text: a script to start your own project from.

Usage: python time_budget_train.py [--data FILE] [--budget SECONDS] [--out DIR] [--seed N]

It needs MLX and numpy, and nothing of this repository: copy it and change it. Without --data it trains on
its own source. The last lines are the result block that `mlx loop` and `parse_metrics.py` read, and
`DIR/last_run.json` holds the same numbers. TIME_BUDGET and SEED in the environment replace the options.
Exit codes: 0 trained, 2 wrong usage, 3 the loss diverged.
"""

from __future__ import annotations

import contextlib

with contextlib.suppress(ImportError):
    import autoexperiment.blas  # noqa: F401  a fast BLAS on Linux CPUs, where it is installed

import argparse
import gc
import json
import math
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten

WIDTH = 128  # channels
DEPTH = 2  # layers
HEADS = 4
CONTEXT = 128  # bytes that the model sees at once
BATCH = 16  # rows a step
LEARNING_RATE = 3e-3  # AdamW, at its highest
WARMDOWN = 0.5  # last part of the budget, in which the rate falls to 0
VAL_SHARE = 0.1  # of the text, from its end
VAL_ROWS = 64  # fixed rows that are scored; no setting of the run changes them
MAX_LOSS = 100.0  # nats; beyond it the run has diverged
VOCAB = 257  # bytes, and a mark that begins every row
BEGIN = 256


class Block(nn.Module):
    """Causal attention and a squared-ReLU MLP, each on a normalised input and added to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)
        self.norm_1, self.norm_2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)

    def attend(self, x: mx.array) -> mx.array:
        rows, length, _ = x.shape
        qkv = self.qkv(x).reshape(rows, length, 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
        q, k = (mx.fast.rope(part, WIDTH // HEADS, traditional=False, base=10_000, scale=1, offset=0) for part in qkv[:2])
        scale = (WIDTH // HEADS) ** -0.5
        seen = mx.fast.scaled_dot_product_attention(q, k, qkv[2], scale=scale, mask="causal")
        return self.out(seen.transpose(0, 2, 1, 3).reshape(rows, length, WIDTH))

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.attend(self.norm_1(x))
        return x + self.down(mx.square(nn.relu(self.up(self.norm_2(x)))))


class Model(nn.Module):
    """int32 bytes (B, T) to logits (B, T, 257)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.blocks = [Block() for _ in range(DEPTH)]
        self.norm = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def __call__(self, tokens: mx.array) -> mx.array:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss_of(model: Model, x: mx.array, y: mx.array) -> mx.array:
    """Mean cross-entropy in nats."""
    return nn.losses.cross_entropy(model(x).astype(mx.float32), y, reduction="mean")


def rows_of(text: np.ndarray, starts: np.ndarray) -> tuple[mx.array, mx.array]:
    """(inputs, targets), int32 (B, CONTEXT): the row's bytes behind a mark, and the bytes themselves."""
    targets = text[starts[:, None] + np.arange(CONTEXT)[None, :]].astype(np.int32)
    inputs = np.concatenate([np.full((len(starts), 1), BEGIN, dtype=np.int32), targets[:, :-1]], axis=1)
    return mx.array(inputs), mx.array(targets)


def evaluate_bpb(model: Model, text: np.ndarray) -> float:
    """Bits per byte on fixed rows of the validation text: total nats / (ln 2 * total bytes)."""
    starts = np.linspace(0, len(text) - CONTEXT, VAL_ROWS).astype(np.int64)
    nats = 0.0
    for begin in range(0, VAL_ROWS, BATCH):
        x, y = rows_of(text, starts[begin : begin + BATCH])
        nats += float(nn.losses.cross_entropy(model(x).astype(mx.float32), y, reduction="sum").item())
    return nats / (math.log(2) * VAL_ROWS * CONTEXT)


def train(model: Model, text: np.ndarray, budget_s: float, seed: int) -> dict[str, float]:
    """Train for `budget_s` seconds, compilation excluded. Raises: FloatingPointError: the loss diverged."""
    order = np.random.default_rng(seed)
    optimizer = optim.AdamW(learning_rate=LEARNING_RATE, betas=[0.9, 0.95], weight_decay=0.01)
    state = [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x: mx.array, y: mx.array) -> mx.array:
        loss, gradients = nn.value_and_grad(model, loss_of)(model, x, y)
        optimizer.update(model, gradients)
        return loss

    def batch() -> tuple[mx.array, mx.array]:
        return rows_of(text, order.integers(0, len(text) - CONTEXT, BATCH))

    steps, smooth, spent_s, said_s = 0, 0.0, 0.0, 0.0
    began = time.perf_counter()
    while spent_s < budget_s:
        optimizer.learning_rate = LEARNING_RATE * min(1.0, (1 - spent_s / budget_s) / WARMDOWN)
        loss_array = step(*batch())
        mx.eval(loss_array, state)
        loss = float(loss_array.item())
        if not loss <= MAX_LOSS:  # also true for nan
            raise FloatingPointError(f"loss {loss} at step {steps + 1}")
        steps += 1
        smooth = 0.95 * smooth + 0.05 * loss
        if steps == 1:  # it compiled: the clock starts now, and the collector has nothing more to find
            gc.collect()
            gc.freeze()
            gc.disable()
            began = time.perf_counter()
        spent_s = time.perf_counter() - began
        if spent_s - said_s >= 1:
            said_s = spent_s
            print(f"step {steps} | {spent_s / budget_s:.0%} | loss {smooth / (1 - 0.95**steps):.4f}", flush=True)
    return {"training_seconds": spent_s, "num_steps": steps, "total_tokens": (steps - 1) * BATCH * CONTEXT}


def save(model: Model, folder: Path) -> None:
    """The weights, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Any] = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "new.safetensors"), weights)
    os.replace(folder / "new.safetensors", folder / "model.safetensors")


def main(argv: list[str]) -> int:
    """Train, evaluate, save, print the block; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(__file__), help="a text file; default: this script")
    parser.add_argument("--budget", type=float, default=float(os.environ.get("TIME_BUDGET", "300")), help="seconds")
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED", "1")))
    options = parser.parse_args(argv)
    text = np.frombuffer(options.data.read_bytes(), dtype=np.uint8)
    cut = int(len(text) * (1 - VAL_SHARE))
    if len(text) - cut <= CONTEXT or options.budget <= 0:
        parser.error(f"{options.data} needs more than {int(CONTEXT / VAL_SHARE)} bytes, and the budget must be above 0")
    mx.random.seed(options.seed)
    started, model = time.perf_counter(), Model()
    try:
        found = train(model, text[:cut], options.budget, options.seed)
    except FloatingPointError as error:
        print(f"diverged: {error}", file=sys.stderr)
        return 3
    save(model, options.out / "checkpoint")
    found |= {
        "val_bpb": evaluate_bpb(model, text[cut:]),
        "avg_tok_sec": found["total_tokens"] / found["training_seconds"],
        "peak_memory_mb": mx.get_peak_memory() / 2**20,
        "total_seconds": time.perf_counter() - started,
    }
    training = {name: found[name] for name in ("avg_tok_sec", "peak_memory_mb", "training_seconds", "total_tokens")}
    report = {"result": {"val_bpb": found["val_bpb"]}, "training": {**training, "total_steps": found["num_steps"]}}
    (options.out / "last_run.json").write_text(json.dumps(report, indent=2) + "\n")
    print("---")
    for name in ("val_bpb", "training_seconds", "total_seconds", "peak_memory_mb", "avg_tok_sec", "num_steps"):
        print(f"{name + ':':<18}{found[name]:.6f}" if name == "val_bpb" else f"{name + ':':<18}{found[name]:.1f}")
    print(f"wrote {options.out / 'last_run.json'} and {options.out / 'checkpoint'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
