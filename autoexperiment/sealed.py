"""The sealed evaluation of a run: a scorer in a process of its own, on fresh copies of every file but the checkpoint."""

from __future__ import annotations

import shutil
import stat
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoexperiment.measure.scorer import Score, ScoreRequest
from autoexperiment.recipe import Recipe
from autoexperiment.supervisor import Ending, Limits, Signals, run_environment, supervise
from autoexperiment.trained import Interrupted, Trained, TrialPlan, fresh, rejected, write_tree
from autoexperiment.vocabulary import Outcome

MISMATCH = 1e-3  # how far the recipe's own number may lie from the scorer's, in the metric's unit
SCORING_TIMEOUT_S = 1800.0
CHECKPOINT_BYTES = 20_000_000_000
CHECKPOINT_FILES = ("model.safetensors", "config.json")


def _check_checkpoint(folder: Path) -> str:
    """Why the checkpoint can't be scored, or "" when both of its files are regular and of sane size."""
    for name in CHECKPOINT_FILES:
        try:
            facts = (folder / name).lstat()
        except OSError:
            return f"The run left no checkpoint: {name} is missing."
        if not stat.S_ISREG(facts.st_mode) or not 0 < facts.st_size <= CHECKPOINT_BYTES:
            return f"The checkpoint's {name} is not a regular file of a sane size."
    return ""


def _module(recipe: Recipe) -> str:
    """The module that builds the model: the script that the command runs."""
    scripts = [word for word in recipe.command if word.endswith(".py")]
    return Path(scripts[-1] if scripts else "train.py").stem


def score_checkpoint(
    plan: TrialPlan,
    checkpoint: Path,
    folder: Path,
    *,
    env: Mapping[str, str],
    timeout_s: float,
    rows: int | None = None,
    signals: Signals | None = None,
) -> tuple[Score | None, Ending]:
    """Run the scorer under the supervisor, on fresh copies of every file but the checkpoint.

    Args:
        folder: where the copies lie meanwhile; the scorer's log, `evaluation.log`, stays beside it.
        env: for the scorer; its homes are its own.
        rows: only the first so many of the validation rows.
        signals: as of `supervise`.
    Returns: no score when the scorer did not come to an end.
    """
    fresh(folder)
    write_tree(folder / "candidate", {**plan.candidate, **plan.harness})
    write_tree(folder / "harness", {**plan.reference, **plan.harness})
    request = ScoreRequest(
        str(folder / "harness"), str(folder / "candidate"), str(checkpoint), _module(plan.recipe), rows
    )
    request.save(folder / "request.json")
    result = folder / "result.json"
    command = [sys.executable, "-m", "autoexperiment.measure.scorer", str(folder / "request.json"), str(result)]
    private = {name: str(place) for name, place in _homes(folder).items()}  # that the training never saw
    ending = supervise(
        command, cwd=folder, log=folder.with_name("evaluation.log"), limits=Limits(timeout_s), env={**env, **private},
        signals=signals,
    )  # fmt: skip
    score = Score.load(result) if ending.outcome is Outcome.OK and result.exists() else None
    shutil.rmtree(folder)
    return score, ending


def _homes(folder: Path) -> dict[str, str]:
    fresh = run_environment(folder, extra={})
    return {name: fresh[name] for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}


_SCORE_OUTCOME = {"crashed": Outcome.CRASHED, "nonfinite": Outcome.DIVERGED, "shape": Outcome.REJECTED}


def sealed_metric(run: Trained, own: float | None) -> tuple[float, dict[str, Any]]:
    """Raises: Rejected. Interrupted."""
    if fault := _check_checkpoint(run.work / "data" / "checkpoint"):
        raise rejected(Outcome.REJECTED, fault)
    score, ending = score_checkpoint(
        run.plan, run.work / "data" / "checkpoint", run.paths.folder / "evaluation",
        env=run.environment, timeout_s=SCORING_TIMEOUT_S, signals=run.signals,
    )  # fmt: skip
    if score is None:
        if ending.outcome is Outcome.INTERRUPTED:
            raise Interrupted(ending)
        raise rejected(Outcome.REJECTED, f"The evaluation failed: {ending.reason or 'no result'}")
    account = asdict(score)
    if score.problem:
        raise rejected(_SCORE_OUTCOME[score.problem], score.message, account)
    assert score.val_bpb is not None
    if own is not None and abs(own - score.val_bpb) > MISMATCH:
        name = run.plan.recipe.metric
        reason = f"The recipe states {name} {own:.6f}, the scorer measured {score.val_bpb:.6f}."
        raise rejected(Outcome.REJECTED, reason, account)
    return score.val_bpb, account
