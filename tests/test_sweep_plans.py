"""What is said of a sweep before it is run, while it is run and afterwards: how many points, how long, and why not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import instant
import pytest
from instant import EPOCHS, RATE, sweep_of

from autoexperiment.errors import HarnessError, LabError, Locked, Refused
from autoexperiment.files import Lock
from autoexperiment.sweep import book, dask, experiments, launching, results, samplers
from autoexperiment.sweep.book import Book
from autoexperiment.sweep.estimates import estimate, left_s
from autoexperiment.sweep.launching import Where
from autoexperiment.sweep.plans import SweepPlan, make_plan
from autoexperiment.sweep.points import Result
from autoexperiment.vocabulary import RunStatus

RATES = {RATE: [0.1, 0.01, 0.001]}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    instant.use(monkeypatch)


def planned(root: Path, is_resumed: bool = True, retries_failed: bool = False, **fields: Any) -> SweepPlan:
    return make_plan(sweep_of(**fields), root=root, is_resumed=is_resumed, retries_failed=retries_failed)


def done(root: Path, **fields: Any) -> dict[str, Any]:
    """Run a sweep to its end; returns its status."""
    plan = planned(root, **fields)
    assert launching.run(plan.launch)
    return results.status(plan.launch.paths)


def counts(status: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(status[name] for name in ("planned", "ended", "left", "earlier"))


# ---- how many


@pytest.mark.parametrize("name", ["random", "sobol", "tpe"])
def test_there_are_no_more_trials_than_values(name: str, tmp_path: Path) -> None:
    if name != "random":
        pytest.importorskip("optuna")
    sampler = {"name": name, "trials": 20}

    plan = planned(tmp_path, parameters=RATES, sampler=sampler, seeds=2)

    assert (plan.trials, plan.points, plan.left) == (3, 6, 6)
    assert counts(done(tmp_path, parameters=RATES, sampler=sampler, seeds=2)) == (6, 6, 0, 0)


def test_rungs_are_made_of_the_trials_that_there_are(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "sampler": {"name": "random", "trials": 20},
        "halving": {"resource": EPOCHS, "min": 1, "max": 9},
    }

    plan = planned(tmp_path, parameters=RATES, **fields)

    # three trials on 1 epoch, a third of them on the next rung, which is the last as only one is left
    assert [(rung.trials, rung.resource) for rung in plan.launch.job.rungs] == [(3, 1), (1, 9)]
    assert (plan.points, plan.left) == (4, 4)
    assert counts(done(tmp_path, parameters=RATES, **fields)) == (4, 4, 0, 0)


def test_rung_has_no_more_points_than_there_are_different_ones(tmp_path: Path) -> None:
    twice = {**RATES, "training.batch_size": [4, 8]}

    plan = planned(tmp_path, parameters=twice, seeds=2, halving={"resource": EPOCHS, "min": 1, "max": 9})

    # six trials, two and one, with two seeds; of the six, three are the same as others
    assert plan.tally.planned == (6, 4, 2)


def test_rung_with_too_few_survivors_leaves_nothing_over(tmp_path: Path) -> None:
    halving = {"resource": EPOCHS, "min": 1, "max": 2, "factor": 2}

    plan = planned(tmp_path, parameters={RATE: [0.1, 9, 10, 11]}, halving=halving)
    status = done(tmp_path, parameters={RATE: [0.1, 9, 10, 11]}, halving=halving)

    assert plan.points == 6  # four and two
    assert counts(status) == (5, 5, 0, 0)  # only one has a number to go on with


def test_points_of_earlier_plans_are_counted_apart(tmp_path: Path) -> None:
    done(tmp_path, parameters=RATES)

    plan = planned(tmp_path, parameters={RATE: [0.1]})
    status = done(tmp_path, parameters={RATE: [0.1]})

    assert (plan.points, plan.left, plan.tally.earlier) == (1, 0, 2)
    assert counts(status) == (1, 1, 0, 2)
    assert status["by_status"] == {"completed": 3}


def test_longer_halving_counts_what_both_have_once(tmp_path: Path) -> None:
    halving = {"resource": EPOCHS, "min": 1, "max": 9}
    done(tmp_path, parameters=RATES, halving=halving)

    plan = planned(tmp_path, parameters=RATES, halving={**halving, "max": 27})
    status = done(tmp_path, parameters=RATES, halving={**halving, "max": 27})

    assert (plan.points, plan.left, plan.tally.earlier) == (4, 1, 1)  # 9 epochs were run, and are no rung now
    assert counts(status) == (4, 4, 0, 1)


def test_sampler_that_learns_goes_on_with_what_it_asked_for_and_with_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    tpe: dict[str, Any] = {"parameters": {RATE: {"low": 0.1, "high": 1.0}}, "sampler": {"name": "tpe", "trials": 4}}
    done(tmp_path, parameters={RATE: [2.0, 3.0]})
    done(tmp_path, **tpe)

    more = planned(tmp_path, **{**tpe, "sampler": {"name": "tpe", "trials": 6}})
    fewer = planned(tmp_path, **{**tpe, "sampler": {"name": "tpe", "trials": 2}})
    other = planned(tmp_path, **{**tpe, "sampler": {"name": "tpe", "trials": 6, "seed": 9}})

    assert (more.points, more.left, more.tally.earlier) == (6, 2, 2)
    assert (fewer.points, fewer.left, fewer.tally.earlier) == (4, 0, 2)
    assert (other.points, other.left, other.tally.earlier) == (6, 2, 2)


def test_failed_points_are_left_where_they_are_tried_again(tmp_path: Path) -> None:
    some_fail = {RATE: [0.1, 9]}
    done(tmp_path, parameters=some_fail)

    assert planned(tmp_path, parameters=some_fail).left == 0
    assert planned(tmp_path, parameters=some_fail, retries_failed=True).left == 1


def test_failed_points_that_a_sampler_has_learned_from_are_not_left(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    fields: dict[str, Any] = {"parameters": {RATE: [0.1, 9]}, "sampler": {"name": "tpe", "trials": 2}}
    done(tmp_path, **fields)

    assert planned(tmp_path, **fields, retries_failed=True).left == 0


def test_trials_that_are_the_same_point_are_counted(tmp_path: Path) -> None:
    plan = planned(tmp_path, parameters={**RATES, "training.batch_size": [4, 8]}, seeds=2)

    assert (plan.trials, plan.points, plan.repeats) == (6, 6, 6)


def test_status_of_a_sweep_that_was_stopped_says_what_is_left(tmp_path: Path) -> None:
    plan = planned(tmp_path, parameters={RATE: [0.1, 5, 0.2, 0.3]})

    is_done = launching.run(plan.launch)

    assert not is_done
    status = results.status(plan.launch.paths)
    assert (status["planned"], status["ended"] + status["left"]) == (4, 4)
    assert status["left"] >= 2


# ---- asked once


def test_trials_are_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = samplers.make_sampler

    def counted(name: str, *given: Any, **more: Any) -> samplers.Sampler:
        made.append(name)
        return real(name, *given, **more)

    monkeypatch.setattr(samplers, "make_sampler", counted)

    plan = planned(tmp_path, parameters={RATE: {"low": 0.1, "high": 1.0}}, sampler={"name": "random", "trials": 5})
    launching.run(plan.launch)

    assert made == ["random"]
    ended = book.read(plan.launch.paths).rows
    assert [row["params"] for row in ended] == [dict(point.params) for point in plan.listed]


def test_listed_trials_go_on_after_those_that_were_asked() -> None:
    sampler = samplers.ListedSampler([{"a": 1}, {"a": 2}, {"a": 3}])

    sampler.restore([{"a": 1}], {1: 0.5})

    assert [sampler.ask(), sampler.ask(), sampler.ask(), sampler.ask()] == [{"a": 2}, {"a": 3}, None, None]


# ---- how long: a point takes a second, and one for each epoch


def test_each_point_is_expected_to_take_its_own_time(tmp_path: Path) -> None:
    plan = planned(tmp_path, parameters={EPOCHS: [1, 150]})

    assert estimate(plan).seconds == 2 + 151


def test_points_side_by_side_take_as_long_as_the_longest(tmp_path: Path) -> None:
    plan = planned(tmp_path, parameters={EPOCHS: [1, 150]}, max_parallel=2)

    assert estimate(plan).seconds == 151


def test_rungs_take_one_after_another_what_their_resource_costs(tmp_path: Path) -> None:
    nine = {RATE: [number / 10 for number in range(1, 10)]}

    plan = planned(tmp_path, parameters=nine, halving={"resource": EPOCHS, "min": 1, "max": 9})

    assert estimate(plan).seconds == 9 * 2 + 3 * 4 + 1 * 10


def test_points_that_have_ended_say_how_fast_the_others_are(tmp_path: Path) -> None:
    ended(planned(tmp_path, parameters={EPOCHS: [1]}), 4.0)

    found = estimate(planned(tmp_path, parameters={EPOCHS: [1, 150]}))

    assert found.seconds == 2 * 151  # it took 4 s for 2
    assert "at the pace of those that have ended" in found.basis


def test_points_that_are_tried_again_take_their_own_time(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"parameters": {EPOCHS: [1, 10, 20]}, "retries_failed": True}
    ended(planned(tmp_path, **fields), 11.5, failed=10)

    assert estimate(planned(tmp_path, **fields)).seconds == 11  # the others took 23 s, as was expected of them


def test_nothing_left_takes_no_time_and_no_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(planned(tmp_path, parameters={EPOCHS: [1]}), 4.0)
    probes: list[Any] = []
    monkeypatch.setattr(instant.Instant, "expected_s", lambda *given: probes.append(given))

    found = estimate(planned(tmp_path, parameters={EPOCHS: [1]}))

    assert (found.seconds, probes) == (0, [])


def test_where_nothing_is_expected_the_first_points_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instant.Instant, "expected_s", lambda *_: None)

    before = estimate(planned(tmp_path, parameters={RATE: [0.1, 0.2, 0.3]}))
    ended(planned(tmp_path, parameters={RATE: [0.1]}), 4.0)
    after = estimate(planned(tmp_path, parameters={RATE: [0.1, 0.2, 0.3]}))

    assert before.seconds is None
    assert (after.seconds, after.basis) == (8.0, "the points that have ended")


def ended(plan: SweepPlan, seconds: float, failed: int | None = None) -> None:
    """All of a plan's points have ended, in so many seconds each. Args: failed: epochs of those that have failed."""
    with Book.open(plan.launch.paths) as opened:
        opened.begin(plan.launch.paths, {**plan.launch.definition, "slots": 1}, base=plan.launch.base)
        for point in plan.listed:
            status = RunStatus.FAILED if point.config["training"]["epochs"] == failed else RunStatus.COMPLETED
            opened.end(point, Result(status, {}, seconds=seconds))


@pytest.mark.parametrize(
    ("seconds", "left", "resources", "wanted"),
    [
        ({}, [3], [], None),
        ({0: []}, [3], [], None),
        ({0: [1.0, 2.0, 9.0]}, [3], [], 6.0),  # the median
        ({0: [2.0]}, [0, 3, 1], [1, 3, 9], 3 * 6 + 18),
        ({0: [2.0], 1: [4.0]}, [0, 1, 1], [1, 3, 9], 4 + 4 * 3),  # the rung's own, and from the nearest below
        ({1: [6.0]}, [1, 0], [1, 3], 2.0),
        ({0: [2.0]}, [-1, 1], [1, 3], 6.0),
        ({5: [100.0]}, [1], [1], None),  # of an earlier plan, which had more rungs
    ],
)
def test_what_is_left_is_weighed_by_its_resource(
    seconds: dict[int, list[float]], left: list[int], resources: list[float], wanted: float | None
) -> None:
    assert left_s(seconds, left, resources) == wanted


def test_status_weighs_the_rungs_that_are_left(tmp_path: Path) -> None:
    plan = planned(tmp_path, parameters={RATE: [0.1, 0.2, 0.3, 5]}, halving={"resource": EPOCHS, "max": 4, "factor": 2})
    with Book.open(plan.launch.paths) as opened:
        opened.begin(plan.launch.paths, {**plan.launch.definition, "slots": 2}, base=plan.launch.base)
        for point in plan.listed:
            if point.rung == 0:
                opened.end(point, Result(RunStatus.COMPLETED, {"val_loss": 1.0}, seconds=3.0))

    status = results.status(plan.launch.paths)

    # four on 1 epoch have ended in 3 s each; two on 2 and, as one alone, the last on 4 are left, two side by side
    assert (status["left"], status["left_s"]) == (3, (2 * 6 + 12) / 2)


def test_time_of_a_training_is_told_by_one_epoch_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probes: list[Any] = []
    real = experiments._train_once

    def counted(*given: Any) -> Any:
        probes.append(given)
        return real(*given)

    monkeypatch.setattr(experiments, "_train_once", counted)
    doing = experiments.make({**instant.BASE}, root=tmp_path, options={"name": "s"})

    def expected(epochs: int, rows: int = 100) -> float:
        seconds = doing.expected_s(doing.resolve({EPOCHS: epochs, "dataset.params.n_samples": rows}, None))
        assert seconds is not None
        return seconds

    one, two, hundred, more_rows = expected(1), expected(2), expected(100), expected(1, rows=300)

    assert len(probes) == 1
    assert one > 0
    assert two > one
    assert hundred - one == pytest.approx(99 * (two - one))
    assert more_rows - one == pytest.approx(2 * (two - one))  # three times the rows are as much as three epochs


# ---- what is refused before anything is said


def test_plan_of_a_sweep_that_is_there_is_refused_like_its_run(tmp_path: Path) -> None:
    done(tmp_path, parameters=RATES)

    with pytest.raises(Refused, match=r"has 3 points already. Go on with it: --resume"):
        planned(tmp_path, is_resumed=False, parameters=RATES)


def test_plan_on_another_base_is_refused_like_its_run(tmp_path: Path) -> None:
    done(tmp_path, parameters=RATES)
    other = {**instant.BASE, "training": {"epochs": 3}}

    with pytest.raises(Refused, match="started from another base"):
        planned(tmp_path, parameters=RATES, base=other)


def test_plan_of_a_sweep_that_goes_on_is_refused(tmp_path: Path) -> None:
    done(tmp_path, parameters=RATES)

    lock = Lock(planned(tmp_path, parameters=RATES).launch.paths.lock)

    with lock.acquire(), pytest.raises(Locked, match="is going on in process"):
        planned(tmp_path, parameters=RATES)


def test_nothing_is_said_of_a_sweep_that_is_refused(tmp_path: Path) -> None:
    said: list[str] = []
    plan = planned(tmp_path, is_resumed=False, parameters=RATES)

    launching.run(plan.launch, opened=lambda: said.append("opened"))
    with pytest.raises(Refused):
        launching.run(plan.launch, opened=lambda: said.append("opened again"))

    assert said == ["opened"]


def test_nothing_is_said_where_no_scheduler_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(dask, "CONNECT_S", 0.2)
    said: list[str] = []
    where = Where("dask", "tcp://127.0.0.1:1", 1)
    plan = make_plan(sweep_of(parameters=RATES), root=tmp_path, where=where)

    with pytest.raises(LabError, match="No dask scheduler answers"):
        launching.run(plan.launch, opened=lambda: said.append("opened"))

    assert said == []


def test_values_of_a_refused_trial_move_no_cursor(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="This is no rate") as refusal:
        planned(tmp_path, parameters={RATE: ["a\nd\u202e\u001b[31m"]})

    assert f"trial 1 ({RATE}=a d" in str(refusal.value)
    assert not {"\u202e", "\u001b"} & set(str(refusal.value))


# ---- sweep.json


@pytest.mark.parametrize("text", ["[1, 2]", '{"name": "x"}', "{", None])
def test_damaged_record_of_what_was_wanted_is_told(text: str | None, tmp_path: Path) -> None:
    done(tmp_path, parameters=RATES)
    paths = planned(tmp_path, parameters=RATES).launch.paths
    paths.definition.write_text(text) if text else paths.definition.unlink()

    with pytest.raises(HarnessError, match=r"sweep\.json.* mlx sweep run --resume --config FILE"):
        results.status(paths)

    assert counts(done(tmp_path, parameters=RATES)) == (3, 3, 0, 0)  # as the message says


def test_record_of_what_was_wanted_has_the_rungs(tmp_path: Path) -> None:
    done(tmp_path, parameters=RATES, halving={"resource": EPOCHS, "min": 1, "max": 9})

    wanted = json.loads((tmp_path / "outputs" / "s" / "sweep.json").read_text())

    assert wanted["rungs"] == [[1, 3], [9, 1]]


def test_points_of_a_grid_are_listed_in_its_order(tmp_path: Path) -> None:
    plan = planned(tmp_path, parameters=RATES, seeds=[4, 5])

    assert [(point.params[RATE], point.seed) for point in plan.listed] == [
        (rate, seed) for rate in (0.1, 0.01, 0.001) for seed in (4, 5)
    ]
