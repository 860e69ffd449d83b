"""The hyperparameters of the backend `mlx_lm`: names, defaults, what is allowed, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoexperiment.errors import DataError, UsageError, unknown

ALL_LAYERS = -1
MOST_LAYERS = 16  # that get an adapter unless `lora_layers` says otherwise, as in mlx-lm: the last ones
OPTIMIZERS = ("adam", "adamw", "sgd")


@dataclass(frozen=True)
class Number:
    """What a number may be. `is_open`: the lowest value itself is not allowed."""

    default: float | int | None
    least: float
    most: float
    is_whole: bool = True
    is_open: bool = False

    def fault(self, value: Any) -> str:
        """What is allowed, where the value is not; else ""."""
        fits = type(value) is int or (type(value) is float and not self.is_whole)
        if fits and (self.least < value if self.is_open else self.least <= value) and value <= self.most:
            return ""
        kind = "a whole number" if self.is_whole else "a number"
        return f"{kind} {'above' if self.is_open else 'from'} {self.least:g} to {self.most:g}"


NUMBERS: Mapping[str, Number] = {
    "n_epochs": Number(3, 1, 1e6),
    "iters": Number(None, 1, 1e9),
    "batch_size": Number(4, 1, 1e6),
    "learning_rate": Number(1e-4, 0, 1e3, is_whole=False, is_open=True),
    "lora_rank": Number(8, 1, 65_536),
    "lora_layers": Number(None, ALL_LAYERS, 65_536),
    "lora_scale": Number(20.0, 0, 1e6, is_whole=False, is_open=True),
    "lora_alpha": Number(None, 0, 1e9, is_whole=False, is_open=True),
    "lora_dropout": Number(0.0, 0, 0.99, is_whole=False),
    "max_seq_length": Number(2048, 8, 1e7),
    "max_answer_tokens": Number(256, 1, 1e6),
    "seed": Number(1, 0, 2**63 - 1),
    "split_seed": Number(0, 0, 2**63 - 1),
    "val_fraction": Number(0.1, 0, 0.9, is_whole=False),
    "test_fraction": Number(0.1, 0, 0.9, is_whole=False),
}
OTHERS: Mapping[str, Any] = {"optimizer": "adam", "mask_prompt": True}
NAMES = (*NUMBERS, *OTHERS)
EXCLUSIVE = (("n_epochs", "iters"), ("lora_scale", "lora_alpha"))  # two ways to say one thing


def check(given: Mapping[str, Any]) -> dict[str, Any]:
    """All hyperparameters, the ones that were not given with their defaults. Raises: UsageError: one is not allowed."""
    for name, value in given.items():
        if name not in NAMES:
            raise UsageError(unknown("hyperparameter", name, NAMES, where="the backend 'mlx_lm'"))
        if allowed := _fault(name, value):
            raise UsageError(f"The hyperparameter {name!r} is {value!r}. Allowed: {allowed}.")
    for pair in EXCLUSIVE:
        if all(name in given for name in pair):
            raise UsageError(
                f"The hyperparameters {pair[0]!r} and {pair[1]!r} say the same thing. Leave one of them out."
            )
    whole = {**{name: number.default for name, number in NUMBERS.items()}, **OTHERS, **given}
    if whole["val_fraction"] + whole["test_fraction"] > 0.9:
        raise UsageError("val_fraction and test_fraction leave less than a tenth for training. Lower one of them.")
    return whole


def _fault(name: str, value: Any) -> str:
    if name in NUMBERS:
        return (
            "a whole number from 1, or -1 for all"
            if name == "lora_layers" and value == 0
            else NUMBERS[name].fault(value)
        )
    if name == "optimizer":
        return "" if value in OPTIMIZERS else ", ".join(OPTIMIZERS)
    return "" if isinstance(value, bool) else "true or false"


def settings_of(given: Mapping[str, Any], *, n_train: int, layers: int | None) -> dict[str, Any]:
    """The settings of a training: what `check` gave, with everything that follows from data and model.

    Args:
        n_train: rows to train on.
        layers: that the model has; None: it does not say.
    Raises: UsageError, DataError: they do not go together.
    """
    if n_train < given["batch_size"]:
        raise DataError(
            f"There are {n_train} rows to train on, and a batch has {given['batch_size']}. Lower batch_size, val_fraction "
            "or test_fraction, or give more rows."
        )
    rank, alpha = given["lora_rank"], given["lora_alpha"]
    iters = given["iters"] or given["n_epochs"] * (n_train // given["batch_size"])
    scale = given["lora_scale"] if alpha is None else alpha / rank
    named = {name: value for name, value in given.items() if name not in ("n_epochs", "lora_alpha")}
    return {
        **named,
        "iters": iters,
        "lora_scale": float(scale),
        "lora_layers": _lora_layers(given["lora_layers"], layers),
    }


def _lora_layers(wanted: int | None, layers: int | None) -> int:
    if wanted is None:
        return MOST_LAYERS if layers is None else min(MOST_LAYERS, layers)
    if layers is not None and wanted > layers:
        raise UsageError(
            f"lora_layers is {wanted}, and the model has {layers} layers. Allowed: 1 to {layers}, or -1 for all."
        )
    return wanted
