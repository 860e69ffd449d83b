"""`mlx eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoexperiment.cli.run_experiment import metric_lines, rows_text
from autoexperiment.cli.terminal import DONE, Teller, heading, interruptible
from autoexperiment.paths import FINAL_CHECKPOINT, RunPaths

if TYPE_CHECKING:
    from autoexperiment.evaluations import EvaluationPlan
    from autoexperiment.planning import ExperimentPlan


MOST_CLASSES = 30  # of a confusion matrix on a terminal


def _complete_checkpoints(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    folder = RunPaths(Path(context.params.get("run_dir") or ".")).checkpoints
    return sorted(path.name for path in folder.glob(f"{incomplete}*") if path.is_dir())


def _complete_metrics(_context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    from autoexperiment.training.scores import known

    done, _comma, last = incomplete.rpartition(",")
    names = sorted({*known("regression"), *known("classification")})
    return [f"{done}{_comma}{name}" for name in names if name.startswith(last)]


@click.command("eval")
@click.option("--run-dir", type=click.Path(path_type=Path), required=True, help="The run's folder.")
@click.option(
    "--checkpoint",
    default=FINAL_CHECKPOINT,
    show_default=True,
    shell_complete=_complete_checkpoints,
    help="Its name, or the number of an epoch.",
)
@click.option("--config", type=click.Path(path_type=Path), help="Use this configuration's dataset instead.")
@click.option(
    "--metrics", metavar="NAMES", shell_complete=_complete_metrics, help="Show only these, with commas between: mse,r2"
)
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--dry-run", is_flag=True, help="Check everything and show the plan; compute nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else.")
def command(
    run_dir: Path, checkpoint: str, config: Path | None, metrics: str | None, split: str, dry_run: bool, as_json: bool
) -> int:
    """Compute metrics of a checkpoint on data it was not trained on, without training.

    Regression: mse, rmse, mae, r2. Classification: accuracy, log_loss, f1, confusion_matrix. The result is saved
    beside the checkpoint.

    \b
    mlx eval --run-dir runs/example-comprehensive/20260305_143025
    mlx eval --run-dir runs/example-comprehensive/20260305_143025 --checkpoint 10 --metrics mse,r2
    """
    names = [name.strip() for name in metrics.split(",")] if metrics is not None else []
    if "" in names:
        raise click.UsageError("'--metrics' holds a name that is empty. For example: --metrics mse,r2")
    with interruptible():
        return _evaluate(run_dir, checkpoint, config, split, names, dry_run=dry_run, as_json=as_json)


def _evaluate(
    run_dir: Path, checkpoint: str, config: Path | None, split: str, names: list[str], *, dry_run: bool, as_json: bool
) -> int:
    from autoexperiment import evaluations
    from autoexperiment.config import ConfigLoader

    other = ConfigLoader.load_from_file(config) if config else None
    wanted = evaluations.plan_evaluation(run_dir, checkpoint, config=other, split=split, metrics=names)
    if dry_run:
        answer, text = _described(wanted), _plan_text(wanted)
    else:
        observer = None if as_json else _Printer(wanted, run_dir, config)
        answer = evaluations.evaluate_plan(wanted, observer=observer)
        text = _result_text(answer)
    if as_json:
        from autoexperiment.files import dump_json

        text = dump_json(answer)
    click.echo(text)
    return 0


def _described(wanted: EvaluationPlan) -> dict[str, Any]:
    return {
        "status": "dry_run",
        "run_dir": str(wanted.kept.paths.folder),
        "checkpoint": wanted.checkpoint,
        "split": wanted.split,
        "metrics": list(wanted.metrics),
        "dataset": wanted.config["dataset"],
        "would_save": str(wanted.result) if wanted.can_be_saved else None,
    }


def _plan_text(wanted: EvaluationPlan) -> str:
    lines = [
        heading("DRY RUN - EVALUATION PLAN"),
        "",
        f"Run directory: {wanted.kept.paths.folder}",
        f"Checkpoint: {wanted.checkpoint}",
        f"Model: {wanted.config['model']['name']}",
        f"Dataset: {wanted.config['dataset']['name']}: {rows_text(wanted.facts)}",
        f"Split: {wanted.split}",
        f"Metrics: {', '.join(wanted.metrics)}",
        f"Would save: {wanted.result if wanted.can_be_saved else 'nothing, for the folder may not be written'}",
        "",
        heading("Status: Would evaluate checkpoint (dry run)"),
    ]
    return "\n".join(lines)


def _result_text(answer: dict[str, Any]) -> str:
    metrics = answer["metrics"]
    lines = ["", heading("EVALUATION RESULTS"), "", "Metrics:", *metric_lines(metrics)]
    for name, table in metrics.items():
        if isinstance(table, list) and len(table) > MOST_CLASSES:
            lines.append(f"  {name}: {len(table)} classes, too many to show; it is in the saved result")
        elif isinstance(table, list):
            lines += [f"  {name} (rows: true class, columns: predicted):", *_matrix_lines(table)]
    saved = f" Saved: {answer['saved']}" if answer["saved"] else ""
    of = "" if answer["own_data"] else " of another dataset than the run's"
    lines += ["", f"{answer['n_rows']} rows of the split {answer['split']}{of}.{saved}"]
    return "\n".join(lines)


def _matrix_lines(table: list[list[int]]) -> list[str]:
    width = max(len(str(cell)) for row in table for cell in row)
    return ["    " + " ".join(f"{cell:>{width}}" for cell in row) for row in table]


class _Printer(Teller):
    """Prints the steps of an evaluation."""

    def __init__(self, wanted: EvaluationPlan, run_dir: Path, config: Path | None) -> None:
        super().__init__()
        source = config or "run directory"
        self.tell(f"{heading('RUNNING EVALUATION')}\n")
        self.tell(f"[1/4] Loading configuration from {source}...\n{DONE}Configuration loaded")
        self.tell(f"[2/4] Loading evaluator from: {run_dir}...\n{DONE}Evaluator loaded")
        self.tell(f"[3/4] Regenerating dataset: {wanted.config['dataset']['name']}...")
        self._ends = [
            ("dataset", f"{DONE}Dataset regenerated\n[4/4] Computing metrics on checkpoint: {wanted.checkpoint}..."),
            ("done", f"{DONE}Evaluation completed"),
        ]

    def begun(self, plan: ExperimentPlan, run: RunPaths) -> None: ...

    def heard(self, word: str, text: str) -> None:
        if word == "note":
            self.tell(f"      {text}")
        elif self._ends and word == self._ends[0][0]:
            self.tell(self._ends.pop(0)[1])
