"""How many points a sweep has: planned, left, and those of earlier plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoexperiment.sweep.book import Ended
from autoexperiment.sweep.engine import Job
from autoexperiment.sweep.points import Point


@dataclass(frozen=True)
class Tally:
    """Points by rung; of a sweep without halving, as of one rung.

    Attributes:
        planned: at most so many: fewer go on where too many have failed.
        left: of those, still to be run.
        earlier: points in the book that belong to earlier plans only.
    """

    planned: tuple[int, ...]
    left: tuple[int, ...]
    earlier: int = 0

    def to_json(self, resources: Collection[float]) -> dict[str, Any]:
        """As sweep.json has it. Args: resources: of the rungs; () without halving."""
        rungs = [list(pair) for pair in zip(resources, self.planned, strict=True)] if resources else []
        return {"planned": sum(self.planned), "rungs": rungs, "earlier": self.earlier}


def planned(job: Job, listed: Collection[Point], ended: Mapping[str, Ended], *, trials: int | None) -> Tally:
    """What is to be done, by the points that are known beforehand, each once.

    Args: trials: how many a sampler asks for that learns from results, so that its points are not known; else None.
    """
    is_adaptive = trials is not None
    wanted = [trials * len(job.seeds)] if trials is not None else _wanted(job, listed)
    here = _here(listed, ended, wanted)
    is_again = job.retries_failed and not is_adaptive  # a failure that a sampler has learned from stays
    done = [[key for key in keys if ended[key].result.is_ok or not is_again] for keys in here]
    return Tally(
        tuple(wanted),
        tuple(max(0, count - len(keys)) for count, keys in zip(wanted, done, strict=True)),
        len(ended) - sum(min(count, len(keys)) for count, keys in zip(wanted, here, strict=True)),
    )


def _here(listed: Collection[Point], ended: Mapping[str, Ended], wanted: Sequence[int]) -> list[set[str]]:
    """Keys of the points that have ended, by rung; none after a rung that has not: others may go on from there."""
    found: list[set[str]] = []
    for rung in range(len(wanted)):
        is_open = bool(rung) and len(found[-1]) < wanted[rung - 1]
        found.append(set() if is_open else {point.key for point in listed if point.rung == rung} & ended.keys())
    return found


def _wanted(job: Job, listed: Collection[Point]) -> list[int]:
    counts = Counter(point.rung for point in listed)
    if not job.rungs:
        return [counts[0]]
    return [min(each.trials * len(job.seeds), counts[rung]) for rung, each in enumerate(job.rungs)]


def run(job: Job, begun: Mapping[str, int], ended: Mapping[str, Ended]) -> Tally:
    """What was done of a sweep that has come to its end. Args: begun: rung by key, of the points that were wanted."""
    counts = Counter(begun.values())
    rungs = range(len(job.rungs) or 1)
    return Tally(tuple(counts[rung] for rung in rungs), (0,) * len(rungs), len(ended.keys() - begun.keys()))
