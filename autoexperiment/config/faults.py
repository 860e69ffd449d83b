"""What is wrong with a configuration, as one sentence for each fault: the value, what is allowed, and its place."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autoexperiment.config.document import DATASETS, MODELS, Problem, Section, sections
from autoexperiment.config.fields import NEEDS, RULE
from autoexperiment.config.overrides import Override
from autoexperiment.config.source import Place, Source, plain_scalar, printable
from autoexperiment.errors import ConfigError

SHOWN = 60
MOST_FAULTS = 50
TITLE = "Configuration validation failed:"
_SUPPORTED = {"dataset": tuple(DATASETS), "model": tuple(MODELS)}
_TYPES = {
    "dict": "object",
    "str": "text",
    "bool": "true or false",
    "NoneType": "null",
    "int": "number",
    "float": "number",
}
_SWITCHES = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}


@dataclass(frozen=True)
class Where:
    """Where an experiment stands.

    Attributes:
        source: its text; None: it was made in memory.
        prefix: the experiment's place in the text: () or ("experiments", 1).
        label: which experiment it is, where there are several.
        overrides: what the command line set in it.
    """

    source: Source | None = None
    prefix: Place = ()
    label: str = ""
    overrides: tuple[Override, ...] = ()

    def __call__(self, place: Place) -> str:
        """A place in words: `my.json:12, experiment 2 'b', dataset.params.n_samples`, or `--set training.epochs=0`."""
        dotted = ".".join(printable(str(part), SHOWN) for part in place)
        for override in reversed(self.overrides):
            if override.concerns(place):
                return override.place if ".".join(override.path).startswith(dotted) else f"{override.place}, {dotted}"
        line = f"{self.source.name}:{self.source.line((*self.prefix, *place))}" if self.source else ""
        return ", ".join(filter(None, (line, self.label, dotted)))


def refusal(sentences: Iterable[str]) -> ConfigError:
    """The error that names all faults, each once."""
    lines = list(dict.fromkeys(sentences))
    more = [f"… and {len(lines) - MOST_FAULTS} more"] if len(lines) > MOST_FAULTS else []
    return ConfigError("\n  - ".join([TITLE, *lines[:MOST_FAULTS], *more]))


def sentence(problem: Problem, value: object, where: Where) -> str:
    """One fault.

    Args:
        problem: of `document.check`.
        value: the experiment that has it.
    """
    place: Place = problem["loc"]
    text = _SAYINGS.get(problem["type"], _invalid)(problem, value)
    if problem["type"] in _NO_FORM and isinstance(problem["input"], dict):
        place = (*place, "name")
    at = where(place)
    return f"{text} ({at})" if at else text


def _missing(problem: Problem, _: object) -> str:
    place = problem["loc"]
    if place[:2] == ("model", "params"):
        return (
            "Model 'mlp' requires 'layer_sizes' parameter. "
            'Add "params": {"layer_sizes": [10, 5, 1]}, with the sizes of input, hidden layers and output'
        )
    if place == ("dataset", "path"):
        return "Dataset 'custom' requires 'path' (a file or folder) or 'loader' (module:Class)"
    return f"Missing required field: {_dotted(place)!r}"


def _unknown_form(problem: Problem, value: object) -> str:
    given, kind = problem["input"], str(problem["loc"][0])
    supported = f"Currently supported: {', '.join(_SUPPORTED[kind])}"
    if not isinstance(given, dict):
        return _no_object(problem, value)
    if "name" not in given:
        return f"Missing required field: '{kind}.name'. {supported}"
    name = given["name"]
    if not isinstance(name, str):
        return f"{kind.capitalize()} name must be text, got {words(name)}. {supported}"
    return f"Unknown {kind} {quote(name)}. {supported}{_did_you_mean(_near(name, _SUPPORTED[kind]))}"


def _no_object(problem: Problem, _: object) -> str:
    given, place = problem["input"], problem["loc"]
    got = _TYPES.get(type(given).__name__, type(given).__name__)
    if not place:
        return f"Configuration must be a JSON/YAML object (dictionary), but got {got}"
    hint = ". Leave it out for the defaults" if given is None and place[-1] not in _SUPPORTED else ""
    return f"Field {_dotted(place)!r} must be an object (mapping), but got {got}{hint}"


def _unknown_key(problem: Problem, value: object) -> str:
    place = problem["loc"]
    key = str(place[-1])
    known = {path: _keys(section) for path, section in sections(value).items()}
    here = known.get(place[:-1], [])
    inside = f" in {_dotted(place[:-1])!r}" if len(place) > 1 else ""
    elsewhere = [_dotted(path) or "the top" for path, keys in known.items() if key in keys and path != place[:-1]]
    if elsewhere:
        return f"Unknown key {quote(key)}{inside}. It belongs into {' or '.join(map(repr, elsewhere))}"
    return f"Unknown key {quote(key)}{inside}. Known: {', '.join(here)}{_did_you_mean(_near(key, here))}"


def _keys(section: type[Section]) -> list[str]:
    return [name for name, field in section.model_fields.items() if field.annotation is not type(None)]


def _unwanted(problem: Problem, value: object) -> str:
    """Of `path` or `loader`, whichever this dataset does not have."""
    key, given = problem["loc"][-1], problem["input"]
    name = value["dataset"]["name"] if isinstance(value, dict) else ""
    if name == "custom":
        return "Dataset 'custom' takes 'path' or 'loader', not both"
    return f"Key {key!r} with {words(given)} does not apply to dataset {name!r}. Leave it out"


def _unknown_word(problem: Problem, _: object) -> str:
    given, key, expected = problem["input"], problem["loc"][-1], problem["ctx"]["expected"]
    known = re.findall(r"'([^']*)'", expected)
    if known and isinstance(given, str):
        listed = f"Currently supported: {', '.join(known)}"
        return f"Unknown {key} {quote(given)}. {listed}{_did_you_mean(_near(given, known))}"
    allowed = expected.replace("'", "").replace(" or ", ", ")
    return f"Invalid value for {key!r}: must be one of {allowed}, got {words(given)}"


def _switch(problem: Problem, _: object) -> str:
    given, key = problem["input"], problem["loc"][-1]
    word = _SWITCHES.get(given.lower()) if isinstance(given, str) else None
    hint = f". Write it without quotation marks: {word}" if word else ""
    return f"Invalid value for {key!r}: must be true or false, got {words(given)}{hint}"


def _text(problem: Problem, _: object) -> str:
    return f"Invalid value for {problem['loc'][-1]!r}: must be text, got {words(problem['input'])}"


def _needed(problem: Problem, value: object) -> str:
    given, place, context = problem["input"], problem["loc"], problem["ctx"]
    if place == ("dataset", "path") and given is None:
        return _missing(problem, value)
    name = place[-1] if isinstance(place[-1], str) else f"{place[-2]}[{place[-1]}]"
    allowed = f". Allowed: {context['allowed']}" if context["allowed"] else ""
    begin = f"Invalid value for {printable(name, SHOWN)!r}: must be {context['text']}, got {words(given)}{allowed}"
    return begin + (_unquoted(given) if context["is_number"] else "")


def _unquoted(given: Any) -> str:
    """What to write where a number was written as text: in quotation marks, or with `_` between its digits."""
    if not isinstance(given, str) or len(given) > 40:
        return ""
    number = plain_scalar(given.strip().replace("_", ""))
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)
    return f". Write it as a number: {json.dumps(number)}" if is_number else ""


def _rule(problem: Problem, _: object) -> str:
    return str(problem["ctx"]["text"])


def _invalid(problem: Problem, _: object) -> str:
    return f"Invalid value for {_dotted(problem['loc'][-1:])!r}: {words(problem['input'])} is not allowed here"


_NO_FORM = ("union_tag_not_found", "union_tag_invalid")
_SAYINGS: Mapping[str, Callable[[Problem, object], str]] = {
    "missing": _missing, "union_tag_not_found": _unknown_form, "union_tag_invalid": _unknown_form,
    "model_type": _no_object, "model_attributes_type": _no_object, "extra_forbidden": _unknown_key, "none_required": _unwanted,
    "literal_error": _unknown_word, "bool_type": _switch, "string_type": _text, NEEDS: _needed, RULE: _rule,
}  # fmt: skip


def _dotted(place: Place) -> str:
    return ".".join(printable(str(part), SHOWN) for part in place)


def _near(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant: alike, its initials (`lr`), or one that holds it (`dir`, `timeout`)."""
    names = {name.lower(): name for name in known}
    asked = word.lower().replace("-", "_")
    close = difflib.get_close_matches(asked, names, n=1, cutoff=0.7)
    if close:
        return names[close[0]]
    fits = [
        name for low, name in names.items()
        if asked == "".join(part[0] for part in low.split("_")) or (len(asked) > 1 and asked in low)
    ]  # fmt: skip
    return fits[0] if len(fits) == 1 else ""


def _did_you_mean(word: str) -> str:
    return f". Did you mean {word!r}?" if word else ""


def quote(text: str) -> str:
    """Text of a configuration for a message: in quotation marks, bounded, what cannot be printed escaped."""
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")


def words(value: Any) -> str:
    """A value of a configuration for a message."""
    if isinstance(value, str):
        return f"text {quote(value)}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**30 else "a number of more than 30 digits"
    if isinstance(value, list):
        return quote(json.dumps(value, default=lambda _: "…"))[1:-1] if len(value) < 20 else f"a list of {len(value)}"
    return str(value) if isinstance(value, float) else _TYPES.get(type(value).__name__, type(value).__name__)
