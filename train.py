"""Train a small GPT for a fixed budget and report its bits per byte. This is the one file to edit.

    python prepare.py          once: text, tokenizer and packed rows
    python train.py            train, evaluate, print the result block, write data/last_run.json

The constants come first, then model, optimiser, loop and `main`. The environment may set SEED and one
of TIME_BUDGET (seconds), TOKEN_BUDGET and STEP_BUDGET, which then replace the constants.
A comment `search: lo..hi` behind a constant is the range that `mlx loop run --agent search` tries.

Exit: 0 ok, 2 a setting that is not allowed, 3 the loss diverged.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import gc
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import prepare  # before mlx: it loads the fast BLAS

import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip
import mlx.optimizers as optim  # isort: skip
from mlx.utils import tree_flatten, tree_map  # isort: skip

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
DEPTH = pick(cpu=2, gpu=4)  # layers | search: 1..6 int
HEADS = pick(cpu=2, gpu=4)  # attention heads; width = HEADS * HEAD_DIM | search: 1..8 int
HEAD_DIM = 64  # channels a head | search: 32, 64, 128
MLP_RATIO = 4  # hidden width over width | search: 1..6 int
ROPE_BASE = 10_000.0  # longest wavelength of the rotary embedding, in tokens | search: 1000..100000 log
VALUE_EMBEDDING = True  # a second embedding added to the attention values of the last layer | search: True, False

# Batch
DEVICE_BATCH_SIZE = pick(cpu=8, gpu=16)  # rows in one pass | search: 4, 8, 16, 32
TOTAL_BATCH_SIZE = pick(cpu=2**11, gpu=2**16)  # tokens a step, rounded to whole passes | search: 1024..131072 log

# Optimiser: Muon for matrices, AdamW for the rest. The AdamW rates hold at width 768.
MATRIX_LR = 0.02  # Muon | search: 0.002..0.2 log
EMBEDDING_LR = 0.2  # AdamW, token and value embeddings | search: 0.01..2 log
UNEMBEDDING_LR = 0.004  # AdamW, output matrix | search: 0.0004..0.04 log
SCALAR_LR = 0.05  # AdamW, gains | search: 0.005..0.5 log
MOMENTUM = 0.95  # Muon | search: 0.8..0.98
BETA1 = 0.8  # AdamW | search: 0.5..0.95
BETA2 = 0.95  # AdamW | search: 0.8..0.999
WEIGHT_DECAY = 0.0  # AdamW | search: 0..0.2
NS_STEPS = 5  # Newton-Schulz iterations of Muon | search: 3..6 int

# Schedule, as fractions of the budget
WARMUP = 0.0  # rising linearly from 0 | search: 0..0.2
WARMDOWN = 0.5  # falling linearly to FINAL_LR | search: 0.1..1
FINAL_LR = 0.0  # last learning rate over the full one | search: 0..0.2

EVAL_BATCH_SIZE = 32  # rows in one evaluation pass; does not change the result
COMPILE = True  # mx.compile the step, where a compiler is there
MAX_LOSS = 100.0  # nats; beyond it the run has diverged
DATA = Path("data")


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
        return x + self.down(mx.square(nn.relu(self.up(rms_norm(x)))))


class GPT(nn.Module):
    """int32 tokens (B, T) to logits (B, T, V)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.embedding.weight = mx.random.normal(self.embedding.weight.shape)
        if config.value_embedding:
            self.value_embedding = nn.Embedding(config.vocab_size, config.width)
            self.value_embedding.weight = mx.zeros(self.value_embedding.weight.shape)
        self.blocks = [Block(config) for _ in range(config.depth)]
        self.unembedding = Linear(config.width, config.vocab_size, scale=0)

    def __call__(self, tokens: mx.array) -> mx.array:
        c, dtype = self._config, getattr(mx, self._config.dtype)
        x = rms_norm(self.embedding(tokens).astype(dtype))
        extra = self.value_embedding(tokens).astype(dtype) if c.value_embedding else None
        for number, block in enumerate(self.blocks):
            x = block(x, extra if number == c.depth - 1 else None)
        return self.unembedding(rms_norm(x))


def build_model(config: Mapping[str, Any]) -> GPT:
    """A model with fresh weights from the content of a checkpoint's config.json."""
    return GPT(Config(**config))


def flops_per_token(model: GPT, config: Config) -> float:
    """Forward and backward: 6 a matrix weight, plus attention's two products over a causal row."""
    weights = sum(p.size for name, p in tree_flatten(model.parameters()) if "embedding.weight" not in name)
    weights += model.unembedding.weight.size
    return 6.0 * weights + 6.0 * config.depth * config.width * config.seq_len


# --- optimiser ---


def make_optimizer(config: Config) -> tuple[optim.MultiOptimizer, list[float]]:
    """Muon and AdamW by the kind of parameter, and the full learning rate of each."""
    scale = math.sqrt(768 / config.width)
    adam = {"betas": [BETA1, BETA2], "eps": 1e-10, "weight_decay": WEIGHT_DECAY, "bias_correction": True}
    rates = [UNEMBEDDING_LR * scale, EMBEDDING_LR * scale, MATRIX_LR, SCALAR_LR]
    groups = [
        optim.AdamW(learning_rate=rates[0], **adam),
        optim.AdamW(learning_rate=rates[1], **adam),
        optim.Muon(learning_rate=rates[2], momentum=MOMENTUM, weight_decay=0.0, ns_steps=NS_STEPS),
        optim.AdamW(learning_rate=rates[3], **adam),
    ]
    filters = [
        lambda name, _: name.startswith("unembedding"),
        lambda name, _: "embedding" in name,
        lambda _, weight: weight.ndim >= 2,
    ]
    return optim.MultiOptimizer(groups, filters), rates


def lr_multiplier(progress: float) -> float:
    """Share of the full learning rate at `progress` in [0, 1] of the budget."""
    if progress < WARMUP:
        return (progress + 0.01) / (WARMUP + 0.01)
    left = (1 - min(progress, 1.0)) / WARMDOWN
    return FINAL_LR + (1 - FINAL_LR) * min(left, 1.0)


# --- budget and loop ---


@dataclass(frozen=True)
class Settings:
    """What the environment may choose. `kind` is "seconds", "tokens" or "steps"."""

    seed: int
    kind: str
    amount: float
    skip_eval: bool


class BadSetting(Exception):
    """A value in the environment that is not allowed."""


def read_settings(env: Mapping[str, str]) -> Settings:
    """Raises: BadSetting: not a number, not above zero, or more than one budget."""
    budgets = [(name, kind) for name, kind in BUDGETS.items() if name in env]
    if len(budgets) > 1:
        names = " and ".join(name for name, _ in budgets)
        raise BadSetting(f"{names} are both set. One budget is allowed. Unset all but one.")
    seed = _number(env, "SEED", SEED, whole=True)
    name, kind = budgets[0] if budgets else ("TIME_BUDGET", "seconds")
    amount = _number(env, name, TIME_BUDGET, whole=kind != "seconds")
    if not 0 < amount < math.inf:
        raise BadSetting(f"{name}={env.get(name)} is no budget. It must be above 0. For example: {name}=20")
    return Settings(int(seed), kind, amount, env.get("AUTOEXPERIMENT_SKIP_EVAL") == "1")


BUDGETS = {"TIME_BUDGET": "seconds", "TOKEN_BUDGET": "tokens", "STEP_BUDGET": "steps"}


def _number(env: Mapping[str, str], name: str, default: float, *, whole: bool) -> float:
    text = env.get(name)
    try:
        return default if text is None else (int(text) if whole else float(text))
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise BadSetting(f"{name}={text!r} is not {kind}. For example: {name}=20") from None


@dataclass
class Progress:
    """What training has used and reached so far."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    ema: float = 0.0

    @property
    def loss(self) -> float:
        """Moving average of the loss in nats, debiased; over about the last 20 steps."""
        return self.ema / (1 - 0.95**self.steps) if self.steps else math.nan

    def spent(self, settings: Settings) -> float:
        """Share of the budget that is used."""
        used = {"seconds": self.seconds, "tokens": self.tokens, "steps": self.steps}
        return used[settings.kind] / settings.amount


def loss_of(model: GPT, x: mx.array, y: mx.array) -> mx.array:
    """Mean cross-entropy in nats, computed in float32."""
    return nn.losses.cross_entropy(model(x).astype(mx.float32), y, reduction="mean")


class Trainer:
    """The step as a function of parameters and optimiser state, so that a warm-up leaves no trace."""

    def __init__(self, model: GPT, config: Config, *, passes: int) -> None:
        self.model = model
        self.passes = passes
        self.optimizer, self.rates = make_optimizer(config)
        self.optimizer.init(model.trainable_parameters())
        self.weights, self.state = model.trainable_parameters(), self.optimizer.state
        compiled = mx.compile if is_compilable() else lambda function: function
        self._gradients, self._apply = compiled(self._gradients_of), compiled(self._applied)

    def _gradients_of(self, weights: Any, x: mx.array, y: mx.array) -> Any:
        self.model.update(weights)
        return nn.value_and_grad(self.model, loss_of)(self.model, x, y)

    def _applied(self, weights: Any, state: Any, gradients: Any, multiplier: mx.array) -> Any:
        self.optimizer.state = state
        for group, rate in zip(self.optimizer.optimizers, self.rates, strict=True):
            group.learning_rate = rate * multiplier
        return self.optimizer.apply_gradients(gradients, weights), self.optimizer.state

    def step(self, rows: Any, multiplier: float) -> tuple[mx.array, Any, Any]:
        """Loss, and weights and state after one step; the trainer itself is unchanged."""
        loss, gradients = self._gradients(self.weights, *next(rows))
        for _ in range(self.passes - 1):
            mx.eval(loss, gradients)
            more_loss, more = self._gradients(self.weights, *next(rows))
            loss, gradients = loss + more_loss, tree_map(mx.add, gradients, more)
        if self.passes > 1:
            loss, gradients = loss / self.passes, tree_map(lambda g: g / self.passes, gradients)
        return loss, *self._apply(self.weights, self.state, gradients, mx.array(multiplier))


def is_compilable() -> bool:
    """On the CPU `mx.compile` calls a C++ compiler at run time."""
    return COMPILE and (IS_GPU or shutil.which("g++") is not None)


def train(trainer: Trainer, rows: Any, settings: Settings, *, step_tokens: int, say: Callable[[str], None]) -> Progress:
    """Train until the budget is spent. Raises: Diverged."""
    done, said = Progress(), 0.0
    began = time.perf_counter()
    while (spent := done.spent(settings)) < 1:
        multiplier = lr_multiplier(spent)
        loss, trainer.weights, trainer.state = trainer.step(rows, multiplier)
        mx.eval(loss, trainer.weights, trainer.state)
        value = loss.item()
        if not value <= MAX_LOSS:
            raise Diverged(f"loss {value:g} at step {done.steps + 1}")
        done.steps += 1
        done.tokens += step_tokens
        done.ema = 0.95 * done.ema + 0.05 * value
        done.seconds = time.perf_counter() - began
        if done.steps == 1:
            gc.collect()
            gc.freeze()
            gc.disable()
        if done.seconds - said >= 1:
            said = done.seconds
            say(progress_line(done, settings, multiplier))
    return done


def progress_line(done: Progress, settings: Settings, multiplier: float) -> str:
    """One line for the log."""
    spent = max(done.spent(settings), 1e-9)
    return (
        f"step {done.steps} | {spent:.1%} | loss {done.loss:.4f} | lr x{multiplier:.3f} | "
        f"{done.tokens / done.seconds:,.0f} tok/s | {max(done.seconds / spent - done.seconds, 0):.0f} s left"
    )
