"""Where the values of a parameter stand on an axis: by their size, by their size's logarithm, or side by side."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from autoexperiment.analysis.columns import group_rows
from autoexperiment.analysis.words import plain, value_text
from autoexperiment.errors import UsageError, unknown
from autoexperiment.extras import need

if TYPE_CHECKING:
    import pandas as pd

LINEAR, LOG, CATEGORY, AUTO = "linear", "log", "category", "auto"
DECADE, CENTURY = 10.0, 100.0  # largest over smallest: from here on a logarithm may be, and is, the better scale
MOST_TICKS = 8
MOST_NAMES = 40  # of values that stand side by side; of more, some are named
WIDEST = 60  # characters of all labels together; beyond that they are tilted


@dataclass(frozen=True)
class Scale:
    """An axis for a parameter. `levels`: its values, numbers in their order, others as first seen, a missing one last."""

    name: str
    kind: str
    levels: tuple[Any, ...]

    @property
    def is_category(self) -> bool:
        return self.kind == CATEGORY

    def place(self, value: Any) -> float:
        """Where a value (None: missing) stands on the axis."""
        return self._places[value] if self.is_category else float(value)

    @cached_property
    def _places(self) -> dict[Any, float]:
        return {level: float(place) for place, level in enumerate(self.levels)}

    def draw(self, axes: Any, letter: str) -> None:
        """Set up the axis "x" or "y" of matplotlib's axes: scale, ticks, label."""
        axis = getattr(axes, f"{letter}axis")
        every = -(-len(self.levels) // MOST_NAMES) if self.is_category else 1
        some = f" ({len(self.levels)} values, one of {every} named)" if every > 1 else ""
        axis.set_label_text(plain(self.name + some))
        if self.kind == LOG:
            axes.set(**{f"{letter}scale": LOG})
        if self.is_category or len(self.levels) <= MOST_TICKS:
            # the log scale's own ticks stand at powers of ten, where there may be no run
            axis.set_minor_locator(need("matplotlib.ticker").NullLocator())
            self._label(axis, self.levels[::every], is_across=letter == "x")

    def _label(self, axis: Any, levels: Sequence[Any], *, is_across: bool) -> None:
        texts = [value_text(level) for level in levels]
        axis.set_ticks([self.place(level) for level in levels], [plain(text) for text in texts])
        if is_across and max(map(len, texts)) * len(texts) > WIDEST:
            for tick in axis.get_ticklabels():
                tick.set(rotation=35, ha="right", rotation_mode="anchor")


def scale_of(df: pd.DataFrame, column: str, *, wanted: str = AUTO) -> Scale:
    """The axis for a column.

    Args: wanted: "linear", "log" or "category"; "auto": log for positive numbers over a decade or more that are more even
        on it, categories for text, for missing values, and for such numbers with a zero among them.
    Raises: UsageError: an unknown word; values that have no place on the scale asked for.
    """
    if wanted not in (AUTO, LINEAR, LOG, CATEGORY):
        raise UsageError(unknown("scale", str(wanted), (AUTO, LINEAR, LOG, CATEGORY)))
    groups = group_rows(df, [column])
    levels = [groups.params(group)[column] for group in range(len(groups))]
    present = [level for level in levels if level is not None]
    is_numeric = all(_is_number(level) for level in present)
    ordered = (sorted(present) if is_numeric else present) + [None] * (None in levels)
    has_size = is_numeric and None not in levels
    if wanted == AUTO:
        return Scale(column, _kind(present) if has_size else CATEGORY, tuple(ordered))
    if (wanted in (LINEAR, LOG) and not has_size) or (wanted == LOG and min(present) <= 0):
        raise UsageError(
            f"Column {column!r} can't have a {wanted} scale: it holds {_misfit(ordered, wanted)}. "
            f"Allowed: numbers{' above 0' if wanted == LOG else ''}. Type: x_scale='category'"
        )
    return Scale(column, wanted, tuple(ordered))


def _is_number(value: Any) -> bool:
    is_plain = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
    return bool(is_plain and np.isfinite(value))


def _misfit(levels: Sequence[Any], wanted: str) -> str:
    wrong = [level for level in levels if not _is_number(level) or (wanted == LOG and level <= 0)]
    return value_text(wrong[0])


def _kind(values: Sequence[float]) -> str:
    positive = [value for value in values if value > 0]
    if not _spans_decades(sorted(positive)):
        return LINEAR
    return LOG if len(positive) == len(values) else CATEGORY


def _spans_decades(values: Sequence[float]) -> bool:
    """Whether sorted positive numbers cover a decade and are more even by their logarithms."""
    if not values or values[-1] / values[0] < DECADE:
        return False
    if len(values) == 2:
        return values[-1] / values[0] >= CENTURY
    ranks = np.arange(len(values))
    by_size, by_log = (np.corrcoef(ranks, found)[0, 1] for found in (values, np.log(values)))
    return bool(by_log > by_size)
