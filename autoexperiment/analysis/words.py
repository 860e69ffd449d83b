"""How numbers, parameters and goals are written."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from autoexperiment.errors import UsageError, unknown
from autoexperiment.goals import known_goal
from autoexperiment.vocabulary import Goal

LONGEST = 28


def goal_of(metric: str, goal: Goal | str | None) -> Goal:
    """Raises: UsageError: a word that is no goal, or none given for a metric that is not known."""
    if goal is not None:
        if goal not in tuple(Goal):
            raise UsageError(unknown("goal", str(goal), tuple(Goal)))
        return Goal(goal)
    found = known_goal(metric)
    if found is None:
        raise UsageError(
            f"Whether more or less of {metric!r} is better is not known here. Allowed: minimize, maximize. "
            "Type: goal='minimize' or goal='maximize'"
        )
    return found


def metric_label(metric: str) -> str:
    """A metric's name for an axis, with the better direction where it is known."""
    goal = known_goal(metric)
    return metric if goal is None else f"{metric} ({'lower' if goal is Goal.MINIMIZE else 'higher'} is better)"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def percent(share: float) -> str:
    """A share with all of its digits: 0.999 is not 100 %."""
    return f"{(Decimal(str(float(share))) * 100).normalize():f}%"


def value_text(value: Any) -> str:
    """A parameter's value for a label: short, printable, on one line."""
    if value is None:
        return "none"
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return f"{value:g}"
    text = "".join(c if c.isprintable() else " " for c in str(value))
    # cut in the middle: names that differ often do so at their end
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}…{text[-(LONGEST // 2 - 1) :]}"


def params_text(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value_text(value)}" for name, value in params.items()) or "all runs"


def plain(text: str) -> str:
    """Text for matplotlib, which would otherwise read dollar signs as mathematics."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text).replace("$", r"\$")
