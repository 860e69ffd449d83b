"""One turn of the loop: measure a candidate, decide, record, keep or restore.

Every effect is preceded by a ledger record that says what is about to be done, so that a kill
between any two lines of this file loses nothing (see `session.recover`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autoexperiment import failpoint, views
from autoexperiment.admission import (
    DESCRIPTION_LIMIT,
    check_candidate,
    check_description,
    check_may_run,
    check_surface,
    gate_findings,
    is_unchanged,
)
from autoexperiment.errors import LabError, Refused
from autoexperiment.failure import Failure
from autoexperiment.judging import FAILED_RUN, mean_metrics, measure_until_decided
from autoexperiment.ledger import Experiment, RunRecord
from autoexperiment.measuring import Measuring, Observer, Quiet
from autoexperiment.paths import RunPaths
from autoexperiment.session import (
    REFS,
    Session,
    apply,
    breaker_state,
    content_id,
    now,
    put_harness_back,
    save_stray,
)
from autoexperiment.surroundings import prepare_place
from autoexperiment.trial import discard_weights
from autoexperiment.verdict import Decision
from autoexperiment.vocabulary import Outcome, Verdict

INTERRUPTED_EXIT = 130
STATIC_GATE = "static gate"
PREFLIGHT = "pre-flight"


class Stopped(LabError):
    """A signal or a stop request ended the work; everything measured so far is recorded."""

    exit_code = INTERRUPTED_EXIT


@dataclass(frozen=True)
class Proposal:
    """A candidate that an agent wants measured.

    Attributes:
        files: bytes of the mutable files.
        description: one line that says what changed.
        fault: why it can't work, found before any run; "" when nothing was found.
        failure: the error behind the fault, which the circuit breaker compares.
    """

    files: Mapping[str, bytes]
    description: str
    fault: str = ""
    failure: Failure | None = None


def stage(session: Session, description: str) -> str:
    """Check the working tree's edit as `step` would, and save it as a commit that a later step can measure.

    Returns: the commit, which is the session's head when nothing was changed and the baseline is due.
    """
    check_description(description)
    check_may_run(session)
    files = check_surface(session)
    is_baseline_due = session.ledger.incumbent is None
    if not is_baseline_due:
        check_candidate(session, files)
    if is_baseline_due and is_unchanged(session, files):
        return session.head
    surface = session.surface.is_mutable
    commit = session.repository.take(files, base=session.head, surface=surface, message=description, when=now()).commit
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
        unchanged = is_unchanged(session, files)
        if unchanged or all(e.verdict is None for e in session.ledger.experiments):
            first = measure_baseline(session, observer=observer)
            if unchanged or first.verdict is not Verdict.KEEP:
                return first
    else:
        check_candidate(session, files)
    return evaluate(session, Proposal(files, line), source=source, observer=observer)


def measure_baseline(session: Session, *, observer: Observer | None = None) -> Experiment:
    """Run the recipe as it is, a few times, so that there is something to beat and a noise to know."""
    proposal = Proposal(session.files_of(session.head), "baseline")
    return evaluate(session, proposal, source="baseline", observer=observer or Quiet())


def evaluate(session: Session, proposal: Proposal, *, source: str, observer: Observer) -> Experiment:
    """One experiment from begin to applied."""
    prepare_place(session, observer.say)
    experiment = _begin(session, proposal, source)
    observer.begun(experiment)
    work = Measuring(session, experiment, observer)
    decision = _refuse_unrun(work, proposal) or measure_until_decided(work)
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
    if is_unchanged(session, files):
        commit = base  # the baseline is the commit it stands on
    else:
        surface = session.surface.is_mutable
        commit = repository.take(files, base=base, surface=surface, message=proposal.description, when=now()).commit
    added, removed = repository.changed_lines(base, commit)
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


def _refuse_unrun(work: Measuring, proposal: Proposal) -> Decision | None:
    """The verdict on a candidate that no run is spent on."""
    if proposal.fault:
        evidence = {"failure": asdict(proposal.failure)} if proposal.failure else {}
        return Decision(Verdict.CRASH, PREFLIGHT, proposal.fault, (), evidence)
    if work.session.ledger.incumbent is None or not (findings := gate_findings(work.session, proposal.files)):
        return None
    reason = "The static gate refuses it: " + "; ".join(finding.message for finding in findings[:3])
    return Decision(Verdict.DISCARD, STATIC_GATE, reason, (), {"findings": len(findings)})


def _record_decision(work: Measuring, decision: Decision) -> None:
    outcome = _outcome_of(work, decision)
    work.session.ledger.append(
        "decided",
        experiment=work.experiment.number,
        verdict=None if decision.verdict is None else str(decision.verdict),
        outcome=str(outcome),
        reason=decision.reason[:DESCRIPTION_LIMIT],
        evidence={"rule": decision.rule, "flags": list(decision.flags), **decision.evidence},
        metrics=mean_metrics(work) if outcome is Outcome.OK else {},
    )


def _outcome_of(work: Measuring, decision: Decision) -> Outcome:
    if decision.rule == STATIC_GATE:
        return Outcome.REJECTED
    if decision.rule == PREFLIGHT:
        return Outcome.CRASHED
    if not decision.rule.startswith(FAILED_RUN):
        return Outcome.OK
    last = work.session.ledger.experiments[-1].runs[-1]
    return Outcome((last.ending or {})["outcome"])


def _free_disk(session: Session, experiment: Experiment) -> None:
    """Drop the weights of what was not kept; of the incumbent the first checkpoint that counted stays."""
    counted = [run for run in experiment.runs if run.metrics] if experiment.verdict is Verdict.KEEP else []
    for run in experiment.runs:
        if run in counted[:1]:
            continue
        discard_weights(RunPaths(session.project.root / run.folder))
    for run in experiment.runs:
        shutil.rmtree(session.project.root / run.folder / "kernels", ignore_errors=True)


def _raise_if_stopped(work: Measuring) -> None:
    runs: tuple[RunRecord, ...] = work.session.ledger.experiments[-1].runs
    ending: dict[str, Any] = (runs[-1].ending if runs else None) or {}
    if ending.get("survivors"):
        pids = ", ".join(map(str, ending["survivors"]))
        raise Refused(
            f"Processes of the last run could not be killed: {pids}. End them before going on: kill -9 {pids}"
        )
    if ending.get("stop_signal") is not None:
        raise Stopped(f"Stopped: {ending['reason']} Go on with: mlx loop run {work.session.tag}")


def unmeasured_edit(session: Session) -> dict[str, bytes]:
    """The working tree's mutable files when they hold bytes that no candidate of this session has, else {}."""
    current = session.edited_files()
    known = {e.content for e in session.ledger.experiments} | {content_id(session.files_of(session.head))}
    return current if current and content_id(current) not in known else {}


def reset(session: Session, *, save: bool = False) -> str:
    """Put the incumbent's files and the harness back; returns the ref under which an edit was saved, or "".

    Raises: Refused: there is an edit that was never measured, and `save` is false.
    """
    edit, ref = unmeasured_edit(session), ""
    if edit and not save:
        raise Refused(
            f"{session.surface.words} holds an edit that was never measured, and a reset would lose it. Measure it with "
            "'mlx loop step -m …', or keep it under a ref of its own: mlx loop reset --save"
        )
    if edit:
        ref = save_stray(session, edit, "edit saved by reset")
    put_back(session)
    return ref


def put_back(session: Session) -> None:
    """Make the working tree hold the incumbent's files and the harness as it was at the start."""
    surface = session.surface.is_mutable
    session.repository.restore(session.files_of(session.head), surface)
    session.repository.update_index(session.head, surface)
    put_harness_back(session)


def close_breaker(session: Session) -> None:
    """Let the session go on after its breaker opened. Raises: Refused: it is not open."""
    if not breaker_state(session.ledger).open:
        raise Refused(f"The circuit breaker of {session.tag} is closed already.")
    session.ledger.append("note", what="breaker closed", before=len(session.ledger.experiments))
