"""`mlx run-experiment`."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoexperiment.cli.terminal import DONE, Teller, heading, interruptible
from autoexperiment.clocks import duration
from autoexperiment.vocabulary import RunStatus

if TYPE_CHECKING:
    from autoexperiment.datasets import Facts
    from autoexperiment.paths import RunPaths
    from autoexperiment.planning import ExperimentPlan

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
    with interruptible():
        if run_dir is not None:
            return _resume(run_dir, config, overrides, dry_run=dry_run, as_json=as_json)
        assert config is not None
        return _run(config, overrides, dry_run=dry_run, as_json=as_json)


def _run(config: Path, overrides: tuple[str, ...], *, dry_run: bool, as_json: bool) -> int:
    from autoexperiment.config import ConfigLoader
    from autoexperiment.paths import find_root
    from autoexperiment.planning import make_plan
    from autoexperiment.runner import describe_plan

    root = find_root(Path.cwd())
    plans = [make_plan(one, root=root) for one in ConfigLoader.load_all(config, overrides)]
    if not dry_run:
        return _run_all(plans, as_json=as_json)
    if as_json:
        _print_json([describe_plan(plan) for plan in plans])
    else:
        click.echo("\n".join(map(plan_text, plans)))
    return 0


def _run_all(plans: list[ExperimentPlan], *, as_json: bool) -> int:
    """Run experiments in order, until one does not complete."""
    from autoexperiment.runner import run_plan

    printer, answers, code = Printer(is_silent=as_json), [], 130
    try:
        for plan in plans:
            answers.append(run_plan(plan, observer=printer))
            code = printer.ended(answers[-1])
            if code:
                break
    finally:
        left = [plan.config.name for plan in plans[len(answers) :]]
        if left and answers:
            click.echo(f"Not run, because an experiment before did not complete: {', '.join(left)}.", err=True)
        if as_json and answers:
            _print_json([*answers, *({"experiment": name, "status": "not_run"} for name in left)])
    return code


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
    printer = Printer(is_silent=as_json)
    answer = runner.resume(run_dir, config=given, observer=printer)
    code = printer.ended(answer)
    if as_json:
        _print_json([answer])
    return code


def _print_json(answers: list[dict[str, Any]]) -> None:
    """One object; of a file with several experiments, a list of them."""
    from autoexperiment.files import dump_json

    click.echo(dump_json(answers[0] if len(answers) == 1 else answers))


# ---- text


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
        f"   Rows: {rows_text(plan.facts)}: {parts_text(plan.parts)}",
        *([f"   To be fetched first: {', '.join(plan.to_fetch)}"] if plan.to_fetch else []),
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


def rows_text(facts: Facts) -> str:
    shape = " x ".join(map(str, facts.shape)) + (" values" if len(facts.shape) > 1 else " features")
    classes = f", {facts.n_classes} classes" if facts.n_classes else ""
    return f"{facts.n_rows} of {shape}{classes} ({facts.task})"


def parts_text(parts: dict[str, int]) -> str:
    return ", ".join(f"{rows} {name}" for name, rows in parts.items())


def summary_text(answer: dict[str, Any]) -> str:
    """What stands under an experiment that has ended."""
    lines = ["", heading(f"EXPERIMENT {_words(answer['status']).upper()}: {answer['experiment']}"), ""]
    if answer["final_metrics"]:
        lines += ["Final metrics:", *metric_lines(answer["final_metrics"]), ""]
    lines.append(f"Outputs saved to: {answer['run_dir']}")
    for name, key in (("Checkpoints", "checkpoint_dir"), ("Metrics", "metrics_dir")):
        if Path(answer[key]).is_dir():
            lines.append(f"{name}: {answer[key]}")
    return "\n".join(lines)


def _words(status: str) -> str:
    return status.replace("_", " ")


def metric_lines(metrics: dict[str, Any]) -> list[str]:
    numbers = {name: value for name, value in metrics.items() if not isinstance(value, list)}
    return [f"  {name}: {'undefined' if value is None else format(value, '.6f')}" for name, value in numbers.items()]


def what_now(answer: dict[str, Any]) -> str:
    """What to do after an experiment that was not completed."""
    status, reason = answer["status"], str(answer.get("reason", "")).rstrip(".")
    epochs = "an epoch" if answer["epochs"] == 1 else f"{answer['epochs']} epochs"
    has_checkpoint = any(Path(answer["checkpoint_dir"]).glob("checkpoint_*"))
    again = "Go on with it" if has_checkpoint else "It has no checkpoint, so it would begin anew"
    go_on = f"{again}: mlx run-experiment --resume {answer['run_dir']}"
    if status == RunStatus.INTERRUPTED:
        return f"Interrupted after {epochs}. {go_on}"
    if status == RunStatus.DIVERGED:
        return f"Error: The experiment diverged: {reason}. Try a smaller training.learning_rate, or optimizer adam."
    if status == RunStatus.TIMED_OUT:
        return f"Error: The experiment timed out: {reason}. {go_on}"
    return f"Error: The experiment failed: {reason}.\nIts output: {answer['run_dir']}/run.log"


class Printer(Teller):
    """Prints the steps of an experiment as its process reports them; a bar on a terminal, plain lines in a pipe."""

    def __init__(self, *, is_silent: bool = False) -> None:
        super().__init__()
        self._is_heard = self._is_heard and not is_silent
        self._ends: list[tuple[str, str]] = []  # the words that are to come, and what is then printed
        self._has_bar = False
        self._first: tuple[int, float] | None = None  # the first epoch that was shown, and when

    def begun(self, plan: ExperimentPlan, run: RunPaths) -> None:
        config, self._first = plan.config, None
        self._ends = [
            ("dataset", f"{DONE}Dataset created\n[2/5] Initializing model: {config.model.name}..."),
            (
                "model",
                f"{DONE}Model initialized\n[3/5] Setting up output directory...\n{DONE}Output directory: {run.folder}\n"
                "[4/5] Initializing metrics writer...",
            ),
            ("metrics", f"{DONE}Metrics writer ready\n[5/5] Starting training ({config.training.epochs} epochs)..."),
            ("done", f"{DONE}Training completed"),
        ]
        self.tell(
            f"{heading(f'RUNNING EXPERIMENT: {config.name}')}\n\n[1/5] Creating dataset: {config.dataset.name}..."
        )

    def heard(self, word: str, text: str) -> None:
        if word == "epoch":
            self._bar(text)
        elif word == "note":
            self._clear()
            self.tell(f"      {text}")
        elif self._ends and word == self._ends[0][0]:
            self._clear()
            self.tell(self._ends.pop(0)[1])

    def ended(self, answer: dict[str, Any]) -> int:
        """Print how an experiment ended; returns the exit code."""
        self._clear()
        self.tell(summary_text(answer))
        status = RunStatus(answer["status"])
        if status is not RunStatus.COMPLETED:
            click.echo(what_now(answer), err=True)
        return _EXIT.get(status, 1)

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
        self.tell("\r\033[K" + line[: shutil.get_terminal_size().columns - 1], ends_line=False)
        self._has_bar = True

    def _clear(self) -> None:
        if self._has_bar:
            self.tell("\r\033[K", ends_line=False)
            self._has_bar = False
