"""Where a training step's time goes on this device: a throughput profile of train.py as it stands.

Usage: python bench.py [--dataset NAME] [--seconds S] [--json]

Exit: 0 ok, 1 the dataset is not prepared, 2 wrong words.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import prepare  # before mlx: it loads the fast BLAS
import train

import mlx.core as mx  # isort: skip
from autoexperiment import blas  # isort: skip
from autoexperiment.errors import LabError  # isort: skip

EVAL_ROWS = 64


@dataclass(frozen=True)
class Part:
    """One part of a step: milliseconds, and its share of the whole step in [0, 1]."""

    name: str
    ms: float
    share: float


@dataclass(frozen=True)
class Profile:
    """What `measure` found. Speeds of training are tokens/s; None where no compiler is found."""

    device: str
    blas: str
    peak_gflops: float
    plain_tok_sec: float
    compiled_tok_sec: float | None
    eval_tok_sec: float
    mfu_percent: float
    parts: tuple[Part, ...]


def median_s(work: Callable[[], Any], *, seconds: float, least: int = 3) -> float:
    """Median duration of `work` with its arrays computed, over `seconds` and at least `least` calls after a first."""
    mx.eval(work())
    durations: list[float] = []
    while len(durations) < least or sum(durations) < seconds:
        began = time.perf_counter()
        mx.eval(work())
        durations.append(time.perf_counter() - began)
    return statistics.median(durations)


def make_trainer(dataset: prepare.Dataset, *, is_compiled: bool) -> train.Trainer:
    """The recipe's trainer, compiled or not, whatever its COMPILE says."""
    train.COMPILE = is_compiled
    mx.random.seed(train.SEED)
    config = train.make_config(dataset)
    model = train.build_model(asdict(config))
    return train.Trainer(model, config, rows=train.DEVICE_BATCH_SIZE)


def step_parts(trainer: train.Trainer, dataset: prepare.Dataset, *, seconds: float) -> tuple[Part, ...]:
    """Data, forward, backward and optimiser of one step of all passes."""
    batches = prepare.batches(dataset.train_rows, train.DEVICE_BATCH_SIZE, seed=train.SEED)
    x, y = next(batches)
    _, gradients = trainer.gradients(trainer.weights, x, y)
    one = mx.array(1.0)
    mx.eval(gradients)
    data = median_s(lambda: next(batches), seconds=seconds) * trainer.passes
    forward = median_s(lambda: train.loss_of(trainer.model, x, y), seconds=seconds) * trainer.passes
    both = median_s(lambda: trainer.gradients(trainer.weights, x, y), seconds=seconds) * trainer.passes
    optimiser = median_s(lambda: trainer.apply(trainer.weights, trainer.state, gradients, one), seconds=seconds)
    times = {"data": data, "forward": forward, "backward": max(both - forward, 0.0), "optimiser": optimiser}
    whole = sum(times.values())
    return tuple(Part(name, 1000 * took, took / whole) for name, took in times.items())


def tokens_per_second(trainer: train.Trainer, dataset: prepare.Dataset, *, seconds: float) -> float:
    """Speed of whole steps, data included."""
    batches = prepare.batches(dataset.train_rows, train.DEVICE_BATCH_SIZE, seed=train.SEED)
    return trainer.step_tokens / median_s(lambda: trainer.step(batches, 1.0), seconds=seconds)


def eval_tokens_per_second(model: train.GPT, dataset: prepare.Dataset) -> float:
    """Speed of the evaluation, on the first validation rows."""
    rows = dataset.val_rows[:EVAL_ROWS].astype("int32")
    x, y = mx.array(rows[:, :-1]), mx.array(rows[:, 1:])
    began = time.perf_counter()
    for start in range(0, len(rows), train.EVAL_BATCH_SIZE):
        part = slice(start, start + train.EVAL_BATCH_SIZE)
        prepare.nats_and_bytes(model(x[part]), y[part], dataset.token_bytes)
    return float(x.size / (time.perf_counter() - began))


def measure(dataset: prepare.Dataset, *, seconds: float) -> Profile:
    """Profile the recipe.

    Args:
        seconds: how long each of about seven measurements lasts.
    """
    peak = train.peak_flops()
    plain = make_trainer(dataset, is_compiled=False)
    parts = step_parts(plain, dataset, seconds=seconds)
    plain_speed = tokens_per_second(plain, dataset, seconds=seconds)
    compiled_speed = None
    compiled = make_trainer(dataset, is_compiled=True)
    if train.is_compilable():
        compiled_speed = tokens_per_second(compiled, dataset, seconds=seconds)
    status, best = blas.loaded(), max(plain_speed, compiled_speed or 0.0)
    return Profile(
        device=str(mx.default_device()),
        blas=f"{status.name} {status.version or ''}".strip(),
        peak_gflops=peak / 1e9,
        plain_tok_sec=plain_speed,
        compiled_tok_sec=compiled_speed,
        eval_tok_sec=eval_tokens_per_second(plain.model, dataset),
        mfu_percent=100 * train.flops_per_token(plain.model) * best / peak,
        parts=parts,
    )


def render(profile: Profile) -> str:
    """The profile as a table for a person."""
    compiled = f"{profile.compiled_tok_sec:,.0f} tok/s" if profile.compiled_tok_sec else "no compiler found"
    lines = [
        f"device           {profile.device}, BLAS: {profile.blas}",
        f"matmul peak      {profile.peak_gflops:,.1f} GFLOP/s",
        f"step             {profile.plain_tok_sec:,.0f} tok/s",
        f"step, compiled   {compiled}",
        f"evaluation       {profile.eval_tok_sec:,.0f} tok/s",
        f"of the peak      {profile.mfu_percent:.1f} % (model FLOP/s at the faster of the two)",
        "",
        "part             ms      share",
        *(f"{part.name:<12}{part.ms:>8.1f}   {part.share:>6.1%}" for part in profile.parts),
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataset", default=train.DATASET, help="a prepared dataset (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    try:
        profile = measure(prepare.load_dataset(options.dataset), seconds=options.seconds)
    except LabError as error:
        print(f"bench.py: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(profile), indent=2) if options.json else render(profile))
    return 0


if __name__ == "__main__":
    sys.exit(main())
