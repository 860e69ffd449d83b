"""Samplers: the same trials for the same seed and history, none twice, and better ones where results are looked at."""

from __future__ import annotations

import hashlib
import logging
import math
import statistics
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from autoexperiment.errors import HarnessError, UsageError
from autoexperiment.sweep.optuna_samplers import AdaptiveSampler
from autoexperiment.sweep.samplers import Asked, DrawnSampler, Sampler, make_sampler, uniform
from autoexperiment.sweep.space import Range, Space, Values
from autoexperiment.vocabulary import Goal

MIXED = Space({"lr": Range(1e-5, 1e-1, log=True), "depth": Range(1, 8, whole=True), "act": Values(("relu", "tanh"))})
PLANE = Space({"x": Range(-5, 5), "y": Range(-5, 5)})
SMALL = Space({"x": Range(0, 5, whole=True), "y": Range(0, 1, step=0.2)})
LOGS = Space({"n": Range(1, 64, log=True, whole=True), "m": Range(1, 3, whole=True)})
FREE = ("random", "sobol")
ADAPTIVE = ("tpe", "cmaes")
SPACES = {"random": MIXED, "sobol": MIXED, "tpe": MIXED, "cmaes": PLANE}


def sampler(name: str, space: Space, trials: int = 30, seed: int = 1, goal: Goal = Goal.MINIMIZE) -> Sampler:
    return make_sampler(name, space, trials=trials, seed=seed, goal=goal)


def value_of(params: dict[str, Any]) -> float:
    """A number that depends on every parameter."""
    digest = hashlib.sha256(repr(sorted(params.items())).encode()).digest()
    return digest[0] / 256


def bowl(params: dict[str, Any]) -> float:
    """Smooth; the smallest value is 0 at (1, -2)."""
    return float((params["x"] - 1) ** 2 + (params["y"] + 2) ** 2)


def run(
    one: Sampler, judge: Callable[[dict[str, Any]], float | None] = value_of, in_flight: int = 1
) -> list[dict[str, Any]]:
    """All trials; with several in flight, the one that was asked last is finished first."""
    asked: list[dict[str, Any]] = []
    open_ones: list[int] = []
    while True:
        while len(open_ones) < in_flight and (params := one.ask()) is not None:
            asked.append(params)
            open_ones.append(len(asked))
        if not open_ones:
            return asked
        trial = open_ones.pop()
        one.tell(trial, judge(asked[trial - 1]))


# --- grid


def test_a_grid_asks_all_combinations_in_order() -> None:
    grid = {"a": [1, 2], "b": ["x", "y", "z"]}
    one = make_sampler("grid", Space({path: Values(tuple(values)) for path, values in grid.items()}), trials=None)

    assert (one.total, one.is_adaptive) == (6, False)
    assert run(one) == [{"a": a, "b": b} for a in (1, 2) for b in "xyz"]
    assert one.ask() is None


def test_a_grid_without_parameters_is_one_trial() -> None:
    assert run(make_sampler("grid", Space({}), trials=None)) == [{}]


def test_a_grid_of_any_number_is_refused() -> None:
    with pytest.raises(UsageError, match="A grid needs lists of values"):
        make_sampler("grid", PLANE, trials=None)


def test_a_grid_goes_on_where_another_stopped() -> None:
    space = Space({"a": Values((1, 2, 3, 4))})
    one = make_sampler("grid", space, trials=None)

    one.restore([{"a": 1}, {"a": 2}], {1: 0.5})

    assert run(one) == [{"a": 3}, {"a": 4}]


# --- all samplers


@pytest.mark.parametrize("name", [*FREE, *ADAPTIVE])
@pytest.mark.parametrize("in_flight", [1, 2])
def test_the_same_seed_gives_the_same_trials(name: str, in_flight: int) -> None:
    first = run(sampler(name, SPACES[name]), in_flight=in_flight)
    second = run(sampler(name, SPACES[name]), in_flight=in_flight)

    assert len(first) == 30
    assert first == second


@pytest.mark.parametrize("name", [*FREE, *ADAPTIVE])
def test_another_seed_gives_other_trials(name: str) -> None:
    assert run(sampler(name, SPACES[name], 5)) != run(sampler(name, SPACES[name], 5, seed=2))


@pytest.mark.parametrize("name", [*FREE, *ADAPTIVE])
@pytest.mark.parametrize("stop", [1, 7, 19])
def test_a_sampler_whose_calls_are_repeated_goes_on_as_if_it_had_never_stopped(name: str, stop: int) -> None:
    def go_on(one: Sampler, asked: list[Any], told: int, until: int) -> list[Any]:
        for trial in range(told + 1, until + 1):
            one.tell(trial, value_of(asked[trial - 1]) if trial % 5 else None)
            asked.append(one.ask())
        return asked

    never_stopped = sampler(name, SPACES[name])
    whole = go_on(never_stopped, [never_stopped.ask(), never_stopped.ask()], 0, 25)
    stopped = sampler(name, SPACES[name])
    logged = go_on(stopped, [stopped.ask(), stopped.ask()], 0, stop)  # two are in flight now

    resumed = sampler(name, SPACES[name])
    replayed = go_on(resumed, [resumed.ask(), resumed.ask()], 0, stop)

    assert replayed == logged
    assert go_on(resumed, replayed, stop, 25) == whole


@pytest.mark.parametrize("name", FREE)
def test_trials_that_look_at_nothing_do_not_depend_on_what_runs_side_by_side(name: str) -> None:
    alone = run(sampler(name, MIXED), in_flight=1)

    assert not sampler(name, MIXED).is_adaptive
    assert run(sampler(name, MIXED), lambda _: None, in_flight=8) == alone


@pytest.mark.parametrize("name", [*FREE, *ADAPTIVE])
@pytest.mark.parametrize(("space", "trials", "count"), [(SMALL, 1000, 36), (LOGS, 30, 30)])
def test_a_small_space_is_asked_whole_and_nothing_twice(name: str, space: Space, trials: int, count: int) -> None:
    one = sampler(name, space, trials)

    asked = run(one, lambda params: sum(params.values()))

    assert one.total == len(asked) == count
    assert len({tuple(params.items()) for params in asked}) == count
    assert one.ask() is None


def test_where_no_new_trial_can_be_drawn_the_next_ones_are_taken() -> None:
    space = Space({"a": Values((1, 2, 3, 4))})
    one = DrawnSampler(space, 9, lambda trial, attempt: {"a": 0.5})

    assert run(one) == [{"a": 3}, {"a": 4}, {"a": 1}, {"a": 2}]


def test_where_no_new_trial_can_be_drawn_in_an_endless_space_there_are_no_more() -> None:
    one = DrawnSampler(PLANE, 9, lambda trial, attempt: {"x": 0.5, "y": 0.5})

    assert run(one) == [{"x": 0.0, "y": 0.0}]


def test_in_a_space_that_has_been_asked_whole_there_is_no_next_one() -> None:
    asked = Asked(Space({"a": Values((1,))}))
    asked.add({"a": 1})

    assert asked.is_all
    assert asked.take_near({"a": 1}) is None


@pytest.mark.parametrize("name", [*FREE, *ADAPTIVE])
def test_values_are_those_of_the_space(name: str) -> None:
    levels = {number: {SMALL.at(index)[number] for index in range(36)} for number in ("x", "y")}

    for params in run(sampler(name, SMALL, 20)):
        assert params["x"] in levels["x"]
        assert params["y"] in levels["y"]
        assert (type(params["x"]), type(params["y"])) == (int, float)


@pytest.mark.parametrize("name", [*FREE, *ADAPTIVE])
def test_failed_trials_do_not_end_a_sampler(name: str) -> None:
    one = sampler(name, SPACES[name])

    asked = run(one, lambda params: None if value_of(params) < 0.7 else value_of(params))

    assert len(asked) == 30


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_when_every_trial_fails_the_sampler_still_asks(name: str, value: float | None) -> None:
    assert len(run(sampler(name, SPACES[name], 12), lambda _: value)) == 12


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_a_failure(name: str, value: float) -> None:
    def judge(failed: float | None) -> Callable[[dict[str, Any]], float | None]:
        return lambda params: failed if value_of(params) < 0.3 else value_of(params)

    found = run(sampler(name, SPACES[name], goal=Goal.MAXIMIZE), judge(value))

    assert found == run(sampler(name, SPACES[name], goal=Goal.MAXIMIZE), judge(None))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_sampler_restored_from_failures_only_has_new_trials(name: str) -> None:
    earlier = run(sampler(name, PLANE, 20), lambda _: None)
    one = sampler(name, PLANE, 40)
    one.restore(earlier, dict.fromkeys(range(1, 21)))

    later = [one.ask() for _ in range(20)]

    assert None not in later
    assert not [params for params in later if params in earlier]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_repeats_that_are_passed_over_do_not_stay_open(name: str) -> None:
    one = AdaptiveSampler(name, SMALL, trials=36, seed=1, goal=Goal.MINIMIZE)

    run(one)

    assert len(one._study.trials) > 36
    assert not [trial for trial in one._study.trials if trial.state is optuna.trial.TrialState.RUNNING]


@pytest.mark.parametrize("name", FREE)
def test_a_sampler_restored_from_its_own_trials_goes_on_with_the_same(name: str) -> None:
    whole = run(sampler(name, MIXED, 100))
    one = sampler(name, MIXED, 100)

    one.restore(whole[:80], {})

    assert run(one) == whole[80:]


@pytest.mark.parametrize("name", [*FREE, *ADAPTIVE])
def test_a_restored_sampler_asks_nothing_again_and_keeps_its_count(name: str) -> None:
    earlier = [SMALL.at(index) for index in range(0, 36, 2)]
    one = sampler(name, SMALL, 30)
    one.restore(earlier, dict.fromkeys(range(1, 17), 0.5))
    one.tell(18, 0.25)
    one.tell(17, None)

    later = []
    while (params := one.ask()) is not None:
        later.append(params)
        one.tell(18 + len(later), value_of(params))

    assert len(later) == 12
    assert len({SMALL.index(params) for params in [*earlier, *later]}) == 30


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("space", [PLANE, SMALL])
@pytest.mark.parametrize(("params", "words"), [({"x": 9, "y": 0}, "9 of 'x'"), ({"x": 1}, "None of 'y'")])
def test_a_sampler_cannot_take_over_trials_of_another_space(
    name: str, space: Space, params: dict[str, Any], words: str
) -> None:
    one = sampler(name, space)

    with pytest.raises(UsageError, match=f"The value {words} is not in the sweep's space"):
        one.restore([params], {1: 0.5})


# --- random


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 10**6), st.text(max_size=10))
def test_a_uniform_number_is_within_its_bounds_and_always_the_same(seed: int, trial: int, path: str) -> None:
    found = uniform(seed, trial, path)

    assert 0 <= found < 1
    assert found == uniform(seed, trial, path) != uniform(seed, trial, path, 1)


def test_a_uniform_number_is_53_bits_of_a_hash() -> None:
    # printf '7/3/0/lr' | sha256sum begins with these 16 digits
    digits = hashlib.sha256(b"7/3/0/lr").hexdigest()[:16]

    assert uniform(7, 3, "lr") == (int(digits, 16) >> 11) * 2.0**-53


def test_uniform_numbers_are_uniform() -> None:
    counts = Counter(int(uniform(0, trial, "x") * 10) for trial in range(1, 10_001))

    # chi-square with 9 degrees of freedom: 27.9 is passed once in a thousand
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 27.9


def test_a_parameter_more_does_not_change_the_others_values() -> None:
    few = run(sampler("random", PLANE))
    many = run(sampler("random", Space({"z": Range(0, 1), **PLANE.parameters})))

    assert few == [{path: params[path] for path in ("x", "y")} for params in many]


def test_more_trials_begin_with_the_same() -> None:
    for name in FREE:
        assert run(sampler(name, MIXED, 40))[:10] == run(sampler(name, MIXED, 10))


# --- Sobol


def test_sobol_points_are_scipys_scrambled_sequence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = qmc.Sobol(2, scramble=True, seed=1).random(16)

    found = run(sampler("sobol", Space({"x": Range(0, 1), "y": Range(0, 1)}), 16))

    assert np.array([[params["x"], params["y"]] for params in found]) == pytest.approx(wanted)


def test_sobol_points_fill_lists_evenly() -> None:
    # any 4^2 = 16 first points of a two-dimensional Sobol sequence have one in each of 4 x 4 cells
    space = Space({"a": Values(("p", "q", "r", "s")), "b": Values((1, 2, 3, 4)), "c": Range(0, 1)})
    found = run(sampler("sobol", Space({"a": space.parameters["a"], "b": space.parameters["b"]}), 16))

    assert Counter(tuple(params.values()) for params in found) == dict.fromkeys(
        ((a, b) for a in "pqrs" for b in (1, 2, 3, 4)), 1
    )


# --- what looks at results


@pytest.mark.parametrize("name", ADAPTIVE)
def test_an_adaptive_sampler_finds_a_minimum_far_better_than_chance(name: str) -> None:
    # one random point hits a disc of area a in the plane's 100 with probability a / 100, so that the best of 60 has a
    # squared distance below this in half of all cases
    chance = 100 * (1 - 0.5 ** (1 / 60)) / math.pi

    found = [min(bowl(params) for params in run(sampler(name, PLANE, 60, seed), bowl)) for seed in range(5)]

    assert statistics.median(found) < chance / 4


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_goal_decides_which_side_is_searched(name: str) -> None:
    space = Space({"x": Range(0, 1), "y": Range(0, 1)})

    def late(goal: Goal) -> float:
        return statistics.mean(
            p["x"] + p["y"] for p in run(sampler(name, space, 60, goal=goal), lambda p: p["x"] + p["y"])[40:]
        )

    assert late(Goal.MINIMIZE) < 0.6 < 1.4 < late(Goal.MAXIMIZE)


def test_results_that_were_taken_over_are_learnt_from() -> None:
    earlier = run(sampler("random", PLANE, 40), bowl)
    one = sampler("tpe", PLANE, 60)
    one.restore(earlier, {trial: bowl(params) for trial, params in enumerate(earlier, start=1)})

    later = []
    while (params := one.ask()) is not None:
        later.append(bowl(params))
        one.tell(40 + len(later), later[-1])

    assert statistics.median(later) < statistics.median(map(bowl, earlier)) / 3


def test_an_adaptive_sampler_needs_a_goal() -> None:
    with pytest.raises(UsageError, match="needs to know which values are better"):
        make_sampler("tpe", PLANE, trials=5)


@pytest.mark.parametrize("space", [MIXED, Space({"x": Range(0, 1)})])
def test_cma_es_is_refused_where_it_cannot_work(space: Space) -> None:
    with pytest.raises(UsageError, match="needs two or more ranges of numbers and no lists"):
        sampler("cmaes", space)


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Unknown sampler 'cma'. Known: grid, random.*Did you mean 'cmaes'"):
        sampler("cma", PLANE)


def test_a_sampler_without_a_number_of_trials_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a number of trials"):
        make_sampler("random", PLANE, trials=None)


# --- the library behind


@pytest.mark.parametrize("name", ["sobol", "tpe", "cmaes"])
def test_optuna_says_nothing_and_keeps_its_settings(name: str, caplog: pytest.LogCaptureFixture) -> None:
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    optuna.logging.enable_propagation()
    try:
        with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
            warnings.simplefilter("error")
            run(sampler(name, SPACES[name], 15), lambda params: None if value_of(params) < 0.3 else value_of(params))

        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
        assert not caplog.records
    finally:
        optuna.logging.disable_propagation()
        optuna.logging.set_verbosity(optuna.logging.INFO)


@pytest.mark.parametrize(
    ("name", "library"),
    [("sobol", "optuna"), ("sobol", "scipy"), ("tpe", "optuna"), ("cmaes", "optuna"), ("cmaes", "cmaes")],
)
def test_a_missing_library_is_told_with_its_extra(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(
        HarnessError, match=rf"This needs {library}, which is not installed.*pip install 'autoexperiment\["
    ):
        sampler(name, SPACES[name])


def test_grid_and_random_need_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("optuna", "scipy", "cmaes"):
        monkeypatch.setitem(sys.modules, library, None)

    assert len(run(sampler("random", MIXED, 5))) == 5
