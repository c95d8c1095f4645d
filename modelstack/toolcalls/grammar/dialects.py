"""Schemas of other dialects, converted to JSON Schema Draft 2020-12.

`modernise` rewrites keywords of Draft 4 to 7 that 2020-12 spells differently; the compiler applies it to
every schema. `from_bfcl` is for the Berkeley Function-Calling Leaderboard, whose types are those of Python
and Java (`dict`, `float`, `tuple`, `any`, `HashMap`, ...). The table of its checker is
bfcl_eval/constants/type_mappings.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelstack.toolcalls.convention import ToolSpec

_BFCL_TYPES = {
    "dict": "object", "hashmap": "object", "hashtable": "object", "map": "object", "object": "object",
    "float": "number", "double": "number", "number": "number",
    "integer": "integer", "int": "integer", "long": "integer", "short": "integer", "byte": "integer",
    "bigint": "integer",
    "string": "string", "str": "string", "char": "string",
    "boolean": "boolean", "bool": "boolean",
    "array": "array", "list": "array", "tuple": "array", "arraylist": "array", "set": "array",
    "queue": "array", "stack": "array",
    "null": "null", "none": "null",
}  # fmt: skip
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLES = (
    "items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems", "not", "if", "then", "else",
    "contains", "propertyNames",
)  # fmt: skip


def modernise(schema: Any) -> Any:
    """Return the schema in the spelling of Draft 2020-12: `items` lists, `dependencies`, boolean bounds."""
    if not isinstance(schema, Mapping):
        return schema
    node = dict(schema)
    if isinstance(node.get("items"), list | tuple):
        node["prefixItems"] = list(node.pop("items"))
        rest = node.pop("additionalItems", None)
        if rest is not None:
            node["items"] = rest
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(node.get(exclusive), bool):
            strict = node.pop(exclusive)
            if strict and bound in node:
                node[exclusive] = node.pop(bound)
    dependencies = node.pop("dependencies", {})
    for name, needs in dependencies.items() if isinstance(dependencies, Mapping) else ():
        key = "dependentRequired" if isinstance(needs, list | tuple) else "dependentSchemas"
        node[key] = {**node.get(key, {}), name: needs}
    return _inside(node, modernise)


def from_bfcl(schema: Any) -> Any:
    """Return a schema of BFCL as Draft 2020-12; an unknown type allows any value.

    `optional` and other keys without meaning in JSON Schema are dropped; `nullable` adds null to the type.
    """
    if not isinstance(schema, Mapping):
        return schema
    node = {key: value for key, value in schema.items() if key not in ("optional", "nullable")}
    declared = node.pop("type", None)
    names = declared if isinstance(declared, list | tuple) else [] if declared is None else [declared]
    types = [_BFCL_TYPES.get(str(name).lower().split("<")[0], "") for name in names]
    if types and all(types):
        if schema.get("nullable") is True and "null" not in types:
            types.append("null")
        types = list(dict.fromkeys(types))
        node["type"] = types[0] if len(types) == 1 else types
    return _inside(node, from_bfcl)


def bfcl_tool(function: Mapping[str, Any]) -> ToolSpec:
    """Return the tool of one entry in BFCL's `function` list."""
    parameters = from_bfcl(function.get("parameters") or {"type": "object", "properties": {}})
    return ToolSpec(str(function["name"]), str(function.get("description", "")), parameters)


def _inside(node: dict[str, Any], rewrite: Any) -> dict[str, Any]:
    """Apply `rewrite` to all subschemas of a node."""
    for key in _MAPS:
        if isinstance(node.get(key), Mapping):
            node[key] = {name: rewrite(sub) for name, sub in node[key].items()}
    for key in _LISTS:
        if isinstance(node.get(key), list | tuple):
            node[key] = [rewrite(sub) for sub in node[key]]
    for key in _SINGLES:
        if isinstance(node.get(key), Mapping):
            node[key] = rewrite(node[key])
    return node
