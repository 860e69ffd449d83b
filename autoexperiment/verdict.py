"""Keep or discard: policies as pure functions of measurements. A noise-aware gate joins `POLICIES`.

Quality is the primary metric; "gain" is how much better the candidate is, in the metric's unit,
positive is better. Speed is tokens per second, as a share more or less than the incumbent's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from types import MappingProxyType
from typing import Any

from autoexperiment.errors import UsageError, unknown
from autoexperiment.vocabulary import Goal, Verdict

SAME = 0.001  # gains up to this, either way, count as unchanged
SLIGHT_LOSS = 0.003  # a loss below this can be bought with speed
REAL_GAIN = 0.005  # a gain from here on is worth a loss of speed
SLOWER = 0.15  # a loss of speed beyond this is significant
FASTER = 0.10  # a gain of speed beyond this is meaningful
MUCH_FASTER = 0.25  # a gain of speed beyond this is massive
MANY_LINES = 20  # net added lines that a gain within SAME does not pay for
MEMORY_BLOWUP = 1.5  # peak memory beyond this multiple of the incumbent's needs REAL_GAIN for each doubling
SPEED_NOISE = 0.03  # identical runs differ by 3 to 5 % in speed
QUALITY_NOISE = 0.0005  # closer than this to a threshold, another run may decide otherwise
MAX_RUNS = 2  # runs of a marginal candidate before the mean decides


@dataclass(frozen=True)
class Measurement:
    """What is known of one candidate. `values` and `seeds`: one entry for each run, in order."""

    values: tuple[float, ...]
    seeds: tuple[int, ...]
    tok_sec: float | None = None
    peak_memory_mb: float | None = None


@dataclass(frozen=True)
class Change:
    """Size of a candidate's diff against its base, in lines."""

    lines_added: int
    lines_removed: int

    @property
    def net(self) -> int:
        return self.lines_added - self.lines_removed


@dataclass(frozen=True)
class Decision:
    """A verdict with what it rests on. `verdict` None: run it again before deciding."""

    verdict: Verdict | None
    rule: str
    reason: str
    flags: tuple[str, ...]
    evidence: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Candidate against incumbent, in the numbers that the rules speak of. `speed` is None when unknown."""

    gain: float
    speed: float | None
    memory: float | None
    net_lines: int

    @property
    def is_unchanged(self) -> bool:
        return abs(self.gain) <= SAME

    @property
    def is_much_slower(self) -> bool:
        return self.speed is not None and self.speed < -SLOWER

    @property
    def needed_for_memory(self) -> float:
        """Gain that pays for the memory: 0 without a blow-up, REAL_GAIN for each doubling with one."""
        if self.memory is None or self.memory <= MEMORY_BLOWUP:
            return 0.0
        return REAL_GAIN * math.log2(self.memory)


Rule = tuple[Verdict, str]
Policy = Callable[[Comparison], Rule]


def greedy(seen: Comparison) -> Rule:
    """Keep whatever measures better."""
    return (Verdict.KEEP, "better") if seen.gain > 0 else (Verdict.DISCARD, "not better")


def quality_throughput(seen: Comparison) -> Rule:
    """Weigh quality first, then speed, memory and simplicity."""
    speed = 0.0 if seen.speed is None else seen.speed
    if seen.gain < seen.needed_for_memory:
        return Verdict.DISCARD, "memory blow-up without a gain to match"
    if seen.gain > 0 and not seen.is_much_slower:
        if seen.is_unchanged and seen.net_lines >= MANY_LINES and speed <= FASTER:
            return Verdict.DISCARD, "a tiny gain for many lines"
        return Verdict.KEEP, "better at no significant cost in speed"
    if seen.gain >= REAL_GAIN:
        return Verdict.KEEP, "better by enough to pay for the lost speed"
    if seen.gain > 0:
        return Verdict.DISCARD, "slightly better, much slower"
    if seen.is_unchanged and speed > FASTER:
        return Verdict.KEEP, "unchanged and faster"
    if seen.is_unchanged and seen.net_lines < 0 and not seen.is_much_slower:
        return Verdict.KEEP, "unchanged and simpler"
    if seen.gain > -SLIGHT_LOSS and speed > MUCH_FASTER:
        return Verdict.KEEP, "slightly worse, massively faster"
    return Verdict.DISCARD, "worse" if seen.gain < 0 else "no better"


POLICIES: Mapping[str, Policy] = MappingProxyType({"greedy": greedy, "quality-throughput": quality_throughput})


def _paired(incumbent: Measurement, candidate: Measurement) -> tuple[float, float, str]:
    """Means over the seeds that both ran, else over all; and which of the two it was."""
    theirs = dict(zip(incumbent.seeds, incumbent.values, strict=True))
    ours = dict(zip(candidate.seeds, candidate.values, strict=True))
    shared = [seed for seed in ours if seed in theirs]
    if len(shared) == len(ours):
        return fmean(theirs[s] for s in shared), fmean(ours[s] for s in shared), "paired by seed"
    return fmean(incumbent.values), fmean(candidate.values), "all runs"


def _ratio(new: float | None, old: float | None) -> float | None:
    if new is None or old is None or not (math.isfinite(new) and math.isfinite(old)) or new <= 0 or old <= 0:
        return None
    return new / old


def compare(incumbent: Measurement, candidate: Measurement, change: Change, goal: Goal) -> tuple[Comparison, str]:
    """Candidate against incumbent, and how their means were paired."""
    old, new, pairing = _paired(incumbent, candidate)
    gain = old - new if goal is Goal.MINIMIZE else new - old
    memory = _ratio(candidate.peak_memory_mb, incumbent.peak_memory_mb)
    return Comparison(gain, _speed(incumbent.tok_sec, candidate.tok_sec), memory, change.net), pairing


def _speed(old: float | None, new: float | None) -> float | None:
    """Share of speed won or lost; a candidate that hides a speed which the incumbent shows counts as standing still."""
    ratio = _ratio(new, old)
    if ratio is not None:
        return ratio - 1
    return None if old is None else -1.0


def _nudges(seen: Comparison) -> list[Comparison]:
    """The comparison as another run might have shown it."""
    speeds = [seen.speed] if seen.speed is None else [seen.speed - SPEED_NOISE, seen.speed, seen.speed + SPEED_NOISE]
    gains = [seen.gain - QUALITY_NOISE, seen.gain, seen.gain + QUALITY_NOISE]
    return [Comparison(gain, speed, seen.memory, seen.net_lines) for gain in gains for speed in speeds]


def is_marginal(policy: Policy, seen: Comparison) -> bool:
    """Whether run-to-run variation could turn the verdict."""
    return len({policy(nudged)[0] for nudged in _nudges(seen)}) > 1


def decide(policy_name: str, incumbent: Measurement, candidate: Measurement, change: Change, goal: Goal) -> Decision:
    """Judge a candidate by a named policy.

    Raises: UsageError: there is no such policy, or a side has no run.
    """
    if policy_name not in POLICIES:
        raise UsageError(unknown("policy", policy_name, POLICIES))
    if not incumbent.values or not candidate.values:
        raise UsageError("A verdict needs at least one run on either side.")
    evidence: dict[str, Any] = {
        "policy": policy_name,
        "incumbent": asdict(incumbent),
        "candidate": asdict(candidate),
        "change": asdict(change),
        "goal": str(goal),
    }
    if not all(map(math.isfinite, (*incumbent.values, *candidate.values))):
        finite = {**evidence, "candidate": {**evidence["candidate"], "values": [str(v) for v in candidate.values]}}
        return Decision(Verdict.DISCARD, "not finite", "The metric is not finite.", (), finite)
    seen, pairing = compare(incumbent, candidate, change, goal)
    policy = POLICIES[policy_name]
    verdict, rule = policy(seen)
    is_open = len(candidate.values) < MAX_RUNS and is_marginal(policy, seen)
    evidence |= {"gain": seen.gain, "speed": seen.speed, "memory": seen.memory, "pairing": pairing}
    reason = f"{'Marginal, to be run again' if is_open else rule.capitalize()}: {_numbers(seen)}."
    return Decision(None if is_open else verdict, rule, reason, _flags(seen), evidence)


def _flags(seen: Comparison) -> tuple[str, ...]:
    flags = {
        "memory_blowup": seen.memory is not None and seen.memory > MEMORY_BLOWUP,
        "throughput_unknown": seen.speed is None,
        "throughput_cratered": seen.is_much_slower,
    }
    return tuple(name for name, is_set in flags.items() if is_set)


def _numbers(seen: Comparison) -> str:
    speed = "unknown" if seen.speed is None else f"{seen.speed:+.1%}"
    memory = "" if seen.memory is None else f", memory x{seen.memory:.2f}"
    return f"gain {seen.gain:+.6f}, speed {speed}{memory}, lines {seen.net_lines:+d}"


def recompute(evidence: Mapping[str, Any]) -> Decision:
    """The decision again, from the evidence that was recorded with it."""

    def measurement(value: Mapping[str, Any]) -> Measurement:
        lists = {name: tuple(value[name]) for name in ("values", "seeds")}
        return Measurement(**{**value, **lists, "values": tuple(float(v) for v in value["values"])})

    return decide(
        evidence["policy"],
        measurement(evidence["incumbent"]),
        measurement(evidence["candidate"]),
        Change(**evidence["change"]),
        Goal(evidence["goal"]),
    )
