"""Check whether OpenAI's strict mode accepts a JSON Schema unchanged.

From "Structured Outputs", supported schemas: every object closed and all its properties required, a limited set
of keywords, an object (no union) at the root. Outside of that set `strict: true` is a 400; servers with a
grammar of their own (vLLM, llama.cpp) enforce the schema either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

_ANNOTATIONS = frozenset({"title", "description"})
_CONSTRAINTS = frozenset(
    {
        "type", "enum", "const", "anyOf", "$ref", "$defs", "definitions", "properties", "required",
        "additionalProperties", "items", "minItems", "maxItems", "pattern", "format", "minimum", "maximum",
        "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    }
)  # fmt: skip
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
MAX_DEPTH = 10
"""OpenAI's bound on nested levels; generous here since only `properties`, `items` and unions count."""


def allows_strict(schema: Mapping[str, Any]) -> bool:
    """Return whether strict mode accepts `schema`; False if in doubt."""
    return schema.get("type") == "object" and "anyOf" not in schema and _allowed(schema, depth=0)


def _allowed(schema: Any, depth: int) -> bool:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return False
    schema = cast("Mapping[str, Any]", schema)
    if not schema.keys() <= _CONSTRAINTS | _ANNOTATIONS:
        return False
    if "format" in schema and schema["format"] not in _FORMATS:
        return False
    if not (schema.keys() & {"type", "enum", "const", "anyOf", "$ref"}):
        return False
    if _is_object(schema) and not _is_closed(schema):
        return False
    if schema.get("type") == "array" and "items" not in schema:
        return False
    return all(_allowed(part, depth + 1) for part in _subschemas(schema))


def _is_object(schema: Mapping[str, Any]) -> bool:
    kind = schema.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in schema


def _is_closed(schema: Mapping[str, Any]) -> bool:
    properties: Mapping[str, Any] = schema.get("properties", {})
    required: list[str] = schema.get("required", [])
    return schema.get("additionalProperties") is False and set(required) == set(properties)


def _subschemas(schema: Mapping[str, Any]) -> list[Any]:
    found: list[Any] = []
    for keyword in ("properties", "$defs", "definitions"):
        found.extend(schema.get(keyword, {}).values())
    found.extend(schema.get("anyOf", ()))
    if "items" in schema:
        found.append(schema["items"])
    return found
