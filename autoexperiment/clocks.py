"""The clocks of this machine, and how far they move apart: a jump or a sleep spoils a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

SKEW_S = 2.0  # a clock that moved more than this against the others spoils a run
SLEW = 5e-4  # seconds per second: how fast the kernel may correct a clock without a jump (adjtime's 500 ppm)


def _with_sleep() -> float:
    """Seconds including those in which the machine slept."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True)
class Clock:
    """The three clocks whose differences show a jump or a sleep; `awake` stands still while the machine sleeps."""

    wall: Callable[[], float] = time.time
    awake: Callable[[], float] = time.monotonic
    with_sleep: Callable[[], float] = _with_sleep

    def read(self) -> tuple[float, float, float]:
        return self.wall(), self.awake(), self.with_sleep()


SYSTEM = Clock()


@dataclass(frozen=True)
class Skew:
    """How far the clocks moved apart during a run."""

    jumped_s: float
    slept_s: float
    awake_s: float

    @classmethod
    def since(cls, start: tuple[float, float, float], clock: Clock) -> Skew:
        wall, awake, with_sleep = (now - then for now, then in zip(clock.read(), start, strict=True))
        return cls(wall - with_sleep, with_sleep - awake, awake)

    @property
    def seconds(self) -> float:
        return max(self.jumped_s, self.slept_s, key=abs)

    @property
    def reason(self) -> str:
        """Why the run can't be scored, or "" when the clocks kept together."""
        bound = SKEW_S + SLEW * self.awake_s
        if abs(self.slept_s) > bound:
            return f"The machine slept {self.slept_s:.1f} s during the run."
        return f"The clock jumped {self.jumped_s:+.1f} s during the run." if abs(self.jumped_s) > bound else ""


def duration(seconds: float) -> str:
    """A length of time for a person: 45 s, 12 min, 3 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
