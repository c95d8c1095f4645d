"""JSON Schemas in the subset that Gemini reads."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from agentkit.models.google.schema_subset import MAX_DEPTH, gemini_schema

DOCUMENTED = {
    "$id", "$defs", "$ref", "$anchor", "type", "format", "title", "description", "enum", "items", "prefixItems",
    "minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties",
    "required", "propertyOrdering",
}  # fmt: skip
"""Keywords that Google's reference names for `responseJsonSchema`."""


def foreign_keywords(schema: Any) -> set[str]:
    """Return the keywords of a schema and of the schemas in it that Google's reference does not name."""
    found = set(schema) - DOCUMENTED
    for name in ("properties", "$defs"):
        for part in schema.get(name, {}).values():
            found |= foreign_keywords(part)
    for name in ("anyOf", "oneOf", "prefixItems"):
        for part in schema.get(name, []):
            found |= foreign_keywords(part)
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            found |= foreign_keywords(schema[name])
    return found


def test_a_schema_within_the_subset_stays_the_same() -> None:
    schema = {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": ["new", "old"]},
            "when": {"type": "string", "format": "date-time"},
            "sizes": {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 1, "maxItems": 3},
            "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
            "note": {"type": ["string", "null"], "description": "Any."},
            "next": {"$ref": "#/$defs/Node"},
        },
        "required": ["kind"],
        "additionalProperties": False,
        "$defs": {"Node": {"type": "object", "properties": {"up": {"$ref": "#/$defs/Node"}}}},
    }
    assert gemini_schema(schema) == schema


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"const": "on"}, {"type": "string", "enum": ["on"]}),
        ({"type": "integer", "const": 3}, {"type": "integer", "enum": [3]}),
        ({"type": "boolean", "const": True}, {"type": "boolean", "description": "const: true"}),
        ({"enum": ["a", None]}, {"description": 'one of: ["a", null]'}),
        (
            {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
            {"type": "integer", "minimum": 1, "maximum": 9},
        ),
        ({"type": "integer", "exclusiveMinimum": -0.5}, {"type": "integer", "minimum": 0}),
        ({"type": "number", "exclusiveMinimum": 0}, {"type": "number", "description": "exclusiveMinimum: 0"}),
        (
            {"type": "string", "description": "A code", "pattern": "^[a-z]+$", "minLength": 2},
            {"type": "string", "description": 'A code (pattern: "^[a-z]+$"; minLength: 2)'},
        ),
        ({"type": "string", "format": "uuid"}, {"type": "string", "description": 'format: "uuid"'}),
        (
            {"type": "array", "items": [{"type": "integer"}]},
            {"type": "array", "prefixItems": [{"type": "integer"}]},
        ),
        ({"definitions": {"A": {"type": "null"}}}, {"$defs": {"A": {"type": "null"}}}),
        ({"$ref": "#/definitions/A"}, {"$ref": "#/$defs/A"}),
        (
            {"$ref": "#/$defs/A", "description": "The first."},
            {"description": "The first.", "anyOf": [{"$ref": "#/$defs/A"}]},
        ),
        ({"$ref": "https://elsewhere.example/a.json"}, {}),
        (
            {"allOf": [{"type": "object", "properties": {"a": {}}, "required": ["a"]}, {"required": ["a", "b"]}]},
            {"type": "object", "properties": {"a": {}}, "required": ["a", "b"]},
        ),
        (
            {"type": "string", "allOf": [{"type": "object"}]},
            {"type": "string", "description": 'allOf: [{"type": "object"}]'},
        ),
        ({"allOf": [{"$ref": "#/$defs/A"}], "title": "B"}, {"$ref": "#/$defs/A"}),
        ({"type": "object", "properties": {"x": True}}, {"type": "object", "properties": {"x": {}}}),
        (
            {"type": "object", "x-order": 3, "$schema": "https://json-schema.org/draft/2020-12/schema"},
            {"type": "object"},
        ),
        ({"type": "string", "default": "x" * 300}, {"type": "string"}),
        (
            {"type": "integer", "exclusiveMinimum": float("inf")},
            {"type": "integer", "description": "exclusiveMinimum: Infinity"},
        ),
    ],
)
def test_what_the_subset_lacks_is_rewritten_or_told(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert gemini_schema(schema) == expected


class Item(BaseModel):
    name: str = Field(min_length=1, examples=["tea"])
    kind: Literal["food", "drink"] = "food"
    price: float = Field(gt=0, description="In euros.")
    parts: list[Item] = []
    size: tuple[int, int] | None = None
    tags: set[str] = Field(default_factory=set)


def test_schemas_of_pydantic_become_ones_that_the_sdk_accepts() -> None:
    schema = gemini_schema(Item.model_json_schema())
    assert not foreign_keywords(schema)
    types.FunctionDeclaration(name="f", parameters_json_schema=schema)
    item = schema["$defs"]["Item"]
    assert item["properties"]["name"]["description"] == "minLength: 1"
    assert item["properties"]["price"]["description"] == "In euros. (exclusiveMinimum: 0)"
    assert item["properties"]["parts"]["items"] == {"$ref": "#/$defs/Item"}
    size = item["properties"]["size"]
    assert size["anyOf"][0]["prefixItems"] == [{"type": "integer"}, {"type": "integer"}]
    assert schema["$ref"] == "#/$defs/Item"


def test_a_schema_of_any_depth_ends() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(500):
        schema = {"type": "array", "items": schema}
    depth, inner = 0, gemini_schema(schema)
    while "items" in inner:
        depth, inner = depth + 1, inner["items"]
    assert depth == MAX_DEPTH + 1 and inner == {}


KEYWORDS = st.sampled_from(
    sorted(DOCUMENTED)
    + ["allOf", "const", "exclusiveMinimum", "exclusiveMaximum", "definitions", "not", "default"]
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5) | st.just("integer"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYWORDS, ANY_JSON, max_size=8))
def test_no_foreign_schema_breaks_the_translation(schema: dict[str, Any]) -> None:
    translated = gemini_schema(schema)
    json.dumps(translated)
    assert not foreign_keywords(translated)
