"""A language model as the one who has ideas: for every experiment a fresh headless agent, on a desk of its own.

The agent edits; whether that is worth a run, and what the run shows, is decided without it. A visit leaves a note
in the ledger with its result, cost and ideas, so that the next prompt, and the next process, know of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from autoexperiment import brief, daily_log, desk, fence, preflight
from autoexperiment.admission import DESCRIPTION_LIMIT, find_twin, is_unchanged
from autoexperiment.agents.patience import Patience, Result
from autoexperiment.agents.visit import Client, Outcome, Visit, VisitLimits, pay
from autoexperiment.errors import LabError, Refused
from autoexperiment.failure import clean
from autoexperiment.files import load_json
from autoexperiment.ledger import VISIT
from autoexperiment.loop import Proposal, Stopped
from autoexperiment.night import Night
from autoexperiment.session import Session
from autoexperiment.summary import summarise

IDEAS = 10  # that a prompt passes on
TROUBLE_LIMIT = 2_000
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
    """What a visit brought. `files` are there when it is an edit, also one that is broken."""

    result: Result
    trouble: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)


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
        """The next edit that is worth a run, or one that failed its pre-flight twice, or why there is none.

        Raises: Refused: the client is not logged in, or brought nothing several times in a row. Stopped.
        """
        self._say_unfenced(night)
        trouble, broken = "", False
        while not (reason := night.over()):
            if not broken:
                desk.lay_out(night.session)
            visit, harvest = self._visit(night, trouble, mend=broken)
            if harvest.result is Result.EDITED or (broken and harvest.result is Result.BROKEN):
                desk.clear(night.session)
                fault = harvest.trouble if harvest.result is Result.BROKEN else ""
                return Proposal(harvest.files, _description(night.session, visit, harvest), fault)
            broken = harvest.result is Result.BROKEN
            trouble = harvest.trouble
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
        visit = pay(
            self.client, _prompt(night, trouble, mend=mend), session.paths.desk, log=session.paths.visit_log, limits=self.limits,
            editable=_editable(session), on_tick=night.observer.tick,
        )  # fmt: skip
        if visit.outcome is Outcome.STOPPED:
            raise Stopped(f"Stopped while {self.name} was working; nothing of it was measured. "
                          f"Go on with: mlx loop run {session.tag}")  # fmt: skip
        harvest = _harvest(session, visit)
        self._patience = self._patience.after(harvest.result)
        session.ledger.append(
            "note", what=VISIT, agent=self.name, result=str(harvest.result), reason=clean(harvest.trouble, 300),
            seconds=round(visit.seconds, 1), cost_usd=visit.cost_usd, tokens=visit.tokens,
            ideas=list(brief.read_answer(visit.said).ideas),
        )  # fmt: skip
        night.observer.say(f"    {self.name}: {harvest.result}, {visit.seconds:.0f} s{_price(visit)}")
        return visit, harvest

    def _pause(self, night: Night, visit: Visit, harvest: _Harvest) -> str:
        """Wait as long as the result asks for; returns why the night is over, or "".

        Raises: Refused: it makes no sense to ask again.
        """
        now, patience = datetime.now(UTC), self._patience
        if harvest.result is Result.AUTH:
            raise Refused(f"{self.name} is not logged in: {visit.reason} {self.client.login_hint}")
        wait_s = patience.wait_s(harvest.result, visit.reset_at, now)
        if patience.is_at_end or wait_s is None:
            raise Refused(
                f"{self.name} brought nothing to measure {patience.idle or patience.faults or patience.overloads} times in a "
                f"row, the last time: {harvest.result}. {harvest.trouble} Its output: {night.session.paths.visit_log}"
            )
        left = night.remaining().seconds
        if left is not None and wait_s >= left:
            return f"{self.name} can go on only after the night's end ({harvest.result}: {visit.reason})"
        if wait_s:
            night.observer.say(f"    waiting {_span(wait_s)}: {harvest.trouble}")
        return night.wait(wait_s)


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
        return _Harvest(Result.BROKEN, reason, found.files)
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
    notes = [note for note in session.ledger.notes if note["what"] == VISIT]
    left = [idea for note in reversed(notes) for idea in note.get("ideas", [])]
    tried = {experiment.description.casefold() for experiment in session.ledger.experiments}
    return [idea for idea in dict.fromkeys([*own, *left]) if idea.casefold() not in tried][:IDEAS]


def _editable(session: Session) -> list[str]:
    return list(session.recipe.mutable)


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


def _span(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.0f} min"
        if seconds >= 60
        else f"{seconds:.0f} s"
    )
