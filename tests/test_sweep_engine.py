"""The engine of sweeps, with work that is computed at once: what is run, what is written down, what the sampler hears."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from autoexperiment import dotpaths
from autoexperiment.errors import LabError
from autoexperiment.paths import SweepPaths
from autoexperiment.supervisor import Signals
from autoexperiment.sweep.book import Book, Row
from autoexperiment.sweep.engine import Engine, Job, Quiet
from autoexperiment.sweep.halving import rungs
from autoexperiment.sweep.points import Order, Point, Result
from autoexperiment.sweep.samplers import GridSampler, Sampler, make_sampler
from autoexperiment.sweep.space import Range, Space, Values
from autoexperiment.vocabulary import Goal, RunStatus

GRID = Space({"b": Values((3, 1, 2)), "a": Values((10, 20))})
LINE = Space({"a": Range(-10.0, 10.0)})


@dataclass(frozen=True)
class Toy:
    """Work whose configuration is flat."""

    kind: str = "toy"
    metric: str = "loss"
    options: Mapping[str, Any] = field(default_factory=dict)

    def resolve(self, params: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
        return dotpaths.replaced({"a": 1.0, "b": 1, "steps": 1, "seed": 0}, {**params, "seed": seed or 0})

    def identity(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in config.items() if name != "label"}

    def is_clocked(self, config: Mapping[str, Any]) -> bool:
        return False

    def expected_s(self, config: Mapping[str, Any]) -> float | None:
        return None


def parabola(order: Order) -> Result | Exception:
    """(a - 3)² + b, smaller with more steps; nothing random."""
    config = order.point.config
    value = (config["a"] - 3) ** 2 + config["b"] + 0.5 * config["seed"] - 0.01 * config["steps"]
    return Result(RunStatus.COMPLETED, {"loss": value}, {"loss": "recomputed"}, run_dir="outputs/s/x", seconds=1.0)


class Killed(BaseException):
    """The process is gone."""


@dataclass
class AtOnce:
    """An executor that computes when it is asked for results, the latest order first: nothing may depend on order."""

    compute: Callable[[Order], Result | Exception] = parabola
    slots: int = 1
    dies_after: int = 10**9
    was_stopped: bool = False
    orders: list[Order] = field(default_factory=list)
    waiting: list[Order] = field(default_factory=list)

    def submit(self, order: Order) -> None:
        if len(self.orders) == self.dies_after:
            raise Killed
        self.orders.append(order)
        self.waiting.append(order)

    def wait(self, timeout_s: float) -> Sequence[tuple[Order, Result | Exception]]:
        order = self.waiting.pop()
        if self.was_stopped:
            return [(order, Result(RunStatus.INTERRUPTED))]
        return [(order, self.compute(order))]

    def stop(self) -> None:
        self.was_stopped = True

    def close(self) -> None: ...

    @property
    def params(self) -> list[dict[str, Any]]:
        return [dict(order.point.params) for order in self.orders]


@dataclass
class Hearing(Quiet):
    notes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def ended(self, row: Row) -> None:
        self.rows.append(row)

    def note(self, text: str) -> None:
        self.notes.append(text)


@contextmanager
def open_book(folder: Path) -> Iterator[Book]:
    with Book.open(SweepPaths(folder)) as book:
        yield book


def sweep(
    folder: Path,
    executor: AtOnce,
    *,
    sampler: Callable[[], Sampler] = lambda: GridSampler(GRID),
    signals: Signals | None = None,
    hearing: Hearing | None = None,
    **job: Any,
) -> list[Row]:
    """Run a sweep and give its rows; a Killed ends it as kill -9 would."""
    whole = Job(Toy(), folder, "s", **job)
    with open_book(folder) as book:
        engine = Engine(
            whole, new_sampler=sampler, book=book, executor=executor, signals=signals or Signals(),
            observer=hearing or Hearing(),
        )  # fmt: skip
        with suppress(Killed):
            engine.run()
        return book.contents.rows


def numbers(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    return [(row["number"], row["trial"], row["rung"], row["seed"], row["params"], row["metrics"]) for row in rows]


# ---- what is run


def test_grid_is_run_once_each_in_its_order(tmp_path: Path) -> None:
    executor = AtOnce(slots=2)

    rows = sweep(tmp_path, executor)

    wanted = [{"b": b, "a": a} for b in (3, 1, 2) for a in (10, 20)]
    assert [row["params"] for row in rows] == wanted == executor.params
    assert [list(row["params"]) for row in rows] == [["b", "a"]] * 6  # in the file's order, not the alphabet's
    assert [row["number"] for row in rows] == [row["trial"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_each_seed_is_a_point_of_its_own(tmp_path: Path) -> None:
    rows = sweep(tmp_path, AtOnce(slots=3), seeds=(7, 8))

    assert [(row["trial"], row["seed"]) for row in rows] == [(t, s) for t in range(1, 7) for s in (7, 8)]
    assert len({row["key"] for row in rows}) == 12


def test_points_that_are_the_same_are_run_once(tmp_path: Path) -> None:
    space = Space({"label": Values(("x", "y")), "a": Values((1, 2))})
    executor = AtOnce()

    rows = sweep(tmp_path, executor, sampler=lambda: GridSampler(space))

    assert [order.point.config["a"] for order in executor.orders] == [1, 2]
    assert len(rows) == 2


def test_no_more_points_run_than_there_are_slots(tmp_path: Path) -> None:
    most = []

    class Watched(AtOnce):
        def wait(self, timeout_s: float) -> Any:
            most.append(len(self.waiting))
            return super().wait(timeout_s)

    sweep(tmp_path, Watched(slots=4))

    assert max(most) == 4


# ---- what goes wrong


def test_failed_point_is_a_row_and_the_rest_is_run(tmp_path: Path) -> None:
    def fails(order: Order) -> Result | Exception:
        if order.point.params == {"b": 1, "a": 20}:
            return Result(RunStatus.FAILED, reason="It broke.")
        return parabola(order)

    rows = sweep(tmp_path, AtOnce(fails))

    assert [row["status"] for row in rows] == ["completed"] * 3 + ["failed"] + ["completed"] * 2
    assert (rows[3]["reason"], rows[3]["metrics"]) == ("It broke.", {})


def test_fault_of_the_machine_ends_the_sweep_and_what_runs(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    executor = AtOnce(lambda order: full if order.point.config["a"] == 20 else parabola(order), slots=3)

    with pytest.raises(LabError, match=r"could not be run: No space left on device.*--resume"):
        sweep(tmp_path, executor)

    assert executor.was_stopped
    assert not executor.waiting
    assert all(row["status"] == "completed" for row in sweep(tmp_path, AtOnce()))


def test_fault_of_this_program_is_a_failed_point(tmp_path: Path) -> None:
    rows = sweep(
        tmp_path, AtOnce(lambda order: ZeroDivisionError("x") if order.point.config["b"] == 1 else parabola(order))
    )

    assert [row["status"] for row in rows] == ["completed"] * 2 + ["failed"] * 2 + ["completed"] * 2
    assert rows[2]["reason"] == "A fault of this program: ZeroDivisionError: x"


def test_point_that_is_stopped_from_outside_is_run_again_and_at_last_failed(tmp_path: Path) -> None:
    executor = AtOnce(lambda order: Result(RunStatus.INTERRUPTED, reason="The machine slept."))

    rows = sweep(tmp_path, executor, sampler=lambda: GridSampler(Space({"a": Values((1,))})))

    assert len(executor.orders) == 3
    assert [(row["status"], row["reason"]) for row in rows] == [("failed", "The machine slept.")]


def test_metric_that_no_point_has_ends_a_sweep_that_goes_by_it(tmp_path: Path) -> None:
    first, again = AtOnce(), AtOnce()

    for executor in (first, again):
        with pytest.raises(LabError, match=r"Unknown metric 'los'.*Did you mean 'loss'"):
            sweep(tmp_path, executor, sampler=lambda: Told([{"a": 3}, {"a": 4}]), metric="los")

    assert (len(first.orders), len(again.orders)) == (1, 0)


def test_metric_that_no_point_has_does_not_end_a_grid(tmp_path: Path) -> None:
    assert len(sweep(tmp_path, AtOnce(), metric="los")) == 6


def test_long_parameters_are_refused_before_they_are_run(tmp_path: Path) -> None:
    executor = AtOnce()

    with pytest.raises(LabError, match="longer than 4000 characters"):
        sweep(tmp_path, executor, sampler=lambda: GridSampler(Space({"a": Values(("x" * 5000,))})))

    assert not executor.orders


def test_signal_stops_the_sweep_and_what_ended_is_kept(tmp_path: Path) -> None:
    signals = Signals()

    def ends(order: Order) -> Result | Exception:
        if len(executor.orders) == 3:
            signals.end()
        return parabola(order) if not signals.received else Result(RunStatus.INTERRUPTED)

    executor = AtOnce(ends)

    rows = sweep(tmp_path, executor, signals=signals)

    assert len(rows) == 2
    assert len(executor.orders) == 3


# ---- going on


@pytest.mark.parametrize("done", range(7))
def test_killed_sweep_goes_on_with_the_rest_only(tmp_path: Path, done: int) -> None:
    whole = sweep(tmp_path / "whole", AtOnce())
    before = AtOnce(dies_after=done)
    sweep(tmp_path / "killed", before)

    after = AtOnce()
    rows = sweep(tmp_path / "killed", after)

    assert numbers(rows) == numbers(whole)
    assert len(before.orders) + len(after.orders) == 6


def test_larger_grid_adds_its_points_and_keeps_the_numbers(tmp_path: Path) -> None:
    before = sweep(tmp_path, AtOnce())
    larger = Space({"b": Values((9, 3, 1, 2)), "a": Values((10, 20))})
    executor = AtOnce()

    rows = sweep(tmp_path, executor, sampler=lambda: GridSampler(larger))

    assert executor.params == [{"b": 9, "a": 10}, {"b": 9, "a": 20}]
    assert numbers(rows[:6]) == numbers(before)
    assert [(row["number"], row["trial"]) for row in rows[6:]] == [(7, 7), (8, 8)]


def test_failed_points_are_run_again_only_when_that_is_asked_for(tmp_path: Path) -> None:
    sweep(tmp_path, AtOnce(lambda order: Result(RunStatus.FAILED) if order.point.config["b"] == 1 else parabola(order)))

    left = AtOnce()
    sweep(tmp_path, left)
    again = AtOnce()
    rows = sweep(tmp_path, again, retries_failed=True)

    assert not left.orders
    assert again.params == [{"b": 1, "a": 10}, {"b": 1, "a": 20}]
    assert all(order.is_retry for order in again.orders)
    assert [row["status"] for row in rows] == ["completed"] * 6


# ---- samplers that learn


def learner(trials: int = 12, seed: int = 3) -> Callable[[], Sampler]:
    pytest.importorskip("optuna")
    return lambda: make_sampler("tpe", LINE, trials=trials, seed=seed, goal=Goal.MINIMIZE)


@pytest.mark.parametrize("done", [0, 1, 5, 11])
def test_killed_learner_goes_on_as_if_it_had_not_been(tmp_path: Path, done: int) -> None:
    whole = sweep(tmp_path / "whole", AtOnce(), sampler=learner(), metric="loss")
    sweep(tmp_path / "killed", AtOnce(dies_after=done), sampler=learner(), metric="loss")

    hearing = Hearing()
    rows = sweep(tmp_path / "killed", AtOnce(), sampler=learner(), metric="loss", hearing=hearing)

    assert numbers(rows) == numbers(whole)
    assert len(rows) == 12
    assert not hearing.notes


def test_learner_that_would_choose_otherwise_goes_on_from_what_is_there(tmp_path: Path) -> None:
    before = sweep(tmp_path, AtOnce(dies_after=8), sampler=learner(), metric="loss")

    hearing = Hearing()
    rows = sweep(tmp_path, AtOnce(), sampler=learner(seed=4), metric="loss", hearing=hearing)

    assert [row["params"] for row in rows[: len(before)]] == [row["params"] for row in before]
    assert len(rows) == 12
    assert "would choose otherwise" in hearing.notes[0]


@dataclass
class Told:
    """A sampler that writes down what it is told."""

    left: list[dict[str, Any]]
    told: list[tuple[int, float | None]] = field(default_factory=list)
    is_adaptive: bool = True
    total: int | None = None

    def ask(self) -> dict[str, Any] | None:
        return self.left.pop(0) if self.left else None

    def tell(self, trial: int, value: float | None) -> None:
        self.told.append((trial, value))

    def restore(self, asked: Any, told: Any) -> None: ...


def test_sampler_hears_the_mean_over_seeds_and_nothing_of_a_trial_with_a_failed_one(tmp_path: Path) -> None:
    sampler = Told([{"a": 3}, {"a": 4}])

    def fails(order: Order) -> Result | Exception:
        is_bad = order.point.config["a"] == 4 and order.point.seed == 2
        return replace(parabola(order), metrics={"loss": None}) if is_bad else parabola(order)  # type: ignore[type-var]

    sweep(tmp_path, AtOnce(fails), sampler=lambda: sampler, metric="loss", seeds=(1, 2))

    # (3 - 3)² + 1 + 0.5 * seed - 0.01: 1.49 and 1.99
    assert sampler.told == [(1, pytest.approx(1.74)), (2, None)]


# ---- successive halving


def halved(folder: Path, executor: AtOnce, hearing: Hearing | None = None) -> list[Row]:
    space = Space({"a": Values((9, 8, 7, 6, 5, 4, 3, 2))})
    steps = rungs(1, 9, factor=3, trials=8)
    return sweep(
        folder, executor, sampler=lambda: GridSampler(space), metric="loss", rungs=steps, resource="steps",
        hearing=hearing,
    )  # fmt: skip


def test_best_trials_go_on_with_more(tmp_path: Path) -> None:
    rows = halved(tmp_path, AtOnce(slots=2))

    by_rung = {rung: sorted(row["params"]["a"] for row in rows if row["rung"] == rung) for rung in (0, 1, 2)}
    # 8 trials; 8 // 3, of 2 and 4, which are equal, the earlier; then one
    assert by_rung == {0: [2, 3, 4, 5, 6, 7, 8, 9], 1: [3, 4], 2: [3]}
    assert [row["params"]["steps"] for row in rows if row["params"]["a"] == 3] == [1, 3, 9]
    assert len({row["trial"] for row in rows if row["params"]["a"] == 3}) == 1


def test_failed_trial_does_not_go_on(tmp_path: Path) -> None:
    rows = halved(
        tmp_path, AtOnce(lambda order: Result(RunStatus.FAILED) if order.point.config["a"] == 3 else parabola(order))
    )

    assert [row["params"]["a"] for row in rows if row["rung"] == 2] == [4]
    assert [row["rung"] for row in rows if row["params"]["a"] == 3] == [0]


@pytest.mark.parametrize("done", [0, 5, 8, 9, 10])
def test_killed_halving_goes_on_with_the_rest_only(tmp_path: Path, done: int) -> None:
    whole = halved(tmp_path / "whole", AtOnce())
    before = AtOnce(dies_after=done)
    halved(tmp_path / "killed", before)

    after = AtOnce()
    rows = halved(tmp_path / "killed", after)

    assert numbers(rows) == numbers(whole)
    assert len(before.orders) + len(after.orders) == len(whole)


# ---- what is written down


def test_point_of_the_book_says_what_decides_it(tmp_path: Path) -> None:
    hearing = Hearing()

    rows = sweep(
        tmp_path, AtOnce(), sampler=lambda: GridSampler(Space({"a": Values((5,))})), seeds=(4,), hearing=hearing
    )

    job = Job(Toy(), tmp_path, "s", seeds=(4,))
    point: Point = job.points(1, {"a": 5})[0]
    assert rows == hearing.rows
    assert rows[0] == {
        "number": 1, "trial": 1, "rung": 0, "seed": 4, "params": {"a": 5}, "status": "completed",
        "metrics": {"loss": 4 + 1 + 2 - 0.01}, "trust": {"loss": "recomputed"}, "reason": "",
        "run_dir": "outputs/s/x", "seconds": 1.0, "key": point.key,
    }  # fmt: skip
