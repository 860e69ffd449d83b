"""From a sweep's file to a sweep that is ready to be run: every point that can be known beforehand is checked."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoexperiment.errors import LabError, UsageError
from autoexperiment.goals import known_goal
from autoexperiment.paths import OutputPaths
from autoexperiment.sweep import book, halving, launching, samplers, work
from autoexperiment.sweep.engine import Job
from autoexperiment.sweep.halving import Rung
from autoexperiment.sweep.launching import Launch, Where
from autoexperiment.sweep.points import Point
from autoexperiment.sweep.space import Space
from autoexperiment.vocabulary import Goal

if TYPE_CHECKING:
    from autoexperiment.config.sweep_document import SweepConfig

MOST_FAULTS = 10


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that was checked.

    Attributes:
        trials: how many there are at most. `points`: how many processes in all, at most.
        first: the first point; what it takes stands for the others.
        left: points that are still to be run.
    """

    config: SweepConfig
    launch: Launch
    trials: int
    points: int
    first: Point
    left: int


@dataclass(frozen=True)
class Estimate:
    """How long a sweep takes. `seconds`: None where that can't be told; `basis`: what it was told by."""

    seconds: float | None
    basis: str


def make_plan(
    config: SweepConfig, *, root: Path, where: Where | None = None, is_resumed: bool = False, retries_failed: bool = False
) -> SweepPlan:
    """Look at everything that running a sweep needs; nothing is written, and nothing is run.

    Args: where: its `max_parallel` takes the place of the file's.
    Raises: LabError: with what is wrong, for up to 10 points.
    """
    where = where or Where()
    where = Where(where.executor, where.address, where.max_parallel or config.max_parallel)
    doing = work.make(config.kind, config.base, root=root, options=_options(config))
    metric, goal = _metric(config, doing.metric)
    rungs = _rungs(config)
    job = Job(
        doing, root, str(OutputPaths(Path(config.output)).experiment(config.name)), seeds=config.replicates,
        metric=metric, goal=goal, rungs=rungs, resource=config.halving.resource if config.halving else "",
        timeout_s=config.timeout_s, threads=launching.blas_threads(where.slots(is_clocked=doing.is_clocked)),
        retries_failed=retries_failed,
    )  # fmt: skip
    points = _checked(config, job)
    keys = dict.fromkeys(point.key for point in points)
    planned = _planned(config, job, len(keys))
    launch = Launch(job, _definition(config, metric, goal, planned), lambda: _sampler(config, goal), where, is_resumed)
    return SweepPlan(config, launch, config.trials, planned, points[0], planned - _known(launch, keys))


def _options(config: SweepConfig) -> dict[str, Any]:
    """What the kind of work is told besides its base."""
    if config.kind == "experiment":
        own = {"name": config.name, "directory": config.output, "evaluate": config.evaluate}
        return {**config.options, **own, "seed_paths": config.seed_paths}
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


def _rungs(config: SweepConfig) -> tuple[Rung, ...]:
    if config.halving is None:
        return ()
    least, most = config.halving.bounds
    return halving.rungs(least, most, factor=config.halving.factor, trials=config.trials)


def _sampler(config: SweepConfig, goal: Goal) -> samplers.Sampler:
    chosen, space = config.sampler, Space.of(config.parameters)
    return samplers.make_sampler(chosen.name, space, trials=chosen.trials, seed=chosen.seed, goal=goal)


def _asked(config: SweepConfig, job: Job) -> Iterator[Mapping[str, Any]]:
    """The trials that can be known beforehand: of a sampler that learns from results, the first."""
    sampler = _sampler(config, job.goal)
    while (params := sampler.ask()) is not None:
        yield params
        if sampler.is_adaptive:
            return


def _checked(config: SweepConfig, job: Job) -> list[Point]:
    points, faults = [], []
    for number, params in enumerate(_asked(config, job), start=1):
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


def _shown(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{path}={value}" for path, value in params.items())[:200] or "the base itself"


def _planned(config: SweepConfig, job: Job, distinct: int) -> int:
    if job.rungs:
        return halving.point_count(job.rungs, len(job.seeds))
    is_adaptive = config.sampler.name in ("tpe", "cmaes")
    return config.trials * len(job.seeds) if is_adaptive else distinct


def _definition(config: SweepConfig, metric: str, goal: Goal, planned: int) -> dict[str, Any]:
    return {**config.to_json(), "metric": metric, "goal": str(goal) if metric else "", "planned": planned}


def _known(launch: Launch, keys: Mapping[str, None]) -> int:
    """How many of these points the book has; of trials that are not known yet, how many it has in all."""
    if not launch.paths.book.exists():
        return 0
    ended = book.read(launch.paths).ended
    fine = [key for key, point in ended.items() if point.result.is_ok or not launch.job.retries_failed]
    is_all = len(keys) == launch.definition["planned"]
    return len([key for key in fine if key in keys]) if is_all else len(fine)


def estimate(plan: SweepPlan) -> Estimate:
    """How long what is left takes: by points that have ended, else by what the kind of work expects of the first."""
    launch = plan.launch
    slots = launch.where.slots(is_clocked=launch.job.work.is_clocked)
    if launch.paths.book.exists() and (ended := book.read(launch.paths).ended):
        each = statistics.median(point.result.seconds for point in ended.values())
        return Estimate(plan.left * each / slots, "the points that have ended")
    each_expected = launch.job.work.expected_s(plan.first.config)
    if each_expected is None:
        return Estimate(None, "it is told once a point has ended")
    return Estimate(plan.left * each_expected / slots, "the first point")
