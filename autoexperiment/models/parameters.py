"""What may stand in `model.params`: one rule for each parameter, and the faults of a whole mapping."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autoexperiment.errors import unknown

MOST_PARAMETERS = 1_000_000_000  # 4 GB as float32: a mistyped layer size is named before it takes the memory


@dataclass(frozen=True)
class Parameter:
    """One parameter of a model. `allowed` completes the sentence "Allowed: …"."""

    fits: Callable[[Any], bool]
    allowed: str
    is_required: bool = False


def is_whole(value: object, *, least: int, most: int) -> bool:
    """Whether this is an int, not a bool, within both bounds."""
    return type(value) is int and least <= value <= most


def whole(least: int, most: int) -> Parameter:
    return Parameter(lambda value: is_whole(value, least=least, most=most), f"a whole number from {least} to {most}")


def one_of(*words: object) -> Parameter:
    shown = ", ".join("null" if word is None else str(word) for word in words)
    return Parameter(lambda value: any(value == word and type(value) is type(word) for word in words), shown)


def _is_penalty(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1e300  # type: ignore[operator]


SEED = whole(0, 2**63 - 1)
L2 = Parameter(_is_penalty, "a number from 0 to 1e300")
COMMON = {"seed": SEED, "l2_regularization": L2}


def faults_of(model: str, params: Mapping[str, Any], rules: Mapping[str, Parameter]) -> list[str]:
    """Every fault of a mapping of parameters, one sentence or two each."""
    missing = [name for name, rule in rules.items() if rule.is_required and name not in params]
    faults = [f"Model {model!r} requires {name!r} parameter. Allowed: {rules[name].allowed}." for name in missing]
    for name, value in params.items():
        if name not in rules:
            faults.append(unknown("parameter", str(name), rules, where=f"model {model!r}"))
        elif not rules[name].fits(value):
            faults.append(f"{name!r} is {reprlib.repr(value)}. Allowed: {rules[name].allowed}.")
    return faults
