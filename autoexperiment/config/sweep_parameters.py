"""What a sweep may vary: the types of its parameters, and when two values or two paths are the same."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from autoexperiment.config.fields import NEEDS, Section, broken, check_json, needs, needs_number
from autoexperiment.dotpaths import canonical

MOST_VALUES = 10_000
MOST_LEVELS = 10**15  # of a range: a number of [0, 1) has 2^53 of them
DOT_PATH = r"^[^.\s]+(?:\.[^.\s]+)*$(?!\n)"


def first_repeat(values: Sequence[Any]) -> int | None:
    """The position of the first value that stood before; None: all are distinct."""
    seen: set[str] = set()
    for position, value in enumerate(values):
        if (identity := canonical(value)) in seen:
            return position
        seen.add(identity)
    return None


def is_inside(inner: str, outer: str) -> bool:
    """Whether a dot path is another one, or lies below it."""
    return f"{inner}.".startswith(f"{outer}.")


def shaped(pattern: str) -> AfterValidator:
    def validator(text: str) -> str:
        if not re.match(pattern, text) or not text.isprintable():
            raise ValueError("not of the right form")  # `needs` around it has the words
        return text

    return AfterValidator(validator)


def distinct(values: list[Any]) -> list[Any]:
    if (repeat := first_repeat(values)) is not None:
        raise broken(f"The value {json.dumps(values[repeat])[:60]} stands twice in a list. Keep one of them")
    return values


def whole(value: Any) -> Any:
    """3.0 and 1e3 are whole numbers, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _list_or_object(value: Any) -> Any:
    """`[…]` is short for `{"values": […]}`."""
    if isinstance(value, list):
        return {"values": value}
    if not isinstance(value, dict):
        text = "a list of values, or an object with 'values' or with 'low' and 'high'"
        raise PydanticCustomError(
            NEEDS, "{text}", {"text": text, "allowed": "for example [0.1, 0.01]", "is_number": False}
        )
    return value


DotPath = Annotated[
    str, Field(max_length=500), shaped(DOT_PATH), Field(json_schema_extra={"pattern": DOT_PATH}),
    needs("a dot path", "names with dots between, for example training.learning_rate"),
]  # fmt: skip
Json = Annotated[Any, AfterValidator(check_json), needs("a value of JSON, without NaN and infinity")]
Number = Annotated[float, Field(ge=-1e30, le=1e30), needs_number("a number", "-1e+30 to 1e+30")]


class ValueList(Section):
    """Values to be tried one by one; they may be of any kind."""

    values: Annotated[
        list[Json], Field(min_length=1, max_length=MOST_VALUES), AfterValidator(distinct),
        needs("a list", f"1 to {MOST_VALUES} values"),
    ]  # fmt: skip


class NumberRange(Section):
    """Numbers from `low` to `high`, both included."""

    low: Number
    high: Number
    log: Annotated[bool, Field(description="Each factor is equally likely, not each difference.")] = False
    step: Annotated[
        Annotated[float, Field(ge=1e-30, le=1e30)] | None,
        Field(description="Only low, low + step, low + 2 step, … up to high."),
        needs_number("a positive number", "1e-30 to 1e+30, or null for any number"),
    ] = None
    whole: Annotated[bool, Field(description="Only whole numbers.")] = False

    @field_validator("high")
    @classmethod
    def _above_low(cls, high: float, info: ValidationInfo) -> float:
        if not info.data.get("low", -1e31) < high:
            raise broken(f"'high' ({high:g}) must be above 'low' ({info.data['low']:g})")
        return high

    @field_validator("log")
    @classmethod
    def _has_logarithms(cls, log: bool, info: ValidationInfo) -> bool:
        if log and info.data.get("low", 1) <= 0:
            raise broken(f"'log' needs 'low' above 0, and it is {info.data['low']:g}")
        return log

    @field_validator("step")
    @classmethod
    def _makes_values(cls, step: float | None, info: ValidationInfo) -> float | None:
        if step is None or not {"low", "high"} <= info.data.keys():
            return step
        if info.data.get("log"):
            raise broken("'step' and 'log' exclude each other. Leave one out, or list the values")
        width = info.data["high"] - info.data["low"]
        if not step <= width <= step * MOST_LEVELS:
            raise broken(f"'step' ({step:g}) must make 2 to {MOST_LEVELS:g} values between 'low' and 'high'")
        return step

    @field_validator("whole")
    @classmethod
    def _whole_bounds(cls, whole: bool, info: ValidationInfo) -> bool:
        if not whole:
            return whole
        for name in ("low", "high", "step"):
            value = info.data.get(name)
            if value is not None and not (value.is_integer() and abs(value) <= MOST_LEVELS):
                raise broken(f"'whole' needs a whole {name!r} of at most {MOST_LEVELS:g}, and it is {value:g}")
        return whole


def _form(value: Any) -> str:
    given = value if isinstance(value, dict) else {"values": 0} if isinstance(value, ValueList) else {}
    return "values" if "values" in given else "range"


Parameter = Annotated[
    Annotated[ValueList, Tag("values")] | Annotated[NumberRange, Tag("range")],
    Discriminator(_form),
    BeforeValidator(_list_or_object),
]
