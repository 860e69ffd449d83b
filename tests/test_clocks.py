"""Lengths of time for people."""

from __future__ import annotations

import pytest

from autoexperiment.clocks import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (99.4, "99 s"), (99.6, "2 min"), (720, "12 min"), (5999, "1 h 40 min"), (11100, "3 h 05 min")],
)
def test_a_length_of_time_has_the_unit_that_is_read_best(seconds: float, text: str) -> None:
    assert duration(seconds) == text
