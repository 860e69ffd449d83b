"""A whole night: one experiment after another, until a limit, a stop request, or the end of ideas."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from autoexperiment import awake, desk, views
from autoexperiment.admission import check_may_run, judged
from autoexperiment.brief import Remaining
from autoexperiment.errors import BudgetSpent, Refused
from autoexperiment.ledger import POWER, SLEPT, Experiment
from autoexperiment.limits import protocol_limit, seconds_left, spent_usd
from autoexperiment.loop import Proposal, Stopped, evaluate, measure_baseline, put_back, unmeasured_edit
from autoexperiment.measuring import Observer, Quiet
from autoexperiment.session import Session, require_branch, save_stray
from autoexperiment.supervisor import signals_raise
from autoexperiment.vocabulary import Outcome, Verdict

POLL_S = 1.0
INTERRUPTIONS = 3  # of one candidate, until it is left alone


class Agent(Protocol):
    """Whoever has the ideas."""

    @property
    def name(self) -> str:
        """What is recorded as the experiment's source."""

    def propose(self, night: Night) -> Proposal | str:
        """The next candidate, or why there is none any more.

        Raises: Refused: it can't work at all. Stopped: a signal came.
        """
        ...


@dataclass(frozen=True)
class Limit:
    """When a night ends: so many judged experiments in the session, hours of this call, money for agents, or none."""

    experiments: int | None = None
    hours: float | None = None
    usd: float | None = None


@dataclass(frozen=True)
class Night:
    """A night while it goes on."""

    session: Session
    limit: Limit
    observer: Observer
    clock: Callable[[], float]
    began: float

    def over(self) -> str:
        """Why it ends now, or ""."""
        session, limit = self.session, self.limit
        if session.paths.stop_request.exists():
            session.paths.stop_request.unlink()
            return "a stop was requested"
        if limit.experiments is not None and judged(session) >= limit.experiments:
            return f"{limit.experiments} experiments are judged"
        if (left := self._seconds_left()) is not None and left <= 0:
            return f"{limit.hours:g} hours are over"
        if limit.usd is not None and (spent := spent_usd(session)) >= limit.usd:
            return f"the agents cost ${spent:.2f}, and ${limit.usd:g} were allowed"
        return protocol_limit(session, datetime.now(UTC))

    def remaining(self) -> Remaining:
        """What is left of its limits and of the protocol's."""
        limit, session = self.limit, self.session
        rules = session.recipe.night
        allowed = [n - judged(session) for n in (limit.experiments, rules.experiments) if n is not None]
        seconds = [s for s in (self._seconds_left(), seconds_left(session, datetime.now(UTC))) if s is not None]
        return Remaining(
            experiments=min(allowed, default=None),
            seconds=min(seconds, default=None),
            usd=None if limit.usd is None else limit.usd - spent_usd(session),
        )

    def _seconds_left(self) -> float | None:
        return None if self.limit.hours is None else self.limit.hours * 3600 - (self.clock() - self.began)

    def wait(self, seconds: float) -> str:
        """Sleep, a stop request and the night's end awake; returns why the night is over, or "".

        Raises: Stopped: a signal came.
        """
        until = self.clock() + seconds
        with _stopped_by_signals(self.session.tag):
            while (left := until - self.clock()) > 0:
                if reason := self.over():
                    return reason
                time.sleep(min(POLL_S, left))
        return self.over()


def _stopped_by_signals(tag: str) -> contextlib.AbstractContextManager[None]:
    def stopped(number: signal.Signals) -> Stopped:
        return Stopped(f"Stopped by {number.name} while waiting. Go on with: mlx loop run {tag}")

    return signals_raise((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), stopped)


def drive(
    session: Session,
    agent: Agent,
    limit: Limit,
    *,
    observer: Observer | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Run experiments until a limit, a stop request, the breaker or the end of ideas; returns why it ended.

    The machine is kept awake meanwhile, as far as it lets us.

    Raises: BudgetSpent: the session had its experiments already. BreakerOpen. Stopped: a signal came.
        Refused: the baseline or the agent does not work.
    """
    night = Night(session, limit, observer or Quiet(), clock, clock())
    desk.clear(session)  # a kill may have left one, and it may fill the disk
    views.refresh(session)  # a kill may have come between the last verdict and its views
    session.paths.stop_request.unlink(missing_ok=True)
    if limit.experiments is not None and judged(session) >= limit.experiments:
        raise BudgetSpent(
            f"{session.tag} has {judged(session)} judged experiments, and {limit.experiments} were allowed. "
            f"Allow more with --experiments {judged(session) + 8}, or start another tag."
        )
    with awake.keep_awake(f"experiments of {session.tag}") as fault:
        if fault:
            night.observer.say(f"The machine may fall asleep: {fault}")
        return _experiment_after_experiment(night, agent)


def _experiment_after_experiment(night: Night, agent: Agent) -> str:
    session, observer, machine = night.session, night.observer, _Machine(awake.Sleep())
    while True:
        if reason := night.over():
            return reason
        check_may_run(session)
        machine.look(night)
        if session.ledger.incumbent is None:
            first = measure_baseline(session, observer=observer)
            if first.verdict is not Verdict.KEEP:
                raise Refused(f"The baseline does not run: {first.reason} Mend the recipe and start another tag.")
            continue
        _take_over(night)
        proposal, source = _proposed(night, agent)
        if isinstance(proposal, str):
            return proposal
        _take_over(night)  # a person may have been here while the agent was working
        session.repository.restore(proposal.files, session.surface.is_mutable)
        evaluate(session, proposal, source=source, observer=observer)


@dataclass
class _Machine:
    """What the machine does beside us: where its power comes from, and whether it slept."""

    sleep: awake.Sleep
    source: str = ""

    def look(self, night: Night) -> None:
        """Record a new power source and a sleep; both explain a night that was slower than it should be."""
        power = awake.power()
        if power.source != self.source:
            night.session.ledger.append("note", what=POWER, source=power.source, percent=power.percent)
            if power.source == "battery":
                left = "" if power.percent is None else f" ({power.percent} %)"
                night.observer.say(f"Running on battery{left}: a machine that saves power trains fewer steps.")
            elif self.source:
                night.observer.say(f"The power comes from {power.source} now.")
            self.source = power.source
        if slept_s := self.sleep.seconds:
            night.session.ledger.append("note", what=SLEPT, seconds=round(slept_s))
            night.observer.say(f"The machine slept for {slept_s:.0f} s.")
            self.sleep = awake.Sleep()


def _take_over(night: Night) -> None:
    """Make the working tree the session's own; an edit that lies there is saved under a ref, never lost.

    Raises: Refused: another branch is checked out.
    """
    session = night.session
    require_branch(session)
    saved = len(session.ledger.notes)
    if edit := unmeasured_edit(session):
        save_stray(session, edit, "edit found in the working tree when a driver took over")
    put_back(session)
    for note in session.ledger.notes[saved:]:
        night.observer.say(f"An edit that lay in the working tree is saved: git show {note['ref']}")


def _proposed(night: Night, agent: Agent) -> tuple[Proposal | str, str]:
    """The next candidate or why there is none, and whose it is: one that was interrupted comes first."""
    if (left := _interrupted(night.session)) is not None:
        return Proposal(night.session.files_of(left.commit), left.description), left.source
    return agent.propose(night), agent.name


def _interrupted(session: Session) -> Experiment | None:
    """The last experiment when a kill or a signal ended it: what it wanted to know is still unknown.

    None when it was interrupted three times, as one is that takes the whole machine down.
    """
    last = session.ledger.experiments[-1]
    if last.outcome is not Outcome.INTERRUPTED or last.base != session.head or not last.runs:
        return None
    times = sum(e.outcome is Outcome.INTERRUPTED and e.content == last.content for e in session.ledger.experiments)
    return last if times < INTERRUPTIONS else None
