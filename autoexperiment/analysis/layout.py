"""How points of a sweep become columns: names, kinds of values, and which column is a parameter and which a metric."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoexperiment.analysis.columns import check_column, check_columns
from autoexperiment.errors import UsageError, unknown
from autoexperiment.extras import need
from autoexperiment.naming import SEED, free_names, is_seed, short_names, well_formed

if TYPE_CHECKING:
    import pandas as pd

PARAMS, METRICS = "params", "metrics"  # what a frame's `attrs` say of its columns
TASK = "task"
METRIC_PREFIX = "metric."


@dataclass(frozen=True)
class Sheet:
    """Columns of rows, each a value for every row, still under their own names.

    Attributes:
        params, metrics: for each row, value by name; what a row lacks is missing there.
        before, between, after: columns with fixed names: before the parameters, between them and the metrics, and last.
        reserved: names that no parameter and no metric may have, though no such column is there.
    """

    params: Sequence[Mapping[str, Any]]
    metrics: Sequence[Mapping[str, Any]]
    metric_names: Iterable[str]
    before: Mapping[str, Sequence[Any]]
    between: Mapping[str, Sequence[Any]]
    after: Mapping[str, Sequence[Any]]
    reserved: Iterable[str] = ()

    def frame(self) -> pd.DataFrame:
        """The DataFrame. Parameters have short names where no other column could be meant, a metric that is called like
        a fixed column has `metric.` before its name, and `attrs` lists the names of both, without the seeds, which make
        replicates and no configurations."""
        present = {*self.before, *self.between, *self.after}
        metrics = free_names(self.metric_names, {*present, *self.reserved}, prefix=METRIC_PREFIX)
        taken = {*present, *({*self.reserved} - {SEED}), *metrics.values()}
        params = short_names(dict.fromkeys(path for row in self.params for path in row), taken)
        columns = {
            **_written(self.before),
            **{column: grouped([row.get(path) for row in self.params]) for path, column in params.items()},
            **_written(self.between),
            **{column: measured([row.get(name) for row in self.metrics]) for name, column in metrics.items()},
            **_written(self.after),
        }
        found: pd.DataFrame = need("pandas").DataFrame(columns)
        found.attrs = {PARAMS: configuring(params), METRICS: [*metrics.values()]}
        return found


def configuring(columns: Mapping[str, str]) -> list[str]:
    """The columns, by path, of the parameters that make a configuration."""
    return [column for path, column in columns.items() if not is_seed(path)]


def _written(columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    return {name: [as_text(value) for value in values] for name, values in columns.items()}


def grouped(values: list[Any]) -> list[Any]:
    """A parameter's values so that equal ones, and no others, form a group: lists and objects are JSON text, and so is
    every value where truth values stand among numbers or lists among text, since 1 and true would be one group, and where
    a text has half of a character."""
    kinds = {type(value) for value in values}
    has_lists = bool(kinds & {list, tuple, dict})
    has_halves = any(isinstance(value, str) and value != well_formed(value) for value in values)
    if (bool in kinds and kinds & {int, float}) or (str in kinds and has_lists) or has_halves:
        return [value if value is None else json.dumps(value) for value in values]
    return [as_text(value) for value in values] if has_lists else values


def as_text(value: Any) -> Any:
    """A list or an object as JSON text, text as UTF-8 can hold it; any other value as it is."""
    if isinstance(value, str):
        return well_formed(value)
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def measured(values: list[Any]) -> Any:
    """A metric's values: float64 with NaN for missing ones; if there is anything but numbers, as they are, lists as text."""
    if all(value is None or isinstance(value, int | float) for value in values):
        return need("numpy").array([float("nan") if value is None else value for value in values], dtype="float64")
    return [as_text(value) for value in values]


def params_of(df: pd.DataFrame, param_cols: str | Sequence[str] | None) -> list[str]:
    """The columns that are parameters: those named, or those that the frame was made with.

    Raises: UsageError: a column that is not there; the frame does not say and none are named.
    """
    if param_cols is None and PARAMS not in df.attrs:
        raise UsageError(
            "Which columns are parameters is not known here: the DataFrame was not made by sweep_frame or "
            "collate_sweep_evals, or lost that on its way. Type: param_cols=['learning_rate', …]"
        )
    wanted = df.attrs[PARAMS] if param_cols is None else param_cols
    return check_columns(df, wanted, argument="param_cols")


def metric_of(df: pd.DataFrame, metric: str) -> str:
    """The column of a metric. Raises: UsageError: there is none of that name; the message lists the frame's metrics."""
    known = df.attrs.get(METRICS) if hasattr(df, "attrs") else None
    if known and metric not in known and metric not in df.columns:
        raise UsageError(unknown("metric", str(metric), known))
    return check_column(df, metric, argument="metric")


def check_one_task(df: pd.DataFrame, chosen: Sequence[str]) -> None:
    """Refuse a frame of `collate_sweep_evals` in which runs stand several times, once for each task.

    Args: chosen: the columns that tell configurations apart; the task among them is one of them.
    Raises: UsageError: there are two tasks or more.
    """
    known = [*df.attrs.get(PARAMS, ()), *df.attrs.get(METRICS, ())]
    if not known or TASK not in df.columns or TASK in (*known, *chosen):
        return
    tasks = list(dict.fromkeys(df[TASK].dropna()))
    if len(tasks) > 1:
        names = ", ".join(repr(str(task)) for task in tasks[:5]) + (" and more" if len(tasks) > 5 else "")
        raise UsageError(
            f"The DataFrame holds {len(tasks)} tasks: {names}. Scores of different tasks are no replicates of each other. "
            f"Allowed: one task. Type: df[df['task'].isin([{str(tasks[0])!r}, None])], which keeps points that failed"
        )
