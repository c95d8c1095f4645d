"""Translates a JSON Schema into the subset that Gemini reads.

The subset is that of `GenerationConfig.responseJsonSchema` in Google's API reference. Other keywords are ignored
by the API, or refused. Here a keyword with an equivalent is rewritten, and every other constraint is written into
the description, where the model can read it. The runtime validates arguments and answers against the full schema,
so a constraint that is lost here still holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard, cast

MAX_DEPTH = 40
"""Nesting levels that are translated; below them any value is allowed. The API refuses schemas long before."""
MAX_TOLD_CHARS = 200
"""Characters of a constraint that is told in a description; a longer one is left to the runtime's validation."""

_KEPT = (
    "$id", "$anchor", "type", "description", "enum", "minItems", "maxItems", "minimum", "maximum", "required",
    "propertyOrdering",
)  # fmt: skip
"""Keywords that are copied as they are. `title` only repeats names, and clients had trouble with it
(googleapis/python-genai#1732)."""
_FORMATS = ("date-time", "date", "time")
"""Formats of strings that the guide names."""
_TOLD = (
    "allOf", "const", "one of", "pattern", "minLength", "maxLength", "multipleOf", "exclusiveMinimum",
    "exclusiveMaximum", "uniqueItems", "minProperties", "maxProperties", "format", "default", "contains",
    "propertyNames", "patternProperties", "dependentRequired", "not", "if", "then", "else",
)  # fmt: skip
"""Keywords that go into the description, unless they were rewritten."""
_OF_SCHEMAS = ("anyOf", "oneOf", "prefixItems")
_OF_NAMED_SCHEMAS = ("properties", "$defs")
_UNITED = frozenset({"properties", "required"})
"""Keywords of which the parts of `allOf` may each have one."""


def gemini_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return `schema` in Gemini's subset of JSON Schema."""
    return _translated(schema, 0)


def _translated(schema: Any, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        return {}
    given = _rewritten(_object(schema))
    kept: dict[str, Any] = {name: given[name] for name in _KEPT if name in given}
    for name in _OF_NAMED_SCHEMAS:
        if name in given:
            kept[name] = {key: _translated(part, depth + 1) for key, part in _object(given[name]).items()}
    for name in _OF_SCHEMAS:
        if name in given:
            kept[name] = [_translated(part, depth + 1) for part in _list(given[name])]
    if isinstance(given.get("items"), Mapping):
        kept["items"] = _translated(given["items"], depth + 1)
    if (others := given.get("additionalProperties")) is not None:
        kept["additionalProperties"] = others if isinstance(others, bool) else _translated(others, depth + 1)
    if given.get("format") in _FORMATS:
        kept["format"] = given.pop("format")
    if told := _told(given):
        kept["description"] = f"{kept['description']} ({told})" if kept.get("description") else told
    return _with_reference(given.get("$ref"), kept)


def _rewritten(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with keywords replaced by equivalents of the subset, as far as there are any."""
    given = _with_merged(schema)
    if isinstance(given.get("items"), list):  # a tuple, before draft 2020-12
        given["prefixItems"] = given.pop("items")
    if "definitions" in given:
        given["$defs"] = {**_object(given.pop("definitions")), **_object(given.get("$defs"))}
    if "const" in given and _is_enumerable([given["const"]]):
        given["enum"] = [given.pop("const")]
    if "enum" in given and not _is_enumerable(_list(given["enum"])):
        given["one of"] = given.pop("enum")  # booleans, null and mixed types are no enum of Gemini's
    if "enum" in given and "type" not in given:
        given["type"] = "string" if isinstance(given["enum"][0], str) else "number"
    if given.get("type") == "integer":
        _include(given, "exclusiveMinimum", "minimum", lambda bound: math.floor(bound) + 1)
        _include(given, "exclusiveMaximum", "maximum", lambda bound: math.ceil(bound) - 1)
    return given


def _include(given: dict[str, Any], exclusive: str, inclusive: str, nearest: Callable[[float], int]) -> None:
    """Replace an exclusive bound on integers by the nearest integer within it."""
    bound = given.get(exclusive)
    if _is_number(bound) and math.isfinite(bound) and inclusive not in given:
        del given[exclusive]
        given[inclusive] = nearest(bound)


def _with_merged(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with the parts of `allOf` merged into it; parts that set the same keyword stay."""
    left: list[Any] = []
    for part in _list(schema.pop("allOf", None)):
        extra = _object(part)
        if extra.keys() & schema.keys() - _UNITED or "allOf" in extra:
            left.append(part)
            continue
        properties = {**_object(schema.get("properties")), **_object(extra.get("properties"))}
        required = [*_list(schema.get("required")), *_list(extra.get("required"))]
        schema.update(extra)
        if properties:
            schema["properties"] = properties
        if required:
            schema["required"] = [name for n, name in enumerate(required) if name not in required[:n]]
    return {**schema, "allOf": left} if left else schema


def _with_reference(reference: Any, kept: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with its reference; beside `$ref` only keywords that begin with $ are allowed."""
    if not isinstance(reference, str):
        return kept
    target = reference.replace("#/definitions/", "#/$defs/", 1)
    if not target.startswith("#/$defs/"):  # only definitions are known to be resolved
        return kept
    pointer = {"$ref": target}
    if all(name.startswith("$") for name in kept):
        return {**kept, **pointer}
    return {**kept, "anyOf": [pointer]} if "anyOf" not in kept else kept


def _told(given: Mapping[str, Any]) -> str:
    """Return the constraints that the subset cannot express, as a note to the model."""
    notes: list[str] = []
    for name in _TOLD:
        if name in given:
            value = json.dumps(given[name], ensure_ascii=False, default=str)
            if len(value) <= MAX_TOLD_CHARS:
                notes.append(f"{name}: {value}")
    return "; ".join(notes)


def _is_enumerable(values: list[Any]) -> bool:
    """Return whether these are all texts, or all numbers."""
    return bool(values) and (all(isinstance(item, str) for item in values) or all(map(_is_number, values)))


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _object(value: Any) -> dict[str, Any]:
    """Return a copy of an object; empty for a boolean schema, and for what is no schema."""
    return dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
