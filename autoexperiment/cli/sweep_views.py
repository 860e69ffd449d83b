"""`mlx sweep status | results | plot | best | export`: what came out of a sweep, also while it goes on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoexperiment.cli.run_tables import columns, plain, shown
from autoexperiment.cli.terminal import print_json
from autoexperiment.clocks import duration

if TYPE_CHECKING:
    from autoexperiment.paths import SweepPaths
    from autoexperiment.sweep.book import Row

OUTPUTS = "outputs"
NAME = click.argument("name")
DIRECTORY = click.option("--output-dir", default=OUTPUTS, show_default=True, help="The folder that sweeps lie in.")
METRIC = click.option("--metric", help="Which metric; otherwise what the sweep goes by.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


def _find(name: str, directory: str) -> SweepPaths:
    from autoexperiment.paths import find_root
    from autoexperiment.sweep import results

    return results.find(find_root(Path.cwd()), name, directory=directory)


def _rows(paths: SweepPaths) -> list[Row]:
    """What has ended. Raises: HarnessError: nothing has."""
    from autoexperiment.errors import HarnessError
    from autoexperiment.sweep import results

    if found := results.rows(paths):
        return found
    raise HarnessError(
        f"The sweep {paths.folder.name} has no results yet: no point has ended. Type: mlx sweep status {paths.folder.name}"
    )


def _metric(paths: SweepPaths, given: str | None, rows: Sequence[Row]) -> str:
    """The metric that was asked for, else the sweep's own. Raises: UsageError: no point has it, or none is named."""
    from autoexperiment.errors import UsageError, unknown
    from autoexperiment.sweep import book

    known = dict.fromkeys(name for row in rows for name in row["metrics"])
    metric: str = given or book.definition(paths)["metric"]
    if not metric:
        raise UsageError(f"The sweep names no metric of its own. Name one: --metric. There are: {', '.join(known)}.")
    if given and given not in known:
        raise UsageError(unknown("metric", given, known, where=f"the sweep {paths.folder.name}"))
    return metric


def _goal(paths: SweepPaths, metric: str, given: str | None) -> str | None:
    """The direction that is better; None: nobody has said. Raises: UsageError: it is another than the one that was asked."""
    from autoexperiment.errors import UsageError
    from autoexperiment.goals import known_goal
    from autoexperiment.sweep import book

    wanted = book.definition(paths)
    known = (wanted["goal"] if metric == wanted["metric"] else "") or known_goal(metric)
    if given and known and given != known:
        raise UsageError(f"--goal is {given}, but {metric!r} is to {known}. Leave --goal out.")
    return given or known


def counted(found: Mapping[str, Any]) -> str:
    """How many points there are of which status."""
    counts = ", ".join(f"{count} {plain(word)}" for word, count in found["by_status"].items()) or "none"
    earlier = f", and {found['earlier']} of earlier plans" if found["earlier"] else ""
    return f"{found['ended']} of {found['planned']} points have ended{earlier}: {counts}"


def place_words(directory: str) -> list[str]:
    """What a command needs besides a sweep's name to find it."""
    return [] if directory == OUTPUTS else ["--output-dir", shlex.quote(directory)]


@click.command("status")
@NAME
@DIRECTORY
@JSON
def status(name: str, output_dir: str, as_json: bool) -> int:
    """Say how far a sweep has come, and how much time is left."""
    from autoexperiment.sweep import results

    found = results.status(_find(name, output_dir))
    if as_json:
        print_json(found)
        return 0
    facts = [
        ("sweep", plain(found["name"])),
        ("now", f"running (process {found['pid']})" if found["is_running"] else "not running"),
        ("done", counted(found)),
    ]
    if found["left"]:
        facts.append(("left", f"{found['left']}" + (f", {duration(found['left_s'])}" if found["left_s"] else "")))
    if found["metric"]:
        facts.append(("metric", f"{plain(found['metric'])} ({found['goal']})"))
    click.echo(columns([*facts, ("folder", found["folder"])]))
    return 0


@click.command("results")
@NAME
@DIRECTORY
@METRIC
@JSON
def results(name: str, output_dir: str, metric: str | None, as_json: bool) -> int:
    """Print a row for each point that has ended, failed ones included."""
    from autoexperiment.sweep import book, results

    paths = _find(name, output_dir)
    found = results.rows(paths)
    if as_json:
        print_json(found)
        return 0
    own = book.definition(paths)["metric"]
    metrics = [_metric(paths, metric, found)] if metric else _shown_metrics(found, first=own)
    click.echo(_table(found, metrics))
    if left := len({name for row in found for name in row["metrics"]} - set(metrics)):
        where = " ".join([plain(name), *place_words(output_dir)])
        click.echo(f"{left} more metrics: --json, or mlx sweep export {where} --format csv", err=True)
    return 0


MOST_METRICS = 4


def _shown_metrics(rows: list[Row], *, first: str) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    measured = {"wall_s", "cpu_s", "peak_memory_mb"}
    return sorted((name for name in names if name not in measured), key=lambda name: name != first)[:MOST_METRICS]


def _table(rows: list[Row], metrics: list[str]) -> str:
    from autoexperiment.naming import short_names

    paths = dict.fromkeys(tuple(path.split(".")) for row in rows for path in row["params"])
    has_seed = any(row["seed"] is not None for row in rows)
    own = ("point", *(["seed"] if has_seed else []), "status", "seconds")
    names = short_names(list(paths), taken=(*own, *metrics))
    head = [
        "point",
        *map(plain, names.values()),
        *(["seed"] if has_seed else []),
        "status",
        *map(plain, metrics),
        "seconds",
    ]
    lines = [head]
    for row in rows:
        params = [shown(row["params"].get(".".join(path))) for path in paths]
        seed = [shown(row["seed"])] if has_seed else []
        numbers = [shown(row["metrics"].get(metric)) for metric in metrics]
        why = f"{row['seconds']:.1f}  {plain(row['reason'])}" if row["reason"] else f"{row['seconds']:.1f}"
        lines.append([str(row["number"]), *params, *seed, row["status"], *numbers, why])
    return columns(lines)


@click.command("best")
@NAME
@DIRECTORY
@METRIC
@click.option("--goal", type=click.Choice(["minimize", "maximize"]), help="For a metric whose goal is not known.")
@click.option("--confidence", type=click.FloatRange(0.5, 0.9999), default=0.95, show_default=True)
@JSON
def best(name: str, output_dir: str, metric: str | None, goal: str | None, confidence: float, as_json: bool) -> int:
    """Say which configuration is best over its seeds, and how sure that is.

    The winner is compared with every other one by Welch's test, corrected by Holm for their number.
    """
    from autoexperiment.analysis import best_of_sweep, sweep_frame

    paths = _find(name, output_dir)
    rows = _rows(paths)
    metric = _metric(paths, metric, rows)
    found = best_of_sweep(sweep_frame(rows), metric, goal=_goal(paths, metric, goal), confidence=confidence)
    if as_json:
        print_json({**asdict(found), "is_sure": found.is_sure})
    else:
        click.echo(found)
    return 0


@click.command("plot")
@NAME
@DIRECTORY
@METRIC
@click.option("--param", "params", multiple=True, metavar="COLUMN", help="Only these parameters.")
@click.option("--confidence", type=click.FloatRange(0.5, 0.9999), default=0.95, show_default=True)
@click.option("--format", "form", type=click.Choice(["png", "svg", "pdf"]), default="png", show_default=True)
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Where pictures go; otherwise beside the runs.")
@JSON
def plot(
    name: str,
    output_dir: str,
    metric: str | None,
    params: tuple[str, ...],
    confidence: float,
    form: str,
    folder: Path | None,
    as_json: bool,
) -> int:
    """Draw the pictures that fit a sweep: curves with intervals, a heatmap, or the effect of each parameter."""
    from autoexperiment.analysis import sweep_frame, sweep_report_figures

    paths = _find(name, output_dir)
    rows = _rows(paths)
    metric = _metric(paths, metric, rows)
    figures = sweep_report_figures(sweep_frame(rows), metric, param_cols=params or None, confidence=confidence)
    place = folder or paths.folder
    place.mkdir(parents=True, exist_ok=True)
    files = []
    for title, figure in figures.items():
        files.append(place / f"{title}.{form}")
        figure.savefig(files[-1])
    if as_json:
        print_json([str(file) for file in files])
    else:
        click.echo("\n".join(map(str, files)))
    return 0


@click.command("export")
@NAME
@DIRECTORY
@click.option(
    "--format", "form", required=True, metavar="FORMAT", help="csv, parquet, mlflow, tensorboard, trackio or wandb."
)
@click.option(
    "--to", "place", type=click.Path(path_type=Path), help="The file, or a tracker's folder; otherwise beside the runs."
)
@JSON
def export(name: str, output_dir: str, form: str, place: Path | None, as_json: bool) -> int:
    """Write the results for other programs: a table, or the runs of a tracker."""
    from autoexperiment import trackers
    from autoexperiment.sweep import book, results

    paths = _find(name, output_dir)
    to = place or (paths.folder / f"results.{form}" if form in ("csv", "parquet") else paths.folder)
    rows, facts = results.rows(paths), book.definition(paths)
    trackers.export(rows, form, to, sweep_name=paths.folder.name, facts=facts, curves_of=partial(results.curves, paths))
    if as_json:
        print_json({"format": form, "to": str(to), "points": len(rows)})
    else:
        click.echo(to)
    return 0
