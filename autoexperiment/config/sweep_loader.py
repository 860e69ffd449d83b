"""From a sweep's file, or a dictionary, to a sweep whose every value is sound; its base may be a file of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from autoexperiment import dotpaths
from autoexperiment.config import faults
from autoexperiment.config.document import ExperimentConfig, Problem, check
from autoexperiment.config.faults import Where
from autoexperiment.config.overrides import Override, apply, read_override
from autoexperiment.config.source import Malformed, Node, Place, Source, printable, read_source
from autoexperiment.config.sweep_document import Halving, SamplerChoice, SweepConfig, check_sweep
from autoexperiment.config.sweep_parameters import NumberRange, Section, ValueList, is_inside
from autoexperiment.errors import ConfigError, UsageError, unknown

_EDITOR_KEY = "$schema"  # names the JSON Schema for an editor; means nothing here


def load_sweep(path: str | PathLike[str], overrides: Sequence[str] = ()) -> SweepConfig:
    """The sweep of a JSON or YAML file. A `base` that is text is the path of an experiment's file, relative to the
    folder of the sweep's file.

    Args: overrides: as `--set` takes them: "max_parallel=2", "base.training.epochs=3",
        "parameters.training.learning_rate=[0.1, 0.01]", "parameters.training.learning_rate.low=1e-5".
    Raises: ConfigError: with all faults and their lines.
    """
    source = read_source(Path(path))
    sentences = [f"{text} ({source.name}:{line})" for line, text in source.faults]
    return _Reading(source.root.value, Path(path).parent, source, sentences).sweep(overrides)


def load_sweep_dict(
    value: Mapping[str, Any], overrides: Sequence[str] = (), *, folder: str | PathLike[str] = "."
) -> SweepConfig:
    """The sweep that a dictionary describes. `folder`: where a path in `base` starts."""
    given = dict(value) if isinstance(value, Mapping) else value
    return _Reading(given, Path(folder), None, []).sweep(overrides)


class _InBase(Where):
    """Where a place of the base stands in the sweep."""

    def __call__(self, place: Place) -> str:
        return super().__call__(("base", *place))


@dataclass
class _Reading:
    """One sweep while it is read.

    Attributes:
        value: the file's; `base` is replaced by its file's content when that has been read.
        folder: where the path of a base starts.
        sentences: what has been found to be wrong.
        base_source: the base's own file, if it has one.
    """

    value: Any
    folder: Path
    source: Source | None
    sentences: list[str]
    base_source: Source | None = None
    applied: tuple[Override, ...] = ()

    def sweep(self, overrides: Sequence[str]) -> SweepConfig:
        """Raises: ConfigError: with all that is wrong."""
        if isinstance(self.value, dict):
            self.value = _without_editor_key(self.value)
            for text in overrides:
                self._override(text)
            self._read_base()
            if isinstance(base := self.value.get("base"), dict):
                self.value = {**self.value, "base": _without_editor_key(base)}
        checked = check_sweep(self.value)
        if isinstance(checked, list):
            where = Where(self.source, overrides=self.applied)
            self.sentences += [_sentence(problem, self.value, where) for problem in checked]
        self._check_base()
        if self.sentences or not isinstance(checked, SweepConfig):
            raise faults.refusal(self.sentences)
        return checked

    def _override(self, text: str) -> None:
        try:
            override = read_override(text)
        except Malformed as error:
            self.sentences.append(f"--set {printable(text, 100)} {error.reason}")
            return
        if override.path[0] == "base" and len(override.path) > 1:
            self._read_base()
        self.value, override = _retargeted(self.value, override)
        try:
            self.value = apply(override, self.value)
            self.applied = (*self.applied, override)
        except Malformed as error:
            self.sentences.append(f"{override.place} {error.reason}")

    def _read_base(self) -> None:
        """Put the base's file in the place of its path."""
        path = self.value.get("base")
        if not isinstance(path, str):
            return
        place = Where(self.source, overrides=self.applied)(("base",))
        try:
            self.base_source = read_source(self.folder / path)
        except ConfigError as error:
            hint = "The path starts at the folder of the sweep's file"
            raise ConfigError(f"The sweep's base cannot be read ({place}). {hint}.\n{error}") from None
        base = self.base_source.root.value
        self.sentences += [f"{text} ({self.base_source.name}:{line})" for line, text in self.base_source.faults]
        if isinstance(base, dict) and "experiments" in base:
            self.sentences.append(f"The sweep's base holds several experiments. One is needed ({place})")
            base = {}
        self.value = {**self.value, "base": base}

    def _check_base(self) -> None:
        """Find what is wrong with the base of an experiment, and with parameters that it has no place for."""
        value = self.value
        if not isinstance(value, dict) or value.get("work", "experiment") != "experiment":
            return
        base = value.get("base")
        if not isinstance(base, dict) or not base:
            return
        base = {**base, "name": "sweep"}
        checked = check(base)
        if isinstance(checked, ExperimentConfig):
            self._check_parameters(checked.to_json())
        else:
            where = self._where_of_base()
            self.sentences += [faults.sentence(problem, base, where) for problem in checked]

    def _where_of_base(self) -> Where:
        source = self.base_source
        if source:
            inside = Node({}, source.root.line, items={"base": (source.root.line, source.root)})
            source = replace(source, root=inside)
        return _InBase(source or self.source, overrides=self.applied)

    def _check_parameters(self, base: Mapping[str, Any]) -> None:
        parameters = self.value.get("parameters")
        where = Where(self.source, overrides=self.applied)
        for path, parameter in parameters.items() if isinstance(parameters, dict) else ():
            if fault := _fault_of_path(str(path), _first(parameter), base):
                self.sentences.append(f"{fault} ({where(('parameters', path))})")


def _without_editor_key(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get(_EDITOR_KEY), str):
        return value
    return {key: item for key, item in value.items() if key != _EDITOR_KEY}


def _retargeted(value: dict[str, Any], override: Override) -> tuple[dict[str, Any], Override]:
    """What an override means in a sweep: a parameter's name has dots in it, and a short form has no names inside."""
    first, *rest = override.path
    if first == "sampler" and rest and isinstance(value.get("sampler"), str):
        return {**value, "sampler": {"name": value["sampler"]}}, override
    if first != "parameters" or not rest:
        return value, override
    parameters = value.get("parameters")
    known = [str(path) for path in parameters] if isinstance(parameters, dict) else []
    dotted = ".".join(rest)
    inside = max((path for path in known if is_inside(dotted, path)), key=len, default=dotted)
    deeper = dotted.removeprefix(inside).strip(".")
    return value, replace(override, path=("parameters", inside, *deeper.split("."))[: None if deeper else 2])


def _first(parameter: Any) -> Any:
    """A value of a parameter that is not known to be sound; None if it has none."""
    if isinstance(parameter, dict):
        parameter = parameter.get("values", [parameter.get("low")])
    return parameter[0] if isinstance(parameter, list) and parameter else None


def _fault_of_path(path: str, value: Any, base: Mapping[str, Any]) -> str:
    """Why an experiment has no place for a parameter, whatever its value is; "" if it has one."""
    try:
        candidate = dotpaths.replaced(base, {path: value})
    except UsageError as error:
        return str(error).removesuffix(".")
    problems = check(candidate)
    for problem in problems if isinstance(problems, list) else ():
        if problem["type"] == "extra_forbidden" and is_inside(".".join(map(str, problem["loc"])), path):
            return faults.sentence(problem, candidate, Where()).rpartition(" (")[0]
    return ""


_SECTIONS: Mapping[str, type[Section]] = {"sampler": SamplerChoice, "halving": Halving}


def _sentence(problem: Problem, value: object, where: Where) -> str:
    """One fault of a sweep: as of an experiment, but for the names of its keys."""
    place = problem["loc"]
    if problem["type"] == "extra_forbidden":
        return f"{_unknown_key(place, value)} ({where(place)})"
    if problem["type"] == "literal_error" and place == ("sampler", "name"):
        problem = {**problem, "loc": ("sampler",)}
    if problem["type"] == "dict_type":
        problem = {**problem, "type": "model_type"}
    return faults.sentence(problem, value, where)


def _unknown_key(place: Place, value: Any) -> str:
    section = SweepConfig if len(place) == 1 else _SECTIONS.get(str(place[0]))
    if section is None:
        given = value["parameters"][place[1]]
        section = ValueList if "values" in given else NumberRange
    inside = ".".join(printable(str(part), 60) for part in place[:-1])
    key = printable(str(place[-1]), 60)
    return unknown("key", key, section.model_fields, where=repr(inside) if inside else "").removesuffix(".")
