"""What chooses the trials of a sweep: a grid, random numbers, or a sampler that looks at what came out.

Every sampler is deterministic: the same calls in the same order give the same trials. Those that are not adaptive give
the same trials whatever was told and however many points run side by side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from autoexperiment.config.sweep_document import ADAPTIVE, SAMPLERS
from autoexperiment.dotpaths import canonical
from autoexperiment.errors import UsageError, unknown
from autoexperiment.sweep.space import Space
from autoexperiment.vocabulary import Goal

MOST_DRAWS = 64
Params = dict[str, Any]


class Sampler(Protocol):
    """Chooses trials one by one.

    Attributes:
        total: how many trials there are at most.
        is_adaptive: what was told decides what is asked next. Such a sampler comes back to where it was by the same
            calls of `ask` and `tell` in the same order, or with `restore`.
    """

    total: int
    is_adaptive: bool

    def ask(self) -> Params | None:
        """The values of the next trial, by dot path, never the same twice; None: there is nothing more to ask."""
        ...

    def tell(self, trial: int, value: float | None) -> None:
        """How a trial ended, once. Args: trial: from 1, in the order of `ask`. value: None or not finite: it failed."""
        ...

    def restore(self, asked: Sequence[Mapping[str, Any]], told: Mapping[int, float | None]) -> None:
        """Take over the trials of another sampler of this space; to be called before the first `ask`.

        Args:
            asked: values of trials 1, 2, …
            told: value by trial number; those that are missing may be told later.
        """
        ...


class Asked:
    """The trials of a space that have been asked."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._seen: set[int | str] = set()

    @property
    def is_all(self) -> bool:
        return self._space.size is not None and len(self._seen) >= self._space.size

    def add(self, params: Mapping[str, Any]) -> bool:
        """Whether a trial is new; from now on it is not."""
        index = self._space.index(params)
        key = canonical(params) if index is None else index
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new

    def take_near(self, params: Mapping[str, Any]) -> Params | None:
        """The first new trial after another one in the space's order, which begins again at its end; None: there is
        none, or the space has no order."""
        size = self._space.size
        if size is None or self.is_all:
            return None
        index = self._space.index(params)
        assert index is not None
        while index in self._seen:
            index = (index + 1) % size
        self._seen.add(index)
        return self._space.at(index)


class GridSampler:
    """All combinations; the last parameter changes fastest."""

    is_adaptive = False

    def __init__(self, space: Space) -> None:
        if space.size is None:
            raise UsageError("A grid needs lists of values. List them, or choose another sampler: random.")
        self._space = space
        self.total = space.size
        self._count = 0

    def ask(self) -> Params | None:
        if self._count >= self.total:
            return None
        self._count += 1
        return self._space.at(self._count - 1)

    def tell(self, trial: int, value: float | None) -> None:
        """Nothing depends on it."""

    def restore(self, asked: Sequence[Mapping[str, Any]], told: Mapping[int, float | None]) -> None:
        self._count = len(asked)


class ListedSampler:
    """Trials that are known already, in their order."""

    is_adaptive = False

    def __init__(self, trials: Sequence[Params]) -> None:
        self.total = len(trials)
        self._trials, self._count = trials, 0

    def ask(self) -> Params | None:
        self._count += 1
        return dict(self._trials[self._count - 1]) if self._count <= self.total else None

    def tell(self, trial: int, value: float | None) -> None:
        """Nothing depends on it."""

    def restore(self, asked: Sequence[Mapping[str, Any]], told: Mapping[int, float | None]) -> None:
        self._count = len(asked)


class DrawnSampler:
    """Trials made of numbers of [0, 1).

    Args:
        trials: how many; fewer when the space has no more.
        uniforms: (trial from 1, attempt from 0) -> a number by path. A further attempt is made when the trial of the
            one before has been asked already.
    """

    is_adaptive = False

    def __init__(self, space: Space, trials: int, uniforms: Callable[[int, int], Mapping[str, float]]) -> None:
        self._space, self._uniforms = space, uniforms
        self.total = trials if space.size is None else min(trials, space.size)
        self._asked = Asked(space)
        self._count = 0

    def ask(self) -> Params | None:
        if self._count >= self.total or (params := self._new()) is None:
            return None
        self._count += 1
        return params

    def _new(self) -> Params | None:
        params: Params = {}
        for attempt in range(MOST_DRAWS):
            params = self._space.drawn(self._uniforms(self._count + 1, attempt))
            if self._asked.add(params):
                return params
        return self._asked.take_near(params)

    def tell(self, trial: int, value: float | None) -> None:
        """Nothing depends on it."""

    def restore(self, asked: Sequence[Mapping[str, Any]], told: Mapping[int, float | None]) -> None:
        for trial, params in enumerate(asked, start=1):
            self._uniforms(trial, 0)  # a sequence is one point further
            self._asked.add(params)
        self._count = len(asked)


def uniform(seed: int, trial: int, path: str, attempt: int = 0) -> float:
    """A number of [0, 1) that depends on nothing else: 53 bits of a SHA-256."""
    digest = hashlib.sha256(f"{seed}/{trial}/{attempt}/{path}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def random_sampler(space: Space, *, trials: int, seed: int) -> DrawnSampler:
    """Each trial's value at a path depends on the seed, the trial's number and the path only."""
    return DrawnSampler(
        space, trials, lambda trial, attempt: {path: uniform(seed, trial, path, attempt) for path in space.parameters}
    )


def make_sampler(name: str, space: Space, *, trials: int | None, seed: int = 0, goal: Goal | None = None) -> Sampler:
    """The sampler of a name.

    Args:
        trials: how many; None for a grid.
        goal: of the values that are told; an adaptive sampler needs it.
    Raises: HarnessError: it needs a library that is not installed. UsageError: there is no such sampler, or it cannot
        choose from this space.
    """
    if name == "grid":
        return GridSampler(space)
    if trials is None:
        raise UsageError(f"Sampler {name!r} needs a number of trials. For example: trials=32")
    if name == "random":
        return random_sampler(space, trials=trials, seed=seed)
    from autoexperiment.sweep import optuna_samplers

    if name == "sobol":
        return DrawnSampler(space, trials, optuna_samplers.sobol(tuple(space.parameters), seed=seed))
    if name not in ADAPTIVE:
        raise UsageError(unknown("sampler", name, SAMPLERS))
    if goal is None:
        raise UsageError(f"Sampler {name!r} needs to know which values are better. Allowed: minimize, maximize.")
    return optuna_samplers.AdaptiveSampler(name, space, trials=trials, seed=seed, goal=goal)
