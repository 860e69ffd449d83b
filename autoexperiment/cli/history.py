"""`mlx history`: the runs of an output folder. What stands in run directories is data, and is shown as such."""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from autoexperiment import history
from autoexperiment.cli.run_tables import HEADLINES, columns, compared, flat, plain, row, shown, told
from autoexperiment.errors import HarnessError, LabError, unknown
from autoexperiment.files import dump_json
from autoexperiment.goals import GOALS, known_goal
from autoexperiment.history import Entry
from autoexperiment.paths import EPOCH_CHECKPOINT, FINAL_CHECKPOINT, OutputPaths, ProjectPaths, RunPaths, find_root
from autoexperiment.vocabulary import Goal, RunStatus

EVALUATED = frozenset({*GOALS, "confusion_matrix"} - {*HEADLINES})  # what only `mlx eval` computes
MOST_NAMES = 20  # in a message or a completion
MOST_FOLDERS = 1000  # of the workspace that are looked at for runs

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _ListsByDefault(click.Group):
    """`mlx history` and `mlx history --json` are `mlx history list` and `mlx history list --json`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        wants_list = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        is_completing = ctx.resilient_parsing and not args
        return super().parse_args(ctx, ["list", *args] if wants_list and not is_completing else args)


@dataclass(frozen=True)
class _Found:
    """A run that was named on the command line.

    Attributes:
        label: what it is called beside others: its `run_dir`, or its path if it lies in another output folder.
    """

    entry: Entry
    paths: RunPaths
    label: str


@click.group("history", cls=_ListsByDefault)
def command() -> None:
    """List, show and compare runs; without a subcommand: list.

    \b
      mlx history --experiment tune-lr
      mlx history show tune-lr/20251122_143025
      mlx history best --metric val_loss
      mlx history compare 20251122_143025 20251122_150112

    The index is <output-dir>/index.json. It follows the run directories: a run that was killed is closed as
    interrupted, one whose directory was removed leaves the list, links are not followed. The loop's runs are in it too,
    as autoresearch-TAG.
    """


def _names_for_completion(context: click.Context, field: Literal["run_dir", "experiment"], start: str) -> list[str]:
    """The newest names that begin so; none when the folder can't be read: a tab is no place for a complaint."""
    with contextlib.suppress(LabError, OSError):
        runs = history.sync(_outputs(context.params.get("output_dir")))
        names = dict.fromkeys(run[field] for run in reversed(runs))
        return [name for name in names if name.startswith(start)][:MOST_NAMES]
    return []


def _complete_runs(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    return _names_for_completion(context, "run_dir", incomplete)


def _complete_experiments(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    return _names_for_completion(context, "experiment", incomplete)


def _complete_metrics(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The final metrics that `best` has to choose from."""
    with contextlib.suppress(LabError, OSError):
        runs = _runs(_outputs(context.params.get("output_dir")), context.params.get("experiment"))
        return [name for name in _metric_names(_completed(runs)) if name.startswith(incomplete)][:MOST_NAMES]
    return []


def _common(function: _Function) -> _Function:
    folder = click.option(
        "--output-dir",
        metavar="DIR",
        help="The folder of the runs, from here or from the workspace's root. Default: outputs.",
    )
    return folder(click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(function))


_experiment_option = click.option(
    "--experiment", metavar="NAME", shell_complete=_complete_experiments, help="Only the runs of this experiment."
)


def _outputs(output_dir: str | None) -> OutputPaths:
    """The folder of the runs. Raises: HarnessError: one was named and is not there."""
    root = find_root(Path.cwd())
    if output_dir is None:
        return OutputPaths(ProjectPaths(root).outputs)
    for folder in (Path(output_dir), root / output_dir):
        if folder.is_dir():
            return OutputPaths(folder)
    raise HarnessError(
        f"There is no folder {output_dir}. Name the one that holds the runs, as output.directory in their configuration: "
        "mlx history --output-dir outputs"
    )


def _runs(outputs: OutputPaths, experiment: str | None) -> list[Entry]:
    """All runs or an experiment's. Raises: HarnessError: there is no such experiment."""
    runs = history.sync(outputs)
    if experiment is None:
        return runs
    found = [run for run in runs if run["experiment"] == experiment]
    if not found:
        names = list(dict.fromkeys(run["experiment"] for run in reversed(runs)))
        raise HarnessError(f"{_unknown('experiment', experiment, names)} List the runs: mlx history")
    return found


def _unknown(kind: str, word: str, known: Sequence[str]) -> str:
    """As `errors.unknown`, fit for a terminal, and of many words only some: the nearest and the first."""
    near = difflib.get_close_matches(word, known, n=3)
    some = list(dict.fromkeys([*near, *known[:MOST_NAMES]]))
    return unknown(kind, plain(word), map(plain, some) if some else ["none yet"])


def _find(outputs: OutputPaths, word: str) -> _Found:
    """The run that a word on the command line names.

    Raises: HarnessError: none is, or a timestamp is that of several.
    """
    runs = history.sync(outputs)
    root = outputs.root.resolve()
    path = Path(word).resolve()
    names = {word.rstrip("/"), str(path.relative_to(root)) if path.is_relative_to(root) else word}
    found = [run for run in runs if run["run_dir"] in names]
    if not found and _is_run(path):
        run = RunPaths(path)
        return _Found(history.read_run(run), run, os.path.relpath(path))
    found = found or [run for run in runs if run["timestamp"] == word]
    if len(found) == 1:
        return _in(outputs, found[0])
    if found:
        which = ", ".join(plain(run["run_dir"]) for run in found[:MOST_NAMES])
        raise HarnessError(f"{len(found)} runs began at {plain(word)}: {which}. Name one of them.")
    newest = [run["run_dir"] for run in reversed(runs)]
    raise HarnessError(
        f"Run directory not found: {plain(word)}. {_unknown('run', word, newest)} "
        "Allowed: a path, EXPERIMENT/TIMESTAMP, or a timestamp. List the runs: mlx history"
    )


def _is_run(folder: Path) -> bool:
    with contextlib.suppress(OSError):  # a name that is too long for a file
        return RunPaths(folder).config.is_file() or RunPaths(folder).record.is_file()
    return False


def _in(outputs: OutputPaths, run: Entry) -> _Found:
    return _Found(run, RunPaths(outputs.root / run["run_dir"]), run["run_dir"])


def _json(value: Any) -> None:
    click.echo(dump_json(value))


# ---- the subcommands


@command.command("list", short_help="All runs, newest last.")
@_experiment_option
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the N newest.")
@_common
def list_runs(experiment: str | None, last: int | None, output_dir: str | None, as_json: bool) -> None:
    """List the runs, newest last, with what they ended with. With --json in the layout of index.json."""
    outputs = _outputs(output_dir)
    runs = _runs(outputs, experiment)[-last if last else 0 :]
    if as_json:
        click.echo(history.render(runs), nl=False)
    elif not runs:
        click.echo(f"There are no runs in {outputs.root}. Make one: mlx run-experiment --config FILE")
        click.echo("".join(_elsewhere(outputs)), nl=False)
    else:
        click.echo(columns([("experiment", "run", "status", "when", "metrics"), *map(row, runs)]))


def _elsewhere(outputs: OutputPaths) -> list[str]:
    """Other folders at the top of the workspace that have an index of runs, with what lists them."""
    with contextlib.suppress(OSError):
        folders = sorted(item for item in _listed(find_root(Path.cwd())) if item.is_dir())
        counts = {folder: history.count_runs(OutputPaths(folder)) for folder in folders[:MOST_FOLDERS]}
        return [
            f"{plain(folder.name)}/ has {count}: mlx history --output-dir {plain(shlex.quote(folder.name))}\n"
            for folder, count in counts.items()
            if count and folder.resolve() != outputs.root.resolve()
        ][:MOST_NAMES]
    return []


@command.command("show", short_help="One run: configuration, metrics, checkpoints, evaluations.")
@click.argument("run", shell_complete=_complete_runs)
@_common
def show(run: str, output_dir: str | None, as_json: bool) -> None:
    """Show RUN: its configuration, final metrics, checkpoints and evaluations.

    RUN is its folder's path, also that of a run in another output folder; or EXPERIMENT/TIMESTAMP; or a timestamp that
    only one run has.
    """
    facts = _facts(_find(_outputs(output_dir), run))
    if as_json:
        _json(facts)
    else:
        click.echo(told(facts))


def _facts(run: _Found) -> dict[str, Any]:
    """What a run's directory says, as JSON-able facts."""
    paths = run.paths
    record, summary = history.read_object(paths.record), history.read_object(paths.summary)
    names = sorted((item.name for item in _listed(paths.checkpoints)), key=_by_epoch)
    files = [paths.checkpoints / name for name in names if name.endswith(".json")]
    return {
        **run.entry,
        "folder": str(paths.folder),
        "reason": str(summary.get("reason") or record.get("reason") or ""),
        "trust": record.get("trust") if isinstance(record.get("trust"), dict) else {},
        "config": history.read_object(paths.config),
        "checkpoints": [name for name in names if (paths.checkpoints / name / "manifest.json").is_file()],
        "evaluations": [
            found for file in files if isinstance((found := history.read_object(file)).get("metrics"), dict)
        ],
    }


def _by_epoch(name: str) -> tuple[bool, int, str]:
    """The order of checkpoints, and of the files named after them: by epoch, the final one last."""
    checkpoint = name.partition(".")[0]
    epoch = checkpoint.removeprefix(EPOCH_CHECKPOINT)
    return checkpoint == FINAL_CHECKPOINT, int(epoch) if epoch.isascii() and epoch.isdigit() else 0, name


def _listed(folder: Path) -> list[Path]:
    """What is visible in a folder; nothing when it is none."""
    return [item for item in folder.iterdir() if item.name[0] != "."] if folder.is_dir() else []


@command.command("best", short_help="The completed run with the best final value of a metric.")
@_experiment_option
@click.option(
    "--metric", default="loss", show_default=True, shell_complete=_complete_metrics, help="Which final metric."
)
@click.option("--goal", type=click.Choice([str(goal) for goal in Goal]), help="Default: what is known of the metric.")
@_common
def best(experiment: str | None, metric: str, goal: str | None, output_dir: str | None, as_json: bool) -> None:
    """Show the run with the best final value of a metric. Runs that did not complete, and values that are no finite
    numbers, do not count.
    """
    outputs = _outputs(output_dir)
    runs = _runs(outputs, experiment)
    completed = _completed(runs)
    if not completed:
        raise HarnessError(_none_completed(runs, experiment, outputs))
    if metric not in (names := _metric_names(completed)):
        raise HarnessError(_no_such_metric(metric, names))
    found = history.best_run(completed, metric, Goal(goal) if goal else _goal(metric))
    if found is None:
        raise HarnessError(f"No completed run has a finite {metric!r}. See what they have: mlx history")
    facts = _facts(_in(outputs, found))
    if as_json:
        _json({**facts, "metric": metric, "value": (found["final_metrics"] or {})[metric]})
    else:
        value = shown((found["final_metrics"] or {})[metric])
        click.echo(f"{plain(found['run_dir'])}: {plain(metric)} {value}\n\n{told(facts)}")


def _completed(runs: Sequence[Entry]) -> list[Entry]:
    return [run for run in runs if run["status"] == RunStatus.COMPLETED]


def _none_completed(runs: Sequence[Entry], experiment: str | None, outputs: OutputPaths) -> str:
    if not runs:
        return f"There are no runs in {outputs.root}. Make one: mlx run-experiment --config FILE"
    counts = Counter(run["status"] for run in runs)
    there_are = ", ".join(f"{count} {status}" for status, count in counts.items())
    where = f"of {plain(experiment)!r}" if experiment else f"in {outputs.root}"
    return f"No completed run {where} ({there_are}). See why one ended: mlx history show RUN"


def _no_such_metric(metric: str, names: Sequence[str]) -> str:
    if metric in EVALUATED:
        return (
            f"No completed run has {metric!r}: it is a metric of evaluations, and best goes by the final metrics of runs: "
            f"{', '.join(map(plain, names[:MOST_NAMES])) or 'none yet'}. Evaluations of a run: mlx history show RUN"
        )
    return f"No completed run has it. {_unknown('metric', metric, names)}"


def _metric_names(runs: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run["final_metrics"] or {} if name != "epoch"))


def _goal(metric: str) -> Goal:
    """Raises: HarnessError: nothing says which direction is better."""
    if goal := known_goal(metric):
        return goal
    raise HarnessError(
        f"Nothing here says which direction of {plain(metric)!r} is better. Give one: --goal minimize or --goal maximize"
    )


@command.command("compare", short_help="What differs between runs, and their metrics side by side.")
@click.argument("runs", nargs=-1, required=True, shell_complete=_complete_runs)
@_common
def compare(runs: tuple[str, ...], output_dir: str | None, as_json: bool) -> None:
    """Compare RUNS: what differs in their configurations, and their final metrics; * marks the best completed run.

    RUNS are named as in show; they may lie in several output folders.
    """
    outputs = _outputs(output_dir)
    found = list({run.paths.folder.resolve(): run for run in (_find(outputs, word) for word in runs)}.values())
    if len(found) < 2:
        raise HarnessError(f"{len(found)} run to compare. Name two or more different ones: mlx history compare RUN RUN")
    settings = _differing([_settings(run.paths) for run in found])
    names = dict.fromkeys(name for run in found for name in run.entry["final_metrics"] or {})
    metrics = {name: _side_by_side(found, name) for name in names}
    if as_json:
        told_runs = [{**run.entry, "label": run.label, "folder": str(run.paths.folder)} for run in found]
        _json({"runs": told_runs, "config": settings, "metrics": metrics})
    else:
        click.echo(compared([run.entry for run in found], [run.label for run in found], settings, metrics))


def _settings(run: RunPaths) -> dict[str, Any]:
    """What a run was made with: its configuration, or of a loop's run what its record says."""
    record = history.read_object(run.record)
    return flat(history.read_object(run.config) or {name: record.get(name) for name in ("seed", "provenance")})


def _differing(settings: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for one in settings for name in one)
    values = {name: [one.get(name) for one in settings] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found[1:])}


def _side_by_side(runs: Sequence[_Found], metric: str) -> dict[str, Any]:
    """A metric's value in each run, and which run is the best; None where that is not known or they are equal."""
    entries = [run.entry for run in runs]
    values = [(entry["final_metrics"] or {}).get(metric) for entry in entries]
    goal = known_goal(metric)
    best = history.best_run(entries, metric, goal) if goal and len(set(values)) > 1 else None
    return {"values": values, "goal": goal, "best": next((run.label for run in runs if run.entry is best), None)}


@command.command("rebuild", short_help="Write the index anew from the run directories.")
@_common
def rebuild(output_dir: str | None, as_json: bool) -> None:
    """Look at every run directory again and write the index anew. A damaged one is kept as index.damaged.json."""
    outputs = _outputs(output_dir)
    runs = history.rebuild(outputs)
    counts = Counter(run["status"] for run in runs)
    if as_json:
        _json({"index": str(outputs.index), "runs": len(runs), "statuses": counts})
    else:
        words = ", ".join(f"{count} {status}" for status, count in counts.items())
        click.echo(f"{outputs.index}: {len(runs)} runs{f' ({words})' if words else ''}")
