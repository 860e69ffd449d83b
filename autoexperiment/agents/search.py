"""The search agent: an agent that needs no language model.

It changes one declared constant of the recipe at a time: first anywhere in a constant's range, then in
steps around the incumbent. It is a pure function of the session's tag and history, so a night that was
interrupted goes on with the proposal that it was about to make, and it never repeats a candidate.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from autoexperiment import constants
from autoexperiment.admission import find_twin, judged
from autoexperiment.constants import Range, Searchable
from autoexperiment.errors import Refused
from autoexperiment.loop import Proposal
from autoexperiment.night import Night

EXPLORE = 4  # turns that draw from a constant's whole range, before the local ones
STEP = 0.15  # standard deviation of a local step, as a share of the range
TRIES = 50  # draws of one constant before the next one's turn


def draw_anywhere(bounds: Range, rng: random.Random) -> Any:
    """A value from the whole range."""
    if bounds.kind == "choice":
        return rng.choice(bounds.choices)
    low, high = constants.scale(bounds)
    value = rng.uniform(low, high)
    return constants.clamp(math.exp(value) if bounds.kind == "log" else value, bounds)


def draw_near(value: Any, bounds: Range, rng: random.Random) -> Any:
    """A value one step away from `value`; at least 1 for integers, another choice for choices."""
    if bounds.kind == "choice":
        return rng.choice([choice for choice in bounds.choices if choice != value])
    low, high = constants.scale(bounds)
    stride = rng.gauss(0.0, STEP * (high - low))
    if bounds.kind == "log":
        return constants.clamp(math.exp(math.log(max(value, bounds.low)) + stride), bounds)
    if bounds.kind == "int":
        stride = math.copysign(max(1.0, abs(stride)), stride)
    return constants.clamp(value + stride, bounds)


def rotation(found: list[Searchable], tag: str, turn: int) -> list[Searchable]:
    """The constants in the order in which this turn tries them: each is first once in `len(found)` turns."""
    lap, place = divmod(turn, len(found))
    order = random.Random(f"{tag}/{lap}").sample(found, len(found))
    return order[place:] + order[:place]


def draws(order: list[Searchable], rng: random.Random, *, is_local: bool) -> Iterator[tuple[Searchable, Any]]:
    """(constant, new value) pairs that differ from the present value, `TRIES` for each constant in order."""
    for constant in order:
        for _ in range(TRIES):
            draw = draw_near(constant.value, constant.range, rng) if is_local else draw_anywhere(constant.range, rng)
            draw = constants.like(draw, constant.value)
            if constants.write_value(draw) != constants.write_value(constant.value):
                yield constant, draw


def searchable(files: Mapping[str, bytes], device: str) -> tuple[str, str, list[Searchable]]:
    """The first mutable Python file that declares ranges: its name, source and constants; else no constants."""
    for name in sorted(name for name in files if name.endswith(".py")):
        source = files[name].decode()
        if found := constants.find(source, device=device):
            return name, source, found
    return "", "", []


class SearchAgent:
    """Random, then local search over the constants that the recipe declares."""

    name = "search"

    def propose(self, night: Night) -> Proposal | str:
        """The next single-constant change, or that no untried one is found."""
        session = night.session
        files = session.files_of(session.head)
        name, source, found = searchable(files, session.start_record["machine"]["device"])
        if not found:
            raise Refused(
                f"{session.surface.words} declares nothing to search. Add a range behind a constant of a Python file, "
                "for example: LR = 0.02  # learning rate | search: 0.002..0.2 log"
            )
        turn = judged(session)
        rng, order = random.Random(f"{session.tag}/{turn}/draw"), rotation(found, session.tag, turn)
        for constant, value in draws(order, rng, is_local=turn >= EXPLORE):
            candidate = {**files, name: constants.replace(source, constant, value).encode()}
            if find_twin(session, candidate) is None:
                old, new = constants.write_value(constant.value), constants.write_value(value)
                return Proposal(candidate, f"{constant.name} {old} -> {new}")
        return "no ideas are left"
