"""The values that a sweep may try, by dot path, and how numbers from 0 to 1 become values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

from autoexperiment.config.sweep_parameters import NumberRange, ValueList, first_repeat
from autoexperiment.dotpaths import canonical
from autoexperiment.errors import UsageError

_DIGITS = 12  # of a value from a logarithmic range: exp and log differ between systems in the last ones


@dataclass(frozen=True)
class Values:
    """A list of values, each equally likely; what they are does not matter.

    Raises: UsageError: there is none, or two are the same (1 and 1.0 are, true and 1 are not).
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise UsageError("A parameter has no values. Allowed: a list of at least one value.")
        if (repeat := first_repeat(self.values)) is not None:
            raise UsageError(f"The value {self.values[repeat]!r} stands twice in a parameter's list. Keep one of them.")

    @property
    def size(self) -> int:
        return len(self.values)

    def at(self, level: int) -> Any:
        return self.values[level]

    def level(self, value: Any) -> int | None:
        """The position of a value; None: it is none of them."""
        return self._levels.get(canonical(value))

    def drawn(self, uniform: float) -> Any:
        """The value of a number of [0, 1)."""
        return self.values[int(uniform * len(self.values))]

    @cached_property
    def _levels(self) -> dict[str, int]:
        return {canonical(value): level for level, value in enumerate(self.values)}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; low < high.

    Attributes:
        log: each factor is equally likely, not each difference; low > 0.
        step: only low, low + step, …; not with `log`.
        whole: only whole numbers; `low`, `high` and `step` are such.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    @cached_property
    def size(self) -> int | None:
        """How many values there are; None: any number in between."""
        step = self._step
        return None if step is None else int((_exact(self.high) - _exact(self.low)) / step) + 1

    def at(self, level: int) -> float:
        """The value of a level, from 0: 0.1 + 2 * 0.1 is 0.3 here. Only where there is a `size`."""
        assert self._step is not None
        exact = _exact(self.low) + level * self._step
        return int(exact) if self.whole else float(exact)

    def level(self, value: Any) -> int | None:
        """The level of a value; None: it is not one of the range, or the range has no levels."""
        if self._step is None or not _is_number(value):
            return None
        level = round((_exact(value) - _exact(self.low)) / self._step)
        return level if 0 <= level < (self.size or 0) and self.at(level) == value else None

    def drawn(self, uniform: float) -> float:
        """The value of a number of [0, 1). Where there are levels, each is equally likely, but for `log`."""
        if self.size is None:
            return self.tidy(_between(self.low, self.high, uniform, log=self.log))
        if self.log:
            # half a number more at both ends, so that the first and the last are no rarer than their neighbours
            number = round(_between(self.low - 0.5, self.high + 0.5, uniform, log=True))
            return int(min(max(number, self.low), self.high))
        return self.at(int(uniform * self.size))

    def tidy(self, value: float) -> float:
        """A number of a range without levels, as it is tried: the same on every system, and within the range."""
        near = float(f"{value:.{_DIGITS}g}") if self.log else float(value)
        return min(max(near, float(self.low)), float(self.high))

    @property
    def _step(self) -> Decimal | None:
        return _exact(self.step) if self.step is not None else Decimal(1) if self.whole else None


@dataclass(frozen=True)
class Space:
    """Everything that a sweep may try: the values of each parameter, in the order of the file."""

    parameters: Mapping[str, Values | Range]

    @classmethod
    def of(cls, parameters: Mapping[str, ValueList | NumberRange]) -> Space:
        """The space of a sweep's file: its `parameters`."""
        return cls({path: _of(parameter) for path, parameter in parameters.items()})

    @cached_property
    def size(self) -> int | None:
        """How many trials there can be; None: any number. Without parameters there is one."""
        sizes = [parameter.size for parameter in self.parameters.values()]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def at(self, index: int) -> dict[str, Any]:
        """The trial of an index, from 0; the last parameter changes fastest. Only where there is a `size`."""
        params = {}
        for path, parameter in reversed(list(self.parameters.items())):
            assert parameter.size is not None
            index, level = divmod(index, parameter.size)
            params[path] = parameter.at(level)
        return {path: params[path] for path in self.parameters}

    def index(self, params: Mapping[str, Any]) -> int | None:
        """The index of a trial; None: it is none of this space, or the space has no `size`."""
        index = 0
        for path, parameter in self.parameters.items():
            level = parameter.level(params[path]) if path in params else None
            if level is None:
                return None
            assert parameter.size is not None
            index = index * parameter.size + level
        return index

    def drawn(self, uniforms: Mapping[str, float]) -> dict[str, Any]:
        """The trial of numbers of [0, 1), one for each path."""
        return {path: parameter.drawn(uniforms[path]) for path, parameter in self.parameters.items()}


def _of(parameter: ValueList | NumberRange) -> Values | Range:
    if isinstance(parameter, ValueList):
        return Values(tuple(parameter.values))
    return Range(parameter.low, parameter.high, parameter.log, parameter.step, parameter.whole)


def _between(low: float, high: float, uniform: float, *, log: bool) -> float:
    if log:
        return math.exp(_between(math.log(low), math.log(high), uniform, log=False))
    return low + uniform * (high - low)


def _exact(value: float) -> Decimal:
    """A number as it is written: 0.1 is a tenth."""
    return Decimal(repr(float(value)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
