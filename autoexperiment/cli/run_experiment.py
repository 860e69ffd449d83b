"""`mlx run-experiment`."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoexperiment.clocks import duration
from autoexperiment.vocabulary import RunStatus

if TYPE_CHECKING:
    from autoexperiment.paths import RunPaths
    from autoexperiment.planning import ExperimentPlan

RULE = "=" * 60
DONE = "      ✓ "
_EXIT = {RunStatus.COMPLETED: 0, RunStatus.INTERRUPTED: 130}


@click.command("run-experiment")
@click.option("--config", type=click.Path(path_type=Path), help="The experiment's file, JSON or YAML; one or several.")
@click.option("--dry-run", is_flag=True, help="Check everything and show the plan; run nothing.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Another value: training.epochs=20")
@click.option("--resume", "run_dir", type=click.Path(path_type=Path), help="Go on with a run that was stopped.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else.")
def command(config: Path | None, dry_run: bool, overrides: tuple[str, ...], run_dir: Path | None, as_json: bool) -> int:
    """Train what a configuration describes, and keep its metrics, checkpoints and summary.

    Several experiments of one file are run in order; the first that fails ends the rest. Exit codes: 0 completed,
    1 refused or failed, 130 interrupted (Ctrl-C).

    \b
    mlx run-experiment --dry-run --config experiments/example.json
    mlx run-experiment --config experiments/example.json --set training.learning_rate=1e-3
    mlx run-experiment --resume runs/example-comprehensive/20260305_143025
    """
    if config is None and run_dir is None:
        raise click.UsageError("Missing option '--config' (or '--resume' with a run's folder).")
    if run_dir is not None:
        return _resume(run_dir, config, overrides, dry_run=dry_run, as_json=as_json)
    assert config is not None
    return _run(config, overrides, dry_run=dry_run, as_json=as_json)


def _run(config: Path, overrides: tuple[str, ...], *, dry_run: bool, as_json: bool) -> int:
    from autoexperiment.config import ConfigLoader
    from autoexperiment.paths import find_root
    from autoexperiment.planning import make_plan
    from autoexperiment.runner import Quiet, describe_plan, run_plan

    root = find_root(Path.cwd())
    plans = [make_plan(one, root=root) for one in ConfigLoader.load_all(config, overrides)]
    if dry_run:
        answers = [describe_plan(plan) for plan in plans]
        return _finish(answers, 0, as_json=as_json, text="\n".join(map(plan_text, plans)))
    answers = []
    for plan in plans:
        answers.append(run_plan(plan, observer=Quiet() if as_json else Printer()))
        code = _told(answers[-1], as_json=as_json)
        if code:
            break
    _say_left_out([plan.config.name for plan in plans[len(answers) :]])
    return _finish(answers, code, as_json=as_json)


def _say_left_out(names: list[str]) -> None:
    if names:
        click.echo(f"Not run, because an experiment before did not complete: {', '.join(names)}.", err=True)


def _resume(run_dir: Path, config: Path | None, overrides: tuple[str, ...], *, dry_run: bool, as_json: bool) -> int:
    from autoexperiment import runner
    from autoexperiment.config import ConfigLoader

    if overrides and config is None:
        raise click.UsageError(
            "A run keeps its configuration: leave '--set' out, or start another run with '--config'."
        )
    if dry_run:
        raise click.UsageError("'--resume' has no dry run: it goes on with a run whose configuration was checked.")
    given = ConfigLoader.load_from_file(config, overrides) if config else None
    answer = runner.resume(run_dir, config=given, observer=runner.Quiet() if as_json else Printer())
    return _finish([answer], _told(answer, as_json=as_json), as_json=as_json)


def _told(answer: dict[str, Any], *, as_json: bool) -> int:
    """Print how one experiment ended; returns the exit code."""
    status = RunStatus(answer["status"])
    if not as_json:
        click.echo(summary_text(answer))
    if status is not RunStatus.COMPLETED:
        click.echo(_what_now(answer), err=True)
    return _EXIT.get(status, 1)


def _finish(answers: list[dict[str, Any]], code: int, *, as_json: bool, text: str = "") -> int:
    if as_json:
        from autoexperiment.files import dump_json

        click.echo(dump_json(answers[0] if len(answers) == 1 else answers))
    elif text:
        click.echo(text)
    return code


# ---- text


def heading(text: str) -> str:
    return f"{RULE}\n{text}\n{RULE}"


def plan_text(plan: ExperimentPlan) -> str:
    """What a dry run prints."""
    config, given = plan.config, plan.config.given()
    training, output = config.training, config.output
    lines = [heading("DRY RUN - EXPERIMENT PLAN"), "", f"Experiment: {config.name}"]
    if config.description:
        lines.append(f"Description: {click.unstyle(config.description)}")
    lines += [
        "",
        f"1. Dataset: {config.dataset.name}",
        f"   Parameters: {given['dataset'].get('params', {})}",
        f"   Rows: {rows_text(plan)}",
        "",
        f"2. Model: {config.model.name}",
        f"   Parameters: {given['model'].get('params', {})}",
        "",
        "3. Training:",
        f"   - Epochs: {training.epochs}",
        f"   - Batch size: {training.batch_size}",
        f"   - Learning rate: {training.learning_rate}",
        f"   - Optimizer: {training.optimizer}",
        f"   - Seed: {training.seed}",
        "",
        "4. Output:",
        f"   - Directory: {plan.outputs.root}",
        f"   - Save checkpoints: {output.save_checkpoints}",
        f"   - Checkpoint frequency: {output.checkpoint_frequency} epoch(s)",
        f"   - Save logs: {output.save_logs}",
        "",
        heading("Status: Would execute experiment (dry run)"),
    ]
    return "\n".join(lines)


def rows_text(plan: ExperimentPlan) -> str:
    facts = plan.facts
    shape = " x ".join(map(str, facts.shape)) + (" values" if len(facts.shape) > 1 else " features")
    classes = f", {facts.n_classes} classes" if facts.n_classes else ""
    return f"{facts.n_rows} of {shape}{classes} ({facts.task})"


def summary_text(answer: dict[str, Any]) -> str:
    """What stands under an experiment that has ended."""
    lines = ["", heading(f"EXPERIMENT {answer['status'].upper()}: {answer['experiment']}"), ""]
    if answer["final_metrics"]:
        lines += ["Final metrics:", *metric_lines(answer["final_metrics"]), ""]
    lines += [
        f"Outputs saved to: {answer['run_dir']}",
        f"Checkpoints: {answer['checkpoint_dir']}",
        f"Metrics: {answer['metrics_dir']}",
    ]
    return "\n".join(lines)


def metric_lines(metrics: dict[str, Any]) -> list[str]:
    numbers = {name: value for name, value in metrics.items() if not isinstance(value, list)}
    return [f"  {name}: {'undefined' if value is None else format(value, '.6f')}" for name, value in numbers.items()]


def _what_now(answer: dict[str, Any]) -> str:
    go_on = f"Go on with it: mlx run-experiment --resume {answer['run_dir']}"
    if answer["status"] == RunStatus.INTERRUPTED:
        return f"Interrupted after {answer['epochs']} epochs. {go_on}"
    said = f"Error: The experiment {answer['status']}: {answer.get('reason', '')}"
    if answer["status"] == RunStatus.DIVERGED:
        return f"{said}. Try a smaller training.learning_rate, or optimizer adam."
    if answer["status"] == RunStatus.TIMED_OUT:
        return f"{said} {go_on}"
    return f"{said}\nIts output: {answer['run_dir']}/run.log"


class Printer:
    """Prints the steps of an experiment as its process reports them; a bar on a terminal, plain lines in a pipe."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._ends: dict[str, tuple[str, str]] = {}
        self._has_bar = False
        self._first: tuple[int, float] | None = None  # the first epoch that was shown, and when

    def begun(self, plan: ExperimentPlan, run: RunPaths) -> None:
        config, self._first = plan.config, None
        steps = [
            f"[2/5] Initializing model: {config.model.name}...",
            "[3/5] Setting up output directory...",
            f"{DONE}Output directory: {run.folder}",
            "[4/5] Initializing metrics writer...",
            f"[5/5] Starting training ({config.training.epochs} epochs)...",
        ]
        self._ends = {
            "dataset": (f"{DONE}Dataset created", steps[0]),
            "model": (f"{DONE}Model initialized", "\n".join(steps[1:4])),
            "metrics": (f"{DONE}Metrics writer ready", steps[4]),
            "done": (f"{DONE}Training completed", ""),
        }
        click.echo(heading(f"RUNNING EXPERIMENT: {config.name}") + "\n")
        click.echo(f"[1/5] Creating dataset: {config.dataset.name}...")

    def heard(self, word: str, text: str) -> None:
        if word == "epoch":
            self._bar(text)
        elif word == "note":
            self._clear()
            click.echo(f"      {text}")
        elif word in self._ends:
            self._clear()
            for line in self._ends.pop(word):
                if line:
                    click.echo(line)

    def _bar(self, text: str) -> None:
        """One epoch, given as `3/10: loss 4.1, …`: on a terminal only, where the line moves."""
        done, _, rest = text.partition(":")
        now, _, of = done.partition("/")
        if not (self.is_terminal and now.isdigit() and of.isdigit() and 0 < int(now) <= int(of)):
            return
        epoch, epochs = int(now), int(of)
        first, since = self._first = self._first or (epoch, time.monotonic())
        left_s = (time.monotonic() - since) / (epoch - first) * (epochs - epoch) if epoch > first else None
        left = "" if left_s is None else f"  {duration(left_s)} left"
        bar = ("#" * (20 * epoch // epochs)).ljust(20, ".")
        line = f"      [{bar}] {done}{rest}{left}"
        click.echo("\r\033[K" + line[: shutil.get_terminal_size().columns - 1], nl=False)
        self._has_bar = True

    def _clear(self) -> None:
        if self._has_bar:
            click.echo("\r\033[K", nl=False)
            self._has_bar = False
