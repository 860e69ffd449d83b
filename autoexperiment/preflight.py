"""A cheap look at an edit before a budget is spent on it: does it parse, is it allowed, does it get to its first step?

What fails here would fail in the run as well, after minutes. What passes may still fail there. Nothing of it is
recorded, and nothing is left of it.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autoexperiment import machine, seeding
from autoexperiment import metrics as metric_files
from autoexperiment.admission import DISK_FLOOR_BYTES, gate_findings
from autoexperiment.budget import Budget
from autoexperiment.errors import Refused
from autoexperiment.failure import FRAME_LIMIT, MESSAGE_LIMIT, Failure, classify, clean
from autoexperiment.files import remove_folder
from autoexperiment.loop import Stopped
from autoexperiment.measure.scorer import Score
from autoexperiment.measuring import MAX_BATCH_DIVISOR
from autoexperiment.paths import RunPaths
from autoexperiment.preparation import words
from autoexperiment.recipe import REPORTED, SEALED, Extractor, Recipe, Stop
from autoexperiment.run import Run
from autoexperiment.sealed import score_checkpoint
from autoexperiment.session import Session, now
from autoexperiment.supervisor import Ending, run_environment
from autoexperiment.trained import TrialPlan
from autoexperiment.trial import run_trial
from autoexperiment.vocabulary import Outcome

TIMEOUT_S = 120.0  # of the first step and of the scoring, each
LEAST = {"seconds": 0.5, "tokens": 1.0, "steps": 1.0}  # amounts of training that at most a few steps fit into
# "The first step failed" is how a message begins.
SYNTAX, GATE, FIRST_STEP, SCORING = "syntax check", "static gate", "first step", "scoring of the first step"


@dataclass(frozen=True)
class Preflight:
    """What a look at an edit brought.

    Attributes:
        ok: nothing speaks against spending a budget on it.
        stage: the stage that failed, else the last one that was looked at.
        reason: one sentence for the agent; also where `ok` is true and the last stage could not be judged.
        failure: what the stage's exception or finding was, where there is one.
        seconds: what the look cost.
    """

    ok: bool
    stage: str
    reason: str
    failure: Failure | None
    seconds: float


class _Failed(Exception):
    """`args`: stage, reason, failure or None."""


class _Unjudged(Exception):
    """The machine, not the edit, spoiled a stage. `args`: stage, reason."""


def check(session: Session, files: Mapping[str, bytes], *, timeout_s: float = TIMEOUT_S) -> Preflight:
    """Look at an edit of the incumbent, as cheaply as that can be done.

    Args: files: the mutable files' bytes.
    Raises: Stopped: a signal came. Refused: the disk is full, git can't store the edit, or processes of its first
        step could not be killed.
    """
    began, stage, ok, reason = time.monotonic(), GATE, True, ""
    failure: Failure | None = None
    try:
        _check_syntax(session, files)
        _check_gate(session, files)
        if _has_first_step(session):
            stage = SCORING
            limit = min(timeout_s, session.recipe.hard_timeout_s or session.budget.hard_timeout_s)
            _check_first_step(session, _plan(session, files, limit), limit)
    except _Failed as error:
        ok, (stage, reason, failure) = False, error.args
    except _Unjudged as error:
        stage, reason = error.args
    return Preflight(ok, stage, reason, failure, time.monotonic() - began)


# ---- without running anything


def _check_syntax(session: Session, files: Mapping[str, bytes]) -> None:
    """Raises: _Failed: a Python file does not compile which did, or is new."""
    before = session.files_of(session.head)
    for name in sorted(name for name in files if name.endswith(".py") and files[name] != before.get(name)):
        fault = _syntax_fault(name, files[name])
        if fault is not None and (name not in before or _syntax_fault(name, before[name]) is None):
            raise _Failed(SYNTAX, f"{fault.kind} at {fault.frame}: {fault.message}", fault)


def _syntax_fault(name: str, blob: bytes) -> Failure | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(blob, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        message = getattr(error, "msg", None) or str(error)
        return Failure(type(error).__name__, clean(message, MESSAGE_LIMIT), clean(f"{name}:{line}", FRAME_LIMIT))
    return None


def _check_gate(session: Session, files: Mapping[str, bytes]) -> None:
    """Raises: _Failed."""
    if findings := gate_findings(session, files):
        first = findings[0]
        failure = Failure(
            first.rule, clean(first.message, MESSAGE_LIMIT), clean(f"{first.path}:{first.line}", FRAME_LIMIT)
        )
        raise _Failed(GATE, " ".join(finding.message for finding in findings[:3]), failure)


# ---- one step, and its scoring on a few rows


def _has_first_step(session: Session) -> bool:
    """Whether the recipe is one whose training can be cut short and whose checkpoint can be scored."""
    return session.recipe.scoring == SEALED and session.budget.kind in LEAST


def _check_first_step(session: Session, plan: TrialPlan, timeout_s: float) -> None:
    """Raises: _Failed. _Unjudged. Stopped. Refused."""
    _check_disk(session.paths.state)
    with _scratch(session) as folder:
        paths = RunPaths(folder)
        _judge_run(session, run_trial(plan, paths), timeout_s)
        _check_scoring(session, plan, paths, timeout_s)


def _check_disk(folder: Path) -> None:
    """Raises: Refused: a step that fails for want of space would say nothing about the edit."""
    free = machine.free_bytes(folder)
    if free < DISK_FLOOR_BYTES:
        raise Refused(
            f"Only {free / 2**20:.0f} MB are free for {folder}. A pre-flight needs {DISK_FLOOR_BYTES / 2**20:.0f} MB. "
            "Free some space; nothing is lost."
        )


@contextlib.contextmanager
def _scratch(session: Session) -> Iterator[Path]:
    """A new folder in the session's state. What a kill, or a run that locks its folders, leaves there never matters."""
    top = session.paths.preflight
    top.mkdir(parents=True, exist_ok=True)
    try:
        yield Path(tempfile.mkdtemp(dir=top))
    finally:
        remove_folder(top)


def _plan(session: Session, files: Mapping[str, bytes], timeout_s: float) -> TrialPlan:
    """A run like the session's own, with the least training, the smallest batch, and no number to be measured.

    The budget is of the session's own kind: an edit need not understand another one.
    """
    surface, budget = session.surface.is_mutable, session.budget
    commit = session.repository.take(files, base=session.head, surface=surface, message="pre-flight", when=now()).commit
    return TrialPlan(
        recipe=_cut_short(session.recipe, timeout_s),
        budget=Budget(budget.kind, min(LEAST[budget.kind], budget.amount)),
        candidate=files,
        harness=session.harness_files(),
        seed=seeding.seeds(session.recipe.seeds, tag=session.tag, candidate=files, count=1)[0],
        reference=session.files_of(session.base),
        lay_out=session.lay_out(commit),
        place=session.place(),
        data=session.data,
        links=session.links(),
        kernels=session.paths.kernels,
        batch_divisor=MAX_BATCH_DIVISOR,
    )


def _cut_short(recipe: Recipe, timeout_s: float) -> Recipe:
    """The recipe without anything that comes after the training; its scoring is done here, on a few rows."""
    return replace(
        recipe,
        command=("/usr/bin/env", "AUTOEXPERIMENT_SKIP_EVAL=1", *words(recipe.command)),
        scoring=REPORTED,
        extract=Extractor("measured", measured="wall_s"),
        secondary=(),
        stop=Stop(),
        guard=(),
        hard_timeout_s=timeout_s,
    )


def _judge_run(session: Session, run: Run, timeout_s: float) -> None:
    """Raises: _Failed. _Unjudged. Stopped. Refused."""
    ending = Ending.from_json(run.ending)
    _check_ending(session, ending, FIRST_STEP, timeout_s)
    if run.outcome is not Outcome.OK:
        raise _Failed(FIRST_STEP, run.reason, ending.failure)


def _check_ending(session: Session, ending: Ending, stage: str, timeout_s: float) -> None:
    """Raises: _Failed: it took too long. _Unjudged, Stopped, Refused: its end says nothing about the edit."""
    if ending.survivors:
        pids = ", ".join(map(str, ending.survivors))
        raise Refused(f"Processes of a pre-flight could not be killed: {pids}. End them first: kill -9 {pids}")
    if ending.stop_signal is not None:
        raise Stopped(f"Stopped: {ending.reason} Go on with: mlx loop run {session.tag}")
    if ending.outcome is Outcome.INTERRUPTED or ending.log_error:
        raise _Unjudged(stage, ending.reason or f"Its log could not be written: {ending.log_error}.")
    if ending.outcome is Outcome.TIMED_OUT:
        reason = f"The {stage} was not over after {timeout_s:g} s, with the smallest budget there is."
        raise _Failed(stage, reason, ending.failure)


ROWS = 2


def _check_scoring(session: Session, plan: TrialPlan, paths: RunPaths, timeout_s: float) -> None:
    """Score the first step's checkpoint as a run's is, on a few rows. Raises: _Failed. _Unjudged. Stopped. Refused."""
    missing = [name for name in ("model.safetensors", "config.json") if not (paths.checkpoint / name).is_file()]
    if missing:
        raise _Failed(SCORING, f"The first step left no checkpoint: data/checkpoint/{missing[0]} is missing.", None)
    folder = paths.folder / "evaluation"
    score, ending = score_checkpoint(
        plan, paths.checkpoint, folder, env=run_environment(folder, extra={"AUTOEXPERIMENT_DATA": str(plan.data)}),
        timeout_s=timeout_s, rows=ROWS,
    )  # fmt: skip
    _check_ending(session, ending, SCORING, timeout_s)
    if score is None:
        raise _Failed(SCORING, f"The evaluation failed: {ending.reason or 'no result'}", ending.failure)
    if score.problem:
        raise _why_unscored(score, metric_files.read_tail(paths.folder / "evaluation.log"), folder / "candidate")


def _why_unscored(score: Score, log: bytes, folder: Path) -> _Failed:
    """The exception that the candidate's model ended with, which is in the log; else the scorer's words."""
    failure = classify(log, exit_code=1, signal=None, folder=folder)[1] if score.problem == "crashed" else None
    if failure is None or not failure.frame:
        return _Failed(SCORING, score.message, Failure(score.problem, score.message))
    return _Failed(SCORING, f"{failure.kind} at {failure.frame}: {failure.message}", failure)
