"""Keep or discard: policies as pure functions of measurements. A noise-aware gate joins `POLICIES`.

Quality is the primary metric; "gain" is how much better the candidate is, in the metric's unit,
positive is better. Speed is tokens per second, as a share more or less than the incumbent's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
MEMORY_BLOWUP = 1.5  # peak memory beyond this multiple of the incumbent's needs REAL_GAIN, and more in proportion
SPEED_NOISE = 0.05  # identical runs differ by 3 to 5 % in speed
QUALITY_NOISE = 0.001  # closer than this to a threshold, another run may decide otherwise
DIGITS = 9  # numbers are compared so far: 1.859 - 1.858 is 0.001, not a hair more
RATIO_LIMIT = 1e9
MAX_RUNS = 2  # runs of a marginal candidate before the mean decides
NOT_FINITE = "not finite"


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
    """Candidate against incumbent, in the numbers that the rules speak of.

    `speed` is None when the incumbent's is unknown, and -1 when only the candidate's is: a candidate
    that keeps its speed to itself counts as standing still, so that missing never helps.
    """

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
    def may_be_worse_in_both(self) -> bool:
        return self.gain < 0 and (self.speed is None or self.speed < 0)

    @property
    def is_memory_blowup(self) -> bool:
        return self.memory is not None and self.memory > MEMORY_BLOWUP

    @property
    def needed_for_memory(self) -> float:
        """Gain that pays for a memory blow-up: REAL_GAIN at 1.5 times the incumbent's peak, twice that at 3 times."""
        return REAL_GAIN * (self.memory or 0.0) / MEMORY_BLOWUP


Rule = tuple[Verdict, str]
Policy = Callable[[Comparison], Rule]


def greedy(seen: Comparison) -> Rule:
    """Keep whatever measures better."""
    return (Verdict.KEEP, "better") if seen.gain > 0 else (Verdict.DISCARD, "not better")


def quality_throughput(seen: Comparison) -> Rule:
    """Weigh quality first, then speed, memory and simplicity."""
    speed = 0.0 if seen.speed is None else seen.speed
    if seen.is_memory_blowup and seen.gain < seen.needed_for_memory:
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
    if seen.is_unchanged and seen.net_lines < 0 and not (seen.is_much_slower or seen.may_be_worse_in_both):
        return Verdict.KEEP, "unchanged and simpler"
    if seen.gain > -SLIGHT_LOSS and speed > MUCH_FASTER:
        return Verdict.KEEP, "slightly worse, massively faster"
    return Verdict.DISCARD, "worse" if seen.gain < 0 else "no better"


POLICIES: Mapping[str, Policy] = MappingProxyType({"greedy": greedy, "quality-throughput": quality_throughput})


def _mean(values: Sequence[float]) -> float:
    try:
        return fmean(values)
    except OverflowError:  # finite values whose sum is not
        return math.inf


def _paired(incumbent: Measurement, candidate: Measurement) -> tuple[float, float, str]:
    """Means over the candidate's seeds where the incumbent ran them all, else over all runs of both.

    So every run of the candidate counts, a second one with a seed that the incumbent lacks as well.
    """
    theirs = dict(zip(incumbent.seeds, incumbent.values, strict=True))
    if set(candidate.seeds) <= theirs.keys():
        return _mean([theirs[seed] for seed in candidate.seeds]), _mean(candidate.values), "paired by seed"
    return _mean(incumbent.values), _mean(candidate.values), "all runs"


def _ratio(new: float | None, old: float | None) -> float | None:
    """How many times the old amount the new one is, at most RATIO_LIMIT; None unless both are above zero."""
    if new is None or old is None or new <= 0 or old <= 0:
        return None
    return min(new / old, RATIO_LIMIT)


def compare(incumbent: Measurement, candidate: Measurement, change: Change, goal: Goal) -> tuple[Comparison, str]:
    """Candidate against incumbent, and how their means were paired."""
    old, new, pairing = _paired(incumbent, candidate)
    gain = round(old - new if goal is Goal.MINIMIZE else new - old, DIGITS)
    memory = _ratio(candidate.peak_memory_mb, incumbent.peak_memory_mb)
    return Comparison(gain, _speed(incumbent.tok_sec, candidate.tok_sec), memory, change.net), pairing


def _speed(old: float | None, new: float | None) -> float | None:
    """Share of speed won or lost; a candidate that hides a speed which the incumbent shows counts as standing still."""
    if old is None or old <= 0:
        return None
    return round((_ratio(new, old) or 0.0) - 1, DIGITS)


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
        "incumbent": _to_json(incumbent),
        "candidate": _to_json(candidate),
        "change": asdict(change),
        "goal": str(goal),
    }
    seen, pairing = compare(incumbent, candidate, change, goal)
    if not all(map(math.isfinite, (*_numbers_of(incumbent), *_numbers_of(candidate), seen.gain))):
        return Decision(Verdict.DISCARD, NOT_FINITE, "A number of this comparison is not finite.", (), evidence)
    policy = POLICIES[policy_name]
    verdict, rule = policy(seen)
    is_open = len(candidate.values) < MAX_RUNS and is_marginal(policy, seen)
    evidence |= {"gain": seen.gain, "speed": seen.speed, "memory": seen.memory, "pairing": pairing}
    reason = f"{'Marginal, to be run again' if is_open else rule.capitalize()}: {_numbers(seen)}."
    return Decision(None if is_open else verdict, rule, reason, _flags(seen), evidence)


def _numbers_of(measurement: Measurement) -> list[float]:
    amounts = (measurement.tok_sec, measurement.peak_memory_mb)
    return [*measurement.values, *(amount for amount in amounts if amount is not None)]


def _to_json(measurement: Measurement) -> dict[str, Any]:
    """As JSON values; a number that JSON can't hold becomes its name, "nan" or "inf", which `float` reads back."""

    def plain(value: float | None) -> float | str | None:
        return value if value is None or math.isfinite(value) else str(value)

    return {
        "values": [plain(value) for value in measurement.values],
        "seeds": list(measurement.seeds),
        "tok_sec": plain(measurement.tok_sec),
        "peak_memory_mb": plain(measurement.peak_memory_mb),
    }


def _from_json(value: Mapping[str, Any]) -> Measurement:
    amounts = {name: None if value[name] is None else float(value[name]) for name in ("tok_sec", "peak_memory_mb")}
    return Measurement(tuple(float(v) for v in value["values"]), tuple(value["seeds"]), **amounts)


def _flags(seen: Comparison) -> tuple[str, ...]:
    flags = {
        "memory_blowup": seen.is_memory_blowup,
        "throughput_unknown": seen.speed is None or seen.speed <= -1,
        "throughput_cratered": seen.is_much_slower,
    }
    return tuple(name for name, is_set in flags.items() if is_set)


def _numbers(seen: Comparison) -> str:
    speed = "unknown" if seen.speed is None else f"{seen.speed:+.1%}"
    memory = "" if seen.memory is None else f", memory x{seen.memory:.2f}"
    return f"gain {seen.gain:+.6f}, speed {speed}{memory}, lines {seen.net_lines:+d}"


def recompute(evidence: Mapping[str, Any]) -> Decision:
    """The decision again, from the evidence that was recorded with it.

    Raises: UsageError: the evidence is not a policy's, as for a baseline, a crash or a row typed by hand.
    """
    if "policy" not in evidence:
        raise UsageError("This verdict rests on no comparison. Only a verdict of a policy can be computed again.")
    return decide(
        evidence["policy"],
        _from_json(evidence["incumbent"]),
        _from_json(evidence["candidate"]),
        Change(**evidence["change"]),
        Goal(evidence["goal"]),
    )
