"""A sweep's results as a DataFrame, and which of its configurations is best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoexperiment.analysis.best import BestConfig, best_config
from autoexperiment.analysis.columns import numbers
from autoexperiment.analysis.layout import Sheet, check_one_task, metric_of, params_of
from autoexperiment.analysis.words import plural
from autoexperiment.errors import UsageError
from autoexperiment.naming import SEED
from autoexperiment.paths import SweepPaths
from autoexperiment.sweep import exports, results
from autoexperiment.vocabulary import Goal, RunStatus

if TYPE_CHECKING:
    import pandas as pd

RUNG = "rung"


def sweep_frame(source: str | Path | Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A sweep's results, a row for each point that has ended.

    Args: source: the sweep's folder, `outputs/<name>`, or rows as `mlx sweep results --json` prints them.
    Returns: `number`, `trial`, `rung` where successive halving went on with some; the parameters (named as in
        `collate_sweep_evals`); `seed` where there are replicates; the metrics, NaN for every point that is not completed;
        `status`, `reason`, `seconds`, `run_dir`, and for each metric how it was obtained, as `trust.NAME`. Names are those of
        `mlx sweep export`. `attrs` says which columns are metrics, and which are parameters, seeds left out.
    Raises: UsageError: there is no sweep, or no row.
    """
    found = [*(results.rows(SweepPaths(Path(source))) if isinstance(source, str | Path) else source)]
    if not found:
        raise UsageError("The sweep has no results yet. Needed: one point that has ended. Type: mlx sweep status")
    metrics = [row["metrics"] if row["status"] == RunStatus.COMPLETED else {} for row in found]
    return Sheet(
        params=[row["params"] for row in found],
        metrics=metrics,
        metric_names=dict.fromkeys(name for row in found for name in row["metrics"]),
        before=_columns(found, ["number", "trial", *([RUNG] if any(row[RUNG] for row in found) else [])]),
        between=_columns(found, [SEED] if any(row[SEED] is not None for row in found) else []),
        after=_columns(found, exports.AFTER) | _trust(found),
        reserved=exports.FACTS,
    ).frame()


def _columns(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in names}


def _trust(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    metrics = dict.fromkeys(name for row in rows for name in row["trust"])
    return {f"trust.{name}": [row["trust"].get(name) for row in rows] for name in metrics}


def best_of_sweep(
    df: pd.DataFrame, metric: str, *, goal: Goal | str | None = None, confidence: float = 0.95
) -> BestConfig:
    """The best configuration over its seeds, and how sure that is. Parameters whose last name is `seed` are seeds.

    After successive halving only the trials of the highest rung that has numbers are compared: what was given less is no
    worse for that.
    Args: df: of `sweep_frame`, or of `collate_sweep_evals` for one task.
    Raises: as `best_config`. UsageError: it holds several tasks.
    """
    metric, columns = metric_of(df, metric), params_of(df, None)
    check_one_task(df, columns)
    compared = highest_rung(df, metric)
    best = best_config(compared, metric, param_cols=columns, goal=goal, confidence=confidence)
    return replace(best, scope=_scope(df, compared))


def _scope(df: pd.DataFrame, compared: pd.DataFrame) -> str:
    if RUNG not in df.columns:
        return ""
    trials, rung = compared["trial"].nunique(), compared[RUNG].iloc[0]
    return f"compared: {trials} of {plural(df['trial'].nunique(), 'trial')}, those at rung {rung}; the others were given less"


def highest_rung(df: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of the highest rung at which a run has a number; all of them where there are no rungs."""
    if RUNG not in df.columns:
        return df
    has = np.isfinite(numbers(df, metric))
    return df[df[RUNG] == df[RUNG][has].max()] if has.any() else df


def lowest_rung(df: pd.DataFrame) -> pd.DataFrame:
    """The rows of the rung at which every trial was run; all of them where there are no rungs."""
    return df[df[RUNG] == df[RUNG].min()] if RUNG in df.columns else df
