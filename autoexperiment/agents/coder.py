"""A language model as the one who has ideas: for every experiment a fresh headless agent, on a desk of its own.

The agent edits; whether that is worth a run, and what the run shows, is decided without it. A visit leaves a note
in the ledger with its result, cost and ideas, so that the next prompt, and the next process, know of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from autoexperiment import brief, daily_log, desk, fence, preflight
from autoexperiment.admission import DESCRIPTION_LIMIT, find_twin, is_unchanged
from autoexperiment.agents.patience import IDLE, Patience, Result
from autoexperiment.agents.visit import Client, Outcome, Visit, VisitLimits, pay
from autoexperiment.clocks import duration
from autoexperiment.errors import LabError, Refused
from autoexperiment.failure import Failure, clean
from autoexperiment.files import load_json, write_atomic
from autoexperiment.ledger import PAID, VISIT
from autoexperiment.loop import Proposal, Stopped
from autoexperiment.night import Night
from autoexperiment.session import Session
from autoexperiment.summary import summarise

IDEAS = 10  # that a prompt passes on
TROUBLE_LIMIT = 2_000
NOTED = 300  # characters of a reason that the ledger and a terminal get
_RESULT_OF = {
    Outcome.STALLED: Result.STALLED,
    Outcome.USAGE_LIMIT: Result.USAGE_LIMIT,
    Outcome.OVERLOADED: Result.OVERLOADED,
    Outcome.AUTH: Result.AUTH,
    Outcome.KILLED: Result.KILLED,
    Outcome.FAILED: Result.FAILED,
}


@dataclass(frozen=True)
class _Harvest:
    """What a visit brought.

    Attributes:
        files: there when it is an edit, also one that is broken.
        failure: the error of a broken edit.
        is_gated: the static gate is what refuses it.
    """

    result: Result
    trouble: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    failure: Failure | None = None
    is_gated: bool = False


@dataclass
class Coder:
    """An agent for `night.drive` that asks a headless client."""

    client: Client
    limits: VisitLimits = field(default_factory=VisitLimits)
    _patience: Patience = field(default_factory=Patience)
    _is_told: bool = False

    @property
    def name(self) -> str:
        return self.client.name

    def propose(self, night: Night) -> Proposal | str:
        """The next edit that is worth a run, or a broken one that nobody mended, or why there is none.

        Raises: Refused: the client is not logged in, or brought nothing several times in a row. Stopped.
        """
        self._say_unfenced(night)
        try:
            return self._after_visits(night)
        finally:
            desk.clear(night.session)
            night.session.paths.activity.unlink(missing_ok=True)

    def _after_visits(self, night: Night) -> Proposal | str:
        trouble, broken = "", None
        while not (reason := night.over()):
            if broken is None:
                desk.lay_out(night.session)
            visit, harvest = self._visit(night, trouble, mend=broken is not None)
            if harvest.result is Result.EDITED:
                return Proposal(harvest.files, _description(night.session, visit, harvest))
            if broken is not None and (harvest.result is Result.BROKEN or harvest.result in IDLE):
                return _unmended(night.session, *((visit, harvest) if harvest.result is Result.BROKEN else broken))
            broken = (visit, harvest) if harvest.result is Result.BROKEN else broken
            trouble = broken[1].trouble if broken else harvest.trouble
            if reason := self._pause(night, visit, harvest):
                return reason
        return reason

    def _say_unfenced(self, night: Night) -> None:
        """Say once that nothing but its own client keeps the agent on its desk, where that is so."""
        if not self._is_told and (fault := fence.fault()):
            night.observer.say(f"The agent is not fenced, and can write wherever {self.name} lets it: {fault}")
        self._is_told = True

    def _visit(self, night: Night, trouble: str, *, mend: bool) -> tuple[Visit, _Harvest]:
        session = night.session
        say_activity(session, f"{self.name} is at work since {_clock(datetime.now(UTC))}")
        night.observer.visited(self.name)
        visit = pay(
            self.client, _prompt(night, trouble, mend=mend), session.paths.desk, log=session.paths.visit_log,
            limits=self._limits(night), editable=session.recipe.mutable, protected=_protected(session),
            on_tick=night.observer.tick,
        )  # fmt: skip
        if visit.outcome is Outcome.STOPPED:
            raise Stopped(f"Stopped while {self.name} was working; nothing of it was measured. "
                          f"Go on with: mlx loop run {session.tag}")  # fmt: skip
        # What it cost comes first: looking at what it brought takes a while, and may be stopped.
        session.ledger.append(
            "note", what=PAID, agent=self.name, seconds=round(visit.seconds, 1), cost_usd=visit.cost_usd,
            tokens=visit.tokens, ideas=list(brief.read_answer(visit.said).ideas),
        )  # fmt: skip
        harvest = _harvest(session, visit)
        self._patience = self._patience.after(harvest.result)
        reason = clean(harvest.trouble, NOTED)
        session.ledger.append("note", what=VISIT, agent=self.name, result=str(harvest.result), reason=reason)
        night.observer.say(f"    {self.name}: {harvest.result}, {visit.seconds:.0f} s{_price(visit)}")
        return visit, harvest

    def _limits(self, night: Night) -> VisitLimits:
        """A visit's own, and no longer than the night."""
        left = night.remaining().seconds
        return self.limits if left is None else replace(self.limits, wall_s=min(self.limits.wall_s, max(left, 1.0)))

    def _pause(self, night: Night, visit: Visit, harvest: _Harvest) -> str:
        """Wait as long as the result asks for; returns why the night is over, or "".

        Raises: Refused: it makes no sense to ask again.
        """
        now, patience = datetime.now(UTC), self._patience
        if harvest.result is Result.AUTH:
            raise Refused(f"{self.name} is not logged in: {visit.reason} {self.client.login_hint}")
        if patience.spent:
            raise Refused(
                f"{self.name} brought nothing to measure {patience.spent} times in a row, the last time: "
                f"{harvest.result}. {_sentence(harvest.trouble)} Its output: {night.session.paths.visit_log}"
            )
        wait_s = patience.wait_s(harvest.result, visit.reset_at, now)
        left = night.remaining().seconds
        if left is not None and wait_s >= left:
            return f"{self.name} can go on only after the night's end ({harvest.result}: {visit.reason})"
        if wait_s:
            night.observer.say(f"    waiting {duration(wait_s)}: {clean(harvest.trouble, NOTED)}")
            until = _clock(now + timedelta(seconds=wait_s))
            say_activity(night.session, f"waiting until {until} for {self.name}: {harvest.result}")
        return night.wait(wait_s)


def say_activity(session: Session, text: str) -> None:
    """Leave a line for `mlx loop status`, which can't ask this process."""
    write_atomic(session.paths.activity, clean(text, NOTED) + "\n")


def _clock(when: datetime) -> str:
    return when.astimezone().strftime("%H:%M")


def _sentence(text: str) -> str:
    line = clean(text, TROUBLE_LIMIT)
    return line if not line or line.endswith((".", "…")) else f"{line}."


def _unmended(session: Session, visit: Visit, harvest: _Harvest) -> Proposal:
    """A broken edit as a candidate, which costs no run; what the static gate refuses is left for it to say so."""
    fault = "" if harvest.is_gated else harvest.trouble
    return Proposal(harvest.files, _description(session, visit, harvest), fault, harvest.failure)


def _protected(session: Session) -> tuple[str, ...]:
    """What of the mutable globs may not change all the same."""
    recipe = session.recipe
    return (*recipe.forbidden, *recipe.immutable)


def _harvest(session: Session, visit: Visit) -> _Harvest:
    """Look at what lies on the desk, as far as the visit itself went well."""
    if visit.outcome is not Outcome.ENDED:
        return _Harvest(_RESULT_OF[visit.outcome], visit.reason)
    found = desk.look(session)
    if found.forbidden:
        what = desk.describe(found.forbidden)
        return _Harvest(Result.FORBIDDEN, f"Only {session.surface.words} may change, and this was done: {what}.")
    if is_unchanged(session, found.files):
        return _Harvest(Result.NO_CHANGE, f"Nothing was edited. The agent's last words: {clean(visit.said, 300)}")
    if twin := find_twin(session, found.files):
        return _Harvest(
            Result.REPEATED, f"These exact bytes were experiment {twin.number}, {twin.verdict}: {twin.description}."
        )
    checked = preflight.check(session, found.files)
    if not checked.ok:
        reason = clean(f"The {checked.stage} failed: {checked.reason}", TROUBLE_LIMIT)
        return _Harvest(Result.BROKEN, reason, found.files, checked.failure, checked.stage == preflight.GATE)
    return _Harvest(Result.EDITED, "", found.files)


def _prompt(night: Night, trouble: str, *, mend: bool) -> str:
    session = night.session
    return brief.render(
        summarise(session.start_record, session.ledger.experiments), session.recipe, budget=str(session.budget),
        remaining=night.remaining(), ideas=ideas(session), trouble=trouble, mend=mend,
        guidance=_advice(session),
    )  # fmt: skip


def _advice(session: Session) -> str:
    """What the protocol remarks about a run: written by the project's owner."""
    file = session.paths.protocol
    execution = load_json(file.read_bytes()).get("execution", {}) if file.exists() else {}
    return "\n".join(filter(None, [execution.get("notes"), execution.get("stopCondition", {}).get("notes")]))


def ideas(session: Session) -> list[str]:
    """What is not tried yet: the person's list in EXPERIMENT.md, then what agents left behind, the newest first."""
    own: list[str] = []
    with contextlib.suppress(OSError, LabError):
        own = daily_log.next_to_try(session.project.experiment_notes)
    notes = [note for note in session.ledger.notes if note["what"] == PAID]
    left = [idea for note in reversed(notes) for idea in note["ideas"]]
    tried = {experiment.description.casefold() for experiment in session.ledger.experiments}
    return [idea for idea in dict.fromkeys([*own, *left]) if idea.casefold() not in tried][:IDEAS]


def _description(session: Session, visit: Visit, harvest: _Harvest) -> str:
    """The agent's own line, else the names of the files that it changed."""
    said = clean(brief.read_answer(visit.said).description, DESCRIPTION_LIMIT)
    if said:
        return said
    before = session.files_of(session.head)
    names = sorted(n for n in {*before, *harvest.files} if before.get(n) != harvest.files.get(n))
    return clean(f"edit of {', '.join(names)}", DESCRIPTION_LIMIT)


def _price(visit: Visit) -> str:
    return "" if visit.cost_usd is None else f", ${visit.cost_usd:.2f}"
