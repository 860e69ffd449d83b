"""Metrics of a run's checkpoint on one part of a dataset: nothing is trained, the result is kept beside the checkpoint."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoexperiment import trainer
from autoexperiment.errors import HarnessError, TookTooLong, unknown
from autoexperiment.files import dump_json, read_json, write_json
from autoexperiment.kept import KeptRun, open_run
from autoexperiment.paths import FINAL_CHECKPOINT
from autoexperiment.planning import look, refuse
from autoexperiment.supervisor import Signals
from autoexperiment.trainer import Listening, Observer, Quiet
from autoexperiment.training.request import EVALUATE, Request
from autoexperiment.vocabulary import Outcome, TrustLevel

if TYPE_CHECKING:
    from autoexperiment.config import ExperimentConfig
    from autoexperiment.datasets import Facts

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class EvaluationPlan:
    """A checkpoint that is ready to be evaluated.

    Attributes:
        config: the run's, with the dataset that is used.
        metrics: the ones that are wanted, in their order.
        is_own: whether the dataset is the one in the run's configuration.
    """

    kept: KeptRun
    config: dict[str, Any]
    facts: Facts
    checkpoint: str
    split: str
    metrics: tuple[str, ...]
    is_own: bool

    @property
    def result(self) -> Path:
        """Where the result is kept: beside the checkpoint; another dataset's under a name of its own."""
        dataset = dump_json(self.config["dataset"], indent=None).encode()
        other = "" if self.is_own else f".{hashlib.sha256(dataset).hexdigest()[:8]}"
        return self.kept.paths.checkpoints / f"{self.checkpoint}.{self.split}{other}.json"

    @property
    def can_be_saved(self) -> bool:
        return os.access(self.result.parent, os.W_OK | os.X_OK)


def plan_evaluation(
    run_dir: str | Path,
    checkpoint_name: str = FINAL_CHECKPOINT,
    *,
    config: ExperimentConfig | None = None,
    split: str = "test",
    metrics: Sequence[str] | None = None,
    signals: Signals | None = None,
    timeout_s: float | None = None,
) -> EvaluationPlan:
    """Look at everything that an evaluation needs. Raises: ConfigError, DataError, HarnessError, TookTooLong."""
    from autoexperiment import datasets
    from autoexperiment.training import evaluate

    if split not in SPLITS:
        raise HarnessError(unknown("split", split, SPLITS))
    kept = open_run(run_dir)
    own = kept.config.to_json()
    checkpoint, model = evaluate.load(kept.paths.folder, checkpoint_name, config=own)
    whole = {**own, "dataset": config.to_json()["dataset"]} if config else own
    facts, faults = look(whole, kept.root, with_model=False, signals=signals, timeout_s=timeout_s)
    if facts is None:
        raise refuse(faults)
    datasets.check_part(whole["dataset"], facts, split)
    evaluate.check_fit(model, facts, where=checkpoint.folder)
    chosen = _chosen(facts, metrics)
    return EvaluationPlan(kept, whole, facts, checkpoint.name, split, chosen, whole["dataset"] == own["dataset"])


def _chosen(facts: Facts, metrics: Sequence[str] | None) -> tuple[str, ...]:
    """Raises: HarnessError: an unknown metric."""
    from autoexperiment.training import scores

    known = scores.known(facts.task)
    wanted = (metrics,) if isinstance(metrics, str) else tuple(metrics or known)
    for name in wanted:
        if name not in known:
            raise HarnessError(unknown(f"metric of a {facts.task}", name, known))
    return wanted


def run_evaluation(
    run_dir: str | Path,
    checkpoint_name: str = FINAL_CHECKPOINT,
    *,
    config: ExperimentConfig | None = None,
    split: str = "test",
    metrics: Sequence[str] | None = None,
    observer: Observer | None = None,
    signals: Signals | None = None,
    timeout_s: float | None = None,
) -> dict[str, Any]:
    """Compute metrics of a checkpoint on one part of a dataset, without training.

    Args:
        checkpoint_name: "checkpoint_final", "checkpoint_epoch_10", or an epoch's number.
        config: its dataset is used instead of the run's own. The run's rows split in another way are refused.
        split: "train", "val" or "test".
        metrics: names; None: all that the task has.
        signals: as of `supervise`.
        timeout_s: after so many seconds it is ended; None: never.
    Returns: `metrics` by name, and what they are of: `experiment`, `checkpoint`, `epoch`, `split`, `n_rows`, `dataset`,
        `own_data` (whether it is the run's), `trust`, and `saved`: the file beside the checkpoint that holds all
        metrics, None when it could not be written.
    Raises: ConfigError, DataError, HarnessError, TookTooLong.
    """
    began = time.monotonic()
    wanted = plan_evaluation(
        run_dir, checkpoint_name, config=config, split=split, metrics=metrics, signals=signals, timeout_s=timeout_s
    )
    left = None if timeout_s is None else max(0.001, timeout_s - (time.monotonic() - began))
    return evaluate_plan(wanted, observer=observer, signals=signals, timeout_s=left)


def evaluate_plan(
    wanted: EvaluationPlan,
    *,
    observer: Observer | None = None,
    signals: Signals | None = None,
    timeout_s: float | None = None,
) -> dict[str, Any]:
    """As `run_evaluation`, of a plan that was made before."""
    observer = observer or Quiet()
    whole = {
        "experiment": wanted.config["name"],
        **_ask(wanted, Listening(observer), signals, timeout_s),
        "dataset": wanted.config["dataset"],
        "trust": str(TrustLevel.RECOMPUTED),
        "saved": str(wanted.result),
    }
    result = {**whole, "metrics": {name: whole["metrics"][name] for name in wanted.metrics}}
    try:
        write_json(wanted.result, whole)
    except OSError as error:
        observer.heard("note", f"The result could not be saved: {error.strerror} ({wanted.result.parent}).")
        return {**result, "saved": None}
    return result


def _ask(
    wanted: EvaluationPlan, listening: Listening, signals: Signals | None, timeout_s: float | None
) -> dict[str, Any]:
    """What the training process answers. Raises: HarnessError: it could not. KeyboardInterrupt: it was stopped."""
    with tempfile.TemporaryDirectory(prefix="autoexperiment-") as name:
        folder = Path(name)
        request = Request(
            EVALUATE, str(wanted.kept.root), wanted.config, str(wanted.kept.paths.folder),
            result=str(folder / "answer.json"), checkpoint=wanted.checkpoint, split=wanted.split,
            own_dataset=wanted.is_own,
        )  # fmt: skip
        log = folder / "run.log"
        ending = trainer.run(
            request, folder=folder, log=log, heard=listening.heard, signals=signals, timeout_s=timeout_s
        )
        outcome = listening.outcome(ending, is_finished=Path(request.result).exists())
        if outcome is Outcome.INTERRUPTED:
            raise KeyboardInterrupt
        if outcome is Outcome.TIMED_OUT:
            raise TookTooLong(f"The evaluation took too long: {listening.reason(ending)}")
        if outcome is not Outcome.OK:
            raise HarnessError(f"The evaluation failed: {listening.reason(ending)}")
        answer: dict[str, Any] = read_json(Path(request.result))
    return answer
