"""What ends a session by its own protocol, and what it cost so far."""

from __future__ import annotations

from datetime import datetime

from autoexperiment.admission import judged
from autoexperiment.ledger import PAID
from autoexperiment.session import Session
from autoexperiment.vocabulary import Verdict


def protocol_limit(session: Session, now: datetime) -> str:
    """Why the session's own protocol ends it now, or ""."""
    rules = session.recipe.night
    if rules.experiments is not None and judged(session) >= rules.experiments:
        return f"the protocol's {rules.experiments} experiments are judged (miningLoop.maxTrials)"
    if (left := seconds_left(session, now)) is not None and left <= 0:
        return f"the protocol's {rules.seconds:g} s for the session are over (miningLoop.maxSessionWallSeconds)"
    if rules.failures_in_a_row is not None and _without_improvement(session) >= rules.failures_in_a_row:
        return (
            f"{rules.failures_in_a_row} experiments in a row brought nothing (miningLoop.maxConsecutiveNonImprovements)"
        )
    if rules.max_cost is not None and cost(session) >= rules.max_cost:
        return (
            f"the runs cost {cost(session):.2f} {rules.currency}".rstrip() + f"; the protocol allows {rules.max_cost:g}"
        )
    return ""


def seconds_left(session: Session, now: datetime) -> float | None:
    """Of the session's whole time by its protocol; None when that sets none."""
    allowed = session.recipe.night.seconds
    began = datetime.fromisoformat(session.start_record["time"])
    return None if allowed is None else allowed - (now - began).total_seconds()


def _without_improvement(session: Session) -> int:
    """Judged experiments since the last one that was kept."""
    verdicts = [e.verdict for e in session.ledger.experiments if e.verdict is not None]
    return next((i for i, verdict in enumerate(reversed(verdicts)) if verdict is Verdict.KEEP), len(verdicts))


def cost(session: Session) -> float:
    """What the session's runs cost so far by the protocol's price of an hour; 0 without one."""
    seconds: float = sum((run.ending or {}).get("wall_s", 0.0) for e in session.ledger.experiments for run in e.runs)
    return seconds / 3600 * (session.recipe.night.cost_per_hour or 0.0)


def spent_usd(session: Session) -> float:
    """What the agents of a session say they cost, in US dollars; a visit that was killed before it said so is free."""
    visits = [note for note in session.ledger.notes if note["what"] == PAID]
    return float(sum(note["cost_usd"] or 0.0 for note in visits))
