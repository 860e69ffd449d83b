"""What clients say when something is wrong, and when a limit ends. The texts are of the shapes that they write."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoexperiment.agents.reset import reset_time
from autoexperiment.agents.trouble import Outcome, fault_of

NOW = datetime(2026, 11, 21, 13, 0, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")  # an hour ahead of UTC in November


@pytest.mark.parametrize(
    ("text", "day", "hour", "minute", "second"),
    [
        ("Claude AI usage limit reached|1795273015", 21, 14, 56, 55),
        ("Claude AI usage limit reached|1795273015000", 21, 14, 56, 55),
        ('{"type":"usage_limit_reached","resets_at":1795273015}', 21, 14, 56, 55),
        ('{"resets_in_seconds": 9568}', 21, 15, 39, 28),
        ("retry-after: 90", 21, 13, 1, 30),
        ('"retryDelay": "37s"', 21, 13, 0, 37),
        ("Please try again in 6m0s.", 21, 13, 6, 0),
        ("Your quota will reset after 13h19m20s.", 22, 2, 19, 20),
        ("Try again in 2 days 5 hours 12 minutes.", 23, 18, 12, 0),
        ("retrying in 59 minutes 12 seconds attempt #15", 21, 13, 59, 12),
        ("wait and retry in 1 hour, 5 mins and 3 secs", 21, 14, 5, 3),
        ("reset at 2026-11-21T18:00:00Z", 21, 18, 0, 0),
        ("reset at 2026-11-21 18:00:00", 21, 17, 0, 0),
        ("You've hit your limit · resets 3pm (Europe/Berlin)", 21, 14, 0, 0),
        ("You've hit your 5-hour limit · resets 2:56pm (UTC)", 21, 14, 56, 0),
        ("Session limit reached ∙ resets 4pm", 21, 15, 0, 0),
        ("resets 12am (UTC)", 22, 0, 0, 0),
        ("resets 12:30pm (UTC)", 22, 12, 30, 0),
        ("try again at 3:32 PM.", 21, 14, 32, 0),
        ("try again at 15:32", 21, 14, 32, 0),
        ("resets Nov 25, 3pm (UTC)", 25, 15, 0, 0),
        ("try again at Nov 25th, 2026 3:45 PM.", 25, 14, 45, 0),
        ("resets Nov 25", 24, 23, 0, 0),
        ("resets 3pm (Nowhere/AtAll)", 21, 14, 0, 0),
        ("until 25:00, resets 4pm", 21, 15, 0, 0),
    ],
)
def test_end_of_a_limit_is_read_in_every_shape(text: str, day: int, hour: int, minute: int, second: int) -> None:
    assert reset_time(text, NOW, local=BERLIN) == datetime(2026, 11, day, hour, minute, second, tzinfo=UTC)


def test_limit_that_has_just_ended_is_not_a_day_away() -> None:
    assert reset_time("resets 12:55pm (UTC)", NOW) == datetime(2026, 11, 21, 12, 55, tzinfo=UTC)


def test_day_without_a_year_can_be_in_the_next_one() -> None:
    december = datetime(2026, 12, 30, 8, 0, tzinfo=UTC)

    assert reset_time("resets Jan 2, 9am (UTC)", december) == datetime(2027, 1, 2, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "", "no time at all", "We reset 3 things", "resets Feb 30, 3pm", "in 5 models", "until then", "after 7 tries",
        "limit reached|99999999", "resets_at: 4102444800", "retry in 4000 days", "retry-after: " + "9" * 400,
        "resets May 1, 3pm (UTC)", "try again at 99:99",
    ],
)  # fmt: skip
def test_what_is_no_time_or_can_not_be_true_is_none(text: str) -> None:
    assert reset_time(text, NOW, local=BERLIN) is None


@given(st.text(alphabet=st.sampled_from("resetintryagafl |:0123456789pmPMNovJan(UTC)/,.\n\"'retry-after"), max_size=80))
def test_no_text_breaks_the_reading_of_times(text: str) -> None:
    found = reset_time(text, NOW)

    assert found is None or found.tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("You've hit your usage limit. Upgrade to Pro or try again later.", Outcome.USAGE_LIMIT),
        ("You're out of usage credits", Outcome.USAGE_LIMIT),
        ("You exceeded your current quota, please check your plan and billing details.", Outcome.USAGE_LIMIT),
        ("You've hit your monthly spend limit.", Outcome.USAGE_LIMIT),
        ("API Error: 402 Insufficient Balance", Outcome.USAGE_LIMIT),
        ('{"error":{"code":429,"message":"Please retry in 15.5s."}}', Outcome.USAGE_LIMIT),
        ('{"error":{"code":429,"status":"Too Many Requests"}}', Outcome.OVERLOADED),
        ("exceeded retry limit, last status: 429 Too Many Requests", Outcome.OVERLOADED),
        ("429 this request would exceed your per-minute rate limit", Outcome.OVERLOADED),
        ("unexpected status 401 Unauthorized: usage limit of keys", Outcome.AUTH),
        ("OAuth token revoked · Please run /login", Outcome.AUTH),
        ("Login expired · Please run /login", Outcome.AUTH),
        ('[API Error: {"error":{"code":400,"message":"API key not valid. Please pass a valid one."}}]', Outcome.AUTH),
        ("No API key found for provider mock", Outcome.AUTH),
        ("API Error: Repeated 529 Overloaded errors.", Outcome.OVERLOADED),
        ("(502) Bad gateway", Outcome.OVERLOADED),
        ("TypeError: fetch failed", Outcome.OVERLOADED),
        ("getaddrinfo ENOTFOUND api.example.com", Outcome.OVERLOADED),
        ("Error: 404 model not found", Outcome.FAILED),
        ("TypeError: x is undefined at line 500", Outcome.FAILED),
        ("", Outcome.FAILED),
    ],
)
def test_error_messages_are_classed(text: str, outcome: Outcome) -> None:
    assert fault_of(text, NOW).outcome is outcome


def test_status_that_the_client_names_beats_its_words() -> None:
    assert fault_of("no", NOW, status=503).outcome is Outcome.OVERLOADED
    assert fault_of("overloaded", NOW, status=404).outcome is Outcome.FAILED


def test_reason_is_one_clean_bounded_line_and_only_limits_have_an_end() -> None:
    fault = fault_of("529 \x1b[31mOverloaded\x1b[0m\r\n" + "x" * 5000 + " try again in 5s", NOW)

    assert fault.reason.startswith("529 Overloaded xxx")
    assert len(fault.reason) == 400
    assert fault.reset_at is None
