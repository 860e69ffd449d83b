"""From a sweep's file to a sweep that is ready to be run: every point that can be known beforehand is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoexperiment.errors import LabError, UsageError
from autoexperiment.failure import clean
from autoexperiment.goals import known_goal
from autoexperiment.paths import OutputPaths, SweepPaths
from autoexperiment.sweep import halving, launching, samplers, tallies, work
from autoexperiment.sweep.book import Contents
from autoexperiment.sweep.engine import Job
from autoexperiment.sweep.halving import Rung
from autoexperiment.sweep.launching import Launch, Where
from autoexperiment.sweep.points import Point
from autoexperiment.sweep.space import Space
from autoexperiment.sweep.tallies import Tally
from autoexperiment.vocabulary import Goal

if TYPE_CHECKING:
    from autoexperiment.config.sweep_document import SweepConfig

MOST_FAULTS = 10
LONGEST_SHOWN = 200


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that was checked.

    Attributes:
        trials: how many there are at most.
        listed: the points that are known beforehand, each once; where a sampler learns from results, those that it
            has asked for, and its first.
        tally: how many there are in all, at most, and how many are still to be run.
        repeats: points that are left out, the same as others in all that decides what comes out.
    """

    config: SweepConfig
    launch: Launch
    trials: int
    listed: tuple[Point, ...]
    tally: Tally
    repeats: int

    @property
    def first(self) -> Point:
        return self.listed[0]

    @property
    def points(self) -> int:
        """How many processes there are in all, at most."""
        return sum(self.tally.planned)

    @property
    def left(self) -> int:
        return sum(self.tally.left)

    @property
    def slots(self) -> int | None:
        """How many points run side by side; None: as many as the cluster's workers take."""
        return self.launch.where.max_parallel


def make_plan(
    config: SweepConfig,
    *,
    root: Path,
    where: Where | None = None,
    is_resumed: bool = False,
    retries_failed: bool = False,
) -> SweepPlan:
    """Look at everything that running a sweep needs; nothing is written, and nothing is run.

    Args: where: its `max_parallel` takes the place of the file's.
    Raises: LabError: with what is wrong, for up to 10 points. Refused, Locked: as `launching.run`.
    """
    where = where or Where()
    where = Where(where.executor, where.address, where.max_parallel or config.max_parallel)
    doing = work.make(config.kind, config.base, root=root, options=_options(config))
    metric, goal = _metric(config, doing.metric)
    folder = OutputPaths(Path(config.output)).experiment(config.name)
    known = launching.contents(SweepPaths(root / folder))
    sampler = _sampler(config, goal)
    asked = _asked(sampler, known)
    total = max(sampler.total, len(known.asked)) if sampler.is_adaptive else len(asked)
    job = Job(
        doing, root, str(folder), seeds=config.replicates, metric=metric, goal=goal, rungs=_rungs(config, total),
        resource=config.halving.resource if config.halving else "", timeout_s=config.timeout_s,
        retries_failed=retries_failed,
    )  # fmt: skip
    points = _checked(job, asked)
    listed = _distinct(points)
    where = where.fitted(is_clocked=any(doing.is_clocked(point.config) for point in listed))
    job = replace(job, threads=launching.blas_threads(where.max_parallel))
    tally = tallies.planned(job, listed, known.ended, trials=total if sampler.is_adaptive else None)
    new_sampler = partial(_sampler, config, goal) if sampler.is_adaptive else partial(samplers.ListedSampler, asked)
    launch = Launch(job, _definition(config, job, tally), new_sampler, where, is_resumed)
    launching.check(launch, known)
    repeats = len([point for point in points if not point.rung]) - len([point for point in listed if not point.rung])
    return SweepPlan(config, launch, total, listed, tally, repeats)


def _options(config: SweepConfig) -> dict[str, Any]:
    """What the kind of work is told besides its base."""
    if config.kind == "experiment":
        if config.options:
            raise UsageError(
                f"'options' is {config.options}, and experiments have none. Leave it out; 'evaluate', 'output' and "
                "'seed_paths' are fields of their own."
            )
        own = {"name": config.name, "directory": config.output, "evaluate": config.evaluate}
        return {**own, "seed_paths": config.seed_paths}
    if config.seed_paths and (config.kind == "gpt" or len(config.seed_paths) > 1):
        raise UsageError(
            f"'seed_paths' of {config.kind} is {config.seed_paths}. Allowed: one path for a workflow, none for gpt, whose "
            "seed is its own."
        )
    if config.kind == "gpt":
        return dict(config.options)
    return {**config.options, "workflow": config.workflow, "seed_path": (config.seed_paths or [""])[0]}


def _metric(config: SweepConfig, usual: str) -> tuple[str, Goal]:
    """What the sweep goes by, "" for nothing; a goal that nobody named is that of the known metric."""
    metric = config.metric or usual
    return metric, config.direction or known_goal(metric) or Goal.MINIMIZE


def _rungs(config: SweepConfig, trials: int) -> tuple[Rung, ...]:
    if config.halving is None:
        return ()
    least, most = config.halving.bounds
    return halving.rungs(least, most, factor=config.halving.factor, trials=trials)


def _sampler(config: SweepConfig, goal: Goal) -> samplers.Sampler:
    chosen, space = config.sampler, Space.of(config.parameters)
    return samplers.make_sampler(chosen.name, space, trials=chosen.trials, seed=chosen.seed, goal=goal)


def _asked(sampler: samplers.Sampler, known: Contents) -> list[samplers.Params]:
    """The trials that are known beforehand: all of them, or of a sampler that learns, its first and what it asked for."""
    if sampler.is_adaptive:
        first = sampler.ask()
        return known.asked if first is None or first in known.asked else [*known.asked, first]
    asked = []
    while (params := sampler.ask()) is not None:
        asked.append(params)
    return asked


def _checked(job: Job, asked: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The points of these trials, on every rung. Raises: LabError: some of them are not sound."""
    points, faults = [], []
    for number, params in enumerate(asked, start=1):
        for rung in range(len(job.rungs) or 1):
            try:
                points += job.points(number, params, rung=rung)
            except LabError as error:
                faults.append(f"trial {number} ({_shown(params)}): {error}")
                break
        if len(faults) == MOST_FAULTS:
            break
    if faults:
        raise LabError("These trials can't be run; nothing was started.\n  - " + "\n  - ".join(faults))
    return points


def _distinct(points: Sequence[Point]) -> tuple[Point, ...]:
    found: dict[str, Point] = {}
    for point in points:
        found.setdefault(point.key, point)
    return tuple(found.values())


def _shown(params: Mapping[str, Any]) -> str:
    words = ", ".join(f"{path}={value}" for path, value in params.items())
    return clean(words, LONGEST_SHOWN) or "the base itself"


def _definition(config: SweepConfig, job: Job, tally: Tally) -> dict[str, Any]:
    going_by = {"metric": job.metric, "goal": str(job.goal) if job.metric else ""}
    return {**config.to_json(), **going_by, **tally.to_json([rung.resource for rung in job.rungs])}
