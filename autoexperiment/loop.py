"""One turn of the loop: measure a candidate, decide, record, keep or restore.

Every effect is preceded by a ledger record that says what is about to be done, so that a kill
between any two lines of this file loses nothing (see `session.recover`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Protocol

from autoexperiment import failpoint, machine, views
from autoexperiment.errors import BreakerOpen, LabError, Refused
from autoexperiment.ledger import Experiment, RunRecord
from autoexperiment.paths import RunPaths
from autoexperiment.run import Run
from autoexperiment.session import REFS, Session, apply, breaker_state, content_id, now, save_stray, seeds
from autoexperiment.trial import TrialPlan, copy_kernels, discard_weights, run_trial
from autoexperiment.verdict import Change, Decision, Measurement, decide
from autoexperiment.vocabulary import Outcome, Verdict

BASELINE_RUNS = 3
RETRIES = 2  # times that a run is repeated which the machine, not the candidate, spoiled
DISK_FLOOR_BYTES = 1 << 30
DESCRIPTION_LIMIT = 500
INTERRUPTED_EXIT = 130

_VERDICT_OF = {
    Outcome.CRASHED: Verdict.CRASH,
    Outcome.OOM: Verdict.CRASH,
    Outcome.DIVERGED: Verdict.CRASH,
    Outcome.TIMED_OUT: Verdict.DISCARD,
    Outcome.REJECTED: Verdict.DISCARD,
    Outcome.INTERRUPTED: None,
}


class Stopped(LabError):
    """A signal or a stop request ended the work; everything measured so far is recorded."""

    exit_code = INTERRUPTED_EXIT


class Observer(Protocol):
    """What a front end hears while the loop works."""

    def begun(self, experiment: Experiment) -> None: ...
    def run_started(self, experiment: Experiment, run: int) -> None: ...
    def tick(self, elapsed_s: float) -> None: ...
    def run_ended(self, experiment: Experiment, run: Run) -> None: ...
    def decided(self, experiment: Experiment) -> None: ...


class Quiet:
    """An observer that says nothing."""

    def begun(self, experiment: Experiment) -> None: ...
    def run_started(self, experiment: Experiment, run: int) -> None: ...
    def tick(self, elapsed_s: float) -> None: ...
    def run_ended(self, experiment: Experiment, run: Run) -> None: ...
    def decided(self, experiment: Experiment) -> None: ...


@dataclass(frozen=True)
class Proposal:
    """A candidate that an agent wants measured: bytes of the mutable files, and one line that says what changed."""

    files: Mapping[str, bytes]
    description: str


@dataclass
class _Measuring:
    """One experiment while its runs are being made."""

    session: Session
    experiment: Experiment
    observer: Observer
    runs: list[Run] = field(default_factory=list)
    spoiled: int = 0
    kernels: Path | None = None


def check_description(text: str) -> str:
    """One line of 1 to 500 characters. Raises: Refused."""
    line = " ".join(text.split())
    if not 0 < len(line) <= DESCRIPTION_LIMIT:
        raise Refused(
            f"The description has {len(line)} characters. Allowed: 1 to {DESCRIPTION_LIMIT}, "
            "saying what changed in one line. For example: -m 'raise MATRIX_LR to 0.05'"
        )
    return line


def check_may_run(session: Session) -> None:
    state = breaker_state(session.ledger)
    if state.open:
        raise BreakerOpen(
            f"The circuit breaker is open: {state.reason} "
            f"Look at it with 'mlx loop log {session.tag}', then close it: mlx loop reset {session.tag} --breaker"
        )
    free = machine.free_bytes(session.project.outputs)
    if free < DISK_FLOOR_BYTES:
        raise Refused(
            f"Only {free / 2**20:.0f} MB are free for {session.project.outputs}. A run needs "
            f"{DISK_FLOOR_BYTES / 2**20:.0f} MB. Free some space; nothing is lost."
        )


def check_surface(session: Session) -> dict[str, bytes]:
    """The mutable files' bytes as they are in the working tree.

    Raises: Refused: a tracked file outside the mutable surface was edited as well.
    """
    mutable = session.recipe.mutable
    if others := session.repository.other_changes(mutable):
        raise Refused(
            f"{', '.join(others[:5])} changed, but only {', '.join(mutable)} may change in this loop. "
            f"Put it back with: git restore --staged --worktree -- {' '.join(others[:5])}"
        )
    return session.repository.read_files(mutable)


def find_twin(session: Session, files: dict[str, bytes]) -> Experiment | None:
    """An earlier experiment with a verdict on exactly these bytes."""
    content = content_id(files)
    matches = (e for e in session.ledger.experiments if e.content == content and e.verdict is not None)
    return next(matches, None)


def _check_candidate(session: Session, files: dict[str, bytes]) -> None:
    if _is_unchanged(session, files):
        raise Refused(
            f"{', '.join(session.recipe.mutable)} is the incumbent, byte for byte: there is nothing to measure. "
            "Edit it first, one idea at a time."
        )
    if twin := find_twin(session, files):
        raise Refused(
            f"These exact bytes were experiment {twin.number} ({twin.verdict}: {twin.description}). "
            "Try something else, or see 'mlx loop log'."
        )


def _is_unchanged(session: Session, files: dict[str, bytes]) -> bool:
    return content_id(files) == content_id(session.files_of(session.head))


def stage(session: Session, description: str) -> str:
    """Check the working tree's edit as `step` would, and save it as a commit that a later step can measure.

    Returns: the commit, which is the session's head when nothing was changed and the baseline is due.
    """
    check_description(description)
    check_may_run(session)
    files = check_surface(session)
    is_baseline_due = session.ledger.incumbent is None
    if not is_baseline_due:
        _check_candidate(session, files)
    if is_baseline_due and _is_unchanged(session, files):
        return session.head
    commit = session.repository.take(files, base=session.head, message=description, when=now()).commit
    session.repository.replace_ref(f"{REFS}/{session.tag}/staged", commit)
    return commit


def step(
    session: Session, description: str, *, source: str = "hand", candidate: str = "", observer: Observer | None = None
) -> Experiment:
    """Measure the edit in the working tree, decide, and keep it or take it back.

    The first step of a session measures the baseline before anything else; with an unchanged tree it
    measures only that.

    Args:
        candidate: a commit made by `stage`, to be measured instead of the working tree.
    Raises: Refused: nothing changed, a twin was measured, or an edit lies outside the mutable surface.
        BreakerOpen. Stopped: a signal came; the experiment is recorded as interrupted.
    """
    observer, line = observer or Quiet(), check_description(description)
    check_may_run(session)
    files = session.files_of(candidate) if candidate else check_surface(session)
    if session.ledger.incumbent is None:
        unchanged = _is_unchanged(session, files)
        if unchanged or not session.ledger.experiments:
            first = measure_baseline(session, observer=observer)
            if unchanged or first.verdict is not Verdict.KEEP:
                return first
    else:
        _check_candidate(session, files)
    return evaluate(session, Proposal(files, line), source=source, observer=observer)


def measure_baseline(session: Session, *, observer: Observer | None = None) -> Experiment:
    """Run the recipe as it is, three times, so that there is something to beat and a noise to know."""
    proposal = Proposal(session.files_of(session.head), "baseline")
    return evaluate(session, proposal, source="baseline", observer=observer or Quiet())


def evaluate(session: Session, proposal: Proposal, *, source: str, observer: Observer) -> Experiment:
    """One experiment from begin to applied."""
    experiment = _begin(session, proposal, source)
    observer.begun(experiment)
    work = _Measuring(session, experiment, observer)
    decision = _measure_until_decided(work)
    _record_decision(work, decision)
    failpoint.reach("loop.decided")
    apply(session, session.ledger.experiments[-1])
    failpoint.reach("loop.applied")
    finished = session.ledger.experiments[-1]
    _free_disk(session, finished)
    views.refresh(session)
    observer.decided(finished)
    _raise_if_stopped(work)
    return finished


def _begin(session: Session, proposal: Proposal, source: str) -> Experiment:
    repository, files = session.repository, dict(proposal.files)
    base = session.head
    if _is_unchanged(session, files):
        commit = base  # the baseline is the commit it stands on
    else:
        commit = repository.take(files, base=base, message=proposal.description, when=now()).commit
    added, removed = repository.changed_lines(base, commit, session.recipe.mutable)
    number = len(session.ledger.experiments)
    failpoint.reach("loop.taken")
    session.ledger.append(
        "begin",
        experiment=number,
        commit=commit,
        base=base,
        content=content_id(files),
        description=proposal.description,
        lines_added=added,
        lines_removed=removed,
        source=source,
    )
    failpoint.reach("loop.begun")
    repository.pin(session.ref(number), commit)
    failpoint.reach("loop.pinned")
    return session.ledger.experiments[-1]


def _measure_until_decided(work: _Measuring) -> Decision:
    """Make as many runs as the policy asks for; the first failed run decides by itself."""
    session = work.session
    incumbent = session.ledger.incumbent
    wanted = BASELINE_RUNS if incumbent is None else 1
    while True:
        while len(work.runs) < wanted:
            run = _one_run(work)
            if _may_retry(work, run):
                continue
            if run.outcome is not Outcome.OK:
                return _decide_failure(run)
            work.runs.append(run)
        decision = _judge(work, incumbent)
        if decision.verdict is not None:
            return decision
        wanted = len(work.runs) + 1


def _may_retry(work: _Measuring, run: Run) -> bool:
    """Whether a run says nothing about the candidate and is to be repeated.

    That is one which the machine spoiled, and one which was too slow while it compiled kernels: the
    repetition finds them compiled.
    """
    is_spoiled = run.outcome is Outcome.INTERRUPTED and run.ending.get("stop_signal") is None
    has_compiled = run.ending["outcome"] == Outcome.REJECTED and run.provenance["new_kernels"] > 0
    if not (is_spoiled or has_compiled):
        return False
    work.spoiled += 1
    return work.spoiled <= RETRIES


def _one_run(work: _Measuring) -> Run:
    session, ledger = work.session, work.session.ledger
    experiment = ledger.experiments[-1]
    number = len(experiment.runs)
    paths = session.paths.new_run(now().astimezone())
    seed = seeds(session.tag)[len(work.runs)]
    ledger.append(
        "started",
        experiment=experiment.number,
        run=number,
        folder=str(paths.folder.relative_to(session.project.root)),
        seed=seed,
    )
    failpoint.reach("loop.run_started")
    work.observer.run_started(experiment, number)
    run = run_trial(_trial_plan(work, experiment, seed), paths, on_tick=work.observer.tick)
    _keep_kernels(work, paths)
    failpoint.reach("loop.run_made")
    ledger.append("ended", experiment=experiment.number, run=number, ending={**run.ending, "outcome": str(run.outcome)})
    failpoint.reach("loop.run_ended")
    if run.outcome is Outcome.OK:
        trust = str(run.trust[session.recipe.metric])
        ledger.append("scored", experiment=experiment.number, run=number, metrics=run.metrics, trust=trust)
        failpoint.reach("loop.run_scored")
    work.observer.run_ended(experiment, run)
    return run


def _keep_kernels(work: _Measuring, paths: RunPaths) -> None:
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


def _trial_plan(work: _Measuring, experiment: Experiment, seed: int) -> TrialPlan:
    session = work.session
    incumbent = session.ledger.incumbent
    return TrialPlan(
        recipe=session.recipe,
        budget=session.budget,
        candidate=session.files_of(experiment.commit),
        harness=session.harness_files(),
        seed=seed,
        data=session.data,
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


def baseline_startup_s(session: Session) -> float | None:
    """Shortest time outside training among the baseline's runs, which is without the first one's compiling.

    None without a time budget.
    """
    budget_s = session.budget.seconds
    if budget_s is None:
        return None
    return min(run.metrics["wall_s"] - budget_s for run in baseline(session).runs if run.metrics)


def _decide_failure(run: Run) -> Decision:
    return Decision(_VERDICT_OF[run.outcome], f"run {run.outcome}", run.reason, (), {})


def _judge(work: _Measuring, incumbent: Experiment | None) -> Decision:
    session, name = work.session, work.session.recipe.metric
    candidate = measurement([(run.seed, run.metrics) for run in work.runs], name)
    if incumbent is None:
        spread = f", sd {stdev(candidate.values):.6f}" if len(candidate.values) > 1 else ""
        reason = f"Baseline {name} {fmean(candidate.values):.6f} over {len(candidate.values)} runs{spread}."
        return Decision(Verdict.KEEP, "baseline", reason, (), {"values": list(candidate.values)})
    known = measurement([(run.seed, run.metrics) for run in incumbent.runs if run.metrics], name)
    change = Change(work.experiment.lines_added, work.experiment.lines_removed)
    return decide(session.start_record["policy"], known, candidate, change, session.recipe.goal)


def measurement(runs: list[tuple[int, dict[str, float]]], name: str) -> Measurement:
    """The runs of one candidate as the policies see them: (seed, metrics) pairs in order."""

    def mean(metric: str) -> float | None:
        values = [metrics[metric] for _, metrics in runs if metric in metrics]
        return fmean(values) if values else None

    return Measurement(
        values=tuple(metrics[name] for _, metrics in runs),
        seeds=tuple(seed for seed, _ in runs),
        tok_sec=mean("avg_tok_sec"),
        peak_memory_mb=mean("peak_memory_mb"),
    )


def _mean_metrics(runs: list[Run]) -> dict[str, float]:
    names = sorted(set.intersection(*(set(run.metrics) for run in runs))) if runs else []
    return {name: fmean(run.metrics[name] for run in runs) for name in names}


def _record_decision(work: _Measuring, decision: Decision) -> None:
    decided_by_measurement = decision.verdict is not None and not decision.rule.startswith("run ")
    last = work.session.ledger.experiments[-1].runs[-1]
    outcome = Outcome.OK if decided_by_measurement else Outcome((last.ending or {})["outcome"])
    work.session.ledger.append(
        "decided",
        experiment=work.experiment.number,
        verdict=None if decision.verdict is None else str(decision.verdict),
        outcome=str(outcome),
        reason=decision.reason[:DESCRIPTION_LIMIT],
        evidence={"rule": decision.rule, "flags": list(decision.flags), **decision.evidence},
        metrics=_mean_metrics(work.runs) if decided_by_measurement else {},
    )


def _free_disk(session: Session, experiment: Experiment) -> None:
    """Drop the weights of what was not kept; of the incumbent one checkpoint stays."""
    runs = experiment.runs if experiment.verdict is not Verdict.KEEP else experiment.runs[1:]
    for run in runs:
        discard_weights(RunPaths(session.project.root / run.folder))
    for run in experiment.runs:
        shutil.rmtree(session.project.root / run.folder / "kernels", ignore_errors=True)


def _raise_if_stopped(work: _Measuring) -> None:
    last: RunRecord = work.session.ledger.experiments[-1].runs[-1]
    ending: dict[str, Any] = last.ending or {}
    if ending.get("survivors"):
        pids = ", ".join(map(str, ending["survivors"]))
        raise Refused(
            f"Processes of the last run could not be killed: {pids}. End them before going on: kill -9 {pids}"
        )
    if ending.get("stop_signal") is not None:
        raise Stopped(f"Stopped: {ending['reason']} Go on with: mlx loop run {work.session.tag}")


def unmeasured_edit(session: Session) -> dict[str, bytes]:
    """The working tree's mutable files when they hold bytes that no candidate of this session has, else {}."""
    current = session.repository.read_files_if_present(session.recipe.mutable)
    known = {e.content for e in session.ledger.experiments} | {content_id(session.files_of(session.head))}
    return current if current and content_id(current) not in known else {}


def reset(session: Session, *, save: bool = False) -> str:
    """Put the incumbent's files back; returns the ref under which an unmeasured edit was saved, or "".

    Raises: Refused: there is such an edit, and `save` is false.
    """
    edit, ref = unmeasured_edit(session), ""
    if edit and not save:
        raise Refused(
            f"{', '.join(edit)} holds an edit that was never measured, and a reset would lose it. Measure it with "
            "'mlx loop step -m …', or keep it under a ref of its own: mlx loop reset --save"
        )
    if edit:
        ref = save_stray(session, edit, "edit saved by reset")
    session.repository.write_files(session.files_of(session.head))
    session.repository.update_index(session.head, session.recipe.mutable)
    return ref


def close_breaker(session: Session) -> None:
    """Let the session go on after its breaker opened. Raises: Refused: it is not open."""
    if not breaker_state(session.ledger).open:
        raise Refused(f"The circuit breaker of {session.tag} is closed already.")
    session.ledger.append("note", what="breaker closed", before=len(session.ledger.experiments))
