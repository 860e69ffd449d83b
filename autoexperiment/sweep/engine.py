"""Runs a sweep: asks for trials, gives their points to an executor, writes down how they ended, and tells the sampler.

What the book says is never run again. Where the sampler learns from results, the book's events are gone through with it
first, so that a sweep that was killed goes on as if it had not been.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from autoexperiment import failpoint
from autoexperiment.errors import LabError, unknown
from autoexperiment.files import dump_json
from autoexperiment.supervisor import Signals
from autoexperiment.sweep import halving
from autoexperiment.sweep.book import Book, Ended, Row
from autoexperiment.sweep.halving import Rung
from autoexperiment.sweep.points import LONGEST_PARAMS, Order, Point, Result, key_of
from autoexperiment.sweep.pool import Executor
from autoexperiment.sweep.samplers import Sampler
from autoexperiment.sweep.work import Work
from autoexperiment.vocabulary import Goal, RunStatus

TICK_S = 0.2
TRIES = 3  # of a point that something other than this sweep stops


class Observer(Protocol):
    """What a front end hears of a sweep."""

    def begun(self, point: Point) -> None: ...
    def ended(self, row: Row) -> None: ...
    def tick(self) -> None: ...
    def note(self, text: str) -> None: ...


class Quiet:
    """An observer that shows nothing."""

    def begun(self, point: Point) -> None: ...
    def ended(self, row: Row) -> None: ...
    def tick(self) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Job:
    """What a sweep runs.

    Attributes:
        root: the workspace. `folder`: of the sweep's runs, relative to it.
        seeds: of the replicates of each trial; (None,): one, with the configuration's own.
        metric: what the sampler and halving go by; "" where neither needs one.
        rungs: of successive halving, the cheapest first; () without.
        resource: the dot path that a rung sets.
        timeout_s: of each point. `threads`: of each point's BLAS.
        retries_failed: run points again that failed before.
    """

    work: Work
    root: Path
    folder: str
    seeds: Sequence[int | None] = (None,)
    metric: str = ""
    goal: Goal = Goal.MINIMIZE
    rungs: Sequence[Rung] = ()
    resource: str = ""
    timeout_s: float | None = None
    threads: int | None = None
    retries_failed: bool = False
    _made: dict[tuple[str, int], list[Point]] = field(default_factory=dict, repr=False, compare=False)

    def points(self, trial: int, params: Mapping[str, Any], *, rung: int = 0) -> list[Point]:
        """The points of a trial, one for each seed; their numbers are given when they are run.

        Put together and checked once: a plan asks for them, and then whoever runs it.
        Raises: LabError: a configuration is not sound.
        """
        asked = (dump_json(params, indent=None), rung)
        if asked not in self._made:
            self._made[asked] = self._put_together(trial, params, rung)
        return [replace(point, trial=trial) for point in self._made[asked]]

    def _put_together(self, trial: int, params: Mapping[str, Any], rung: int) -> list[Point]:
        whole = {**params, self.resource: self.rungs[rung].resource} if self.rungs else dict(params)
        return [self._point(trial, whole, seed, rung) for seed in self.seeds]

    def _point(self, trial: int, params: Mapping[str, Any], seed: int | None, rung: int) -> Point:
        if len(json.dumps(params)) > LONGEST_PARAMS:
            raise LabError(
                f"The parameters of trial {trial} are longer than {LONGEST_PARAMS} characters. Put long values into files "
                "and name these."
            )
        config = self.work.resolve(params, seed)
        return Point(0, trial, params, seed, config, key_of(self.work.kind, self.work.identity(config)), rung)


@dataclass(frozen=True)
class _Trial:
    """A trial that was asked for. `index`: from 1, in the order of asking; `number`: what rows call it."""

    index: int
    number: int
    params: Mapping[str, Any]
    keys: tuple[str, ...]


class _Numbers:
    """Numbers for things that have some already: each keeps its own, a new one gets the smallest that is free."""

    def __init__(self, known: Mapping[str, int]) -> None:
        self._of = dict(known)
        used = set(known.values())
        self._free = (number for number in itertools.count(1) if number not in used)

    def of(self, thing: str) -> int:
        if thing not in self._of:
            self._of[thing] = next(self._free)
        return self._of[thing]


class _Before:
    """Stands in for a sampler while the book's events are gone through: proposes what was proposed then."""

    is_adaptive = True

    def __init__(self, asked: Sequence[dict[str, Any]]) -> None:
        self.asked = asked
        self.told: dict[int, float | None] = {}
        self.total = len(self.asked)
        self._left = iter(self.asked)

    def ask(self) -> dict[str, Any] | None:
        return next(self._left, None)

    def tell(self, trial: int, value: float | None) -> None:
        self.told[trial] = value

    def restore(self, asked: Sequence[Mapping[str, Any]], told: Mapping[int, float | None]) -> None:
        """Its trials are those of the book already."""


class Engine:
    """One sweep while it runs."""

    def __init__(
        self,
        job: Job,
        *,
        new_sampler: Callable[[], Sampler],
        book: Book,
        executor: Executor,
        signals: Signals,
        observer: Observer | None = None,
    ) -> None:
        """Args: new_sampler: makes the sampler, as it is before anything was asked."""
        self.job, self.book, self.executor, self.signals = job, book, executor, signals
        self._new_sampler = new_sampler
        self.sampler = new_sampler()
        self.observer = observer or Quiet()
        ended = book.contents.ended
        self._trial_numbers = _Numbers({self._params_text(point.params): point.trial for point in ended.values()})
        self._point_numbers = _Numbers({key: point.number for key, point in ended.items()})
        self._known: dict[str, Ended] = {}  # points whose end the sampler may know of
        self._queue: dict[str, Point] = {}
        self._running: dict[str, Point] = {}
        self._open: list[_Trial] = []
        self._stops: Counter[str] = Counter()
        self._asked = 0
        self.begun: dict[str, int] = {}  # the rung of each point that is wanted, by key

    def run(self) -> bool:
        """Run what is left; False: a signal stopped it.

        Raises: what kept a point from being run or recorded; all other points were ended first, and nothing is lost.
        """
        for ended in self.book.contents.ended.values():
            self._check_metric(ended)
        try:
            trials = self._all_trials()
            for rung in range(1, len(self.job.rungs)):
                trials = self._next_rung(trials, rung)
        except BaseException:
            self._end_all()
            raise
        return not self.signals.received

    # ---- trials

    def _all_trials(self) -> list[_Trial]:
        """Run every trial that the sampler asks for; returns them."""
        if self.sampler.is_adaptive:
            trials = self._replayed()
        else:
            trials, self._known = [], self._settled()
        while not self.signals.received:
            while len(self._queue) + len(self._running) < self.executor.slots and (trial := self._ask()):
                trials.append(trial)
            if not self._step():
                break
        self._drain()
        return trials

    def _settled(self) -> dict[str, Ended]:
        """The points of the book that are not to be run again."""
        ended = self.book.contents.ended
        return {key: point for key, point in ended.items() if point.result.is_ok or not self.job.retries_failed}

    def _replayed(self) -> list[_Trial]:
        """Let the sampler see what it saw before, in the same order; returns the trials that it had proposed.

        Where it now proposes something else (its library has changed, or the space), it is only given what was asked and
        what came out.
        """
        if self.job.retries_failed:
            self.observer.note("Failed points are not run again: the sampler has learned from them.")
        trials = self._went_through()
        if [trial.params for trial in trials] == self.book.contents.asked:
            return trials
        self.observer.note(
            "The sampler would choose otherwise than it did; it goes on from the results that are there."
        )
        self._known, self._queue, self._open, self._asked, self.begun = {}, {}, [], 0, {}
        before = _Before(self.book.contents.asked)
        self.sampler = before
        trials = self._went_through()
        self.sampler = self._new_sampler()
        self.sampler.restore(before.asked, before.told)
        return trials

    def _went_through(self) -> list[_Trial]:
        """Go through the book's events once, until the sampler proposes something else than it did."""
        trials = []
        for event in self.book.contents.events:
            if isinstance(event, str):
                self._know(self.book.contents.ended[event])
                continue
            params = self.sampler.ask()
            if params is None:
                break
            trials.append(self._begin_asked(params))
            if params != event:
                break
        return trials

    def _next_rung(self, trials: Sequence[_Trial], rung: int) -> list[_Trial]:
        """Run the best trials of the rung before with more of the resource; returns them."""
        if self.signals.received:
            return []
        values = {trial.number: self._value(trial) for trial in trials}
        wanted = self.job.rungs[rung]
        promoted = halving.promote(values, wanted.trials, self.job.goal)
        chosen = [trial for trial in trials if trial.number in promoted]
        self.observer.note(
            f"Rung {rung + 1} of {len(self.job.rungs)}: {len(chosen)} of {len(trials)} trials go on with "
            f"{self.job.resource} {wanted.resource:g}."
        )
        again = [self._begin(trial.index, trial.number, trial.params, rung=rung) for trial in chosen]
        while not self.signals.received and self._step():
            pass
        self._drain()
        return again

    def _ask(self) -> _Trial | None:
        """The sampler's next trial, begun; None: it has none to give now."""
        params = self.sampler.ask()
        if params is None:
            return None
        if self.sampler.is_adaptive:
            self.book.ask(params)
            failpoint.reach("sweep.asked")
        return self._begin_asked(params)

    def _begin_asked(self, params: Mapping[str, Any]) -> _Trial:
        self._asked += 1
        return self._begin(self._asked, self._trial_numbers.of(self._params_text(params)), params)

    def _params_text(self, params: Mapping[str, Any]) -> str:
        """What tells trials apart: their parameters without the resource that a rung sets."""
        return dump_json({name: value for name, value in params.items() if name != self.job.resource}, indent=None)

    def _begin(self, index: int, number: int, params: Mapping[str, Any], *, rung: int = 0) -> _Trial:
        """Queue the points of a trial that are neither known nor on their way."""
        points = self.job.points(number, params, rung=rung)
        trial = _Trial(index, number, params, tuple(point.key for point in points))
        for point in points:
            self.begun[point.key] = rung
            if point.key not in self._known and point.key not in self._running:
                self._queue.setdefault(point.key, point)
        self._open.append(trial)
        self._close_trials()
        return trial

    def _close_trials(self) -> None:
        """Tell the sampler of the trials whose points are all known."""
        done = [trial for trial in self._open if all(key in self._known for key in trial.keys)]
        for trial in done:
            self._open.remove(trial)
            if not self.job.rungs:
                self.sampler.tell(trial.index, self._value(trial))

    def _value(self, trial: _Trial) -> float | None:
        """The mean of the metric over a trial's points; None when one of them has none."""
        results = [self._known[key].result for key in trial.keys if key in self._known]
        values = [result.metrics.get(self.job.metric) for result in results if result.is_ok]
        numbers = [value for value in values if value is not None]
        return statistics.fmean(numbers) if len(numbers) == len(trial.keys) else None

    # ---- points

    def _step(self) -> bool:
        """Start what there is room for, and take in what has ended; False: there is nothing left."""
        while self._queue and len(self._running) < self.executor.slots:
            self._submit(self._queue.pop(next(iter(self._queue))))
        if not self._running:
            return False
        for order, result in self.executor.wait(TICK_S):
            self._take(self._running.pop(order.point.key), result)
        self.observer.tick()
        return True

    def _submit(self, point: Point) -> None:
        point = replace(point, number=self._point_numbers.of(point.key))
        job = self.job
        order = Order(
            job.work.kind, point, str(job.root), job.folder, job.timeout_s, job.threads, job.retries_failed,
            job.work.options,
        )  # fmt: skip
        self.executor.submit(order)
        self._running[point.key] = point
        self.observer.begun(point)

    def _take(self, point: Point, result: Result | Exception) -> None:
        """Write down how a point ended, unless it was stopped.

        Raises: LabError: the machine kept it from being run, and would do the same to others.
        """
        if isinstance(result, OSError):
            place = f" ({result.filename})" if result.filename else ""
            raise LabError(
                f"Point {point.number} could not be run: {result.strerror or result}{place}. Nothing that was recorded is "
                "lost. Mend that, and go on: --resume"
            ) from result
        if isinstance(result, Exception):
            result = Result(
                RunStatus.FAILED, reason=f"A fault of this program: {type(result).__name__}: {result}"
            ).sound()
        if result.status is RunStatus.INTERRUPTED:
            if self.signals.received:
                return
            self._stops[point.key] += 1
            if self._stops[point.key] < TRIES:
                self.observer.note(f"Point {point.number} was stopped from outside and is run again. {result.reason}")
                self._queue[point.key] = point
                return
            result = replace(result, status=RunStatus.FAILED)
        ended = self.book.end(point, result)
        failpoint.reach("sweep.recorded")
        self.observer.ended(ended.row())
        self._check_metric(ended)
        self._know(ended)

    def _know(self, ended: Ended) -> None:
        self._known[ended.key] = ended
        self._queue.pop(ended.key, None)
        self._close_trials()

    def _check_metric(self, ended: Ended) -> None:
        """Raises: LabError: a point lacks the metric that the sampler or halving goes by, so that no other has it."""
        metrics = ended.result.metrics
        needs_it = self.sampler.is_adaptive or self.job.rungs
        if needs_it and ended.result.is_ok and self.job.metric not in metrics:
            raise LabError(
                f"{unknown('metric', self.job.metric, metrics, where=f'point {ended.number}')} The sweep goes by it, so it "
                "ends here. Name another one with 'metric', and go on: --resume"
            )

    def _drain(self) -> None:
        """After a signal: take in the points that still run."""
        while self._running and self.signals.received:
            for order, result in self.executor.wait(TICK_S):
                self._take(self._running.pop(order.point.key), result)

    def _end_all(self) -> None:
        """End what runs, without writing anything down."""
        self.executor.stop()
        while self._running:
            try:
                for order, _ in self.executor.wait(TICK_S):
                    self._running.pop(order.point.key, None)
            except LabError:  # the first error is the one that is told
                return
