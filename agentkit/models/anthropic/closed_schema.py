"""JSON Schemas in the form that Anthropic's constrained decoding accepts.

From the guide "Structured outputs": objects are closed, only some keywords are enforced, recursion is refused, and
a request's schemas have limits together. Keywords that are not enforced go into the description, so that the model
may still follow them; the runtime's validation enforces them. The package `anthropic` does the same
(`transform_schema`), except that it also closes objects with free keys, which forbids their content.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

MAX_STRICT_TOOLS = 20
MAX_OPTIONAL_PROPERTIES = 24
"""Properties that are not required, in all strict schemas of a request together."""
MAX_UNIONS = 16
"""Properties with a union type, in all strict schemas of a request together."""
MAX_DEPTH = 64
"""Levels of nesting. A deeper schema is given up rather than followed."""

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_ANNOTATIONS = frozenset(
    {"default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema", "$id", "discriminator"}
)  # fmt: skip
_UNIONS = ("anyOf", "oneOf", "allOf")


class _NotAccepted(Exception):
    pass


def closed_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the schema of an object in the accepted form; None if it has none."""
    try:
        closed = _closed(schema, 0)
        _check_recursion(closed)
    except _NotAccepted:
        return None
    return closed if closed.get("type") == "object" or "$ref" in closed else None


@dataclass(slots=True)
class StrictLimits:
    """Use of the API's limits by the strict schemas of one request."""

    n_tools: int = 0
    n_optional: int = 0
    n_unions: int = 0

    def take(self, schema: Mapping[str, Any], *, is_tool: bool = True) -> bool:
        """Count a closed schema; False, and nothing is counted, if it would exceed a limit."""
        n_tools = self.n_tools + is_tool
        properties = list(_properties(schema))
        n_optional = self.n_optional + sum(not required for _, required in properties)
        n_unions = self.n_unions + sum("anyOf" in each for each, _ in properties)
        if n_tools > MAX_STRICT_TOOLS or n_optional > MAX_OPTIONAL_PROPERTIES or n_unions > MAX_UNIONS:
            return False
        self.n_tools, self.n_optional, self.n_unions = n_tools, n_optional, n_unions
        return True


def _closed(schema: Any, depth: int) -> dict[str, Any]:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        raise _NotAccepted
    rest = {key: value for key, value in cast("Mapping[str, Any]", schema).items() if key not in _ANNOTATIONS}
    closed: dict[str, Any] = {}
    if (definitions := rest.pop("$defs", None)) is not None:
        closed["$defs"] = {name: _closed(each, depth + 1) for name, each in _object(definitions).items()}
    if "$ref" in rest:
        return {**closed, "$ref": rest["$ref"]}
    for name in ("title", "description"):
        if name in rest:
            closed[name] = rest.pop(name)
    closed.update(_core(rest, depth))
    if rest:
        unenforced = json.dumps(rest, ensure_ascii=False, default=str)
        closed["description"] = "\n\n".join(filter(None, (closed.get("description"), unenforced)))
    return closed


def _core(rest: dict[str, Any], depth: int) -> dict[str, Any]:
    """Take the enforced keywords out of `rest`."""
    literals = {name: rest.pop(name) for name in ("enum", "const") if name in rest}
    if literals:
        rest.pop("type", None)
        if not all(_is_plain(value) for value in (*literals.get("enum", ()), literals.get("const"))):
            raise _NotAccepted
        return literals
    for name in _UNIONS:
        if name in rest:
            kind = "allOf" if name == "allOf" else "anyOf"
            return {kind: [_closed(each, depth + 1) for each in _list(rest.pop(name))]}
    kind = rest.pop("type", None)
    if isinstance(kind, list):
        kinds = cast("list[Any]", kind)
        shared = {name: rest.pop(name) for name in tuple(rest)}
        return {"anyOf": [_closed({"type": each, **_for_type(shared, each)}, depth + 1) for each in kinds]}
    match kind:
        case "object":
            return _object_core(rest, depth)
        case "array":
            return _array_core(rest, depth)
        case "string":
            known = rest.get("format") in _FORMATS
            return {"type": kind, **({"format": rest.pop("format")} if known else {})}
        case "integer" | "number" | "boolean" | "null":
            return {"type": kind}
        case _:
            raise _NotAccepted


def _object_core(rest: dict[str, Any], depth: int) -> dict[str, Any]:
    properties = rest.pop("properties", None)
    additional = rest.pop("additionalProperties", None)
    if (
        additional not in (None, False)
        or (properties is None and additional is None)
        or "patternProperties" in rest
    ):
        raise _NotAccepted  # keys are free; closing the object would forbid them
    closed: dict[str, Any] = {
        "type": "object",
        "properties": {
            name: _closed(each, depth + 1)
            for name, each in _object({} if properties is None else properties).items()
        },
        "additionalProperties": False,
    }
    if "required" in rest:
        closed["required"] = _list(rest.pop("required"))
    return closed


def _array_core(rest: dict[str, Any], depth: int) -> dict[str, Any]:
    if "prefixItems" in rest or "items" not in rest:
        raise _NotAccepted  # tuples and lists of anything cannot be expressed
    closed: dict[str, Any] = {"type": "array", "items": _closed(rest.pop("items"), depth + 1)}
    if rest.get("minItems") in (0, 1):
        closed["minItems"] = rest.pop("minItems")
    return closed


_KEYWORDS_OF = {
    "object": (
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "minProperties",
        "maxProperties",
    ),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("format", "pattern", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def _for_type(keywords: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Return the keywords that apply to one type of several."""
    return {name: keywords[name] for name in _KEYWORDS_OF.get(kind, ()) if name in keywords}


def _check_recursion(schema: dict[str, Any]) -> None:
    """Refuse a schema that contains itself, or refers to something other than its definitions."""
    definitions = cast("dict[str, Any]", schema.get("$defs", {}))
    finished: set[str] = set()

    def visit(part: Mapping[str, Any], path: tuple[str, ...]) -> None:
        if (reference := part.get("$ref")) is not None:
            name = str(reference).removeprefix("#/$defs/")
            if name in path or name not in definitions:
                raise _NotAccepted
            if name not in finished:
                visit(definitions[name], (*path, name))
                finished.add(name)
        for each in _parts(part):
            visit(each, path)

    visit({key: value for key, value in schema.items() if key != "$defs"}, ())


def _parts(schema: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    yield from schema.get("properties", {}).values()
    for name in ("anyOf", "allOf"):
        yield from schema.get(name, ())
    if "items" in schema:
        yield schema["items"]


def _properties(schema: Mapping[str, Any]) -> Iterable[tuple[Mapping[str, Any], bool]]:
    """Yield every property of a closed schema, and whether it is required."""
    required: Sequence[str] = schema.get("required", ())
    for name, each in schema.get("properties", {}).items():
        yield each, name in required
    for part in (*_parts(schema), *schema.get("$defs", {}).values()):
        yield from _properties(part)


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _NotAccepted
    return cast("Mapping[str, Any]", value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise _NotAccepted
    return list(cast("Sequence[Any]", value))


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
