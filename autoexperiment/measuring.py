"""The runs of one candidate: as many as sampling and policy ask for, repeated where a run says nothing."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from autoexperiment import failpoint, history, seeding
from autoexperiment.errors import HarnessError, Locked
from autoexperiment.evaluation import CASES
from autoexperiment.ledger import Experiment
from autoexperiment.paths import OutputPaths, RunPaths
from autoexperiment.run import Run
from autoexperiment.session import Session, now
from autoexperiment.trained import TrialPlan
from autoexperiment.trial import copy_kernels, run_trial
from autoexperiment.vocabulary import Outcome, RunStatus, Verdict

MAX_BATCH_DIVISOR = 8
RETRIES = 2  # times that a run is repeated which the machine, not the candidate, spoiled


class Observer(Protocol):
    """What a front end hears while the loop works."""

    def say(self, line: str) -> None: ...
    def visited(self, agent: str) -> None: ...
    def begun(self, experiment: Experiment) -> None: ...
    def run_started(self, experiment: Experiment, run: int) -> None: ...
    def tick(self, elapsed_s: float) -> None: ...
    def run_ended(self, experiment: Experiment, run: Run) -> None: ...
    def decided(self, experiment: Experiment) -> None: ...


class Quiet:
    """An observer that says nothing."""

    def say(self, line: str) -> None: ...
    def visited(self, agent: str) -> None: ...
    def begun(self, experiment: Experiment) -> None: ...
    def run_started(self, experiment: Experiment, run: int) -> None: ...
    def tick(self, elapsed_s: float) -> None: ...
    def run_ended(self, experiment: Experiment, run: Run) -> None: ...
    def decided(self, experiment: Experiment) -> None: ...


@dataclass
class Measuring:
    """One experiment while its runs are being made. `runs`: those that count; `made`: warm-ups as well."""

    session: Session
    experiment: Experiment
    observer: Observer
    runs: list[Run] = field(default_factory=list)
    made: int = 0
    spoiled: int = 0
    crashes: int = 0
    batch_divisor: int = 1
    kernels: Path | None = None

    @property
    def is_warming_up(self) -> bool:
        sampling = self.session.recipe.sampling
        return sampling is not None and self.made < sampling.warmups


def runs_wanted(work: Measuring) -> int:
    recipe = work.session.recipe
    if recipe.sampling is not None:
        return recipe.sampling.runs
    return recipe.floor.baseline_runs if work.session.ledger.incumbent is None else 1


def may_retry(work: Measuring, run: Run) -> bool:
    """Whether a run says nothing about the candidate, or the protocol asks for another try.

    It says nothing when the machine spoiled it, and when it was too slow while it compiled kernels: the
    repetition finds them compiled. After running out of memory it is tried with half the device batch,
    and after a crash once more, where the protocol has it so.
    """
    recipe = work.session.recipe
    is_spoiled = run.outcome is Outcome.INTERRUPTED and run.ending.get("stop_signal") is None
    has_compiled = run.ending["outcome"] == Outcome.REJECTED and run.provenance["new_kernels"] > 0
    if is_spoiled or has_compiled:
        work.spoiled += 1
        return work.spoiled <= RETRIES
    if run.outcome is Outcome.OOM and recipe.oom == "reduce_batch":
        if work.made:  # it fits: all runs of a candidate are made with the same batch, so this one is repeated with it
            work.spoiled += 1
            return work.spoiled <= RETRIES
        may_shrink = work.batch_divisor < MAX_BATCH_DIVISOR
        work.batch_divisor *= 2 if may_shrink else 1
        return may_shrink
    if run.outcome is Outcome.CRASHED and recipe.crash == "retry":
        work.crashes += 1
        return work.crashes <= 1
    return False


def one_run(work: Measuring) -> Run:
    session, ledger = work.session, work.session.ledger
    experiment = ledger.experiments[-1]
    number = len(experiment.runs)
    began = now()
    paths = session.paths.new_run(began.astimezone())
    seed, is_warmup = _seed(work), work.is_warming_up
    ledger.append(
        "started",
        experiment=experiment.number,
        run=number,
        folder=str(paths.folder.relative_to(session.project.root)),
        seed=seed,
    )
    failpoint.reach("loop.run_started")
    work.observer.run_started(experiment, number)
    with history.hold(paths):
        run = run_trial(_trial_plan(work, experiment, seed), paths, on_tick=work.observer.tick)
    _keep_kernels(work, paths)
    failpoint.reach("loop.run_made")
    ledger.append("ended", experiment=experiment.number, run=number, ending={**run.ending, "outcome": str(run.outcome)})
    failpoint.reach("loop.run_ended")
    if run.outcome is Outcome.OK and not is_warmup:
        trust = str(run.trust[session.recipe.metric])
        ledger.append("scored", experiment=experiment.number, run=number, metrics=run.metrics, trust=trust)
        failpoint.reach("loop.run_scored")
    _enter_history(session, paths, run, began)
    failpoint.reach("loop.run_entered")
    work.observer.run_ended(experiment, run)
    return run


def _enter_history(session: Session, paths: RunPaths, run: Run, began: datetime) -> None:
    """Enter a run into the index of outputs/. A failure costs nothing: whoever reads the index mends it."""
    with contextlib.suppress(OSError, Locked, HarnessError):
        history.record_run(
            OutputPaths(session.project.outputs), paths,
            status=RunStatus.of(run.outcome), created_at=began, final_metrics=run.metrics,
        )  # fmt: skip


def _seed(work: Measuring) -> int | None:
    """Run i of every candidate gets the session's seed i; warm-ups get those after the measured runs'."""
    session, sampling = work.session, work.session.recipe.sampling
    number = sampling.runs + work.made if sampling and work.is_warming_up else len(work.runs)
    files = session.files_of(work.experiment.commit)
    return seeding.seeds(session.recipe.seeds, tag=session.tag, candidate=files, count=number + 1)[number]


def _keep_kernels(work: Measuring, paths: RunPaths) -> None:
    """Keep what the run compiled for this candidate's next runs, and what the baseline compiled for all.

    A later candidate's kernels never reach another one: they are code that it could have written itself.
    """
    session = work.session
    if session.ledger.incumbent is None:
        copy_kernels(paths.kernels, session.paths.kernels)
    else:
        work.kernels = paths.folder / "kernels"
        copy_kernels(paths.kernels, work.kernels)
    shutil.rmtree(paths.private, ignore_errors=True)


def _trial_plan(work: Measuring, experiment: Experiment, seed: int | None) -> TrialPlan:
    session = work.session
    incumbent = session.ledger.incumbent
    return TrialPlan(
        recipe=session.recipe,
        budget=session.budget,
        candidate=session.files_of(experiment.commit),
        harness=session.harness_files(),
        seed=seed,
        reference=session.files_of(session.base),
        lay_out=session.lay_out(experiment.commit),
        place=session.place(),
        data=session.data,
        links=session.links(),
        batch_divisor=work.batch_divisor,
        cases=None if incumbent is None else _cases(session),
        startup_s=None if incumbent is None else baseline_startup_s(session),
        kernels=work.kernels or session.paths.kernels,
        provenance={
            "tag": session.tag,
            "experiment": experiment.number,
            "commit": experiment.commit,
            "snapshot": session.start_record["snapshot"],
            "machine": session.start_record["machine"],
        },
    )


def baseline(session: Session) -> Experiment:
    """The first experiment that was kept: what everything after is measured against."""
    return next(e for e in session.ledger.experiments if e.verdict is Verdict.KEEP)


def _cases(session: Session) -> int | None:
    """Test cases of the baseline's suite, where they are counted."""
    count = baseline(session).metrics.get(CASES)
    return None if count is None else int(count)


def baseline_startup_s(session: Session) -> float | None:
    """Shortest time outside training among the baseline's runs, which is without the first one's compiling.

    None without a time budget.
    """
    budget_s = session.budget.seconds
    if budget_s is None:
        return None
    return max(0.0, min(run.metrics["wall_s"] - budget_s for run in baseline(session).runs if run.metrics))
