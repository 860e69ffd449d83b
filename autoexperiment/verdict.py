"""Keep or discard: policies as pure functions of measurements.

Quality is the primary metric; "gain" is how much better the candidate is, in the metric's unit,
positive is better. A gain below the bar that noise and protocol set is credited as none, whatever the
policy. Speed is tokens per second, as a share more or less than the incumbent's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median, stdev
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
PAIRED = "paired by seed"


@dataclass(frozen=True)
class Measurement:
    """What is known of one candidate. `values` and `seeds`: one entry for each run, in order."""

    values: tuple[float, ...]
    seeds: tuple[int | None, ...]
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
class Bar:
    """What a gain must reach to be credited, and how the runs of one candidate become one number.

    Attributes:
        bips: ten-thousandths of the incumbent's value; reaching them counts. 0: any gain.
        standard_errors: multiples of the standard error of the difference that a gain must exceed.
        noise_sd: standard deviation of single runs, pooled over repeats; None when unknown.
        aggregator: "mean", "median", "min" or "max".
        is_fixed: every candidate has the same number of runs, so none is run again.
    """

    bips: float = 0.0
    standard_errors: float = 0.0
    noise_sd: float | None = None
    aggregator: str = "mean"
    is_fixed: bool = False

    def needed(self, against: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
        """(gain to reach, gain to exceed): of bips and of noise, for runs against the incumbent's they are held to.

        The standard error is that of a difference of means of independent runs. It is on the safe side for
        runs that are paired by seed, and a stand-in for other aggregators.
        """
        level = abs(aggregate(self.aggregator, against))
        noise = self.standard_errors * (self.noise_sd or 0.0) * math.sqrt(1 / len(against) + 1 / len(values))
        digits = _digits(level)
        return round(level * self.bips / 1e4, digits), round(noise, digits)

    def credit(self, gain: float, needed: tuple[float, float]) -> float:
        """The gain, or 0 for one that does not reach the bar; losses are never talked down."""
        reach, exceed = needed
        return gain if gain <= 0 or (gain >= reach and gain > exceed) else 0.0


def _digits(level: float) -> int:
    """Decimals to which numbers of a size are compared: DIGITS, and more below 1."""
    return DIGITS - math.floor(math.log10(level)) if 0 < level < 1 else DIGITS


NO_BAR = Bar()
_AGGREGATORS: Mapping[str, Callable[[Sequence[float]], float]] = {"median": median, "min": min, "max": max}


def aggregate(name: str, values: Sequence[float]) -> float:
    """One number for the runs of one candidate."""
    return _AGGREGATORS.get(name, _mean)(values)


def _spread(values: Sequence[float]) -> float:
    try:
        return stdev(values)
    except OverflowError:  # finite values whose squares are not
        return math.inf


def relative_sd(values: Sequence[float]) -> float:
    """Standard deviation (n - 1) over the mean's size; infinite around a mean of 0, 0 for one value."""
    if len(values) < 2:
        return 0.0
    spread, level = _spread(values), abs(_mean(values))
    return spread / level if level else math.inf if spread else 0.0


def pooled_sd(groups: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation of single runs, pooled over candidates that were run more than once; None without any."""
    repeats = [group for group in groups if len(group) > 1]
    if not repeats:
        return None
    freedom = sum(len(group) - 1 for group in repeats)
    try:
        pooled = math.sqrt(sum((len(group) - 1) * _spread(group) ** 2 for group in repeats) / freedom)
    except OverflowError:
        return None
    return pooled if math.isfinite(pooled) else None


@dataclass(frozen=True)
class Comparison:
    """Candidate against incumbent, in the numbers that the rules speak of. `gain` is the credited one.

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


def _paired(incumbent: Measurement, candidate: Measurement) -> tuple[Sequence[float], str]:
    """The incumbent's runs that the candidate's are compared with: those of the same seeds where it has them all.

    So every run of the candidate counts, a second one with a seed that the incumbent lacks as well.
    """
    theirs = dict(zip(incumbent.seeds, incumbent.values, strict=True))
    is_paired = None not in theirs and len(theirs) == len(incumbent.seeds) and set(candidate.seeds) <= theirs.keys()
    if is_paired and len(set(candidate.seeds)) == len(candidate.seeds):
        return [theirs[seed] for seed in candidate.seeds], PAIRED
    return incumbent.values, "all runs"


def _ratio(new: float | None, old: float | None) -> float | None:
    """How many times the old amount the new one is, at most RATIO_LIMIT; None unless both are above zero."""
    if new is None or old is None or new <= 0 or old <= 0:
        return None
    return min(new / old, RATIO_LIMIT)


def compare(
    incumbent: Measurement, candidate: Measurement, change: Change, goal: Goal, bar: Bar = NO_BAR
) -> tuple[Comparison, str]:
    """Candidate against incumbent, with the gain as measured, and how their runs were paired."""
    against, pairing = _paired(incumbent, candidate)
    old, new = aggregate(bar.aggregator, against), aggregate(bar.aggregator, candidate.values)
    gain = round(old - new if goal is Goal.MINIMIZE else new - old, _digits(max(abs(old), abs(new))))
    memory = _ratio(candidate.peak_memory_mb, incumbent.peak_memory_mb)
    return Comparison(gain, _speed(incumbent.tok_sec, candidate.tok_sec), memory, change.net), pairing


def _speed(old: float | None, new: float | None) -> float | None:
    """Share of speed won or lost; a candidate that hides a speed which the incumbent shows counts as standing still."""
    if old is None or old <= 0:
        return None
    return round((_ratio(new, old) or 0.0) - 1, DIGITS)


@dataclass(frozen=True)
class _Court:
    """A policy with the bar that gains are held against."""

    policy: Policy
    bar: Bar
    needed: tuple[float, float]

    def rule(self, seen: Comparison) -> Rule:
        return self.policy(replace(seen, gain=self.bar.credit(seen.gain, self.needed)))

    def is_marginal(self, seen: Comparison) -> bool:
        """Whether run-to-run variation could turn the verdict."""
        return len({self.rule(nudged)[0] for nudged in self._nudges(seen)}) > 1

    def _nudges(self, seen: Comparison) -> list[Comparison]:
        """The comparison as another run might have shown it."""
        step = QUALITY_NOISE if self.bar.noise_sd is None else self.bar.noise_sd
        speeds = [None] if seen.speed is None else [seen.speed - SPEED_NOISE, seen.speed, seen.speed + SPEED_NOISE]
        gains = [seen.gain - step, seen.gain, seen.gain + step]
        return [replace(seen, gain=gain, speed=speed) for gain in gains for speed in speeds]


def decide(
    policy_name: str,
    incumbent: Measurement,
    candidate: Measurement,
    change: Change,
    goal: Goal,
    bar: Bar = NO_BAR,
) -> Decision:
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
        "bar": asdict(bar),
    }
    seen, pairing = compare(incumbent, candidate, change, goal, bar)
    if not all(map(math.isfinite, (*_numbers_of(incumbent), *_numbers_of(candidate), seen.gain))):
        return Decision(Verdict.DISCARD, NOT_FINITE, "A number of this comparison is not finite.", (), evidence)
    court = _Court(POLICIES[policy_name], bar, bar.needed(_paired(incumbent, candidate)[0], candidate.values))
    verdict, rule = court.rule(seen)
    is_open = not bar.is_fixed and len(candidate.values) < MAX_RUNS and court.is_marginal(seen)
    credited = bar.credit(seen.gain, court.needed)
    evidence |= {"gain": seen.gain, "speed": seen.speed, "memory": seen.memory, "pairing": pairing}
    evidence |= {"credited": credited, "needed": max(court.needed)}
    reason = f"{'Marginal, to be run again' if is_open else rule.capitalize()}: {_numbers(seen)}{_below(seen, court)}."
    return Decision(None if is_open else verdict, rule, reason, _flags(seen), evidence)


def _below(seen: Comparison, court: _Court) -> str:
    """What a gain lacked."""
    if court.bar.credit(seen.gain, court.needed) == seen.gain:
        return ""
    reach, exceed = court.needed
    if seen.gain < reach:
        return f", below the {reach:.6f} that the protocol asks for"
    return f", within noise: {court.bar.standard_errors:g} standard errors are {exceed:.6f}"


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
        Bar(**evidence.get("bar", {})),  # releases before the protocol had none
    )
