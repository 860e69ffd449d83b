"""`mlx sweep`: run the points of a sweep, and look at what came out."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoexperiment.cli.run_tables import plain, shown
from autoexperiment.cli.sweep_views import best, counted, export, place_words, plot, results, status
from autoexperiment.cli.terminal import Teller, heading, interruptible, print_json
from autoexperiment.clocks import duration

if TYPE_CHECKING:
    from autoexperiment.sweep.book import Row
    from autoexperiment.sweep.estimates import Estimate
    from autoexperiment.sweep.plans import SweepPlan
    from autoexperiment.sweep.points import Point
    from autoexperiment.trackers import Tracker

TRACKERS = ("mlflow", "tensorboard", "trackio", "wandb")
BAR = 24


class _Group(click.Group):
    """`mlx sweep --config F` is `mlx sweep run --config F`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("sweep", cls=_Group)
def command() -> None:
    """Run many configurations, and say which is best and how sure that is.

    \b
    mlx sweep run --config experiments/sweeps/grid.yaml --dry-run
    mlx sweep run --config experiments/sweeps/grid.yaml
    mlx sweep status lr-size
    mlx sweep results lr-size
    mlx sweep plot lr-size
    mlx sweep best lr-size
    """


for view in (status, results, plot, best, export):
    command.add_command(view)


@command.command("run")
@click.option("--config", type=click.Path(path_type=Path), required=True, help="The sweep's file, JSON or YAML.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Another value: sampler.trials=20")
@click.option("--dry-run", is_flag=True, help="Check every point, say how many there are and how long they take.")
@click.option("--resume", is_flag=True, help="Go on with a sweep that was stopped; what is there is not run again.")
@click.option("--retry-failed", is_flag=True, help="With --resume: run the points again that failed.")
@click.option("--max-parallel", type=click.IntRange(min=1), metavar="N", help="Points side by side.")
@click.option("--dask", "address", metavar="ADDRESS", default="", help="Run on the cluster of this dask scheduler.")
@click.option("--track", "trackers", multiple=True, type=click.Choice(TRACKERS), help="Log every point there as well.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else.")
def run(
    config: Path,
    overrides: tuple[str, ...],
    dry_run: bool,
    resume: bool,
    retry_failed: bool,
    max_parallel: int | None,
    address: str,
    trackers: tuple[str, ...],
    as_json: bool,
) -> int:
    """Run every point of a sweep that was not run before.

    A point that fails is a row with its error, and ends nothing. Ctrl-C ends the points that run and keeps those that
    ended. Exit codes: 0 done, 1 refused or no point completed, 130 interrupted.
    """
    from autoexperiment.config.sweep_loader import load_sweep
    from autoexperiment.paths import find_root
    from autoexperiment.sweep.estimates import estimate
    from autoexperiment.sweep.launching import DASK, LOCAL, Where
    from autoexperiment.sweep.plans import make_plan

    if retry_failed and not resume:
        raise click.UsageError("'--retry-failed' goes with '--resume'.")
    where = Where(DASK if address else LOCAL, address, max_parallel)
    with interruptible():
        plan = make_plan(
            load_sweep(config, overrides), root=find_root(Path.cwd()), where=where, is_resumed=resume,
            retries_failed=retry_failed,
        )  # fmt: skip
        if dry_run:
            return _tell_plan(plan, estimate(plan), as_json=as_json)
    return _run(plan, trackers, as_json=as_json)


def _run(plan: SweepPlan, trackers: tuple[str, ...], *, as_json: bool) -> int:
    from autoexperiment.sweep import launching, results
    from autoexperiment.trackers import make_tracker

    launch = plan.launch
    printer = Printer(plan, is_silent=as_json)
    tracking = [
        make_tracker(name, folder=launch.paths.folder, options={}, say=printer.note) for name in dict.fromkeys(trackers)
    ]
    try:
        is_done = launching.run(launch, observer=printer, opened=lambda: printer.opened(tracking))
    finally:
        printer.closed()
    found = results.status(launch.paths)
    table = results.write_table(launch.paths)
    if as_json:
        print_json({**found, "status": "completed" if is_done else "interrupted", "results": str(table)})
    else:
        printer.summed_up(found, table)
    if not is_done:
        again = _again(click.get_current_context().params)
        click.echo(f"Interrupted. What ended is kept. Go on: {again}", err=True)
        return 130
    return 0 if found["by_status"].get("completed") else 1


def _again(given: Mapping[str, Any]) -> str:
    """The command that goes on with a sweep that these options started."""
    words = ["mlx", "sweep", "run", "--resume", "--config", str(given["config"])]
    for option, values in (("--set", given["overrides"]), ("--track", given["trackers"])):
        words += [word for value in values for word in (option, value)]
    for option, value in (("--max-parallel", given["max_parallel"]), ("--dask", given["address"])):
        words += [option, str(value)] if value else []
    words += [option for option in ("--retry-failed",) if given["retry_failed"]]
    return shlex.join([*words, *(["--json"] if given["as_json"] else [])])


def _tell_plan(plan: SweepPlan, expected: Estimate, *, as_json: bool) -> int:
    """What a dry run prints."""
    launch = plan.launch
    facts = {
        "name": plan.config.name,
        "folder": str(launch.paths.folder),
        "trials": plan.trials,
        "seeds": len(launch.job.seeds),
        "points": plan.points,
        "left": plan.left,
        "earlier": plan.tally.earlier,
        "max_parallel": plan.slots,
        "expected_s": expected.seconds,
        "expected_by": expected.basis,
        "first": {"params": dict(plan.first.params), "seed": plan.first.seed, "config": dict(plan.first.config)},
    }
    if as_json:
        print_json(facts)
        return 0
    click.echo(f"{heading(f'DRY RUN - SWEEP PLAN: {plan.config.name}')}\n\n{plan_text(plan)}")
    click.echo(f"  side by side: {plan.slots or 'as many as the workers take'}")
    click.echo(f"  expected time: {expected_text(expected)}\n  runs go to: {launch.paths.folder}")
    return 0


def expected_text(expected: Estimate) -> str:
    if expected.seconds is None:
        return f"not known: {expected.basis}"
    return f"about {duration(expected.seconds)}, by {expected.basis}"


def plan_text(plan: SweepPlan) -> str:
    """How many points there are, and of what."""
    config, job = plan.config, plan.launch.job
    lines = [f"  trials: {plan.trials} by {config.sampler.name}"]
    lines += [f"    {plain(path)}: {_values_text(values)}" for path, values in config.to_json()["parameters"].items()]
    lines += [f"  seeds of each: {len(job.seeds)}", f"  points in all: {plan.points}"]
    if plan.repeats:
        lines.append(f"  left out, the same as others in all that decides what comes out: {plan.repeats}")
    if job.rungs:
        lines.append(f"  successive halving by {plain(job.resource)}: {_rungs_text(plan)}")
    if plan.left != plan.points:
        lines.append(f"  left to run: {plan.left}")
    if plan.tally.earlier:
        lines.append(f"  points of earlier plans: {plan.tally.earlier}")
    return "\n".join(lines)


def _values_text(values: Mapping[str, Any]) -> str:
    if listed := values.get("values"):
        return ", ".join(map(shown, listed))
    return ", ".join(
        f"{name} {shown(value)}" for name, value in values.items() if value is not None and value is not False
    )


def _rungs_text(plan: SweepPlan) -> str:
    """The rungs, and what they take together, in the resource's unit."""
    from autoexperiment.sweep import halving

    rungs = plan.launch.job.rungs
    steps = ", ".join(f"{rung.trials} with {rung.resource:g}" for rung in rungs)
    cost, whole = halving.cost(rungs), rungs[-1].resource * plan.trials
    return f"{steps}; {cost:g} in all, {whole:g} without"


def _params_text(params: Any, seed: int | None) -> str:
    words = [f"{plain(path)}={shown(value)}" for path, value in params.items()]
    return " ".join(words + ([f"seed={seed}"] if seed is not None else [])) or "the base"


class Printer(Teller):
    """Prints each point as it ends; on a terminal, a bar with the time that is left stands below."""

    def __init__(self, plan: SweepPlan, *, is_silent: bool) -> None:
        super().__init__()
        self._is_silent = is_silent
        self._is_heard = self._is_heard and not is_silent
        self._plan, self._metric = plan, plan.launch.job.metric
        self._done, self._left = plan.points - plan.left, list(plan.tally.left)
        self._seconds: dict[int, list[float]] = {}
        self._trackers: list[Tracker] = []
        self._began = time.monotonic()
        self._has_bar = False

    def opened(self, trackers: list[Tracker]) -> None:
        """Args: trackers: they are told of the points that have ended already as well, and take each once."""
        from autoexperiment.sweep import book, results

        self._trackers, paths = trackers, self._plan.launch.paths
        before = book.read(paths).rows if trackers and paths.book.exists() else []
        for tracker in trackers:
            tracker.begin(self._plan.config.name, self._plan.config.to_json())
            for row in before:
                tracker.ended(row, results.curves(paths, row))
        self.tell(f"{heading(f'RUNNING SWEEP: {self._plan.config.name}')}\n{plan_text(self._plan)}\n")

    def closed(self) -> None:
        self._clear()
        for tracker in self._trackers:
            tracker.close()

    def begun(self, point: Point) -> None: ...

    def ended(self, row: Row) -> None:
        from autoexperiment.sweep import results

        self._clear()
        self._done += 1
        self._left[row["rung"]] -= 1
        self._seconds.setdefault(row["rung"], []).append(row["seconds"])
        value = row["metrics"].get(self._metric)
        what = f"{plain(self._metric)} {shown(value)}" if value is not None else plain(row["status"])
        why = f": {plain(row['reason'])}" if row["reason"] else ""
        where = _params_text(row["params"], row["seed"])
        self.tell(f"[{self._done}/{self._plan.points}] {where}: {what} in {row['seconds']:.1f} s{why}")
        for tracker in self._trackers:
            tracker.ended(row, results.curves(self._plan.launch.paths, row))

    def tick(self) -> None:
        if not self.is_terminal:
            return
        share = self._done / max(1, self._plan.points)
        bar = ("#" * int(BAR * share)).ljust(BAR, ".")
        line = f"[{bar}] {self._done}/{self._plan.points}{self._left_text()}"
        self.tell("\r\033[K" + line[: shutil.get_terminal_size().columns - 1], ends_line=False)
        self._has_bar = True

    def _left_text(self) -> str:
        from autoexperiment.sweep.estimates import left_s

        resources = [rung.resource for rung in self._plan.launch.job.rungs]
        seconds = left_s(self._seconds, self._left, resources)
        return "" if seconds is None else f"  {duration(seconds / (self._plan.slots or 1))} left"

    def note(self, text: str) -> None:
        """Said even where only JSON is wanted: then beside it."""
        self._clear()
        if self._is_silent:
            with contextlib.suppress(OSError):
                click.echo(text, err=True)
        else:
            self.tell(text)

    def _clear(self) -> None:
        if self._has_bar:
            self.tell("\r\033[K", ends_line=False)
            self._has_bar = False

    def summed_up(self, found: dict[str, Any], table: Path) -> None:
        """What stands under a sweep that has ended."""
        name = " ".join([plain(found["name"]), *place_words(self._plan.config.output)])
        self.tell(
            f"\n{counted(found)}; {duration(time.monotonic() - self._began)}\nResults: {table}\n"
            f"See: mlx sweep results {name}, mlx sweep best {name}, mlx sweep plot {name}"
        )
