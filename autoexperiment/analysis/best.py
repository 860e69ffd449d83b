"""Which configuration is best, and how sure that is, given that it was picked from the same runs.

The winner is the configuration with the best mean. Each other one is compared with it by Welch's test, whose p-value is
doubled (two-sided) because the winner was picked after looking, and Holm's correction is made for the number of
comparisons. At 95 %, of two configurations that are truly equal one is then called surely better about once in twenty
times, and the truly best one is among the winner and those not told from it more than nineteen times in twenty (both by
simulation, in the tests). Dunnett's test would
assume one noise for all configurations and a winner named beforehand; a learning rate at the edge of divergence has a
noise of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from autoexperiment.analysis.columns import check_column, check_columns, group_rows, numbers
from autoexperiment.analysis.comparison import MOST_RUNS, POWER, holm, runs_needed, welch
from autoexperiment.analysis.intervals import Moments, moments
from autoexperiment.analysis.table import compute_ci_df
from autoexperiment.analysis.words import goal_of, params_text, percent, plural
from autoexperiment.errors import HarnessError
from autoexperiment.vocabulary import Goal

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 5


@dataclass(frozen=True)
class Standing:
    """A configuration as its runs leave it.

    `lower_bound`, `upper_bound`: 95 % t-interval or what was asked for, None for a single run. `missing`: runs without a
    number. `p_value`: against the winner, corrected; None for the winner, and where no noise could be measured.
    `is_told_apart`: surely worse than the winner.
    """

    params: Mapping[str, Any]
    mean: float
    lower_bound: float | None
    upper_bound: float | None
    count: int
    missing: int
    p_value: float | None = None
    is_told_apart: bool = False

    def __str__(self) -> str:
        bounds = f"{self.lower_bound:.4g} to {self.upper_bound:.4g}, " if self.lower_bound is not None else ""
        failed = f" ({self.missing} more without a number)" if self.missing else ""
        against = "" if self.p_value is None else f", p {self.p_value:.2g}"
        return f"{params_text(self.params)}: mean {self.mean:.4g}, {bounds}{plural(self.count, 'run')}{failed}{against}"


@dataclass(frozen=True)
class BestConfig:
    """The best configuration and how sure that is.

    `others`: the ones with a number, best first. `without_number`: how many have none. `runs_needed`: of each
    configuration, to tell the winner from those that it was not told from; None when nothing is open, or no number of
    runs can be named: see `advice`. `scope`: which were compared, "" for all.
    """

    metric: str
    goal: Goal
    confidence: float
    winner: Standing
    others: tuple[Standing, ...]
    without_number: int
    runs_needed: int | None
    advice: str = field(repr=False)
    scope: str = ""

    @property
    def params(self) -> Mapping[str, Any]:
        """The winner's parameters."""
        return self.winner.params

    @property
    def undecided(self) -> tuple[Standing, ...]:
        """The configurations that the runs do not tell from the winner."""
        return tuple(other for other in self.others if not other.is_told_apart)

    @property
    def is_sure(self) -> bool:
        """Whether the winner was told from all others, and there were others."""
        return bool(self.others) and not self.undecided

    def __str__(self) -> str:
        lines = [
            f"best {self.metric} ({self.goal}): {self.winner}",
            *([self.scope] if self.scope else []),
            self._verdict(),
        ]
        lines += [f"    {other}" for other in self.undecided[:SHOWN]]
        if len(self.undecided) > SHOWN:
            lines.append(f"    and {len(self.undecided) - SHOWN} more")
        if self.without_number:
            lines.append(f"left out: {plural(self.without_number, 'configuration')} without any number")
        return "\n".join([*lines, self.advice] if self.advice else lines)

    def _verdict(self) -> str:
        if not self.others:
            return "nothing to compare it with: no other configuration has a number"
        if self.is_sure:
            largest = max(other.p_value or 0.0 for other in self.others)
            return f"sure at {percent(self.confidence)}: better than all {len(self.others)} others (largest p {largest:.2g})"
        return f"not sure at {percent(self.confidence)}: {len(self.undecided)} of {len(self.others)} others may be as good:"


def best_config(
    df: pd.DataFrame,
    metric: str,
    *,
    param_cols: str | Sequence[str],
    goal: Goal | str | None = None,
    confidence: float = 0.95,
) -> BestConfig:
    """The configuration with the best mean, what it can't be told from, and how many runs would tell.

    Args:
        df: a row for each run; NaN in `metric` is a run that failed.
        param_cols: what makes a configuration: the parameters, not the seed. Of equal means the first is the winner.
        goal: "minimize" or "maximize"; None for a metric whose goal is known.
    Raises: UsageError: a column, goal or confidence that is none. HarnessError: no run has a number.
    """
    metric = check_column(df, metric, argument="metric")
    columns = check_columns(df, param_cols, argument="param_cols")
    aim = goal_of(metric, goal)
    table = compute_ci_df(df, metric, columns, confidence=confidence)
    groups = group_rows(df, columns)
    facts = moments(numbers(df, metric), groups.codes, len(groups))
    ranking = _ranking(facts, aim, metric)
    p = holm(welch(facts, ranking[0], ranking[1:]))
    standings = [_standing(table, group, groups.params(int(group))) for group in ranking]
    others = tuple(_compared(found, value, confidence) for found, value in zip(standings[1:], p, strict=True))
    needed, advice = _advice(facts, ranking, others, confidence)
    without = int((facts.count == 0).sum())
    return BestConfig(metric, aim, confidence, standings[0], others, without, needed, advice)


def _ranking(facts: Moments, goal: Goal, metric: str) -> np.ndarray:
    """Groups that have a number, best mean first."""
    found = np.flatnonzero(facts.count)
    if not len(found):
        raise HarnessError(
            f"No run has a number in {metric!r}: {plural(int(facts.missing.sum()), 'row')} without one. Needed: one run "
            "that ended well. Look at how they ended: mlx history"
        )
    sign = 1 if goal is Goal.MINIMIZE else -1
    ranked: np.ndarray = found[np.argsort(sign * facts.mean[found], kind="stable")]
    return ranked


def _standing(table: pd.DataFrame, group: int, params: Mapping[str, Any]) -> Standing:
    row = table.iloc[group]
    lower, upper = (None if np.isnan(row[name]) else float(row[name]) for name in ("lower_bound", "upper_bound"))
    return Standing(params, float(row["mean"]), lower, upper, int(row["count"]), int(row["missing"]))


def _compared(found: Standing, p: float, confidence: float) -> Standing:
    is_apart = bool(p <= 1 - confidence)
    value = None if np.isnan(p) else float(p)
    return Standing(
        found.params, found.mean, found.lower_bound, found.upper_bound, found.count, found.missing, value, is_apart
    )


def _advice(
    facts: Moments, ranking: np.ndarray, others: Sequence[Standing], confidence: float
) -> tuple[int | None, str]:
    """How many runs of each configuration would tell, and in words what to do."""
    best, rest = ranking[0], ranking[1:]
    undecided = [int(group) for group, other in zip(rest, others, strict=True) if not other.is_told_apart]
    if not undecided:
        return None, ""
    if facts.count[best] < 2 or any(facts.count[group] < 2 for group in undecided):
        return None, "to tell: run each of them with 3 seeds or more; the seed is no parameter of a configuration"
    if any(facts.sd[group] == 0 and facts.sd[best] == 0 for group in undecided):
        return None, "to tell: runs of a configuration gave equal numbers; give each run a seed of its own"
    alpha = (1 - confidence) / len(undecided)
    needs = [
        runs_needed(facts.mean[best] - facts.mean[group], facts.sd[best], facts.sd[group], alpha=alpha)
        for group in undecided
    ]
    known = [need for need in needs if need is not None]
    if len(known) < len(needs):
        return None, f"to tell: more than {MOST_RUNS} runs of each, so take any of them"
    return max(known), f"to tell: about {max(known)} runs of each (for {POWER:.0%} power, by the means and noise seen)"
