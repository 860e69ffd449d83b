"""What follows a visit, over a whole night of visits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from autoexperiment.agents.patience import (
    FAULT_LIMIT,
    IDLE_LIMIT,
    LONGEST_WAIT_S,
    OVERLOAD_LIMIT,
    Patience,
    Result,
)

NOW = datetime(2026, 3, 5, 23, 0, tzinfo=UTC)


def after(*results: Result) -> Patience:
    patience = Patience()
    for result in results:
        patience = patience.after(result)
    return patience


@pytest.mark.parametrize("result", [Result.NO_CHANGE, Result.FORBIDDEN, Result.REPEATED])
def test_three_visits_in_a_row_without_an_edit_are_the_end(result: Result) -> None:
    assert not after(*[result] * (IDLE_LIMIT - 1)).spent
    assert after(*[result] * IDLE_LIMIT).spent


@pytest.mark.parametrize(
    ("result", "waits"), [(Result.STALLED, [30, 60]), (Result.FAILED, [30, 60]), (Result.KILLED, [2, 4])]
)
def test_three_faults_in_a_row_are_the_end_and_each_is_waited_for(result: Result, waits: list[float]) -> None:
    assert [after(*[result] * n).wait_s(result, None, NOW) for n in (1, 2)] == waits
    assert not after(*[result] * (FAULT_LIMIT - 1)).spent
    assert after(*[result] * FAULT_LIMIT).spent


def test_an_edit_clears_what_went_wrong_before() -> None:
    patience = after(Result.STALLED, Result.STALLED, Result.NO_CHANGE, Result.NO_CHANGE, Result.EDITED, Result.STALLED)

    assert patience == Patience(faults=1)


def test_faults_do_not_clear_idle_visits() -> None:
    assert after(Result.NO_CHANGE, Result.STALLED, Result.NO_CHANGE, Result.OVERLOADED, Result.NO_CHANGE).spent


def test_usage_limit_is_waited_out_to_its_reset_however_often_it_comes() -> None:
    patience = after(*[Result.USAGE_LIMIT] * 100)

    assert not patience.spent
    assert patience.wait_s(Result.USAGE_LIMIT, NOW + timedelta(hours=3), NOW) == 3 * 3600 + 30


def test_usage_limit_without_a_time_is_asked_again_every_quarter_of_an_hour() -> None:
    assert after(Result.USAGE_LIMIT).wait_s(Result.USAGE_LIMIT, None, NOW) == LONGEST_WAIT_S


def test_reset_in_the_past_is_not_asked_again_at_once() -> None:
    assert after(Result.USAGE_LIMIT).wait_s(Result.USAGE_LIMIT, NOW - timedelta(hours=1), NOW) == 30.0


def test_overloaded_service_is_asked_ever_more_seldom_and_then_given_up() -> None:
    nights = [after(*[Result.OVERLOADED] * n) for n in range(1, OVERLOAD_LIMIT + 1)]

    waits = [night.wait_s(Result.OVERLOADED, None, NOW) for night in nights]
    assert waits[:7] == [30.0, 60.0, 120.0, 240.0, 480.0, 900.0, 900.0]
    assert [night.spent for night in nights[-2:]] == [0, OVERLOAD_LIMIT]


def test_edit_without_a_change_is_asked_again_at_once() -> None:
    assert after(Result.NO_CHANGE).wait_s(Result.NO_CHANGE, None, NOW) == 0.0


def test_usage_limits_use_up_no_patience_with_an_overloaded_service() -> None:
    patience = after(*[Result.USAGE_LIMIT] * 100, Result.OVERLOADED)

    assert patience.wait_s(Result.OVERLOADED, None, NOW) == 30.0


def test_broken_edits_between_do_not_make_it_patient_again() -> None:
    assert after(
        Result.BROKEN, Result.NO_CHANGE, Result.BROKEN, Result.NO_CHANGE, Result.BROKEN, Result.NO_CHANGE
    ).spent
