"""What a sweep has brought: its rows, and how far it has come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoexperiment import history
from autoexperiment.errors import UsageError
from autoexperiment.files import lock_holder
from autoexperiment.paths import OutputPaths, RunPaths, SweepPaths
from autoexperiment.sweep import book, exports
from autoexperiment.sweep.book import Row
from autoexperiment.sweep.estimates import left_s


def find(root: Path, name: str, *, directory: str = "outputs") -> SweepPaths:
    """The sweep of a name. Raises: UsageError: there is none; the message lists those that are there."""
    paths = SweepPaths(OutputPaths(root / directory).experiment(name))
    if paths.book.is_file():
        return paths
    there = sorted(path.parent.name for path in (root / directory).glob(f"*/{paths.book.name}"))
    known = f"There are: {', '.join(there)}." if there else "There is none yet. Start one: mlx sweep run --config FILE"
    raise UsageError(f"There is no sweep {name!r} in {directory}. {known}")


def rows(paths: SweepPaths) -> list[Row]:
    """A row for each point that has ended, by rung, trial and seed. Raises: UsageError: there is no sweep."""
    return book.read(paths).rows


def status(paths: SweepPaths) -> dict[str, Any]:
    """How far a sweep has come; plain JSON.

    `planned`: points in all; `ended`: of those; `earlier`: points of earlier plans, which `by_status` counts as well;
    `left_s`: the time that the rest takes at the pace of the points that have ended, None before there is one.
    """
    found = rows(paths)
    wanted = book.definition(paths)
    holder = lock_holder(paths.lock)
    earlier = wanted.get("earlier", 0)
    ended = max(0, len(found) - earlier)
    left = max(0, wanted["planned"] - ended)
    return {
        "name": paths.folder.name,
        "folder": str(paths.folder),
        "is_running": holder is not None,
        "pid": holder,
        "planned": wanted["planned"],
        "ended": ended,
        "earlier": earlier,
        "by_status": dict(Counter(row["status"] for row in found)),
        "left": left,
        "left_s": _left_s(found, left, wanted),
        "metric": wanted["metric"],
        "goal": wanted["goal"],
    }


def _left_s(found: Sequence[Row], left: int, wanted: Mapping[str, Any]) -> float | None:
    seconds: dict[int, list[float]] = {}
    for row in found:
        seconds.setdefault(row["rung"], []).append(row["seconds"])
    rungs = wanted.get("rungs", []) if left else []
    each = [max(0, count - len(seconds.get(rung, []))) for rung, (_, count) in enumerate(rungs)]
    total = left_s(seconds, each or [left], [resource for resource, _ in rungs])
    return None if total is None else total / wanted["slots"]


def write_table(paths: SweepPaths) -> Path:
    """Write all rows as a table beside the runs; returns the file. Raises: HarnessError: it can't be written."""
    exports.write_csv(rows(paths), paths.table)
    return paths.table


def curves(paths: SweepPaths, row: Row) -> list[dict[str, Any]]:
    """What a point's training wrote down epoch by epoch, oldest first; [] where there is no such."""
    run = RunPaths(paths.folder / Path(row["run_dir"]).name)
    found = history.read_object(run.metrics / "metrics.json").get("metrics")
    return found if isinstance(found, list) else []
