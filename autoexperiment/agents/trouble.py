"""How a visit can end, and which ending an error message amounts to. Only what a client says went wrong is read here,
never what its model says: an agent that writes about HTTP 429 has met no limit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from autoexperiment.agents.reset import reset_time
from autoexperiment.failure import clean

REASON_LIMIT = 400


class Outcome(StrEnum):
    """How a visit ended."""

    ENDED = "ended"  # by itself, and the agent said that it is done
    STALLED = "stalled"  # silent for too long, or not done in its time
    USAGE_LIMIT = "usage limit"
    AUTH = "auth"
    OVERLOADED = "overloaded"  # the service or the network; worth trying again
    KILLED = "killed"  # by a signal that nobody here sent
    FAILED = "failed"
    STOPPED = "stopped"  # by a signal to this process


@dataclass(frozen=True)
class Fault:
    """Why a visit came to nothing.

    Attributes:
        reason: one clean line.
        reset_at: when a limit ends, in UTC; None when nobody said.
    """

    outcome: Outcome
    reason: str
    reset_at: datetime | None = None


_STATUS = re.compile(
    r"(?:\b(?:status|code|http|error)\b[\"']?(?:\s+code)?[\s:=(\"']*|\(|^\s*)([45]\d\d)\b", re.IGNORECASE
)
_LIMIT = re.compile(
    r"usage[ _]limit|limit reached|hit your .{0,40}limit|quota|out of (?:usage )?credits|out of extra usage"
    r"|credit balance|spend(?:ing)? limit|insufficient[ _](?:funds|balance)|billing|payment required",
    re.IGNORECASE,
)
_NOT_A_LIMIT = re.compile(r"not your usage limit", re.IGNORECASE)
_AUTH = re.compile(
    r"/login|log(?:ged)? ?in again|not logged in|login expired|invalid (?:x-)?api[ -]key|api[ -]key not (?:valid|found)"
    r"|(?:incorrect|missing|no) api[ -]key|failed to authenticate|authentication[ _](?:failed|error|required)"
    r"|unauthori[sz]ed|oauth token|invalid auth|sign in again|not authenticated|set an auth method",
    re.IGNORECASE,
)
_OVERLOADED = re.compile(
    r"overloaded|at capacity|rate[ _-]?limit|too many requests|service unavailable|internal server error|bad gateway"
    r"|gateway time-?out|connection (?:error|refused|reset|closed|failed)|connection_failed|econn\w+|enotfound"
    r"|etimedout|eai_again|getaddrinfo|fetch failed|network error|socket hang up|stream disconnected"
    r"|error sending request|request timed out|dns|resource_exhausted|temporarily",
    re.IGNORECASE,
)


def fault_of(text: str, now: datetime, *, status: int | None = None) -> Fault:
    """The fault that an error message stands for.

    Args:
        now: what spans of time are counted from.
        status: of the HTTP answer, where the client tells it by itself.
    """
    reset_at = reset_time(text, now)
    outcome = _outcome(text, status or _status_in(text), has_reset=reset_at is not None)
    reason = clean(text, REASON_LIMIT) or "It gave no reason."
    return Fault(outcome, reason, reset_at if outcome is Outcome.USAGE_LIMIT else None)


def _outcome(text: str, status: int | None, *, has_reset: bool) -> Outcome:
    is_limit = _LIMIT.search(text) is not None and not _NOT_A_LIMIT.search(text)
    if status in (401, 403):
        return Outcome.AUTH
    if status == 402 or is_limit or (status == 429 and has_reset):
        return Outcome.USAGE_LIMIT
    if status == 429 or status == 408 or (status or 0) >= 500:
        return Outcome.OVERLOADED
    if status in (None, 400) and _AUTH.search(text):
        return Outcome.AUTH
    return Outcome.OVERLOADED if status is None and _OVERLOADED.search(text) else Outcome.FAILED


def _status_in(text: str) -> int | None:
    match = _STATUS.search(text)
    return int(match[1]) if match else None
