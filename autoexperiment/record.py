"""Results that a person or a foreign tool recorded: the same ledger, the same view, another trust level."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from autoexperiment import results
from autoexperiment.errors import Refused, UsageError, unknown
from autoexperiment.failure import Failure
from autoexperiment.files import Lock, write_atomic
from autoexperiment.ledger import VERSION, Experiment, Ledger, read_ledger
from autoexperiment.metrics import METRICS
from autoexperiment.paths import BRANCH, ProjectPaths
from autoexperiment.recipe import REPORTED, Recipe
from autoexperiment.results import Row
from autoexperiment.session import breaker_state
from autoexperiment.vocabulary import Goal, Outcome, TrustLevel, Verdict

BY_HAND = "by hand"
DESCRIPTION_LIMIT = 500
DESCRIPTION_BYTES = 3000  # as JSON: a ledger record has at most 4096 bytes


def _goal(metric: str) -> Goal:
    known = METRICS.get(metric)
    return (known.goal if known else None) or Goal.MINIMIZE


def _open(project: ProjectPaths, tag: str, metric: str, goal: Goal | None) -> Ledger:
    """The session's ledger, started for recording by hand on first use."""
    ledger = Ledger.open(project.session(tag).ledger)
    if not ledger.session:
        recipe = Recipe(immutable=(), metric=metric, goal=goal or _goal(metric), scoring=REPORTED)
        ledger.append(
            "session", version=VERSION, tag=tag, branch=BRANCH + tag, base="", recipe=recipe.to_json(), budget="",
            policy=BY_HAND, dataset=None, snapshot=None, harness={}, machine={}, options={},
        )  # fmt: skip
    if ledger.session["policy"] != BY_HAND:
        raise Refused(
            f"Session {tag} belongs to the loop, whose rows are measured, not typed. "
            "Measure the edit with 'mlx loop step -m …', or record under another tag: --tag NAME"
        )
    if ledger.session["recipe"]["metric"] != metric:
        raise UsageError(f"Session {tag} records {ledger.session['recipe']['metric']}, not {metric}. Use another tag.")
    return ledger


def _check(status: Verdict, metrics: Mapping[str, float], metric: str) -> None:
    if status is Verdict.CRASH and metrics:
        raise UsageError("A crash has no numbers. Leave the metrics away, or choose the status keep or discard.")
    if status is not Verdict.CRASH and metric not in metrics:
        raise UsageError(f"A row with status {status} needs {metric}. For example: --metric {metric}=1.234567")
    for name, value in metrics.items():
        if name != metric and name not in METRICS:
            raise UsageError(unknown("metric", name, dict.fromkeys([metric, *METRICS])))
        if not math.isfinite(value):
            raise UsageError(f"{name} is {value}, not finite. Record the experiment as a crash instead: --status crash")


def _short(description: str) -> str:
    text = results.clean(description)[:DESCRIPTION_LIMIT]
    while len(json.dumps(text)) > DESCRIPTION_BYTES:
        text = text[: len(text) * 3 // 4]
    return text


def _append(ledger: Ledger, row: Row, metrics: Mapping[str, float], *, source: str, failure: Failure | None) -> None:
    number = len(ledger.experiments)
    is_crash = row.status is Verdict.CRASH
    outcome = Outcome.CRASHED if is_crash else Outcome.OK
    ending = {"outcome": str(outcome), "failure": asdict(failure) if is_crash and failure else None}
    # The breaker takes equal reasons of crashes without a failure for equal failures: "" equals nothing.
    reason = "Recorded by hand." if not is_crash else f"{failure.kind}: {failure.message}" if failure else ""
    ledger.append(
        "begin", experiment=number, commit=row.commit, base="", content="", source=source,
        description=_short(row.description), lines_added=0, lines_removed=0,
    )  # fmt: skip
    ledger.append("started", experiment=number, run=0, folder="", seed=0)
    ledger.append("ended", experiment=number, run=0, ending=ending)
    if metrics:
        ledger.append("scored", experiment=number, run=0, metrics=dict(metrics), trust=str(TrustLevel.SELF_REPORTED))
    ledger.append(
        "decided", experiment=number, verdict=str(row.status), outcome=str(outcome), reason=reason,
        evidence={"rule": BY_HAND}, metrics=dict(metrics),
    )  # fmt: skip
    ledger.append("applied", experiment=number, head="")


def _finish_torn(ledger: Ledger) -> None:
    """Close a row that a kill left half written: it counts as interrupted and has no row in the view."""
    open_row = ledger.unfinished
    if open_row is None:
        return
    if open_row.runs and open_row.runs[-1].ending is None:
        ledger.append("ended", experiment=open_row.number, run=0, ending={"outcome": str(Outcome.INTERRUPTED)})
    if not open_row.decided:
        ledger.append(
            "decided", experiment=open_row.number, verdict=None, outcome=str(Outcome.INTERRUPTED),
            reason="The recording was killed.", evidence={}, metrics={},
        )  # fmt: skip
    ledger.append("applied", experiment=open_row.number, head="")


def _refuse_loss(project: ProjectPaths, new: Sequence[Row], metric: str) -> None:
    """Refuse to write results.tsv again while it holds commits that no ledger of this project has.

    Raises: Refused. UsageError: the file can't be read as one of results.
    """
    try:
        text = project.results.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except UnicodeDecodeError as error:
        raise UsageError(f"{project.results} is not UTF-8 text: {error}. Move it away, then record again.") from error
    stated = text.split("\n")[0].split("\t")
    rows = results.parse(text, name=str(project.results), metric=stated[1] if len(stated) > 1 else metric)
    ledgers = [read_ledger(project.session(tag).ledger) for tag in project.tags()]
    known = {results.normalise(row).commit for row in new}
    known |= {results.normalise(row).commit for ledger in ledgers for row in results.rows(ledger.experiments)}
    if foreign := [row.commit for row in rows if row.commit not in known]:
        raise Refused(
            f"{project.results} has {len(foreign)} rows that no ledger here knows, first {foreign[0]!r}, and would lose "
            "them. Take them over first: python3 scripts/record_result.py --import results.tsv"
        )


def record_rows(
    project: ProjectPaths,
    tag: str,
    rows: Sequence[tuple[Row, Mapping[str, float]]],
    *,
    metric: str = "val_bpb",
    goal: Goal | None = None,
    source: str = BY_HAND,
    failure: Failure | None = None,
) -> list[Experiment]:
    """Append rows with their metrics to a ledger kept by hand, and write results.tsv again.

    Args:
        goal: of the metric, on first use; the known metric's own, else minimize.
        failure: why the crashes among the rows ended; equal ones open the circuit breaker.
    Raises: UsageError: a crash with numbers, another row without, an unknown metric, or a number that is
        not finite; nothing is written then. Refused: the session is a loop's, or results.tsv holds rows
        that would be lost. Locked.
    """
    for row, metrics in rows:
        _check(row.status, metrics, metric)
    with Lock(project.lock).acquire(timeout_s=10.0):
        _refuse_loss(project, [row for row, _ in rows], metric)
        ledger = _open(project, tag, metric, goal)
        try:
            _finish_torn(ledger)
            first = len(ledger.experiments)
            for row, metrics in rows:
                _append(ledger, row, metrics, source=source, failure=failure)
        finally:
            ledger.close()
        write_atomic(project.results, results.render(results.rows(ledger.experiments, metric), metric))
    return ledger.experiments[first:]


def close_breaker(project: ProjectPaths, tag: str, why: str) -> None:
    """Let a session go on after its breaker opened, be it a loop's or kept by hand.

    Raises: Refused: it is not open. Locked.
    """
    with Lock(project.lock).acquire(timeout_s=10.0):
        ledger = Ledger.open(project.session(tag).ledger)
        try:
            if not breaker_state(ledger).open:
                raise Refused(f"The circuit breaker of {tag} is closed already. There is nothing to reset.")
            ledger.append("note", what="breaker closed", before=len(ledger.experiments), why=_short(why))
        finally:
            ledger.close()
