"""The smallest value that a JSON Schema accepts, for models that must call tools without understanding them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentkit.errors import UserError

_MAX_DEPTH = 32
"""Depth of a value; a schema that needs more is recursive without an end."""


def smallest_value(schema: Mapping[str, Any]) -> Any:
    """Return a small value for `schema`: required properties only, shortest strings, first branches.

    Raises:
        UserError: the schema needs an infinite value, or refers to something outside itself.
    """
    return _value(schema, schema, 0)


def _value(schema: Mapping[str, Any] | bool, root: Mapping[str, Any], depth: int) -> Any:
    if isinstance(schema, bool):
        return None
    if depth > _MAX_DEPTH:
        raise UserError("the schema is recursive and has no finite value: make a property optional.")
    if "$ref" in schema:
        return _value(_resolve(schema["$ref"], root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if "default" in schema:
        return schema["default"]
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return _first_finite(schema[keyword], root, depth + 1)
    if "allOf" in schema:
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            part = _resolve(part["$ref"], root) if "$ref" in part else part
            merged |= {**part, "properties": {**merged.get("properties", {}), **part.get("properties", {})}}
        return _value({**merged, **{k: v for k, v in schema.items() if k != "allOf"}}, root, depth + 1)
    kind: str | list[str] = schema.get("type", "object" if "properties" in schema else "string")
    return _typed(kind if isinstance(kind, str) else kind[0], schema, root, depth)


def _typed(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    match kind:
        case "object":
            properties = schema.get("properties", {})
            return {name: _value(properties.get(name, {}), root, depth + 1) for name in schema.get("required", ())}
        case "array":
            return [_value(schema.get("items", {}), root, depth + 1) for _ in range(schema.get("minItems", 0))]
        case "integer":
            return _number(schema, step=1)
        case "number":
            return _number(schema, step=0.5)
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return "a" * schema.get("minLength", 1)


def _number(schema: Mapping[str, Any], step: float) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None:
        return low + step if "minimum" not in schema else low
    if high is not None and high <= 0:
        return high - step if "maximum" not in schema else high
    return 0


def _first_finite(branches: Sequence[Any], root: Mapping[str, Any], depth: int) -> Any:
    for branch in branches:
        try:
            return _value(branch, root, depth)
        except UserError:
            continue
    raise UserError("the schema is recursive and has no finite value: make a property optional.")


def _resolve(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    if not reference.startswith("#"):
        raise UserError(f"the schema refers to {reference!r}; only references inside the schema are followed.")
    target: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if part:
            target = target[part.replace("~1", "/").replace("~0", "~")]
    return target
