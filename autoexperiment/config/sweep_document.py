"""What the file of a sweep is: one class for each of its objects, with every default and every rule.

As in document.py, a rule between two fields belongs to the later one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from autoexperiment.config.document import Problem
from autoexperiment.config.fields import (
    MOST,
    NEEDS,
    Directory,
    Name,
    PositiveNumber,
    Seconds,
    Section,
    Seed,
    Text,
    broken,
    needs,
    needs_number,
    without_plugins,
)
from autoexperiment.config.source import Place
from autoexperiment.config.sweep_parameters import (
    DotPath,
    Json,
    NumberRange,
    Parameter,
    ValueList,
    distinct,
    is_inside,
    shaped,
    whole,
)
from autoexperiment.goals import GOALS, known_goal
from autoexperiment.metrics import METRICS
from autoexperiment.vocabulary import Goal

MOST_POINTS = 100_000
MOST_SEEDS = 1_000
SamplerName = Literal["grid", "random", "sobol", "tpe", "cmaes"]
SAMPLERS: tuple[str, ...] = get_args(SamplerName)
ADAPTIVE = ("tpe", "cmaes")
WORK = r"^(?:experiment|gpt|workflow:[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*)$(?!\n)"
METRIC = r"^[A-Za-z_][A-Za-z0-9_./@-]{0,99}$(?!\n)"


def _counted(value: Any) -> Any:
    """The number n is short for the seeds 1 to n."""
    value = whole(value)
    if type(value) is not int:
        return value
    if not 1 <= value <= MOST_SEEDS:
        raise ValueError("out of bounds")  # `needs` around it has the words
    return list(range(1, value + 1))


def _object(value: Any) -> Any:
    if not isinstance(value, dict):
        text = "an object, or the path of an experiment's file"
        raise PydanticCustomError(NEEDS, "{text}", {"text": text, "allowed": "", "is_number": False})
    return value


def _named(value: Any) -> Any:
    """`random` is short for `{"name": "random"}`."""
    return {"name": value} if isinstance(value, str) else value


SamplerSeed = Annotated[
    int, Field(ge=0, le=2**32 - 1), BeforeValidator(whole), needs_number("a whole number", f"0 to {2**32 - 1}")
]


class SamplerChoice(Section):
    """What chooses the trials."""

    name: Annotated[SamplerName, Field(description="Which sampler.")] = "grid"
    trials: Annotated[
        Annotated[int, Field(ge=1, le=MOST_POINTS), BeforeValidator(whole)] | None,
        Field(description="How many trials; null for a grid, which has all combinations."),
        needs_number("a positive whole number", f"1 to {MOST_POINTS}, or null for a grid"),
    ] = None
    seed: Annotated[SamplerSeed, Field(description="Fixes the choice.")] = 0

    @field_validator("trials")
    @classmethod
    def _counted_or_not(cls, trials: int | None, info: ValidationInfo) -> int | None:
        name = info.data.get("name")
        if name == "grid" and trials is not None:
            raise broken("A grid runs all combinations: leave out 'trials', or choose the sampler random")
        if name not in (None, "grid") and trials is None:
            raise broken(f"Sampler {name!r} needs 'trials'. For example: {{name: {name}, trials: 32}}")
        return trials


class Halving(Section):
    """Successive halving: all trials on little of a resource, the best of them on more."""

    resource: Annotated[DotPath, Field(description="What is little at first: training.epochs.")]
    min: Annotated[PositiveNumber, Field(description="The resource of the first rung.")] = 1.0
    max: Annotated[PositiveNumber, Field(description="The resource of the last rung.")]
    factor: Annotated[
        int, Field(ge=2, le=1000, description="Each rung has so many times the resource, and fewer trials."),
        BeforeValidator(whole), needs_number("a whole number", "2 to 1000"),
    ] = 3  # fmt: skip

    @field_validator("max")
    @classmethod
    def _above_min(cls, most: float, info: ValidationInfo) -> float:
        if not info.data.get("min", 0) < most <= MOST:
            raise broken(f"'max' ({most:g}) must be above 'min' ({info.data.get('min', 0):g}), and at most {MOST}")
        return most

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and most of the resource; whole numbers when both are such."""
        if self.min.is_integer() and self.max.is_integer():
            return int(self.min), int(self.max)
        return self.min, self.max


class SweepConfig(Section):
    """One sweep: a base, what is varied in it, and how the points are run."""

    name: Annotated[Name, Field(description="The sweep's name: the folder of its runs.")]
    description: Annotated[Text | None, Field(description="For people.")] = None
    work: Annotated[
        str, shaped(WORK), Field(description="What a point runs.", json_schema_extra={"pattern": WORK}),
        needs("a kind of work", "experiment, gpt, or workflow:module:attribute"),
    ] = "experiment"  # fmt: skip
    base: Annotated[
        dict[str, Json],
        BeforeValidator(_object),
        Field(description="The configuration in which parameters are varied."),
    ] = Field(default_factory=dict)
    parameters: Annotated[dict[DotPath, Parameter], Field(description="What is varied: values by dot path.")] = Field(
        default_factory=dict
    )
    sampler: Annotated[SamplerChoice, BeforeValidator(_named)] = Field(default_factory=SamplerChoice)
    seeds: Annotated[
        Annotated[list[Seed], Field(min_length=1, max_length=MOST_SEEDS), AfterValidator(distinct)] | None,
        BeforeValidator(_counted),
        Field(description="Replicates of each trial: a list of seeds, or n for 1 to n. null: the base's seed."),
        needs("a number of seeds, or a list of distinct ones", f"1 to {MOST_SEEDS} of them, or null"),
    ] = None
    seed_paths: Annotated[
        Annotated[list[DotPath], Field(min_length=1, max_length=100), AfterValidator(distinct)] | None,
        Field(description="Where a replicate's seed goes. null: where this kind of work has its seeds."),
        needs("a list of dot paths, or null"),
    ] = None
    metric: Annotated[
        Annotated[str, shaped(METRIC)] | None,
        Field(description="What is compared. null: what this kind of work is measured by."),
        needs("a metric's name", "for example val_loss, or null"),
    ] = None
    goal: Annotated[
        Literal["minimize", "maximize"] | None, Field(description="Needed for a metric that is not known.")
    ] = None
    halving: Annotated[Halving | None, Field(description="Successive halving. null: each trial runs whole.")] = None
    max_parallel: Annotated[
        Annotated[int, Field(ge=1, le=1024), BeforeValidator(whole)] | None,
        Field(description="Points that run at the same time. null: as many as the machine has room for."),
        needs_number("a positive whole number", "1 to 1024, or null"),
    ] = None
    timeout_s: Annotated[Seconds, Field(description="Each point is ended after so many seconds. null: never.")] = None
    evaluate: Annotated[
        Literal["val", "test"] | None, Field(description="Evaluate each finished experiment on this part, too.")
    ] = None
    output: Annotated[Directory, Field(description="Folder of all runs, relative to the workspace's root.")] = "outputs"
    options: Annotated[dict[str, Json], Field(description="What else the kind of work takes.")] = Field(
        default_factory=dict
    )

    @field_validator("base")
    @classmethod
    def _something_to_vary(cls, base: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if not base and info.data.get("work") == "experiment":
            raise broken("Missing required field: 'base'. Write an experiment's configuration, or the path of its file")
        return base

    @field_validator("parameters")
    @classmethod
    def _apart(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        for outer, inner in pairwise(sorted(parameters, key=lambda path: path.split("."))):
            if is_inside(inner, outer):
                raise broken(f"Parameter {inner!r} lies inside of parameter {outer!r}. Keep one of them")
        return parameters

    @field_validator("sampler")
    @classmethod
    def _can_sample(cls, sampler: SamplerChoice, info: ValidationInfo) -> SamplerChoice:
        parameters = info.data.get("parameters")
        if parameters is not None and (fault := _fault_of_sampler(sampler.name, parameters)):
            raise broken(f"Sampler {sampler.name!r} {fault}")
        return sampler

    @field_validator("seeds")
    @classmethod
    def _not_too_many(cls, seeds: list[int] | None, info: ValidationInfo) -> list[int] | None:
        if {"parameters", "sampler"} <= info.data.keys():
            count = _trial_count(info.data["sampler"], info.data["parameters"]) * len(seeds or [0])
            if count > MOST_POINTS:
                raise broken(f"The sweep has {count} points. Allowed: up to {MOST_POINTS}. Vary less, or sample")
        return seeds

    @field_validator("seed_paths")
    @classmethod
    def _for_seeds(cls, paths: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if paths and info.data.get("seeds", 0) is None:
            raise broken("'seed_paths' needs 'seeds' beside it. For example: seeds: 3")
        if clash := _clash(paths or (), info.data.get("parameters", ())):
            raise broken(f"'seed_paths' and 'parameters' both set {clash!r}. Leave it out of one of them")
        return paths

    @field_validator("metric")
    @classmethod
    def _known_by_the_sampler(cls, metric: str | None, info: ValidationInfo) -> str | None:
        sampler = info.data.get("sampler")
        if metric is None and sampler and sampler.name in ADAPTIVE and _is_workflow(info):
            raise broken(f"Sampler {sampler.name!r} needs 'metric': what the workflow is to be improved in")
        return metric

    @field_validator("goal")
    @classmethod
    def _fits_the_metric(cls, goal: str | None, info: ValidationInfo) -> str | None:
        metric = info.data.get("metric")
        known = known_goal(metric) if metric else None
        if metric and not known and goal is None:
            fault = f"Missing required field: 'goal' of metric {metric!r}. Allowed: minimize, maximize"
            raise broken(fault + _near(metric))
        if goal and known and known != goal:
            raise broken(f"'goal' is {goal}, but {metric!r} is better when it is {_BETTER[known]}. Leave 'goal' out")
        if goal and "metric" in info.data and metric is None:
            raise broken("'goal' needs 'metric' beside it. For example: metric: val_loss")
        return goal

    @field_validator("halving")
    @classmethod
    def _can_halve(cls, halving: Halving | None, info: ValidationInfo) -> Halving | None:
        if halving and (fault := _fault_of_halving(halving, info)):
            raise broken(fault)
        return halving

    @field_validator("evaluate")
    @classmethod
    def _of_experiments(cls, part: str | None, info: ValidationInfo) -> str | None:
        if part and info.data.get("work", "experiment") != "experiment":
            raise broken(f"'evaluate' applies to experiments, and work is {info.data['work']!r}. Leave it out")
        return part

    @property
    def kind(self) -> str:
        """experiment, gpt or workflow."""
        return self.work.partition(":")[0]

    @property
    def workflow(self) -> str:
        """`module:attribute` of the workflow; "" for other kinds of work."""
        return self.work.partition(":")[2]

    @property
    def replicates(self) -> tuple[int | None, ...]:
        """The seeds of each trial; None stands for the base's own."""
        return tuple(self.seeds) if self.seeds else (None,)

    @property
    def trials(self) -> int:
        """How many trials there are at most."""
        return _trial_count(self.sampler, self.parameters)

    @property
    def direction(self) -> Goal | None:
        """Which direction of `metric` is better; None: no metric is named."""
        if self.goal:
            return Goal(self.goal)
        return known_goal(self.metric) if self.metric else None


_BETTER = {Goal.MINIMIZE: "smaller", Goal.MAXIMIZE: "larger"}


def _near(metric: str) -> str:
    """A known metric that a name may be meant to be."""
    names = [*METRICS, *GOALS, *(f"test_{name}" for name in GOALS if not name.startswith("val_"))]
    near = difflib.get_close_matches(metric, names, n=1)
    return f". Did you mean the metric {near[0]!r}?" if near else ""


def _clash(paths: Iterable[str], others: Iterable[str]) -> str:
    """The first path that is inside of one of the others, or around it; "" if there is none."""
    others = list(others)
    return next((path for path in paths for other in others if is_inside(path, other) or is_inside(other, path)), "")


def _is_workflow(info: ValidationInfo) -> bool:
    return str(info.data.get("work", "")).startswith("workflow:")


def _trial_count(sampler: SamplerChoice, parameters: Mapping[str, ValueList | NumberRange]) -> int:
    count = 1
    for parameter in parameters.values():
        count *= len(parameter.values) if isinstance(parameter, ValueList) else 1
    return count if sampler.trials is None else sampler.trials


def _fault_of_sampler(name: str, parameters: Mapping[str, ValueList | NumberRange]) -> str:
    ranges = [path for path, parameter in parameters.items() if isinstance(parameter, NumberRange)]
    lists = [path for path in parameters if path not in ranges]
    if name == "grid":
        return f"needs a list of values for {ranges[0]!r}. List them, or choose the sampler random" if ranges else ""
    if not parameters:
        return "has no 'parameters' to choose values for"
    if name == "cmaes" and (lists or len(ranges) < 2):
        reason = f"{lists[0]!r} is a list of values" if lists else f"{ranges[0]!r} is the only one"
        return f"needs two or more ranges of numbers, and {reason}. Choose the sampler tpe"
    return ""


def _fault_of_halving(halving: Halving, info: ValidationInfo) -> str:
    sampler, parameters = info.data.get("sampler"), info.data.get("parameters", {})
    if sampler and sampler.name in ADAPTIVE:
        return (
            f"'halving' and the sampler {sampler.name!r} exclude each other: it would learn from results on little "
            "of the resource. Choose grid, random or sobol"
        )
    if sampler and "parameters" in info.data and _trial_count(sampler, parameters) < 2:
        return "'halving' needs two or more trials"
    if _clash([halving.resource], [*parameters, *(info.data.get("seed_paths") or ())]):
        return f"'halving.resource' ({halving.resource!r}) is a parameter or a seed as well. Leave it out of those"
    if "metric" in info.data and info.data["metric"] is None and _is_workflow(info):
        return "'halving' needs 'metric': what the workflow is to be compared by"
    return ""


def check_sweep(value: object) -> SweepConfig | list[Problem]:
    """The sweep that a JSON value is, or everything that is wrong with it, with `loc` as its place there."""
    try:
        with without_plugins():
            return SweepConfig.model_validate(value)
    except ValidationError as error:
        return [{**found, "loc": _place(found["loc"], value)} for found in error.errors(include_url=False)]


def _place(loc: Place, value: Any) -> Place:
    """The place in the file: without the form of a parameter, `[key]`, and without the keys that a short form leaves out."""
    if loc[:1] == ("sampler",) and isinstance(value.get("sampler"), str):
        return loc[:1]
    if loc[:1] != ("parameters",) or len(loc) < 3:
        return loc
    is_short = isinstance(value["parameters"][loc[1]], list)
    return loc[:2] + loc[4 if is_short and len(loc) > 3 else 3 :]
