"""The search agent: reads declared ranges, changes one constant, never repeats, repeats itself after a kill."""

from __future__ import annotations

import ast
import random
import time
from pathlib import Path

import pytest
import standin
from hypothesis import given
from hypothesis import strategies as st

from autoexperiment import constants, loop, night, session
from autoexperiment.agents import agent_named
from autoexperiment.agents.search import SearchAgent, draw_anywhere, draw_near
from autoexperiment.constants import Range, parse_range
from autoexperiment.errors import UsageError
from autoexperiment.measuring import Quiet
from autoexperiment.night import Limit

SOURCE = '''\
"""A recipe. search: 1..2 in a docstring is nothing."""
LR = 0.02  # learning rate | search: 0.002..0.2 log
DEPTH = pick(cpu=2, gpu=8)  # layers | search: 1..12 int
ACTIVATION = "relu2"  # é | search: "relu2", "gelu", "silu"
WARM = 0.1  # share of the budget | search: 0.0..0.5
BATCH = pick(cpu=2**11, gpu=2**16)  # tokens a step | search: 1024..131072 log
FIXED = 3  # not searched
def f():
    INNER = 1  # search: 1..2
'''


def test_declared_constants_are_found_with_their_ranges() -> None:
    found = {c.name: (c.value, c.range) for c in constants.find(SOURCE, device="cpu")}

    assert found == {
        "LR": (0.02, Range("log", 0.002, 0.2)),
        "DEPTH": (2, Range("int", 1, 12)),
        "ACTIVATION": ("relu2", Range("choice", choices=("relu2", "gelu", "silu"))),
        "WARM": (0.1, Range("uniform", 0.0, 0.5)),
        "BATCH": (2048, Range("log", 1024, 131072)),
    }


def test_whole_number_stays_whole_on_a_log_range() -> None:
    from autoexperiment.agents.search import draws

    batch = [c for c in constants.find(SOURCE, device="cpu") if c.name == "BATCH"]

    values = [value for _, value in draws(batch, random.Random(1), is_local=False)]

    assert values
    assert all(isinstance(value, int) and 1024 <= value <= 131072 for value in values)


@pytest.mark.parametrize(("device", "text"), [("cpu", "pick(cpu=5, gpu=8)"), ("gpu", "pick(cpu=2, gpu=5)")])
def test_only_the_running_device_s_value_is_replaced(device: str, text: str) -> None:
    depth = next(c for c in constants.find(SOURCE, device=device) if c.name == "DEPTH")

    changed = constants.replace(SOURCE, depth, 5)

    assert f"DEPTH = {text}  # layers | search: 1..12 int" in changed
    assert sum(a != b for a, b in zip(SOURCE.split("\n"), changed.split("\n"), strict=True)) == 1


@pytest.mark.parametrize("text", ["", "3", "2..1", "0..1 log", "a..b", "1..2 exp", "__import__('os'), 1"])
def test_malformed_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="search range"):
        parse_range(text)


def test_value_that_is_computed_can_not_be_searched() -> None:
    with pytest.raises(UsageError, match="Line 1"):
        constants.find("X = 2 * Y  # search: 1..2\n", device="cpu")


@pytest.mark.parametrize("source", ["def (", "x = '''", "\0"])
def test_source_that_does_not_parse_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match="does not parse"):
        constants.find(source, device="cpu")


ranges = st.one_of(
    st.tuples(st.floats(1e-6, 1.0), st.floats(2.0, 1e3)).map(lambda b: Range("log", *b)),
    st.tuples(st.floats(-5.0, 0.0), st.floats(0.5, 9.0)).map(lambda b: Range("uniform", *b)),
    st.tuples(st.integers(0, 3), st.integers(4, 99)).map(lambda b: Range("int", *b)),
    st.just(Range("choice", choices=("a", 1, True))),
)


@given(ranges, st.integers())
def test_every_draw_is_inside_its_range_and_survives_being_written(bounds: Range, seed: int) -> None:
    rng = random.Random(seed)
    value = draw_anywhere(bounds, rng)
    near = draw_near(value, bounds, rng)

    slack = 1e-2 * max(1.0, abs(bounds.low), abs(bounds.high))
    for drawn in (value, near):
        written = ast.literal_eval(constants.write_value(drawn))
        assert written == drawn
        if bounds.kind == "choice":
            assert bounds.contains(drawn)
        else:
            assert bounds.low - slack <= drawn <= bounds.high + slack
    if bounds.kind == "int":
        assert isinstance(value, int)


def test_each_constant_has_its_turn_once_a_lap() -> None:
    from autoexperiment.agents.search import rotation

    found = constants.find(SOURCE, device="cpu")
    firsts = [rotation(found, "mar5", turn)[0].name for turn in range(len(found))]

    assert sorted(firsts) == sorted(c.name for c in found)


def test_night_changes_one_constant_at_a_time_and_never_repeats(project: Path) -> None:
    with session.start(project, "mar5", standin.PLAN) as running:
        night.drive(running, SearchAgent(), Limit(experiments=12))
        experiments = running.ledger.experiments[1:]
        for experiment in experiments:
            diff = running.repository.changed_lines(experiment.base, experiment.commit)
            assert diff == (1, 1)

    assert len({e.content for e in experiments}) == len(experiments) == 12
    assert all(e.source == "search" for e in experiments)


def test_proposal_depends_on_the_history_alone(project: Path) -> None:
    agent = SearchAgent()
    with session.start(project, "mar5", standin.PLAN) as running:
        loop.measure_baseline(running)
        going = night.Night(running, Limit(), Quiet(), time.monotonic, 0.0)
        first = agent.propose(going)
        second = SearchAgent().propose(going)

    assert first == second


def test_search_ends_when_nothing_is_left(project: Path) -> None:
    text = standin.TRAIN.replace("search: 1.0..3.0", "search: 2.0, 1.5").replace(" | search: 500..2000 int", "")
    (project / "train.py").write_text(text)
    standin.git(project, "commit", "-qam", "one choice")
    with session.start(project, "mar5", standin.PLAN) as running:
        reason = night.drive(running, SearchAgent(), Limit(experiments=9))

        assert reason == "no ideas are left"
        assert [e.description for e in running.ledger.experiments] == ["baseline", "VALUE 2.0 -> 1.5"]


def test_unknown_agent_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match="Known: claude"):
        agent_named("serach")
