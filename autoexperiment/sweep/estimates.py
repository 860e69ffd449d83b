"""How long a sweep takes: by what has ended, or by what its kind of work expects of each point."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoexperiment.sweep import book
from autoexperiment.sweep.book import Ended
from autoexperiment.sweep.points import Point

if TYPE_CHECKING:
    from autoexperiment.sweep.plans import SweepPlan

BASIS = {"experiment": "one epoch of the first point, and the epochs of each", "gpt": "the budget of each point"}


@dataclass(frozen=True)
class Estimate:
    """How long a sweep takes. `seconds`: None where that can't be told; `basis`: what it was told by."""

    seconds: float | None
    basis: str


def left_s(
    seconds: Mapping[int, Sequence[float]], left: Sequence[int], resources: Sequence[float] = ()
) -> float | None:
    """How long points take, one after another; None when none has ended.

    Args:
        seconds: of the points that have ended, by rung.
        left: how many are left on each rung.
        resources: of the rungs; () without halving. Of a rung where none has ended, a point takes as much longer than
            one of the dearest below it as it has more of the resource: no less than it will, for start-up counts too.
    """
    known = {rung: each for rung, each in seconds.items() if each and rung < len(left)}
    if not known:
        return None
    total = 0.0
    for rung, count in enumerate(left):
        near = max((each for each in known if each <= rung), default=min(known))
        ratio = resources[rung] / resources[near] if resources else 1.0
        total += max(0, count) * statistics.median(known[near]) * ratio
    return total


def estimate(plan: SweepPlan) -> Estimate:
    """How long what is left of a sweep takes."""
    paths = plan.launch.paths
    ended = book.read(paths).ended if paths.book.exists() else {}
    measured = {point.key: ended[point.key] for point in plan.listed if point.key in ended}
    if not any(plan.tally.left):
        return Estimate(0.0, "what has ended: nothing is left")
    expected = _expected(plan)
    if expected is not None:
        pace = _pace(expected, measured)
        basis = BASIS[plan.config.kind] + (" at the pace of those that have ended" if measured else "")
        return Estimate(pace * _together(plan, expected, measured), basis)
    return _by_what_ended(plan, measured)


def _expected(plan: SweepPlan) -> dict[str, float] | None:
    """Seconds by key of each point that is known beforehand; None where that can't be told."""
    found = {}
    for point in plan.listed:
        seconds = plan.launch.job.work.expected_s(point.config)
        if seconds is None:
            return None
        found[point.key] = seconds
    return found


def _pace(expected: Mapping[str, float], measured: Mapping[str, Ended]) -> float:
    """By how much points took longer than was expected of them."""
    fine = {key: point.result.seconds for key, point in measured.items() if point.result.is_ok}
    hoped = math.fsum(expected[key] for key in fine)
    return math.fsum(fine.values()) / hoped if hoped else 1.0


def _together(plan: SweepPlan, expected: Mapping[str, float], measured: Mapping[str, Ended]) -> float:
    """Rung after rung; each takes as long as its longest point at least."""
    total = 0.0
    for rung, count in enumerate(plan.tally.left):
        here = [point for point in plan.listed if point.rung == rung]
        todo = [point for point in here if not _is_done(plan, point, measured)] or here
        times = [expected[point.key] for point in todo]
        if count:
            shared = count * statistics.fmean(times) / (plan.slots or 1)
            total += max(shared, *times)
    return total


def _is_done(plan: SweepPlan, point: Point, measured: Mapping[str, Ended]) -> bool:
    found = measured.get(point.key)
    return found is not None and (found.result.is_ok or not plan.launch.job.retries_failed)


def _by_what_ended(plan: SweepPlan, measured: Mapping[str, Ended]) -> Estimate:
    seconds: dict[int, list[float]] = {}
    for point in measured.values():
        seconds.setdefault(point.rung, []).append(point.result.seconds)
    total = left_s(seconds, plan.tally.left, [rung.resource for rung in plan.launch.job.rungs])
    if total is None:
        return Estimate(None, "it is told once a point has ended")
    return Estimate(total / (plan.slots or 1), "the points that have ended")
