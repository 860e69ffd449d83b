"""Train a small GPT for a fixed budget and report its bits per byte. This is the one file to edit.

    python prepare.py          once: text, tokenizer and packed rows
    python train.py            train, evaluate, print the result block, write data/last_run.json
    mlx ring -n 2 -- python train.py    the same run, shared by 2 processes, on one machine or several

The constants come first, then model, optimiser, loop and `main`. The environment may set SEED and one
of TIME_BUDGET (seconds), TOKEN_BUDGET and STEP_BUDGET, which then replace the constants. After a run
out of memory DEVICE_BATCH_DIVISOR=2 asks for half the rows in a pass, in twice as many passes a step.
A comment `search: lo..hi` behind a constant is the range that `mlx loop run --agent search` tries.

Exit: 0 ok, 1 no data or a crash, 2 a setting that is not allowed, 3 the loss diverged.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter()

import gc
import itertools
import json
import math
import os
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import prepare  # before mlx: it loads the fast BLAS

import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip
import mlx.optimizers as optim  # isort: skip
from mlx.utils import tree_flatten, tree_map, tree_unflatten  # isort: skip

T = TypeVar("T")
IS_GPU = mx.default_device() == mx.gpu


def pick(*, cpu: T, gpu: T) -> T:
    """The value for the device that this process computes on."""
    return gpu if IS_GPU else cpu


# Data and budget
DATASET = pick(cpu="pystdlib", gpu="climbmix")  # a name from data_sources.py
SEED = 1  # initialisation and order of the rows
TIME_BUDGET = 300.0  # seconds of training; start-up, compilation and evaluation come on top

# Architecture
DEPTH = pick(cpu=1, gpu=4)  # layers | search: 1..6 int
HEADS = pick(cpu=1, gpu=4)  # attention heads; width = HEADS * HEAD_DIM | search: 1..8 int
HEAD_DIM = 64  # channels a head | search: 32, 64, 128
MLP_RATIO = 4  # hidden width over width | search: 1..6 int
ROPE_BASE = 10_000.0  # longest wavelength of the rotary embedding, in tokens
VALUE_EMBEDDING = True  # a second embedding added to the attention values of the last layer | search: True, False

# Batch
DEVICE_BATCH_SIZE = pick(cpu=8, gpu=16)  # rows in one pass | search: 4, 8, 16, 32
TOTAL_BATCH_SIZE = pick(cpu=2048, gpu=65536)  # tokens a step | search: 512, 1024, 2048, 4096, 8192, 16384, 65536

# Optimiser: Muon for matrices, AdamW for the rest. The AdamW rates hold at width 768.
MATRIX_LR = 0.02  # Muon | search: 0.002..0.2 log
EMBEDDING_LR = 0.2  # AdamW, token and value embeddings | search: 0.01..2 log
UNEMBEDDING_LR = 0.004  # AdamW, output matrix | search: 0.0004..0.04 log
MOMENTUM = 0.95  # Muon | search: 0.8..0.98
BETA1 = 0.8  # AdamW | search: 0.5..0.95
BETA2 = 0.95  # AdamW | search: 0.8..0.999
WEIGHT_DECAY = 0.0  # AdamW | search: 0..0.2
NS_STEPS = 5  # Newton-Schulz iterations of Muon

# Schedule, as fractions of the budget
WARMUP = 0.0  # rising linearly from 0 | search: 0..0.2
WARMDOWN = 0.5  # falling linearly to FINAL_LR | search: 0.1..1
FINAL_LR = 0.0  # last learning rate over the full one | search: 0..0.2

EVAL_BATCH_SIZE = 32  # rows in one evaluation pass; does not change the result
COMPILE = pick(cpu=False, gpu=True)  # mx.compile the step; a CPU gains nothing and waits 10 s for g++
MAX_LOSS = 100.0  # nats; beyond it the run has diverged
DATA = Path("data")
BUDGETS = {"TIME_BUDGET": "seconds", "TOKEN_BUDGET": "tokens", "STEP_BUDGET": "steps"}


class Diverged(Exception):
    """The loss is not finite, or absurd."""


# --- model ---


@dataclass(frozen=True)
class Config:
    """Everything that `build_model` needs; stored with the weights."""

    vocab_size: int
    seq_len: int
    depth: int
    heads: int
    head_dim: int
    mlp_ratio: int
    rope_base: float
    value_embedding: bool
    dtype: str

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


def rms_norm(x: mx.array) -> mx.array:
    """Scale the last axis to unit root mean square, without a gain."""
    return mx.fast.rms_norm(x, None, 1e-6)


class Linear(nn.Module):
    """A matrix without bias, kept in float32 and used in the input's dtype."""

    def __init__(self, inputs: int, outputs: int, *, scale: float) -> None:
        super().__init__()
        self.weight = mx.random.uniform(-scale, scale, (outputs, inputs)) if scale else mx.zeros((outputs, inputs))

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight.astype(x.dtype).T


class Attention(nn.Module):
    """Causal attention with rotary positions and normalised queries and keys."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, bound = config.width, math.sqrt(3 / config.width)
        self._config = config
        self.qkv = Linear(width, 3 * width, scale=bound)
        self.out = Linear(width, width, scale=0)

    def __call__(self, x: mx.array, extra: mx.array | None) -> mx.array:
        """`extra` (B, T, width) is added to the values."""
        c, (rows, length, width) = self._config, x.shape
        q, k, v = mx.split(self.qkv(x), 3, axis=-1)
        v = v if extra is None else v + extra
        q, k, v = (part.reshape(rows, length, c.heads, c.head_dim).swapaxes(1, 2) for part in (q, k, v))
        q, k = (
            mx.fast.rope(rms_norm(part), c.head_dim, traditional=False, base=c.rope_base, scale=1.0, offset=0)
            for part in (q, k)
        )
        mixed = mx.fast.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(c.head_dim), mask="causal")
        return self.out(mixed.swapaxes(1, 2).reshape(rows, length, width))


class Block(nn.Module):
    """Attention, then a squared-ReLU MLP, each on a normalised input and added to the stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, hidden = config.width, config.mlp_ratio * config.width
        self.attention = Attention(config)
        self.up = Linear(width, hidden, scale=math.sqrt(3 / width))
        self.down = Linear(hidden, width, scale=0)

    def __call__(self, x: mx.array, extra: mx.array | None) -> mx.array:
        x = x + self.attention(rms_norm(x), extra)
        # mx.maximum, not nn.relu: that one is compiled by a C++ compiler, and 10 times as slow on a CPU.
        return x + self.down(mx.square(mx.maximum(self.up(rms_norm(x)), 0)))


class GPT(nn.Module):
    """int32 tokens (B, T) to logits (B, T, V)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.embedding.weight = mx.random.normal(self.embedding.weight.shape)
        if config.value_embedding:
            self.value_embedding = nn.Embedding(config.vocab_size, config.width)
            self.value_embedding.weight = mx.zeros(self.value_embedding.weight.shape)
        self.blocks = [Block(config) for _ in range(config.depth)]
        self.unembedding = Linear(config.width, config.vocab_size, scale=0)

    def __call__(self, tokens: mx.array) -> mx.array:
        c, dtype = self.config, getattr(mx, self.config.dtype)
        x = rms_norm(self.embedding(tokens).astype(dtype))
        extra = self.value_embedding(tokens).astype(dtype) if c.value_embedding else None
        for number, block in enumerate(self.blocks):
            x = block(x, extra if number == c.depth - 1 else None)
        return self.unembedding(rms_norm(x))


def build_model(config: Mapping[str, Any]) -> GPT:
    """A model with fresh weights from the content of a checkpoint's config.json."""
    return GPT(Config(**config))


def flops_per_token(model: GPT) -> float:
    """Forward and backward: 6 a matrix weight, plus attention's two products over a causal row."""
    c, tables = model.config, 2 if model.config.value_embedding else 1
    products = num_params(model) - tables * c.vocab_size * c.width
    return 6.0 * products + 6.0 * c.depth * c.width * c.seq_len


def num_params(model: GPT) -> int:
    """Weights in all, those that are only looked up included."""
    leaves: Any = tree_flatten(model.parameters())
    return sum(leaf.size for _, leaf in leaves)


# --- optimiser ---


def dmodel_scale(config: Config) -> float:
    """What the AdamW rates, which hold at width 768, are multiplied by."""
    return math.sqrt(768 / config.width)


def make_optimizer(config: Config) -> tuple[optim.MultiOptimizer, list[float]]:
    """Muon and AdamW by the kind of parameter, and the full learning rate of each."""
    scale = dmodel_scale(config)
    adam: Any = {"betas": [BETA1, BETA2], "eps": 1e-10, "weight_decay": WEIGHT_DECAY, "bias_correction": True}
    rates = [UNEMBEDDING_LR * scale, EMBEDDING_LR * scale, MATRIX_LR]
    groups = [
        optim.AdamW(learning_rate=rates[0], **adam),
        optim.AdamW(learning_rate=rates[1], **adam),
        optim.Muon(learning_rate=rates[2], momentum=MOMENTUM, weight_decay=0.0, ns_steps=NS_STEPS),
    ]
    filters = [lambda name, _: name.startswith("unembedding"), lambda name, _: "embedding" in name]
    return optim.MultiOptimizer(groups, filters), rates


def lr_multiplier(progress: float) -> float:
    """Share of the full learning rate at `progress` in [0, 1] of the budget."""
    if progress < WARMUP:
        return (progress + 0.01) / (WARMUP + 0.01)
    left = (1 - min(progress, 1.0)) / WARMDOWN
    return FINAL_LR + (1 - FINAL_LR) * min(left, 1.0)


# --- settings ---


@dataclass(frozen=True)
class Settings:
    """What the environment may choose. `kind` is "seconds", "tokens" or "steps"."""

    seed: int
    kind: str
    amount: float
    skip_eval: bool
    batch_divisor: int = 1

    @property
    def rows(self) -> int:
        """Rows in one pass."""
        return max(1, DEVICE_BATCH_SIZE // self.batch_divisor)


class BadSetting(Exception):
    """A value in the environment that is not allowed."""

    exit_code = 2


def read_settings(env: Mapping[str, str]) -> Settings:
    """Raises: BadSetting: not a number, not above zero, or more than one budget."""
    chosen = [name for name in BUDGETS if name in env]
    if len(chosen) > 1:
        raise BadSetting(f"{' and '.join(chosen)} are both set. One budget is allowed. Type: unset {chosen[-1]}")
    name = chosen[0] if chosen else "TIME_BUDGET"
    amount = _number(env, name, TIME_BUDGET, whole=name != "TIME_BUDGET")
    if not 0 < amount < math.inf:
        raise BadSetting(f"{name}={env.get(name, amount)} is not above 0. Allowed: a number above 0. Type: {name}=20")
    seed = int(_number(env, "SEED", SEED, whole=True))
    if not 0 <= seed < 2**63:
        raise BadSetting(f"SEED={seed} is out of range. Allowed: 0 to 2**63 - 1. Type: SEED=1")
    divisor = int(_number(env, "DEVICE_BATCH_DIVISOR", 1, whole=True))
    if divisor < 1:
        raise BadSetting(f"DEVICE_BATCH_DIVISOR={divisor} is below 1. Allowed: 1, 2, 4 … Type: DEVICE_BATCH_DIVISOR=2")
    return Settings(seed, BUDGETS[name], amount, env.get("AUTOEXPERIMENT_SKIP_EVAL") == "1", divisor)


def _number(env: Mapping[str, str], name: str, default: float, *, whole: bool) -> float:
    text = env.get(name)
    try:
        return default if text is None else (int(text) if whole else float(text))
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise BadSetting(f"{name}={text!r} is not {kind}. Allowed: {kind}. Type: {name}=20") from None


# --- several processes ---


class NoRing(Exception):
    """The processes that MLX_HOSTFILE names do not come together."""

    exit_code = 1


@dataclass(frozen=True)
class Ring:
    """The processes that share a run: each computes its part of every step, and all make the same update."""

    rank: int = 0
    size: int = 1

    def share(self, step_rows: int, *, most: int) -> int:
        """Rows in one pass of one process, at most `most`. Raises: BadSetting: a step's rows do not divide evenly."""
        part, rest = divmod(step_rows, self.size)
        if rest:
            allowed = [n for n in range(1, step_rows + 1) if step_rows % n == 0]
            fewer = max(n for n in allowed if n < self.size)
            raise BadSetting(
                f"{self.size} processes can't share a step of {step_rows} rows evenly. Allowed: one of {allowed}, or "
                f"another TOTAL_BATCH_SIZE. Type: mlx ring -n {fewer} -- python train.py"
            )
        return next(rows for rows in range(min(most, part), 0, -1) if part % rows == 0)

    def part(self, batches: Iterator[T]) -> Iterator[T]:
        """The batches of this process: together, all processes take them in the order of a single one."""
        return itertools.islice(batches, self.rank, None, self.size)

    def mean(self, loss: mx.array, gradients: Any) -> tuple[mx.array, Any]:
        """Averages over all processes, exchanged as one array."""
        if self.size == 1:
            return loss, gradients
        leaves: Any = [("loss", loss), *tree_flatten(gradients)]
        flat = mx.concatenate([leaf.reshape(-1) for _, leaf in leaves])
        ends = list(itertools.accumulate(leaf.size for _, leaf in leaves))
        parts = mx.split(mx.distributed.all_sum(flat) / self.size, ends[:-1])
        means = [(name, part.reshape(leaf.shape)) for (name, leaf), part in zip(leaves, parts, strict=True)]
        return means[0][1], tree_unflatten(means[1:])

    def longest(self, seconds: float) -> float:
        """The same time in all processes, so that they agree on the learning rate and on the last step."""
        return seconds if self.size == 1 else float(mx.distributed.all_max(mx.array(seconds)).item())  # type: ignore[arg-type]

    def check(self, facts: Mapping[str, object]) -> None:
        """Raises: BadSetting: a fact differs between the processes, so that they would train different models."""
        if self.size == 1:
            return
        numbers = mx.array([zlib.crc32(repr(fact).encode()) >> 1 for fact in facts.values()])  # shifted into an int32
        most, least = np.array(mx.distributed.all_max(numbers)), np.array(mx.distributed.all_min(numbers))
        if wrong := [name for name, differs in zip(facts, most != least, strict=True) if differs]:
            raise BadSetting(
                f"The {self.size} processes differ in {' and '.join(wrong)}. Allowed: the same in all of them. "
                "Copy train.py to every machine, and set the same variables there."
            )


ALONE = Ring()


def join(env: Mapping[str, str]) -> Ring:
    """The group that MLX_HOSTFILE and MLX_RANK describe, once all are there; without them, this process alone."""
    if not env.get("MLX_HOSTFILE"):
        return ALONE
    try:
        group = mx.distributed.init(strict=True, backend="ring")
    except RuntimeError as error:
        place = f"MLX_RANK={env.get('MLX_RANK')} of MLX_HOSTFILE={env['MLX_HOSTFILE']}"
        raise NoRing(f"{place} can't join: {error}. Type: mlx ring -n 2 -- python train.py") from None
    print(f"rank {group.rank()} of {group.size()}", flush=True)
    return Ring(group.rank(), group.size())


# --- training ---


@dataclass
class Progress:
    """What training has used and reached so far."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    ema: float = 0.0

    @property
    def loss(self) -> float:
        """Moving average of the loss in nats over about the last 20 steps, without the bias towards 0."""
        return self.ema / (1 - 0.95**self.steps) if self.steps else math.nan

    def spent(self, settings: Settings) -> float:
        """Share of the budget that is used."""
        used = {"seconds": self.seconds, "tokens": self.tokens, "steps": self.steps}
        return used[settings.kind] / settings.amount


def loss_of(model: GPT, x: mx.array, y: mx.array) -> mx.array:
    """Mean cross-entropy in nats, computed in float32."""
    logits = model(x).astype(mx.float32)
    if IS_GPU or is_compilable():
        return nn.losses.cross_entropy(logits, y, reduction="mean")
    outputs: Any = numpy_cross_entropy(logits, y)
    return mx.mean(outputs[0])


@mx.custom_function  # type: ignore[untyped-decorator]
def numpy_cross_entropy(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """Nats (B, T) and their gradient (B, T, V). NumPy's exp is 5 times as fast as MLX's on x86: 1.3 x tok/s."""
    scores, index = np.array(logits), np.array(targets)[..., None]
    scores -= scores.max(axis=-1, keepdims=True)
    picked = np.take_along_axis(scores, index, axis=-1)
    odds = np.exp(scores, out=scores)
    total = odds.sum(axis=-1, keepdims=True)
    odds /= total
    nats = np.log(total) - picked
    np.put_along_axis(odds, index, np.take_along_axis(odds, index, axis=-1) - 1, axis=-1)
    return mx.array(nats[..., 0]), mx.array(odds)


@numpy_cross_entropy.vjp
def _scaled_gradient(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array]:
    return cotangents[0][..., None] * outputs[1], primals[1]


class Trainer:
    """The step as a function of weights and optimiser state, so that a warm-up leaves no trace."""

    def __init__(self, model: GPT, config: Config, *, rows: int, ring: Ring = ALONE) -> None:
        """`rows`: rows in one pass; as many passes make a step as come nearest to TOTAL_BATCH_SIZE."""
        self.model, self.ring = model, ring
        step_rows = rows * max(1, round(TOTAL_BATCH_SIZE / (rows * config.seq_len)))
        self.step_tokens = step_rows * config.seq_len  # of all processes
        self.rows = self.ring.share(step_rows, most=rows)
        self.passes = step_rows // (self.ring.size * self.rows)
        self.optimizer: Any
        self.optimizer, self.rates = make_optimizer(config)
        self.optimizer.init(model.trainable_parameters())
        self.weights: Any = model.trainable_parameters()
        self.state: Any = self.optimizer.state
        compiled: Any = mx.compile if is_compilable() else lambda function: function
        self.gradients, self.apply = compiled(self._compute_gradients), compiled(self._compute_update)

    def _compute_gradients(self, weights: Any, x: mx.array, y: mx.array) -> Any:
        self.model.update(weights)
        return nn.value_and_grad(self.model, loss_of)(self.model, x, y)

    def _compute_update(self, weights: Any, state: Any, gradients: Any, multiplier: mx.array) -> Any:
        self.optimizer.state = tree_map(lambda leaf: leaf, state)  # a copy: MLX's optimisers change theirs in place
        for group, rate in zip(self.optimizer.optimizers, self.rates, strict=True):
            group.learning_rate = rate * multiplier
        return self.optimizer.apply_gradients(gradients, weights), self.optimizer.state

    def step(self, batches: Iterator[tuple[mx.array, mx.array]], multiplier: float) -> tuple[mx.array, Any, Any]:
        """Loss, and weights and state after one step; the trainer itself is unchanged."""
        loss, gradients = self.gradients(self.weights, *next(batches))
        for _ in range(self.passes - 1):
            mx.eval(loss, gradients)  # else the graph of every pass stays in memory
            more_loss, more = self.gradients(self.weights, *next(batches))
            loss, gradients = loss + more_loss, tree_map(mx.add, gradients, more)
        gradients = tree_map(lambda gradient: gradient / self.passes, gradients) if self.passes > 1 else gradients
        loss, gradients = self.ring.mean(loss / self.passes, gradients)
        return loss, *self.apply(self.weights, self.state, gradients, mx.array(multiplier))

    def warm_up(self) -> None:
        """Compile and fill caches with one step on padding; its result is thrown away."""
        blank = mx.zeros((self.rows, self.model.config.seq_len), mx.int32)
        mx.eval(self.step(itertools.repeat((blank, blank)), 1.0))

    def finish(self) -> GPT:
        """The model with the trained weights; the optimiser's memory is freed for the evaluation."""
        self.model.update(self.weights)
        self.state = self.optimizer = self.gradients = self.apply = None
        mx.clear_cache()
        return self.model


def is_compilable() -> bool:
    """On the CPU `mx.compile` calls a C++ compiler at run time."""
    return COMPILE and (IS_GPU or shutil.which("g++") is not None)


def train(trainer: Trainer, batches: Iterator[tuple[mx.array, mx.array]], settings: Settings) -> Progress:
    """Train until the budget is spent. Raises: Diverged."""
    ring = trainer.ring
    done, said, began = Progress(), 0.0, time.perf_counter()
    while (spent := done.spent(settings)) < 1:
        multiplier = lr_multiplier(spent)
        loss, trainer.weights, trainer.state = trainer.step(batches, multiplier)
        mx.eval(loss, trainer.weights, trainer.state)
        value = float(loss.item())  # type: ignore[arg-type]  # a real number
        if not value <= MAX_LOSS:
            raise Diverged(f"loss {value:g} at step {done.steps + 1}")
        done.steps += 1
        done.tokens += trainer.step_tokens
        done.ema = 0.95 * done.ema + 0.05 * value
        if done.steps == 1:  # what start-up left lives to the end: no collection need look at it again
            gc.collect()
            gc.freeze()
            gc.disable()
        done.seconds = ring.longest(time.perf_counter() - began)
        if ring.rank == 0 and done.seconds - said >= 1:
            said = done.seconds
            print(progress_line(done, settings, multiplier), flush=True)
    return done


def progress_line(done: Progress, settings: Settings, multiplier: float) -> str:
    """One line for the log."""
    spent, speed = done.spent(settings), done.tokens / done.seconds
    left = max(done.seconds / spent - done.seconds, 0)
    parts = (f"step {done.steps}", f"{spent:.1%} of the budget", f"loss {done.loss:.4f}", f"lr x{multiplier:.3f}")
    return " | ".join((*parts, f"{speed:,.0f} tok/s", f"{left:.0f} s left"))


# --- results ---


def peak_flops() -> float:
    """FLOP/s of a large matrix product on this device, measured: what mfu_percent is a share of."""
    size, dtype = pick(cpu=512, gpu=4096), pick(cpu=mx.float32, gpu=mx.bfloat16)
    a, best = mx.ones((size, size), dtype), math.inf
    mx.eval(a @ a)
    for _ in range(6):
        began = time.perf_counter()
        mx.eval(a @ a)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def write(path: Path, text: str) -> None:
    """Replace a file: the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def save_checkpoint(model: GPT) -> None:
    """Weights, then the config that `build_model` takes; a folder without config.json is no checkpoint."""
    folder = DATA / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{os.getpid()}.safetensors"
    model.save_weights(str(temporary))
    temporary.replace(folder / "model.safetensors")
    write(folder / "config.json", json.dumps(asdict(model.config), indent=2) + "\n")


def remove_stale() -> None:
    """Without these files a crash cannot be taken for a result."""
    for path in (DATA / "last_run.json", DATA / "checkpoint" / "config.json"):
        path.unlink(missing_ok=True)


def block(result: dict[str, Any]) -> str:
    """The lines that other programs read; `val_bpb` and `eval_seconds` are left out when not computed."""
    t, model = result["training"], result["model"]
    lines = [
        ("val_bpb", result["result"]["val_bpb"], ".6f"),
        ("training_seconds", t["training_seconds"], ".1f"),
        ("total_seconds", result["total_seconds"], ".1f"),
        ("train_peak_mb", t["train_peak_mb"], ".1f"),
        ("peak_memory_mb", t["peak_memory_mb"], ".1f"),
        ("peak_vram_mb", t["peak_memory_mb"], ".1f"),
        ("mfu_percent", t["mfu_percent"], ".2f"),
        ("eval_seconds", t["eval_seconds"], ".1f"),
        ("total_tokens_M", t["total_tokens"] / 1e6, ".3f"),
        ("avg_tok_sec", t["avg_tok_sec"], ",.0f"),
        ("num_steps", t["total_steps"], "d"),
        ("num_params_M", model["num_params"] / 1e6, ".3f"),
        ("depth", model["depth"], "d"),
        ("dmodel_scale", model["dmodel_scale"], ".4f"),
    ]
    shown = [f"{name + ':':<18}{value:{form}}" for name, value, form in lines if value is not None]
    return "\n".join(["---", *shown])


def main() -> int:
    """Train, save, evaluate, report; of several processes, the first one saves, evaluates and reports."""
    remove_stale()
    try:
        settings, dataset = read_settings(os.environ), prepare.load_dataset(DATASET)
        result = run(settings, dataset, ring=join(os.environ))
    except Diverged as error:
        print(f"diverged: {error}", file=sys.stderr)
        return 3
    except Exception as error:
        if not hasattr(error, "exit_code"):  # errors that are written for the user have one
            raise
        print(f"train.py: {error}", file=sys.stderr)
        return int(error.exit_code)
    if result is None:
        return 0
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    write(DATA / f"run_{datetime.now():%Y%m%d_%H%M%S}.json", text)
    write(DATA / "last_run.json", text)
    print(block(result), flush=True)
    return 0


def run(settings: Settings, dataset: prepare.Dataset, *, ring: Ring) -> dict[str, Any] | None:
    """One run from the first weight to the result as JSON, None in all processes but the first. Raises: Diverged."""
    code = Path(__file__).read_bytes()
    ring.check({"train.py": code, "the device": IS_GPU, "the settings": settings, "the data": dataset.snapshot})
    mx.random.seed(settings.seed)
    config = make_config(dataset)
    model = build_model(asdict(config))
    peak = peak_flops()
    trainer = Trainer(model, config, rows=settings.rows, ring=ring)
    trainer.warm_up()
    startup_seconds = time.perf_counter() - _STARTED
    if ring.rank == 0:
        print(f"training started after {startup_seconds:.1f} s", flush=True)
    batches = prepare.batches(dataset.train_rows, trainer.rows, seed=settings.seed)
    done = train(trainer, ring.part(batches), settings)
    if ring.rank > 0:
        return None
    train_peak = mx.get_peak_memory()
    model = trainer.finish()
    save_checkpoint(model)
    val_bpb, eval_seconds = (None, None) if settings.skip_eval else evaluate(model, dataset, done)
    return {
        "result": {"val_bpb": val_bpb},
        "training": {
            "peak_memory_mb": mx.get_peak_memory() / 2**20,
            "train_peak_mb": train_peak / 2**20,
            "avg_tok_sec": done.tokens / done.seconds,
            "mfu_percent": 100 * flops_per_token(model) * done.tokens / done.seconds / (peak * ring.size),
            "total_steps": done.steps,
            "total_tokens": done.tokens,
            "final_loss": done.loss,
            "training_seconds": done.seconds,
            "startup_seconds": startup_seconds,
            "eval_seconds": eval_seconds,
        },
        "total_seconds": time.perf_counter() - _STARTED,
        "model": {"num_params": num_params(model), "depth": config.depth, "dmodel_scale": dmodel_scale(config)},
        "budget": {"kind": settings.kind, "amount": settings.amount},
        "seed": settings.seed,
        "ranks": ring.size,
        "config": constants(),
        "device": {"name": str(mx.default_device()), "mlx": metadata.version("mlx"), "peak_flops": peak},
        "data": {"dataset": dataset.name, "snapshot": dataset.snapshot, "vocab_size": dataset.vocab_size},
        "timestamp": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def make_config(dataset: prepare.Dataset) -> Config:
    """The constants above for this dataset. float32 on the CPU: half precision is 20 times slower there."""
    dtype = pick(cpu="float32", gpu="bfloat16")
    shape = (DEPTH, HEADS, HEAD_DIM, MLP_RATIO, ROPE_BASE, VALUE_EMBEDDING)
    return Config(dataset.vocab_size, dataset.seq_len, *shape, dtype)


def constants() -> dict[str, Any]:
    """The constants at the top, as a record of this run."""
    plain = (bool, int, float, str)
    return {name: value for name, value in globals().items() if name[0].isupper() and isinstance(value, plain)}


def evaluate(model: GPT, dataset: prepare.Dataset, done: Progress) -> tuple[float, float]:
    """Bits per byte of the validation rows, and the seconds that took. Raises: Diverged: not finite."""
    began = time.perf_counter()
    val_bpb = prepare.evaluate_bpb(model, dataset, batch_size=EVAL_BATCH_SIZE)
    if not math.isfinite(val_bpb):
        raise Diverged(f"val_bpb {val_bpb:g} at step {done.steps}")
    return val_bpb, time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
