"""What every tracker gets of a point, in words and numbers that each of them takes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from autoexperiment.naming import free_names
from autoexperiment.sweep.exports import plain
from autoexperiment.untrusted import line
from autoexperiment.vocabulary import RunStatus

TEXT_LIMIT = 5000  # below MLflow's 6000 for a parameter and 8000 for a tag
SERIES = "curves/"  # before the names of what was logged epoch by epoch: a final value of the same name stands alone
POINT = "sweep."  # before our own facts, beside the parameters
ID_DIGITS = 20
STEPS = ("step", "epoch")

Scalar = str | int | float | bool
Row = Mapping[str, Any]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Library:
    """Where a tracker comes from.

    Attributes:
        module: what is imported.
        distribution: what is installed.
        oldest: the first version that the adapter was made for.
        needs: modules that it doesn't install by itself.
        adapter: our module, with a class `Adapter`.
    """

    module: str
    distribution: str
    oldest: tuple[int, ...]
    adapter: str
    needs: tuple[str, ...] = ()


TRACKERS = {
    "trackio": Library("trackio", "trackio", (0, 30), "autoexperiment.trackers.wandb_like:TrackioAdapter"),
    "wandb": Library("wandb", "wandb", (0, 22), "autoexperiment.trackers.wandb_like:WandbAdapter"),
    "mlflow": Library(
        "mlflow", "mlflow-skinny", (3,), "autoexperiment.trackers.mlflow:Adapter", ("sqlalchemy", "alembic", "sqlparse")
    ),
    "tensorboard": Library("tensorboardX", "tensorboardX", (2, 6), "autoexperiment.trackers.tensorboard:Adapter"),
}


@dataclass(frozen=True)
class Run:
    """A point of a sweep as trackers show it.

    Attributes:
        name: of the sweep and the point's number: the same for every attempt at it.
        identity: of the sweep's folder and the point's key; hex digits. It tells the sweep from another of its name, where
            both are sent to one place.
        params: values by dot path, and the seed; lists are JSON text.
        facts: about the sweep and the point, each name with `sweep.` before it.
        metrics: final values, finite.
        series: steps with what was logged at each, finite.
    """

    sweep: str
    name: str
    identity: str
    params: Mapping[str, Scalar]
    facts: Mapping[str, Scalar]
    metrics: Mapping[str, float]
    series: Sequence[tuple[int, Mapping[str, float]]]
    seconds: float
    is_ok: bool


class Adapter(Protocol):
    """One library. It lives in a process of its own, and may set its environment."""

    def __init__(self, folder: Path, *, project: str, options: Mapping[str, str]) -> None:
        """Args: folder: its own, may be new. project: what the runs are listed under."""

    def log(self, run: Run) -> None:
        """Keep a run whole; one of the same name that is there already, also half of one, is replaced."""

    def close(self) -> None: ...


def run_of(
    row: Row, curves: Iterable[Mapping[str, Any]], *, sweep: str, facts: Mapping[str, Any], place: str = ""
) -> Run:
    """A point's row as a run.

    Args:
        curves: a row for each epoch, as `{"epoch": 1, "loss": 0.5}`.
        place: the sweep's folder, whole.
    """
    params = {str(path): _scalar(value) for path, value in row["params"].items()}
    seed = {} if row.get("seed") is None else {"seed": int(row["seed"])}
    own = {name: row[name] for name in ("number", "trial", "rung", "status", "reason", "run_dir") if name in row}
    trust = {f"trust.{name}": level for name, level in row["trust"].items()}
    told = {"name": sweep, **facts, **own, **trust}
    seconds = float(row.get("seconds") or 0.0)
    finals = _finite(row["metrics"])
    return Run(
        sweep=sweep,
        name=f"{sweep}-{row['number']}",
        identity=_identity(place, sweep, row.get("key") or row["number"]),
        params={**params, **_renamed(seed, free_names(seed, params, prefix=POINT))},
        facts={POINT + str(name): _scalar(value) for name, value in told.items()},
        metrics={**finals, **_renamed({"seconds": seconds}, free_names(["seconds"], finals, prefix=POINT))},
        series=list(_series(curves)),
        seconds=seconds,
        is_ok=row["status"] == RunStatus.COMPLETED,
    )


def _identity(*of: str | int) -> str:
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()[:ID_DIGITS]


def _renamed(values: Mapping[str, Value], names: Mapping[str, str]) -> dict[str, Value]:
    return {names[name]: value for name, value in values.items()}


def _scalar(value: Any) -> Scalar:
    value = plain(value)
    if isinstance(value, str):
        return line(value, TEXT_LIMIT)
    return value if isinstance(value, bool | int | float) else line(json.dumps(value), TEXT_LIMIT)


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _series(curves: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, float]]]:
    for count, row in enumerate(curves, 1):
        step = next((row[name] for name in STEPS if isinstance(row.get(name), int)), count)
        values = _finite({SERIES + name: value for name, value in row.items() if name not in STEPS})
        if values:
            yield step, values


def cleaned(values: Mapping[str, Value], clean: Callable[[str], str]) -> dict[str, Value]:
    """Values under names that a tracker allows; two that become alike are told apart by `_2`, `_3` and so on."""
    result: dict[str, Value] = {}
    for name, value in values.items():
        base = clean(name)
        names = (base if n == 1 else f"{base}_{n}" for n in range(1, len(values) + 1))
        result[next(free for free in names if free not in result)] = value
    return result
