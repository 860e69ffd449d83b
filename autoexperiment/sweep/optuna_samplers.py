"""Samplers of Optuna behind ours: Sobol points, TPE and CMA-ES, by ask and tell on a study in memory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from autoexperiment.errors import UsageError
from autoexperiment.extras import need
from autoexperiment.sweep.samplers import Asked, Params
from autoexperiment.sweep.space import Range, Space, Values
from autoexperiment.vocabulary import Goal

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

MOST_REPEATS = 10
_STARTUP = 10  # trials that TPE chooses at random before it begins: Optuna's own default


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's log lines and warnings: what matters here is said by us. Its settings stay the user's."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def sobol(paths: Sequence[str], *, seed: int) -> Callable[[int, int], Mapping[str, float]]:
    """Numbers of a scrambled Sobol sequence, one point further with each call.

    Optuna chooses a first trial at random, and all that are asked before the first is finished; a finished one that
    is no trial of ours lets the sequence begin at its beginning, whatever is told when.
    """
    need("optuna")
    need("scipy")
    import optuna

    unit: dict[str, BaseDistribution] = {path: optuna.distributions.FloatDistribution(0, 1) for path in paths}
    with _quiet():
        study = optuna.create_study(sampler=optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=seed))
        middle = dict.fromkeys(paths, 0.5)
        study.add_trial(optuna.trial.create_trial(params=middle, distributions=unit, value=0.0))

    def uniforms(*_: int) -> Mapping[str, float]:
        with _quiet():
            return study.ask(unit).params

    return uniforms


class AdaptiveSampler:
    """TPE or CMA-ES.

    A trial that was asked before is not asked again: others are drawn, and where those are no new ones either, the
    next in the space's order is taken.
    """

    is_adaptive = True

    def __init__(self, name: str, space: Space, *, trials: int, seed: int, goal: Goal) -> None:
        need("optuna")
        import optuna

        self._name, self._space, self._seed = name, space, seed
        self.total: int = trials if space.size is None else min(trials, space.size)
        self._distributions = {path: _distribution(each) for path, each in space.parameters.items()}
        with _quiet():
            direction: Literal["minimize", "maximize"] = "minimize" if goal is Goal.MINIMIZE else "maximize"
            self._study: Study = optuna.create_study(direction=direction, sampler=_sampler(name, space, seed))
        self._asked = Asked(space)
        self._trials: list[tuple[Params, Trial | None]] = []  # None: Optuna hears of it when it has ended

    def ask(self) -> Params | None:
        if len(self._trials) >= self.total:
            return None
        with _quiet():
            found = self._new()
        if found is None:
            return None
        self._trials.append(found)
        return dict(found[0])

    def _new(self) -> tuple[Params, Trial | None] | None:
        params: Params = {}
        for _ in range(MOST_REPEATS):
            trial = self._study.ask(self._distributions)
            params = {path: _outside(each, trial.params[path]) for path, each in self._space.parameters.items()}
            if self._asked.add(params):
                return params, trial
            self._end(trial, None)
        near = self._asked.take_near(params)
        return None if near is None else (near, None)

    def tell(self, trial: int, value: float | None) -> None:
        params, asked = self._trials[trial - 1]
        value = value if value is not None and math.isfinite(value) else None
        with _quiet():
            if asked is None:
                self._add(params, value)
            else:
                self._end(asked, value)

    def _end(self, trial: Trial, value: float | None) -> None:
        from optuna.trial import TrialState

        if value is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, value)

    def _add(self, params: Params, value: float | None) -> None:
        from optuna.trial import TrialState, create_trial

        inside = {path: _inside(path, each, params.get(path)) for path, each in self._space.parameters.items()}
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self._study.add_trial(create_trial(params=inside, distributions=self._distributions, value=value, state=state))

    def restore(self, asked: Sequence[Mapping[str, Any]], told: Mapping[int, float | None]) -> None:
        for number, params in enumerate(asked, start=1):
            self._asked.add(params)
            self._trials.append((dict(params), None))
            if number in told:
                self.tell(number, told[number])
        with _quiet():  # not the numbers that led to the trials that are there already
            self._study.sampler = _sampler(self._name, self._space, self._seed + len(asked))


def _sampler(name: str, space: Space, seed: int) -> BaseSampler:
    import optuna

    if name == "tpe":
        return optuna.samplers.TPESampler(
            n_startup_trials=_STARTUP, multivariate=True, constant_liar=True, seed=seed % 2**32
        )
    need("cmaes")
    ranges = [path for path, each in space.parameters.items() if isinstance(each, Range)]
    if len(ranges) < 2 or len(ranges) < len(space.parameters):
        raise UsageError("Sampler 'cmaes' needs two or more ranges of numbers and no lists. Choose the sampler tpe.")
    return optuna.samplers.CmaEsSampler(n_startup_trials=1, warn_independent_sampling=False, seed=seed % 2**32)


def _distribution(parameter: Values | Range) -> BaseDistribution:
    """What Optuna knows of a parameter: levels from 0 where there are such, so that it never sees what they stand for."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Values):
        return CategoricalDistribution(range(parameter.size))
    if parameter.size is None:
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    if parameter.log:
        return IntDistribution(int(parameter.low), int(parameter.high), log=True)
    return IntDistribution(0, parameter.size - 1)


def _outside(parameter: Values | Range, inside: Any) -> Any:
    """The value that one of Optuna's stands for."""
    if isinstance(parameter, Range) and parameter.size is None:
        return parameter.tidy(inside)
    if isinstance(parameter, Range) and parameter.log:
        return int(inside)
    return parameter.at(inside)


def _inside(path: str, parameter: Values | Range, value: Any) -> Any:
    """Raises: UsageError: the value is none of the parameter's."""
    if isinstance(parameter, Range) and parameter.size is None:
        if isinstance(value, int | float) and parameter.low <= value <= parameter.high:
            return float(value)
    elif (level := parameter.level(value)) is not None:
        return int(value) if isinstance(parameter, Range) and parameter.log else level
    raise UsageError(f"The value {value!r} of {path!r} is not in the sweep's space. Begin a sweep with another name.")
