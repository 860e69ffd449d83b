"""`mlx eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoexperiment.cli.run_experiment import DONE, heading, metric_lines, rows_text
from autoexperiment.paths import FINAL_CHECKPOINT

if TYPE_CHECKING:
    from autoexperiment.paths import RunPaths
    from autoexperiment.planning import ExperimentPlan
    from autoexperiment.runner import EvaluationPlan


@click.command("eval")
@click.option("--run-dir", type=click.Path(path_type=Path), required=True, help="The run's folder.")
@click.option("--checkpoint", default=FINAL_CHECKPOINT, show_default=True, help="Its name, or the number of an epoch.")
@click.option("--config", type=click.Path(path_type=Path), help="Use this configuration's dataset instead.")
@click.option("--metrics", default="", metavar="NAMES", help="Only these, with commas between: mse,r2")
@click.option("--split", default="test", show_default=True, help="train, val or test.")
@click.option("--dry-run", is_flag=True, help="Check everything and show the plan; compute nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else.")
def command(
    run_dir: Path, checkpoint: str, config: Path | None, metrics: str, split: str, dry_run: bool, as_json: bool
) -> int:
    """Compute metrics of a checkpoint on data it was not trained on, without training.

    Regression: mse, rmse, mae, r2. Classification: accuracy, log_loss, f1, confusion_matrix. The result is saved
    beside the checkpoint.

    \b
    mlx eval --run-dir runs/example-comprehensive/20260305_143025
    mlx eval --run-dir runs/example-comprehensive/20260305_143025 --checkpoint 10 --metrics mse,r2
    """
    from autoexperiment import runner
    from autoexperiment.config import ConfigLoader

    wanted = runner.plan_evaluation(
        run_dir, checkpoint, config=ConfigLoader.load_from_file(config) if config else None, split=split,
        metrics=[name.strip() for name in metrics.split(",") if name.strip()],
    )  # fmt: skip
    if dry_run:
        answer, text = _described(wanted), _plan_text(wanted)
    else:
        answer = runner.evaluate_plan(wanted, observer=None if as_json else _Printer(wanted, run_dir, config))
        text = _result_text(answer)
    if as_json:
        from autoexperiment.files import dump_json

        text = dump_json(answer)
    click.echo(text)
    return 0


def _described(wanted: EvaluationPlan) -> dict[str, Any]:
    return {
        "status": "dry_run",
        "run_dir": str(wanted.run.folder),
        "checkpoint": wanted.checkpoint,
        "split": wanted.split,
        "metrics": list(wanted.metrics) or "all",
        "dataset": wanted.plan.json["dataset"],
        "would_save": str(wanted.result),
    }


def _plan_text(wanted: EvaluationPlan) -> str:
    lines = [
        heading("DRY RUN - EVALUATION PLAN"),
        "",
        f"Run directory: {wanted.run.folder}",
        f"Checkpoint: {wanted.checkpoint}",
        f"Model: {wanted.plan.config.model.name}",
        f"Dataset: {wanted.plan.config.dataset.name}, split {wanted.split}; rows: {rows_text(wanted.plan)}",
        f"Metrics: {', '.join(wanted.metrics) or 'all'}",
        f"Would save: {wanted.result}",
        "",
        heading("Status: Would evaluate checkpoint (dry run)"),
    ]
    return "\n".join(lines)


def _result_text(answer: dict[str, Any]) -> str:
    metrics = answer["metrics"]
    lines = ["", heading("EVALUATION RESULTS"), "", "Metrics:", *metric_lines(metrics)]
    for name, table in metrics.items():
        if isinstance(table, list):
            lines += [f"  {name} (rows: true class, columns: predicted):", *_matrix_lines(table)]
    lines += ["", f"{answer['n_rows']} rows of the split {answer['split']}. Saved: {answer['saved']}"]
    return "\n".join(lines)


def _matrix_lines(table: list[list[int]]) -> list[str]:
    width = max(len(str(cell)) for row in table for cell in row)
    return ["    " + " ".join(f"{cell:>{width}}" for cell in row) for row in table]


class _Printer:
    """Prints the steps of an evaluation."""

    def __init__(self, wanted: EvaluationPlan, run_dir: Path, config: Path | None) -> None:
        source = config or "run directory"
        click.echo(heading("RUNNING EVALUATION") + "\n")
        click.echo(f"[1/4] Loading configuration from {source}...\n{DONE}Configuration loaded")
        click.echo(f"[2/4] Loading evaluator from: {run_dir}...\n{DONE}Evaluator loaded")
        click.echo(f"[3/4] Regenerating dataset: {wanted.plan.config.dataset.name}...")
        self._ends = {
            "dataset": f"{DONE}Dataset regenerated\n[4/4] Computing metrics on checkpoint: {wanted.checkpoint}...",
            "done": f"{DONE}Evaluation completed",
        }

    def begun(self, plan: ExperimentPlan, run: RunPaths) -> None: ...

    def heard(self, word: str, text: str) -> None:
        if word in self._ends:
            click.echo(self._ends.pop(word))
