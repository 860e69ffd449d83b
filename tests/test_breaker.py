from __future__ import annotations

import pytest

from autoexperiment.breaker import ANY_CRASHES, CLOSED, SAME_CRASHES, Event, state
from autoexperiment.vocabulary import Outcome

A, B = Event(Outcome.CRASHED, "a"), Event(Outcome.CRASHED, "b")
UNKNOWN = Event(Outcome.CRASHED, None)
FINE, STOPPED = Event(Outcome.OK), Event(Outcome.INTERRUPTED)


def test_the_limits_are_the_ones_of_the_protocol() -> None:
    assert (SAME_CRASHES, ANY_CRASHES) == (3, 8)


@pytest.mark.parametrize(
    ("history", "is_open"),
    [
        ([], False),
        ([A, A], False),
        ([A, A, A], True),
        ([A, A, B], False),
        ([A, B, A, B, A, B], False),
        ([A, B] * 4, True),
        ([A, A, FINE, A], False),
        ([A, A, STOPPED, A], True),
        ([A, STOPPED, A, STOPPED], False),
        ([A, A, Event(Outcome.TIMED_OUT), A], False),
        ([A, A, Event(Outcome.REJECTED), A], False),
        ([Event(Outcome.OOM, "m")] * 3, True),
        ([Event(Outcome.DIVERGED, "d")] * 3, True),
        ([A, Event(Outcome.OOM, "a"), A], True),
        ([UNKNOWN] * 3, False),
        ([UNKNOWN] * 7, False),
        ([UNKNOWN] * 8, True),
        ([A, A, A, CLOSED], False),
        ([A, A, A, CLOSED, A, A], False),
        ([A, A, A, CLOSED, A, A, A], True),
        ([A, A, CLOSED, A], False),
        ([A, A, A, B], True),
        ([A, A, A, STOPPED], True),
        ([A, A, A, FINE], False),
        ([A, B] * 4 + [STOPPED], True),
    ],
)
def test_breaker_opens_exactly_when_specified(history: list[Event], is_open: bool) -> None:
    assert state(history).open is is_open


def test_reason_and_streak_are_told() -> None:
    seen = state([B, A, A, A])

    assert (seen.streak, seen.same, seen.fingerprint) == (4, 3, "a")
    assert seen.reason == "3 crashes in a row failed the same way."


def test_closed_breaker_has_no_reason() -> None:
    assert state([A, FINE]).reason == ""
    assert state([A, FINE]).fingerprint is None
