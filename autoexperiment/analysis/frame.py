"""The history as a DataFrame: a row for each run, with what differs between the configurations and how each ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoexperiment import history
from autoexperiment.analysis.layout import METRIC_PREFIX, METRICS, PARAMS, as_text
from autoexperiment.errors import HarnessError, UsageError, unknown
from autoexperiment.extras import need
from autoexperiment.naming import SEED, free_names, short_names
from autoexperiment.paths import OutputPaths, RunPaths
from autoexperiment.vocabulary import RunStatus

if TYPE_CHECKING:
    import pandas as pd

FACTS = ("experiment", "timestamp", "run_dir", "status")
NOT_PARAMETERS = ("name", "description", "output")  # of a configuration: they do not change what is trained

_Path = tuple[str, ...]


def runs_frame(
    index: Path, experiment: str | Sequence[str] | None = None, *, has_short_names: bool = True
) -> pd.DataFrame:
    """The runs of an output folder, oldest first.

    Args:
        index: the folder's `index.json`.
        experiment: one experiment or several; None: all.
        has_short_names: `learning_rate` for `training.learning_rate`, wherever no other column could be meant.
    Returns: `experiment`, `timestamp`, `run_dir` (below the folder), `status`; then what differs between the runs'
        configurations (lists as JSON text; missing where a configuration lacks it); then the final metrics, NaN for
        every run that is not completed: a number from half way can't be compared.
    Raises: HarnessError: there is no such folder. UsageError: there is no such experiment.
    """
    runs = _select(Path(index), experiment)
    configs = [_config(Path(index), run) for run in runs]
    paths = _differing(configs)
    found = dict.fromkeys(name for run in runs for name in run["final_metrics"] or {})
    metrics = free_names(found, FACTS, prefix=METRIC_PREFIX)
    names = short_names(paths, {*FACTS, *metrics.values()}, is_short=has_short_names)
    columns: dict[str, list[Any]] = {fact: [run[fact] for run in runs] for fact in FACTS}  # type: ignore[literal-required]
    columns |= {names[path]: [as_text(config.get(path)) for config in configs] for path in paths}
    columns |= {column: [_final(run, metric) for run in runs] for metric, column in metrics.items()}
    frame: pd.DataFrame = need("pandas").DataFrame(columns)
    frame = frame.astype(dict.fromkeys(metrics.values(), "float64"))
    configuring = [name for path, name in names.items() if path[-1] != SEED]
    frame.attrs = {PARAMS: configuring, METRICS: [*metrics.values()]}
    return frame


def _select(index: Path, experiment: str | Sequence[str] | None) -> list[history.Entry]:
    if not index.parent.is_dir():
        raise HarnessError(f"There is no folder {index.parent}. Name the one that holds runs: outputs/{index.name}")
    runs = history.list_all_runs(index)
    if experiment is None:
        return runs
    wanted = [experiment] if isinstance(experiment, str) else list(experiment)
    known = list(dict.fromkeys(run["experiment"] for run in runs))
    for name in wanted:
        if name not in known:
            raise UsageError(unknown("experiment", name, known, where=str(index)))
    return [run for run in runs if run["experiment"] in wanted]


def _config(index: Path, run: history.Entry) -> dict[_Path, Any]:
    folder = OutputPaths(index.parent).experiment(run["experiment"]) / run["timestamp"]
    config = history.read_object(RunPaths(folder).config)
    return dict(_leaves({key: value for key, value in config.items() if key not in NOT_PARAMETERS}, ()))


def _leaves(value: Any, path: _Path) -> Iterable[tuple[_Path, Any]]:
    """The values of a nested configuration with their paths; lists are text, which can be grouped and shown."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield path, json.dumps(value) if isinstance(value, list) else value


def _differing(configs: Sequence[Mapping[_Path, Any]]) -> list[_Path]:
    """Paths whose values are not the same in every configuration, in the order of the configurations."""
    paths = dict.fromkeys(path for config in configs for path in config)
    return [path for path in paths if len({_exactly(config, path) for config in configs}) > 1]


def _exactly(config: Mapping[_Path, Any], path: _Path) -> str | None:
    """A value's own text, in which 1 and true differ; None where there is none, as for a null."""
    value = config.get(path)
    return None if value is None else json.dumps(value)


def _final(run: history.Entry, metric: str) -> float | None:
    return (run["final_metrics"] or {}).get(metric) if run["status"] == RunStatus.COMPLETED else None
