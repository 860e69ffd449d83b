"""Successive halving: rungs and promotions against examples worked out by hand."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoexperiment.sweep.halving import Rung, cost, point_count, promote, rungs
from autoexperiment.vocabulary import Goal

EXAMPLES = [
    # Li et al. 2018 (Hyperband), table 1, bracket s = 4: 81 trials on 1 up to 1 on 81
    ((1, 81, 3, 81), [(1, 81), (3, 27), (9, 9), (27, 3), (81, 1)]),
    ((1, 27, 3, 27), [(1, 27), (3, 9), (9, 3), (27, 1)]),
    ((1, 8, 2, 20), [(1, 20), (2, 10), (4, 5), (8, 2)]),
    ((2, 27, 3, 30), [(2, 30), (6, 10), (18, 3), (27, 1)]),  # the last step is smaller: all of the resource
    ((1, 27, 3, 9), [(1, 9), (3, 3), (27, 1)]),  # the only one that is left need not show itself on 9
    ((1, 27, 3, 2), [(1, 2), (27, 1)]),
    ((1, 27, 3, 1), [(27, 1)]),
    ((10, 11, 4, 8), [(10, 8), (11, 2)]),
    ((0.1, 2.7, 3, 27), [(0.1, 27), (0.3, 9), (0.9, 3), (2.7, 1)]),
    ((0.3, 0.9, 3, 9), [(0.3, 9), (0.9, 3)]),  # 0.3 * 3 is 0.8999999999999999
]


@pytest.mark.parametrize(("given_ones", "wanted"), EXAMPLES)
def test_rungs_are_as_worked_out_by_hand(
    given_ones: tuple[float, float, int, int], wanted: list[tuple[float, int]]
) -> None:
    least, most, factor, trials = given_ones

    found = rungs(least, most, factor=factor, trials=trials)

    assert [rung.trials for rung in found] == [count for _, count in wanted]
    assert [rung.resource for rung in found] == pytest.approx([resource for resource, _ in wanted], rel=1e-12)
    assert type(found[0].resource) is type(least)


@given(st.integers(1, 50), st.integers(1, 5000), st.integers(2, 9), st.integers(1, 10_000))
def test_rungs_grow_in_resource_and_shrink_in_trials(least: int, more: int, factor: int, trials: int) -> None:
    found = rungs(least, least + more, factor=factor, trials=trials)

    assert found[-1].resource == least + more
    assert found[0].trials == trials
    for before, after in pairwise(found):
        assert before.resource < after.resource
        assert 1 <= after.trials <= before.trials / factor or after.trials == 1


def test_points_and_cost_count_every_seed() -> None:
    plan = rungs(1, 9, factor=3, trials=9)

    # 9 trials on 1, 3 on 3, 1 on 9: 13 points, each third of the cost 27
    assert plan == (Rung(1, 9), Rung(3, 3), Rung(9, 1))
    assert (point_count(plan), cost(plan)) == (13, 27)
    assert (point_count(plan, seeds=3), cost(plan, seeds=3)) == (39, 81)


VALUES: dict[int, float | None] = {1: 0.5, 2: 0.2, 3: None, 4: 0.2, 5: 0.9, 6: math.nan, 7: math.inf, 8: -math.inf}


@pytest.mark.parametrize(
    ("keep", "goal", "best"),
    [
        (1, Goal.MINIMIZE, [2]),
        (2, Goal.MINIMIZE, [2, 4]),
        (3, Goal.MINIMIZE, [2, 4, 1]),
        (2, Goal.MAXIMIZE, [5, 1]),
        (3, Goal.MAXIMIZE, [5, 1, 2]),
        (8, Goal.MINIMIZE, [2, 4, 1, 5]),
        (0, Goal.MINIMIZE, []),
    ],
)
def test_the_best_go_on_and_failed_ones_never(keep: int, goal: Goal, best: list[int]) -> None:
    assert promote(VALUES, keep, goal) == best


def test_when_all_have_failed_none_goes_on() -> None:
    assert promote({1: None, 2: None}, 1, Goal.MINIMIZE) == []


@given(
    st.dictionaries(st.integers(1, 99), st.none() | st.floats(allow_nan=False, allow_infinity=False)),
    st.integers(0, 99),
    st.randoms(),
)
def test_who_goes_on_does_not_depend_on_who_was_finished_first(
    values: dict[int, float | None], keep: int, mixer: random.Random
) -> None:
    mixed = list(values.items())
    mixer.shuffle(mixed)

    assert promote(dict(mixed), keep, Goal.MINIMIZE) == promote(values, keep, Goal.MINIMIZE)
