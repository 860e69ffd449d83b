"""What values a space has, how likely each is, and that numbers become the same values everywhere."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoexperiment.config.sweep_loader import load_sweep_dict
from autoexperiment.errors import UsageError
from autoexperiment.sweep.space import Range, Space, Values

UNIFORMS = st.floats(0, 1, exclude_max=True)
LAST = 1 - 2**-53
LEVELLED = [
    (Range(0, 1, step=0.1), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
    (Range(0, 1, step=0.3), [0.0, 0.3, 0.6, 0.9]),
    (Range(0.1, 0.5, step=0.2), [0.1, 0.3, 0.5]),
    (Range(-1, 2, whole=True), [-1, 0, 1, 2]),
    (Range(1, 8, step=3, whole=True), [1, 4, 7]),
    (Range(16, 128, step=16, whole=True), [16, 32, 48, 64, 80, 96, 112, 128]),
]


@pytest.mark.parametrize(("span", "values"), LEVELLED)
def test_a_range_with_steps_has_the_values_that_one_would_write(span: Range, values: list[float]) -> None:
    assert span.size == len(values)
    assert [span.at(level) for level in range(len(values))] == values
    assert {type(span.at(level)) for level in range(len(values))} == {int if span.whole else float}
    assert [span.level(value) for value in values] == list(range(len(values)))


@pytest.mark.parametrize(("span", "values"), LEVELLED)
def test_each_level_has_an_equal_share_of_the_numbers(span: Range, values: list[float]) -> None:
    fine = 50 * len(values)

    found = Counter(span.drawn((number + 0.5) / fine) for number in range(fine))

    assert found == dict.fromkeys(values, 50)


@pytest.mark.parametrize("value", [0.05, 1.1, -0.1, True, "0.1", None, math.nan, math.inf])
def test_what_is_no_value_of_a_range_has_no_level(value: Any) -> None:
    assert Range(0, 1, step=0.1).level(value) is None


def test_a_range_of_any_number_has_no_levels() -> None:
    assert (Range(0, 1).size, Range(0, 1).level(0.5)) == (None, None)


@pytest.mark.parametrize(("uniform", "value"), [(0, -2.0), (0.25, -1.0), (0.5, 0.0), (0.75, 1.0)])
def test_a_linear_range_is_drawn_evenly(uniform: float, value: float) -> None:
    assert Range(-2, 2).drawn(uniform) == value


@pytest.mark.parametrize(("uniform", "value"), [(0, 1e-5), (0.25, 1e-4), (0.5, 1e-3), (0.75, 1e-2)])
def test_a_logarithmic_range_is_drawn_evenly_in_factors(uniform: float, value: float) -> None:
    # exact, though exp and log are not: what is drawn has 12 digits
    assert Range(1e-5, 1e-1, log=True).drawn(uniform) == value


def test_whole_numbers_of_a_logarithmic_range_share_the_logarithms() -> None:
    # k has log((k + 1/2) / (k - 1/2)) of log(4.5 / 0.5)
    span, fine = Range(1, 4, log=True, whole=True), 100_000
    whole = math.log(4.5 / 0.5)

    found = Counter(span.drawn((number + 0.5) / fine) for number in range(fine))

    assert (span.drawn(0), span.drawn(LAST)) == (1, 4)
    assert set(found) == {1, 2, 3, 4}
    for k, count in found.items():
        assert count / fine == pytest.approx(math.log((k + 0.5) / (k - 0.5)) / whole, abs=2e-5)


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-30, 1e29), st.floats(1.001, 10), UNIFORMS, st.booleans())
def test_what_is_drawn_is_within_the_range(low: float, factor: float, uniform: float, log: bool) -> None:
    span = Range(low, low * factor, log=log)

    assert span.low <= span.drawn(uniform) <= span.high


@settings(max_examples=100, deadline=None)
@given(st.integers(-1000, 1000), st.integers(1, 1000), st.integers(1, 50), UNIFORMS)
def test_every_number_of_a_levelled_range_is_one_of_its_values(low: int, width: int, step: int, uniform: float) -> None:
    span = Range(low, low + width, step=step, whole=True) if step <= width else Range(low, low + width, whole=True)

    drawn = span.drawn(uniform)

    assert span.size is not None
    assert drawn in {span.at(level) for level in range(span.size)}
    assert (span.at(0), span.drawn(0)) == (low, low)
    assert span.at(span.size - 1) == span.drawn(LAST) <= span.high


def test_a_range_of_very_many_steps_reaches_both_ends() -> None:
    span = Range(0, 10**15, whole=True)

    assert (span.size, span.drawn(0), span.drawn(LAST)) == (10**15 + 1, 0, 10**15)


def test_a_list_keeps_its_values_as_they_are() -> None:
    values = Values((True, 1, "1", None, (1,)))

    assert [values.at(level) for level in range(5)] == [True, 1, "1", None, (1,)]
    assert [values.drawn(uniform) for uniform in (0, 0.2, 0.4, 0.6, 0.8, LAST)] == [True, 1, "1", None, (1,), (1,)]
    assert [values.level(value) for value in (True, 1.0, "1", None, [1], "2")] == [0, 1, 2, 3, 4, None]


def test_a_list_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one value"):
        Values(())


def test_a_value_that_stands_twice_is_refused() -> None:
    with pytest.raises(UsageError, match=r"The value 1\.0 stands twice"):
        Values((1, 2, 1.0))


GRID = {"a": [1, 2], "b": ["x", "y", "z"], "c.d": [0.5, None]}
SPACE = Space({path: Values(tuple(values)) for path, values in GRID.items()})


def test_the_trials_of_a_space_are_in_the_order_of_a_grid() -> None:
    assert SPACE.size == 12
    assert [SPACE.at(index) for index in range(12)] == [
        {"a": a, "b": b, "c.d": d} for a in (1, 2) for b in "xyz" for d in (0.5, None)
    ]
    assert [SPACE.index(SPACE.at(index)) for index in range(12)] == list(range(12))


def test_a_space_without_parameters_has_one_trial() -> None:
    assert (Space({}).size, Space({}).at(0), Space({}).drawn({}), Space({}).index({})) == (1, {}, {}, 0)


@pytest.mark.parametrize("params", [{}, {"a": 1, "b": "x"}, {"a": 3, "b": "x", "c.d": None}])
def test_what_is_no_trial_of_a_space_has_no_index(params: dict[str, Any]) -> None:
    assert SPACE.index(params) is None


def test_one_range_of_any_number_makes_a_space_infinite() -> None:
    space = Space({"a": Values((1, 2)), "b": Range(0, 1)})

    assert (space.size, space.index({"a": 1, "b": 0.5})) == (None, None)
    assert space.drawn({"b": 0.25, "a": 0.5}) == {"a": 2, "b": 0.25}


def test_a_sweeps_parameters_make_its_space() -> None:
    parameters = {
        "a": [1, "x"],
        "b": {"low": 1, "high": 9, "step": 2, "whole": True},
        "c": {"low": 0.1, "high": 1, "log": True},
    }
    sweep = load_sweep_dict(
        {"name": "s", "work": "gpt", "parameters": parameters, "sampler": {"name": "random", "trials": 3}}
    )

    space = Space.of(sweep.parameters)

    assert space == Space({"a": Values((1, "x")), "b": Range(1, 9, step=2, whole=True), "c": Range(0.1, 1, log=True)})
