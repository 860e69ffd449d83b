"""What a person sees while the loop works: one line for each event, a moving line on a terminal."""

from __future__ import annotations

import sys

import click

from autoexperiment.ledger import Experiment
from autoexperiment.run import Run
from autoexperiment.vocabulary import Outcome

_STYLE = {"keep": "green", "discard": None, "crash": "red", None: "yellow"}


class Printer:
    """A loop observer that prints to stdout."""

    def __init__(self, metric: str, budget_s: float | None) -> None:
        self.metric = metric
        self.budget_s = budget_s
        self.is_terminal = sys.stdout.isatty()
        self._prefix = ""
        self._budget_s = budget_s

    def say(self, line: str) -> None:
        self._clear()
        click.echo(line)

    def visited(self, agent: str) -> None:
        self._prefix, self._budget_s = f"    {click.unstyle(agent)}", None

    def begun(self, experiment: Experiment) -> None:
        self._clear()
        click.echo(f"[{experiment.number}] {click.unstyle(experiment.description)}")

    def run_started(self, experiment: Experiment, run: int) -> None:
        self._prefix, self._budget_s = f"    run {run + 1}", self.budget_s

    def tick(self, elapsed_s: float) -> None:
        if self.is_terminal:
            budget = f" of about {self._budget_s:.0f}" if self._budget_s else ""
            click.echo(f"\r{self._prefix}: {elapsed_s:.0f}{budget} s", nl=False)

    def _clear(self) -> None:
        if self.is_terminal:
            click.echo("\r\033[K", nl=False)

    def run_ended(self, experiment: Experiment, run: Run) -> None:
        self._clear()
        if run.outcome is not Outcome.OK:
            click.echo(f"{self._prefix}: {run.outcome}. {run.reason}")
            return
        numbers = run.metrics
        speed = f", {numbers['avg_tok_sec']:,.0f} tok/s" if "avg_tok_sec" in numbers else ""
        trust = run.trust[self.metric]
        click.echo(
            f"{self._prefix}: {self.metric} {numbers[self.metric]:.6f} ({trust}){speed}, {numbers['wall_s']:.1f} s"
        )

    def decided(self, experiment: Experiment) -> None:
        word = str(experiment.verdict or "interrupted")
        click.echo("    " + click.style(word, fg=_STYLE.get(experiment.verdict), bold=True) + f": {experiment.reason}")
