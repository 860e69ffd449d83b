"""Train a byte-level GPT for a fixed time and print its bits per byte: a script to start your own project from.

Usage: python time_budget_train.py [--data FILE] [--budget SECONDS] [--seed N] [--out DIR]

It needs MLX and NumPy and nothing else: copy it and change what you like. TIME_BUDGET, STEP_BUDGET and SEED
in the environment stand for options that are not given. It writes DIR/checkpoint/ and DIR/last_run.json.

Exit: 0 ok, 1 the loss diverged, 2 wrong words or not enough text.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

with contextlib.suppress(ImportError):  # on Linux without a GPU, MLX's own BLAS is 15 times as slow
    import autoexperiment.blas  # noqa: F401

import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip
import mlx.optimizers as optim  # isort: skip

TIME_BUDGET = 300.0  # seconds of training; start-up, warm-up and evaluation come on top
SEED = 1  # initialisation and order of the data
LENGTH = 128  # bytes a row | search: 64, 128, 256
BATCH = 16  # rows a step | search: 4..64 int
WIDTH = 128  # channels, a multiple of 32 | search: 64, 128, 256
DEPTH = 2  # layers | search: 1..6 int
LR = 0.003  # AdamW | search: 0.0003..0.03 log
WARMUP = 0.05  # rising part of the budget | search: 0..0.2
FINAL_LR = 0.05  # learning rate at the end of the cosine, over LR | search: 0..0.3
VAL_SHARE = 0.1  # the end of the text, never trained on
EVAL_ROWS = 128  # rows of LENGTH bytes that are scored, at most
MAX_LOSS = 100.0  # nats; beyond it the run has diverged


class Block(nn.Module):
    """Causal attention with rotary positions, then a squared-ReLU MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        rows, length, width = x.shape
        parts = mx.split(self.qkv(norm(x)), 3, axis=-1)
        q, k, v = (part.reshape(rows, length, -1, 32).swapaxes(1, 2) for part in parts)
        q, k = (mx.fast.rope(norm(p), 32, traditional=False, base=10_000.0, scale=1.0, offset=0) for p in (q, k))
        mixed = mx.fast.scaled_dot_product_attention(q, k, v, scale=32**-0.5, mask="causal")
        x = x + self.out(mixed.swapaxes(1, 2).reshape(rows, length, width))
        return x + self.down(mx.square(mx.maximum(self.up(norm(x)), 0)))


class ByteGPT(nn.Module):
    """int32 bytes (B, T) to logits (B, T, 256)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.blocks = [Block(width) for _ in range(depth)]
        self.head = nn.Linear(width, 256, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        x = norm(self.embedding(x))
        for block in self.blocks:
            x = block(x)
        return self.head(norm(x))


def norm(x: mx.array) -> mx.array:
    return mx.fast.rms_norm(x, None, 1e-6)


def build_model(config: Mapping[str, Any]) -> ByteGPT:
    """A fresh model from the content of the checkpoint's config.json."""
    return ByteGPT(config["width"], config["depth"])


def split_text(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Training bytes and validation rows (N, LENGTH + 1), as int32. Raises: ValueError: too little text."""
    data = np.frombuffer(text, dtype=np.uint8).astype(np.int32)
    cut = int(len(data) * (1 - VAL_SHARE))
    count = min((len(data) - cut - 1) // LENGTH, EVAL_ROWS)
    if count < 1 or cut <= LENGTH + 1:
        raise ValueError(f"The text has {len(text)} bytes. Needed: {int(LENGTH / VAL_SHARE) + 20}. Type: --data FILE")
    rows = np.stack([data[cut + i * LENGTH : cut + (i + 1) * LENGTH + 1] for i in range(count)])
    return data[:cut], rows


def batches(data: np.ndarray, seed: int) -> Iterator[tuple[mx.array, mx.array]]:
    """Random rows without end."""
    rng, offsets = np.random.default_rng(seed), np.arange(LENGTH + 1)
    while True:
        rows = data[rng.integers(0, len(data) - LENGTH, (BATCH, 1)) + offsets]
        yield mx.array(rows[:, :-1]), mx.array(rows[:, 1:])


def nats(model: ByteGPT, x: mx.array, y: mx.array) -> mx.array:
    return nn.losses.cross_entropy(model(x).astype(mx.float32), y)


def bits_per_byte(model: ByteGPT, rows: np.ndarray) -> float:
    """total_nats / (ln 2 * total_bytes): comparable across vocabularies."""
    total = 0.0
    for start in range(0, len(rows), 16):
        part = mx.array(rows[start : start + 16])
        total += float(np.array(nats(model, part[:, :-1], part[:, 1:]), dtype=np.float64).sum())
    return total / (math.log(2) * rows[:, 1:].size)


def lr_at(progress: float) -> float:
    """Warm-up, then a cosine down to FINAL_LR, by the share of the budget that is spent."""
    if progress < WARMUP:
        return LR * (progress + 0.01) / (WARMUP + 0.01)
    cosine = (1 + math.cos(math.pi * min((progress - WARMUP) / (1 - WARMUP), 1.0))) / 2
    return LR * (FINAL_LR + (1 - FINAL_LR) * cosine)


def make_step(model: ByteGPT, optimizer: Any) -> Callable[[mx.array, mx.array], float]:
    """One step that changes model and optimiser, and gives the loss."""
    loss_and_gradient = nn.value_and_grad(model, lambda model, x, y: nats(model, x, y).mean())

    def step(x: mx.array, y: mx.array) -> float:
        loss, gradient = loss_and_gradient(model, x, y)
        optimizer.update(model, gradient)
        mx.eval(loss, model.parameters(), optimizer.state)
        return float(loss.item())  # type: ignore[arg-type]  # a real number

    return step


def make_optimizer() -> Any:
    return optim.AdamW(learning_rate=LR, betas=[0.9, 0.95], weight_decay=0.1, bias_correction=True)


def train(model: ByteGPT, data: np.ndarray, budget: tuple[str, float], seed: int) -> dict[str, float]:
    """Train until the budget is spent. Raises: FloatingPointError: the loss diverged."""
    weights = model.parameters()
    make_step(model, make_optimizer())(*next(batches(data, seed)))  # fills MLX's caches; thrown away below
    model.update(weights)
    optimizer, rows = make_optimizer(), batches(data, seed)
    step = make_step(model, optimizer)
    steps, ema, seconds, said, began = 0, 0.0, 0.0, 0.0, time.perf_counter()
    print("training started", flush=True)
    while (progress := (steps if budget[0] == "steps" else seconds) / budget[1]) < 1:
        optimizer.learning_rate = lr_at(progress)
        loss = step(*next(rows))
        steps += 1
        if not loss <= MAX_LOSS:
            raise FloatingPointError(f"loss {loss:g} at step {steps}")
        if steps == 1:  # no garbage collection scans what lives to the end
            gc.collect()
            gc.freeze()
        ema = 0.95 * ema + 0.05 * loss
        seconds = time.perf_counter() - began
        if seconds - said >= 1:
            said = seconds
            print(f"step {steps} | {progress:.0%} | loss {ema / (1 - 0.95**steps):.4f}", flush=True)
    return {"total_steps": steps, "training_seconds": seconds, "final_loss": ema / (1 - 0.95**steps)}


def save(folder: Path, name: str, content: str) -> None:
    """Write a file whole or not at all."""
    temporary = folder / f".{name}.tmp"
    temporary.write_text(content)
    temporary.replace(folder / name)


def save_checkpoint(model: ByteGPT, folder: Path) -> None:
    """Weights first, then the config that `build_model` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".model.safetensors"
    model.save_weights(str(temporary))
    temporary.replace(folder / "model.safetensors")
    save(folder, "config.json", json.dumps({"width": WIDTH, "depth": DEPTH, "seq_len": LENGTH}) + "\n")


def run(text: bytes, *, budget: tuple[str, float], seed: int, out: Path) -> dict[str, Any]:
    """Train, save, evaluate; everything it writes lies in `out`."""
    began = time.perf_counter()
    (out / "last_run.json").unlink(missing_ok=True)  # else a crash could be taken for a result
    data, rows = split_text(text)
    mx.random.seed(seed)
    model = build_model({"width": WIDTH, "depth": DEPTH})
    training: dict[str, Any] = dict(train(model, data, budget, seed))
    save_checkpoint(model, out / "checkpoint")
    before_eval = time.perf_counter()
    val_bpb = bits_per_byte(model, rows)
    if not math.isfinite(val_bpb):
        raise FloatingPointError(f"val_bpb {val_bpb:g} at step {training['total_steps']}")
    training["eval_seconds"] = time.perf_counter() - before_eval
    training["avg_tok_sec"] = training["total_steps"] * BATCH * LENGTH / training["training_seconds"]
    training["peak_memory_mb"] = mx.get_peak_memory() / 2**20
    result = {"result": {"val_bpb": val_bpb}, "training": training, "seed": seed}
    result["total_seconds"] = time.perf_counter() - began
    save(out, "last_run.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    return result


def block(result: dict[str, Any]) -> str:
    """The lines that other programs read."""
    t = result["training"]
    return (
        f"---\nval_bpb:          {result['result']['val_bpb']:.6f}\ntraining_seconds: {t['training_seconds']:.1f}\n"
        f"total_seconds:    {result['total_seconds']:.1f}\npeak_memory_mb:   {t['peak_memory_mb']:.1f}\n"
        f"avg_tok_sec:      {t['avg_tok_sec']:,.0f}\nnum_steps:        {t['total_steps']}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, print the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(__file__), help="a text file (default: this script)")
    parser.add_argument("--budget", type=float, help=f"seconds of training (default: {TIME_BUDGET:g})")
    parser.add_argument("--seed", type=int, default=os.environ.get("SEED", SEED))
    parser.add_argument("--out", type=Path, default=Path("data"))
    options = parser.parse_args(argv)
    try:
        kind = "steps" if options.budget is None and "STEP_BUDGET" in os.environ else "seconds"
        variable = os.environ.get("STEP_BUDGET" if kind == "steps" else "TIME_BUDGET", TIME_BUDGET)
        amount = float(variable) if options.budget is None else options.budget
        if not 0 < amount < math.inf:
            raise ValueError(f"A budget of {amount:g} {kind} is not allowed. Allowed: above 0. Type: --budget 20")
        result = run(options.data.read_bytes(), budget=(kind, amount), seed=options.seed, out=options.out)
    except (OSError, ValueError) as error:
        print(f"time_budget_train.py: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"diverged: {error}", file=sys.stderr)
        return 1
    print(f"{block(result)}\nWrote: {options.out / 'last_run.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
