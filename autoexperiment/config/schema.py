"""The JSON Schema (draft 2020-12) of a configuration file, made from the models."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from autoexperiment.config.document import ExperimentConfig
from autoexperiment.config.loader import MANY

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TITLE = "autoexperiment experiment"
_TEXT = {"type": "string", "description": "Address of this schema, for editors."}
_ONE = {"$ref": "#/$defs/ExperimentConfig"}
_LIST = {"type": "array", "minItems": 1, "items": _ONE}


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
