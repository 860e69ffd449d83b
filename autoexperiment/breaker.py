"""The circuit breaker: a session that fails the same way over and over stops instead of burning the night."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from autoexperiment.vocabulary import Outcome

SAME_CRASHES = 3
ANY_CRASHES = 8

_CRASHES = (Outcome.CRASHED, Outcome.OOM, Outcome.DIVERGED)


@dataclass(frozen=True)
class Event:
    """How one experiment ended. `fingerprint`: equal for equal failures; None when unknown, which equals nothing."""

    outcome: Outcome | None
    fingerprint: str | None = None


CLOSED = Event(None)  # somebody closed the breaker by hand


@dataclass(frozen=True)
class BreakerState:
    """`streak`: crashes in a row; `same`: how many of the latest share one fingerprint."""

    open: bool = False
    streak: int = 0
    same: int = 0
    fingerprint: str | None = None
    reason: str = ""


def state(events: Iterable[Event]) -> BreakerState:
    """Fold a session's history, oldest first.

    Three crashes in a row with the same fingerprint open it, and so do eight of any kind. What was
    interrupted says nothing and is passed over; everything else that ended starts the count afresh.
    Once open, one more crash does not close it, whatever its fingerprint.
    """
    streak, same, fingerprint = 0, 0, None
    for event in events:
        if event.outcome is Outcome.INTERRUPTED:
            continue
        if event.outcome not in _CRASHES:
            streak, same, fingerprint = 0, 0, None
            continue
        streak += 1
        if same >= SAME_CRASHES:
            continue
        is_known = event.fingerprint is not None
        same = same + 1 if is_known and event.fingerprint == fingerprint else 1
        fingerprint = event.fingerprint
    if same >= SAME_CRASHES:
        return BreakerState(True, streak, same, fingerprint, f"{same} crashes in a row failed the same way.")
    if streak >= ANY_CRASHES:
        return BreakerState(True, streak, same, fingerprint, f"{streak} crashes in a row.")
    return BreakerState(False, streak, same, fingerprint)
