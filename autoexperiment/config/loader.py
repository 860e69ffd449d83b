"""From a configuration file, its text or a dictionary to experiments whose every value is sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from autoexperiment.config import faults
from autoexperiment.config.document import ExperimentConfig, check
from autoexperiment.config.faults import Where
from autoexperiment.config.overrides import Override, apply, read_override
from autoexperiment.config.source import FORMATS, Malformed, Place, Source, parse_source, printable, read_source
from autoexperiment.errors import ConfigError, unknown

MANY = "experiments"
_EDITOR_KEY = "$schema"  # names the JSON Schema for an editor; means nothing here


class ConfigLoader:
    """Reads configurations. Every fault of a file is told at once, as a ConfigError.

    `overrides` of all methods: values as `mlx run-experiment --set` takes them: "training.epochs=3".
    """

    @staticmethod
    def load_from_file(path: str | PathLike[str], overrides: Sequence[str] = ()) -> ExperimentConfig:
        """The one experiment of a JSON or YAML file. Raises: ConfigError: also when there are several."""
        return _only(read_source(Path(path)), overrides)

    @staticmethod
    def load_all(path: str | PathLike[str], overrides: Sequence[str] = ()) -> list[ExperimentConfig]:
        """The experiments of a file: one object, a list of them, or {"experiments": […]}.

        Two of them may have the same name: each run has a folder of its own.
        """
        return _load(read_source(Path(path)), overrides)

    @staticmethod
    def load_from_text(text: str, kind: str = "json", overrides: Sequence[str] = ()) -> ExperimentConfig:
        """The one experiment of a text. `kind`: "json" or "yaml". Raises: ConfigError: also for another kind."""
        if kind not in (kinds := dict.fromkeys(FORMATS.values())):
            raise ConfigError(f"{unknown('kind of text', str(kind), kinds)} For example: load_from_text(text, 'yaml')")
        return _only(parse_source(text, kind, name="text"), overrides)

    @staticmethod
    def load_from_dict(value: Mapping[str, Any], overrides: Sequence[str] = ()) -> ExperimentConfig:
        """The experiment that a dictionary describes."""
        given = dict(value) if isinstance(value, Mapping) else value
        return _configs([(given, Where(overrides=_read(overrides)))])[0]


def _only(source: Source, overrides: Sequence[str]) -> ExperimentConfig:
    count = len(_entries(source))
    if count > 1:
        raise ConfigError(
            f"{source.name} holds {count} experiments. Here one is needed. "
            "Write it into a file of its own, or read all of them: mlx run-experiment --config, ConfigLoader.load_all."
        )
    return _load(source, overrides)[0]


def _load(source: Source, overrides: Sequence[str]) -> list[ExperimentConfig]:
    read = _read(overrides)
    entries = _entries(source)
    placed = [
        (value, Where(source, prefix, _label(number, value) if len(entries) > 1 else "", read))
        for number, (prefix, value) in enumerate(entries, start=1)
    ]
    return _configs(placed, [f"{text} ({source.name}:{line})" for line, text in source.faults])


def _entries(source: Source) -> list[tuple[Place, Any]]:
    """The experiments of a text, with their places in it. Raises: ConfigError: there are none."""
    value = source.root.value
    prefix: Place = ()
    if isinstance(value, dict) and MANY in value:
        if others := [key for key in value if key not in (MANY, _EDITOR_KEY)]:
            raise faults.refusal(
                f"Unknown key {faults.quote(key)} beside {MANY!r}: each experiment has settings of its own "
                f"({source.name}:{source.line((key,))})" for key in others
            )  # fmt: skip
        prefix, value = (MANY,), value[MANY]
        if not isinstance(value, list):
            raise faults.refusal(
                [f"{MANY!r} must be a list, got {faults.words(value)} ({source.name}:{source.line(prefix)})"]
            )
    if not isinstance(value, list):
        return [((), value)]
    if not value:
        raise ConfigError(f"Configuration list is empty ({source.name}). Write at least one experiment.")
    return [((*prefix, number), item) for number, item in enumerate(value)]


def _label(number: int, value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else None
    return f"experiment {number} {faults.quote(name)}" if isinstance(name, str) else f"experiment {number}"


def _read(overrides: Sequence[str]) -> tuple[Override, ...]:
    read, sentences = [], []
    for text in overrides:
        try:
            read.append(read_override(text))
        except Malformed as error:
            sentences.append(f"--set {printable(text, 100)} {error.reason}")
    if sentences:
        raise faults.refusal(sentences)
    return tuple(read)


def _configs(placed: Sequence[tuple[Any, Where]], sentences: Sequence[str] = ()) -> list[ExperimentConfig]:
    """The experiments. Raises: ConfigError: there are `sentences` already, or more faults are found."""
    found = list(sentences)
    configs = []
    for value, where in placed:
        value, where, misfits = _overridden(value, where)
        checked = check(value)
        found += misfits
        if isinstance(checked, ExperimentConfig):
            configs.append(checked)
        else:
            found += [faults.sentence(problem, value, where) for problem in checked]
    if found:
        raise faults.refusal(found)
    return configs


def _overridden(value: Any, where: Where) -> tuple[Any, Where, list[str]]:
    """A value with what the command line sets; its place, with what of that did fit; and what did not."""
    applied, sentences = [], []
    if isinstance(value, dict) and isinstance(value.get(_EDITOR_KEY), str):
        value = {key: item for key, item in value.items() if key != _EDITOR_KEY}
    for override in where.overrides:
        try:
            value = apply(override, value)
            applied.append(override)
        except Malformed as error:
            sentences.append(f"{override.place} {error.reason}")
    return value, replace(where, overrides=tuple(applied)), sentences
