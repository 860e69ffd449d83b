"""What to do after an agent's visit: go on, wait, or give up. Pure, so that a night's whole course can be tested.

Infrastructure never counts against a candidate: a usage limit is waited out, an overloaded service is asked again,
and only what an agent does with its own hands, several times in a row, ends the night.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

IDLE_LIMIT = 3  # visits in a row that brought nothing to measure
FAULT_LIMIT = 3  # visits in a row that ended badly by themselves
OVERLOAD_LIMIT = 20  # about four hours of an overloaded service
FIRST_WAIT_S, LONGEST_WAIT_S = 30.0, 900.0
KILLED_WAIT_S = 2.0  # nothing that is short of something has to recover first
RESET_SLACK_S = 30.0  # past the time at which a limit is said to end


class Result(StrEnum):
    """What a visit brought."""

    EDITED = "edited"
    BROKEN = "broken edit"  # it does not parse, or the pre-flight failed
    NO_CHANGE = "no change"
    REPEATED = "repeated"  # byte for byte an earlier candidate
    FORBIDDEN = "forbidden edit"
    STALLED = "stalled"
    USAGE_LIMIT = "usage limit"
    OVERLOADED = "overloaded"
    AUTH = "not logged in"
    KILLED = "killed"
    FAILED = "failed"


IDLE = {Result.NO_CHANGE, Result.REPEATED, Result.FORBIDDEN}
FAULTS = {Result.STALLED, Result.KILLED, Result.FAILED}


@dataclass(frozen=True)
class Patience:
    """How many visits in a row went wrong, and in which way. An edit that can be measured clears all three."""

    idle: int = 0
    faults: int = 0
    overloads: int = 0

    def after(self, result: Result) -> Patience:
        """The counts after one more visit."""
        if result in IDLE:
            return Patience(idle=self.idle + 1)
        if result in FAULTS:
            return replace(self, faults=self.faults + 1)
        if result is Result.OVERLOADED:
            return replace(self, overloads=self.overloads + 1)
        return self if result in (Result.USAGE_LIMIT, Result.BROKEN) else Patience()

    @property
    def spent(self) -> int:
        """How many visits in a row were too many; 0 while there is patience left."""
        for count, limit in ((self.idle, IDLE_LIMIT), (self.faults, FAULT_LIMIT), (self.overloads, OVERLOAD_LIMIT)):
            if count >= limit:
                return count
        return 0

    def wait_s(self, result: Result, reset_at: datetime | None, now: datetime) -> float:
        """Seconds until the next visit. A limit without a time is asked again every quarter of an hour."""
        if result is Result.USAGE_LIMIT:
            left = LONGEST_WAIT_S if reset_at is None else (reset_at - now).total_seconds() + RESET_SLACK_S
            return max(left, FIRST_WAIT_S)
        if result is Result.OVERLOADED:
            return _doubled(self.overloads)
        first = KILLED_WAIT_S if result is Result.KILLED else FIRST_WAIT_S
        return _doubled(self.faults, first) if result in FAULTS else 0.0


def _doubled(count: int, first: float = FIRST_WAIT_S) -> float:
    return float(min(first * 2 ** max(0, count - 1), LONGEST_WAIT_S))
