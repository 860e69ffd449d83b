"""The JSON Schema (draft 2020-12) of a configuration file, made from the models."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from autoexperiment.config.document import ExperimentConfig
from autoexperiment.config.fields import MOST_PATH, TABLE_SUFFIXES
from autoexperiment.config.loader import MANY
from autoexperiment.paths import LOOP_EXPERIMENT, OutputPaths

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TITLE = "autoexperiment experiment"
_TEXT = {"type": "string", "description": "Address of this schema, for editors."}
_ONE = {"$ref": "#/$defs/ExperimentConfig"}
_LIST = {"type": "array", "minItems": 1, "items": _ONE}
_DEEPEST = 3  # of `a/b/c/../../../..`, a pattern follows so many folders


def _any_case(*words: str) -> str:
    """A pattern for words however they are written: `pattern` has no flags."""
    written = ["".join(f"[{c}{c.upper()}]" if c.isalpha() else c.replace(".", r"\.") for c in word) for word in words]
    return f"(?:{'|'.join(written)})"


def _round_trips(depth: int) -> str:
    """A pattern for folders that are all left again: `a/../b/c/../../`."""
    if depth == 0:
        return ""
    return rf"(?:(?!\.{{1,2}}/)[^/]+/(?:\.?/)*{_round_trips(depth - 1)}\.\./(?:\.?/)*)*"


def _refusing(*patterns: str, **more: Any) -> dict[str, Any]:
    """Keywords that refuse a text in which one of the patterns is found."""
    return {"not": {"type": "string", "pattern": "|".join(patterns)}, **more}


_HIDDEN = r"\u200e\u200f\u202a-\u202e\u2066-\u2069"
_LINE = rf"[\u0000-\u001f\u007f-\u009f{_HIDDEN}]"
_LINES = rf"[\u0000-\u0008\u000b-\u001f\u007f-\u009f{_HIDDEN}]"
_DEVICE = rf"(?:{_any_case('con', 'prn', 'aux', 'nul')}|{_any_case('com', 'lpt')}[0-9])"
_END = "(?:/|$)"
_PATH = _refusing("^~", _LINE, maxLength=MOST_PATH)
_TABLE = _refusing("^~", _LINE, rf"[^/](?!{_any_case(*TABLE_SUFFIXES)}$)\.[^/.]+$", maxLength=MOST_PATH)
# What the models check in code, as far as a schema can say it: object -> key -> keywords
_RULES: dict[str, dict[str, dict[str, Any]]] = {
    "ExperimentConfig": {
        "name": _refusing(f"^{_any_case(LOOP_EXPERIMENT, OutputPaths(Path()).index.name)}", rf"^{_DEVICE}(?:\.|$)"),
        "description": _refusing(_LINES),
    },
    "Output": {
        "directory": _refusing(
            _LINE,
            rf"^(?:\./+)*{_round_trips(_DEEPEST)}\.\.{_END}",
            rf"(?:^|/){_any_case('.git')}{_END}",
            rf"(?:^|/){_DEVICE}(?:\.[^/]*)?{_END}",
            rf"(?:^|/)(?!\.{{1,2}}{_END})[^/]*[ .]{_END}",
            maxLength=MOST_PATH,
        )
    },
    "CustomTable": {"path": _TABLE},
    "Pictures": {"path": _PATH},
    "Cifar100": {"path": _PATH},
}
_HASH_OF_URL = {
    "if": {"properties": {"url": {"type": "string"}}, "required": ["url"]},
    "then": {"properties": {"sha256": {"type": "string"}}, "required": ["sha256"]},
}


class _Generator(GenerateJsonSchema):
    """Without titles, which repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def tagged_union_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().tagged_union_schema(schema)
        made.pop("discriminator", None)  # of OpenAPI; `const` and `enum` of the name say the same
        return made


def json_schema() -> dict[str, Any]:
    """One schema that accepts an experiment, a list of them, or {"experiments": […]}."""
    made = ExperimentConfig.model_json_schema(schema_generator=_Generator)
    definitions = made.pop("$defs")
    definitions["ExperimentConfig"] = made
    for definition in definitions.values():
        definition.pop("title", None)
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
    for name, rules in _RULES.items():
        for key, keywords in rules.items():
            definitions[name]["properties"][key] |= keywords
    definitions["TableParams"] |= _HASH_OF_URL
    made["properties"] = {"$schema": _TEXT, **made["properties"]}
    many = {
        "type": "object",
        "properties": {"$schema": _TEXT, MANY: _LIST},
        "required": [MANY],
        "additionalProperties": False,
    }
    return {
        "$schema": DIALECT,
        "title": TITLE,
        "anyOf": [_ONE, _LIST, many],
        "$defs": dict(sorted(definitions.items())),
    }
