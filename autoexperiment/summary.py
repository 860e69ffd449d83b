"""What a session amounts to, as plain numbers: the one projection that status, log, report and plot read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

from autoexperiment.ledger import Experiment
from autoexperiment.verdict import PAIRED
from autoexperiment.vocabulary import Goal, Outcome, TrustLevel, Verdict

NOISE_FACTOR = 2.0  # a gain below this many baseline standard deviations is labelled as within noise


@dataclass(frozen=True)
class Line:
    """One experiment as people read it. `value` is None when there is no number to believe.

    `gain` is how much better than the incumbent of its time, in the metric's unit, positive is better; runs
    are compared seed by seed where they can be, so it may differ from the difference of two `value`s.
    `is_beyond_noise` is None where there is no gain or no noise estimate. `gain_error` is the gain's standard
    error for this number of runs; None where no policy compared them, or the noise is not known.
    """

    number: int
    commit: str
    status: str
    outcome: Outcome | None
    value: float | None
    gain: float | None
    is_beyond_noise: bool | None
    tok_sec: float | None
    memory_gb: float | None
    runs: int
    trust: TrustLevel | None
    lines_added: int
    lines_removed: int
    source: str
    description: str
    reason: str
    rule: str
    gain_error: float | None = None


@dataclass(frozen=True)
class Summary:
    """A whole session. `noise` is the standard deviation of the baseline's runs, None below two runs."""

    tag: str
    metric: str
    goal: Goal
    lines: tuple[Line, ...]
    counts: dict[str, int]
    baseline: Line | None
    incumbent: Line | None
    noise: float | None

    @property
    def gain(self) -> float | None:
        """How much better the incumbent is than the baseline; 0.0 when nothing was kept."""
        if self.baseline is None or self.incumbent is None:
            return None
        return _gain(self.goal, self.baseline.value, self.incumbent.value)

    @property
    def judged(self) -> tuple[Line, ...]:
        """Lines with a verdict, the baseline left out."""
        return tuple(line for line in self.lines if line.status in set(Verdict) and line.source != "baseline")


def _gain(goal: Goal, reference: float | None, value: float | None) -> float | None:
    if reference is None or value is None:
        return None
    return reference - value if goal is Goal.MINIMIZE else value - reference


def status_word(experiment: Experiment) -> str:
    """keep, discard, crash, interrupted or running."""
    if experiment.verdict is not None:
        return str(experiment.verdict)
    return "interrupted" if experiment.decided else "running"


def noise_of(experiment: Experiment, metric: str) -> float | None:
    """Standard deviation of the metric over an experiment's runs, or None below two."""
    values = [run.metrics[metric] for run in experiment.runs if run.metrics and metric in run.metrics]
    return stdev(values) if len(values) > 1 else None


def summarise(start: dict[str, Any], experiments: Sequence[Experiment]) -> Summary:
    """Project a ledger (its session record and its experiments) to a summary."""
    metric, goal = start["recipe"]["metric"], Goal(start["recipe"]["goal"])
    first = next((e for e in experiments if e.verdict is Verdict.KEEP), None)
    noise = noise_of(first, metric) if first else None
    lines: list[Line] = []
    best: Line | None = None
    for experiment in experiments:
        line = _line(experiment, metric, goal, best, noise)
        lines.append(line)
        if experiment.verdict is Verdict.KEEP:
            best = line
    counts = Counter(line.status for line in lines if line.source != "baseline")
    baseline = next((line for line in lines if first and line.number == first.number), None)
    words = [*map(str, Verdict), "interrupted"]
    return Summary(start["tag"], metric, goal, tuple(lines), {w: counts[w] for w in words}, baseline, best, noise)


def _line(experiment: Experiment, metric: str, goal: Goal, best: Line | None, noise: float | None) -> Line:
    numbers = experiment.metrics
    value = numbers.get(metric)
    # The policy's own gain, which compares runs of the same seeds; without one, the difference of the means.
    gain = experiment.evidence.get("gain", _gain(goal, best.value if best else None, value))
    beyond = None if gain is None or noise is None else abs(gain) > NOISE_FACTOR * noise
    memory_mb = numbers.get("peak_memory_mb")
    levels = [run.trust for run in experiment.runs if run.trust]
    return Line(
        number=experiment.number,
        commit=experiment.commit[:7],
        status=status_word(experiment),
        outcome=experiment.outcome,
        value=value,
        gain=gain,
        is_beyond_noise=beyond,
        tok_sec=numbers.get("avg_tok_sec"),
        memory_gb=None if memory_mb is None else memory_mb / 1024,
        runs=len(experiment.runs),
        trust=TrustLevel(levels[0]) if levels else None,
        lines_added=experiment.lines_added,
        lines_removed=experiment.lines_removed,
        source=experiment.source,
        description=experiment.description,
        reason=experiment.reason,
        rule=str(experiment.evidence.get("rule", "")),
        gain_error=_gain_error(experiment, noise),
    )


def _gain_error(experiment: Experiment, noise: float | None) -> float | None:
    """Standard error of a difference of means of independent runs; on the safe side for paired ones."""
    seen = experiment.evidence
    pooled = seen.get("bar", {}).get("noise_sd")
    sd = noise if pooled is None else pooled
    if sd is None or "pairing" not in seen:
        return None
    runs = len(seen["candidate"]["values"])
    against = runs if seen["pairing"] == PAIRED else len(seen["incumbent"]["values"])
    error: float = sd * math.sqrt(1 / runs + 1 / against)
    return error


def cell(value: float | None, form: str) -> str:
    """A number for a table; missing is empty, never zero."""
    return "" if value is None else format(value, form)


def escape(text: str) -> str:
    """Text of unknown origin for a Markdown table cell: one line, nothing that Markdown or HTML acts on."""
    line = "".join(c if c.isprintable() else " " for c in text)
    for character in "\\`*_[]<>|#!":
        line = line.replace(character, "\\" + character) if character not in "<>" else line
    return line.replace("<", "&lt;").replace(">", "&gt;")


def noise_word(line: Line) -> str:
    """How a gain compares with the baseline's spread."""
    if line.is_beyond_noise is None:
        return ""
    return "beyond noise" if line.is_beyond_noise else "within noise"
