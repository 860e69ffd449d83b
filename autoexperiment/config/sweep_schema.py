"""The JSON Schema (draft 2020-12) of a sweep's file, made from the models."""

from __future__ import annotations

import inspect
from typing import Any

from autoexperiment.config.schema import DIALECT
from autoexperiment.config.sweep_document import METRIC, MOST_SEEDS, SAMPLERS, SweepConfig
from autoexperiment.config.sweep_parameters import DOT_PATH, MOST_VALUES

TITLE = "autoexperiment sweep"
_EDITOR_KEY = {"type": "string", "description": "Address of this schema, for editors."}
_ONE_OF_LIST = {"type": "array", "minItems": 1, "maxItems": MOST_VALUES, "uniqueItems": True}


def _parameter(definitions: dict[str, Any]) -> dict[str, Any]:
    definitions["ValueList"]["properties"]["values"] |= _ONE_OF_LIST
    return {"anyOf": [_ONE_OF_LIST, *({"$ref": f"#/$defs/{name}"} for name in ("ValueList", "NumberRange"))]}


def json_schema() -> dict[str, Any]:
    """One schema that accepts a sweep with its short forms. Rules between two fields are the loader's alone."""
    made = SweepConfig.model_json_schema()
    definitions = made["$defs"]
    for definition in (made, *definitions.values()):
        _tidy(definition)
    fields = made["properties"]
    fields["base"] = {"description": fields["base"]["description"], "type": ["object", "string"]}
    fields["parameters"] |= {"propertyNames": {"pattern": DOT_PATH}, "additionalProperties": _parameter(definitions)}
    fields["parameters"].pop("patternProperties", None)
    fields["sampler"] = {"anyOf": [{"enum": list(SAMPLERS)}, {"$ref": "#/$defs/SamplerChoice"}]}
    count = {"type": "integer", "minimum": 1, "maximum": MOST_SEEDS}
    fields["seeds"]["anyOf"].insert(0, count)
    for field in ("seeds", "seed_paths"):
        next(each for each in fields[field]["anyOf"] if each["type"] == "array")["uniqueItems"] = True
    fields["metric"]["anyOf"][0]["pattern"] = METRIC
    made["properties"] = {"$schema": _EDITOR_KEY, **fields}
    return {"$schema": DIALECT, **made, "title": TITLE}


def _tidy(definition: dict[str, Any]) -> None:
    """Without titles, which repeat the names."""
    definition.pop("title", None)
    if "description" in definition:
        definition["description"] = inspect.cleandoc(definition["description"])
    for field in definition.get("properties", {}).values():
        field.pop("title", None)
