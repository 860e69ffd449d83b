"""`mlx history`: the runs of an output folder. What stands in run directories is data, and is shown as such."""

from __future__ import annotations

import contextlib
import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from autoexperiment import history
from autoexperiment.errors import HarnessError, LabError, unknown
from autoexperiment.files import dump_json
from autoexperiment.history import Entry
from autoexperiment.paths import OutputPaths, ProjectPaths, RunPaths, find_root
from autoexperiment.vocabulary import Goal, RunStatus

HEADLINES = ("loss", "val_loss", "accuracy", "val_accuracy")
TEXT_LIMIT = 200
MOST_LINES = 100  # of a configuration, or of evaluations, on a terminal
MOST_NAMES = 20  # in a message or a completion
NONE = "-"

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _ListsByDefault(click.Group):
    """`mlx history` and `mlx history --json` are `mlx history list` and `mlx history list --json`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        wants_list = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        is_completing = ctx.resilient_parsing and not args
        return super().parse_args(ctx, ["list", *args] if wants_list and not is_completing else args)


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
    return unknown(kind, _plain(word), map(_plain, some) if some else ["none yet"])


def _find(outputs: OutputPaths, word: str) -> Entry:
    """The run that a word on the command line names.

    Raises: HarnessError: none is, or a timestamp is that of several.
    """
    runs = history.sync(outputs)
    root = outputs.root.resolve()
    path = Path(word).resolve()
    names = {word.rstrip("/"), str(path.relative_to(root)) if path.is_relative_to(root) else word}
    found = [run for run in runs if run["run_dir"] in names] or [run for run in runs if run["timestamp"] == word]
    if len(found) == 1:
        return found[0]
    if found:
        which = ", ".join(_plain(run["run_dir"]) for run in found[:MOST_NAMES])
        raise HarnessError(f"{len(found)} runs began at {_plain(word)}: {which}. Name one of them.")
    newest = [run["run_dir"] for run in reversed(runs)]
    raise HarnessError(
        f"Run directory not found: {_plain(word)}. {_unknown('run', word, newest)} "
        "Allowed: a path, EXPERIMENT/TIMESTAMP, or a timestamp. List the runs: mlx history"
    )


# ---- text for a terminal


def _plain(text: str) -> str:
    """Text of unknown origin: one line, nothing that moves a cursor."""
    if len(text) <= TEXT_LIMIT and text.isascii() and text.isprintable():
        return text
    from autoexperiment import untrusted

    return untrusted.line(text, TEXT_LIMIT)


def _value(value: Any) -> str:
    """A number as people read it; other values as JSON."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return NONE
    return _plain(value if isinstance(value, str) else dump_json(value, indent=None))


def _columns(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells under each other; the last column is not filled up. (Ten thousand rows, in a few milliseconds.)"""
    rows = list(rows)
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    template = "  ".join([f"{{:<{width}}}" for width in widths] + ["{}"])
    return "\n".join(template.format(*row).rstrip() for row in rows)


def _headline(metrics: Mapping[str, float | None]) -> str:
    """The metrics that stand in a list."""
    found = [f"{name} {_value(metrics[name])}" for name in HEADLINES if name in metrics]
    others = [] if found else [name for name in metrics if name != "epoch"][:1]
    return ", ".join(found or [f"{_plain(name)} {_value(metrics[name])}" for name in others]) or NONE


def _row(run: Entry) -> tuple[str, ...]:
    when = run["created_at"][:19].replace("T", " ")
    metrics = run["final_metrics"] or {}
    return (_plain(run["experiment"]), run["timestamp"], run["status"], when, _headline(metrics))


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
    else:
        click.echo(_columns([("experiment", "run", "status", "when", "metrics"), *map(_row, runs)]))


@command.command("show", short_help="One run: configuration, metrics, checkpoints, evaluations.")
@click.argument("run", shell_complete=_complete_runs)
@_common
def show(run: str, output_dir: str | None, as_json: bool) -> None:
    """Show RUN: its configuration, final metrics, checkpoints and evaluations.

    RUN is its folder's path, EXPERIMENT/TIMESTAMP, or a timestamp that only one run has.
    """
    outputs = _outputs(output_dir)
    facts = _facts(outputs, _find(outputs, run))
    if as_json:
        _json(facts)
    else:
        click.echo(_told(facts))


def _paths(outputs: OutputPaths, run: Entry) -> RunPaths:
    return RunPaths(outputs.root / run["run_dir"])


def _facts(outputs: OutputPaths, run: Entry) -> dict[str, Any]:
    """What a run's directory says, as JSON-able facts."""
    paths = _paths(outputs, run)
    record, summary = history.read_object(paths.record), history.read_object(paths.summary)
    names = sorted(item.name for item in _listed(paths.checkpoints))
    files = [paths.checkpoints / name for name in names if name.endswith(".json")]
    return {
        **run,
        "folder": str(paths.folder),
        "reason": str(summary.get("reason") or record.get("reason") or ""),
        "trust": record.get("trust") if isinstance(record.get("trust"), dict) else {},
        "config": history.read_object(paths.config),
        "checkpoints": [name for name in names if (paths.checkpoints / name / "manifest.json").is_file()],
        "evaluations": [
            found for file in files if isinstance((found := history.read_object(file)).get("metrics"), dict)
        ],
    }


def _listed(folder: Path) -> list[Path]:
    """What is visible in a folder; nothing when it is none."""
    return [item for item in folder.iterdir() if item.name[0] != "."] if folder.is_dir() else []


def _told(facts: Mapping[str, Any]) -> str:
    """The same facts for a person."""
    about = [(name, _value(facts[name])) for name in ("folder", "status", "created_at", "reason") if facts[name]]
    metrics = [
        (_plain(name), f"{_value(value)} {_trust(facts, name)}".rstrip())
        for name, value in (facts["final_metrics"] or {}).items()
    ]
    config = [(_plain(name), _value(value)) for name, value in _flat(facts["config"]).items()]
    parts = [("final metrics", metrics), ("configuration", config)]
    parts += [("checkpoints", [(_plain(name), "") for name in facts["checkpoints"]])]
    parts += [("evaluations", [_evaluation(one) for one in facts["evaluations"]])]
    return "\n\n".join([_columns(about), *(_part(title, rows) for title, rows in parts)])


def _trust(facts: Mapping[str, Any], metric: str) -> str:
    level = facts["trust"].get(metric)
    return f"({_plain(level)})" if isinstance(level, str) else ""


def _part(title: str, rows: Sequence[tuple[str, str]]) -> str:
    more = f"\n  … and {len(rows) - MOST_LINES} more: --json" if len(rows) > MOST_LINES else ""
    lines = _columns([(f"  {name}", text) for name, text in rows[:MOST_LINES]]) if rows else "  none"
    return f"{title}\n{lines}{more}"


def _evaluation(found: Mapping[str, Any]) -> tuple[str, str]:
    numbers = [f"{_plain(name)} {_value(history.number(value))}" for name, value in found["metrics"].items()]
    of = f"{_value(found.get('checkpoint'))} on {_value(found.get('split'))}"
    return of, _plain(", ".join(text for text in numbers if not text.endswith(f" {NONE}")))


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """A nested object as one, with dotted names."""
    if not isinstance(value, Mapping) or not value:
        return {name: value} if name else {}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{name}.{key}" if name else str(key))
    return found


@command.command("best", short_help="The completed run with the best final value of a metric.")
@_experiment_option
@click.option("--metric", default="loss", show_default=True, help="Which final metric.")
@click.option("--goal", type=click.Choice([str(goal) for goal in Goal]), help="Default: what is known of the metric.")
@_common
def best(experiment: str | None, metric: str, goal: str | None, output_dir: str | None, as_json: bool) -> None:
    """Show the run with the best final value of a metric. Runs that did not complete, and values that are no finite
    numbers, do not count.
    """
    outputs = _outputs(output_dir)
    runs = [run for run in _runs(outputs, experiment) if run["status"] == RunStatus.COMPLETED]
    if metric not in (names := _metric_names(runs)):
        raise HarnessError(f"No completed run has it. {_unknown('metric', metric, names)}")
    found = history.best_run(runs, metric, Goal(goal) if goal else _goal(metric))
    if found is None:
        raise HarnessError(f"No completed run has a finite {metric!r}. See what they have: mlx history")
    facts = _facts(outputs, found)
    if as_json:
        _json({**facts, "metric": metric, "value": (found["final_metrics"] or {})[metric]})
    else:
        value = _value((found["final_metrics"] or {})[metric])
        click.echo(f"{_plain(found['run_dir'])}: {_plain(metric)} {value}\n\n{_told(facts)}")


def _metric_names(runs: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run["final_metrics"] or {} if name != "epoch"))


def _known_goal(metric: str) -> Goal | None:
    from autoexperiment.goals import GOALS
    from autoexperiment.metrics import METRICS

    return GOALS.get(metric) or (METRICS[metric].goal if metric in METRICS else None)


def _goal(metric: str) -> Goal:
    """Raises: HarnessError: nothing says which direction is better."""
    if goal := _known_goal(metric):
        return goal
    raise HarnessError(
        f"Nothing here says which direction of {_plain(metric)!r} is better. Give one: --goal minimize or --goal maximize"
    )


@command.command("compare", short_help="What differs between runs, and their metrics side by side.")
@click.argument("runs", nargs=-1, required=True, shell_complete=_complete_runs)
@_common
def compare(runs: tuple[str, ...], output_dir: str | None, as_json: bool) -> None:
    """Compare RUNS: what differs in their configurations, and their final metrics; * marks the best completed run."""
    outputs = _outputs(output_dir)
    found = list({run["run_dir"]: run for run in (_find(outputs, word) for word in runs)}.values())
    if len(found) < 2:
        raise HarnessError(f"{len(found)} run to compare. Name two or more different ones: mlx history compare RUN RUN")
    settings = _differing([_settings(_paths(outputs, run)) for run in found])
    names = dict.fromkeys(name for run in found for name in run["final_metrics"] or {})
    metrics = {name: _side_by_side(found, name) for name in names}
    if as_json:
        _json({"runs": found, "config": settings, "metrics": metrics})
    else:
        click.echo(_comparison(found, settings, metrics))


def _settings(run: RunPaths) -> dict[str, Any]:
    """What a run was made with: its configuration, or of a loop's run what its record says."""
    record = history.read_object(run.record)
    return _flat(history.read_object(run.config) or {name: record.get(name) for name in ("seed", "provenance")})


def _differing(settings: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for one in settings for name in one)
    values = {name: [one.get(name) for one in settings] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found[1:])}


def _side_by_side(runs: Sequence[Entry], metric: str) -> dict[str, Any]:
    """A metric's value in each run, and which run is the best; None where that is not known or they are equal."""
    values = [(run["final_metrics"] or {}).get(metric) for run in runs]
    goal = _known_goal(metric)
    best = history.best_run(runs, metric, goal) if goal and len(set(values)) > 1 else None
    return {"values": values, "goal": goal, "best": best["run_dir"] if best else None}


def _comparison(runs: Sequence[Entry], settings: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    rows = [["", *(_plain(run["run_dir"]) for run in runs)], ["status", *(run["status"] for run in runs)]]
    rows += [[_plain(name), *map(_value, values)] for name, values in settings.items()]
    for name, found in metrics.items():
        marks = [" *" if run["run_dir"] == found["best"] else "" for run in runs]
        goal = f" ({found['goal']})" if found["goal"] else ""
        rows.append([_plain(name) + goal, *(_value(v) + mark for v, mark in zip(found["values"], marks, strict=True))])
    return _columns(rows)


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
