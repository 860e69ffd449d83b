"""Results that a person or a foreign tool recorded: the same ledger, the same view, another trust level."""

from __future__ import annotations

import math
from collections.abc import Mapping

from autoexperiment import results
from autoexperiment.errors import Refused, UsageError
from autoexperiment.files import Lock, write_atomic
from autoexperiment.ledger import VERSION, Experiment, Ledger
from autoexperiment.paths import BRANCH, ProjectPaths
from autoexperiment.recipe import REPORTED, Recipe
from autoexperiment.results import Row
from autoexperiment.vocabulary import Outcome, TrustLevel, Verdict

BY_HAND = "by hand"
DESCRIPTION_LIMIT = 500


def _open(project: ProjectPaths, tag: str, metric: str) -> Ledger:
    """The session's ledger, started for recording by hand on first use."""
    ledger = Ledger.open(project.session(tag).ledger)
    if not ledger.session:
        recipe = Recipe(immutable=(), metric=metric, scoring=REPORTED)
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
        if not math.isfinite(value):
            raise UsageError(f"{name} is {value}, not finite. Record the experiment as a crash instead: --status crash")


def _append(ledger: Ledger, row: Row, metrics: Mapping[str, float], source: str) -> None:
    number = len(ledger.experiments)
    outcome = Outcome.CRASHED if row.status is Verdict.CRASH else Outcome.OK
    ledger.append(
        "begin", experiment=number, commit=row.commit, base="", content="", source=source,
        description=row.description[:DESCRIPTION_LIMIT], lines_added=0, lines_removed=0,
    )  # fmt: skip
    ledger.append("started", experiment=number, run=0, folder="", seed=0)
    ledger.append("ended", experiment=number, run=0, ending={"outcome": str(outcome)})
    if metrics:
        ledger.append("scored", experiment=number, run=0, metrics=dict(metrics), trust=str(TrustLevel.SELF_REPORTED))
    ledger.append(
        "decided", experiment=number, verdict=str(row.status), outcome=str(outcome), reason="Recorded by hand.",
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


def record_rows(
    project: ProjectPaths,
    tag: str,
    rows: list[tuple[Row, Mapping[str, float]]],
    *,
    metric: str = "val_bpb",
    source: str = BY_HAND,
) -> list[Experiment]:
    """Append rows with their metrics to a ledger kept by hand, and write results.tsv again.

    Raises: UsageError: a crash with numbers, another row without, or one that is not finite; nothing is
        written then. Refused: the session is a loop's. Locked.
    """
    for row, metrics in rows:
        _check(row.status, metrics, metric)
    with Lock(project.lock).acquire(timeout_s=10.0):
        ledger = _open(project, tag, metric)
        _finish_torn(ledger)
        first = len(ledger.experiments)
        for row, metrics in rows:
            _append(ledger, row, metrics, source)
        write_atomic(project.results, results.render(results.rows(ledger.experiments, metric), metric))
        ledger.close()
    return ledger.experiments[first:]
