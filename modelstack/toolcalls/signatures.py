"""Signatures of tools, one line each: the form in which a model sees them.

`get_weather(city:string "City and country", days?:int=3, unit?:"c"|"f") - Forecast for a city`

A signature has half the length of the JSON Schema on real tool sets (median 887 against 1,864 characters).
Optional parameters have a `?`, defaults a `=`, enums their JSON values, arrays and objects the types inside them.
A recursive type is written once and named afterwards, as `#node`. The same tools always give the same text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.grammar.pointers import resolve

DESCRIPTION_LIMIT = 120
"""Maximum number of characters shown of a description; the lengths above include this cut."""
_SHORT_TYPES = {"integer": "int", "boolean": "bool"}
_RANGES = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
_TELLING_BOUND = 1_000_000
"""Largest absolute value of a bound that is shown; larger ones protect a server and cost a model ten tokens each.
"""
_MAX_ENUM = 40
"""Maximum number of enum values listed; the grammar knows all of them."""


def render_tools(tools: Sequence[ToolSpec], *, description_limit: int | None = DESCRIPTION_LIMIT) -> str:
    """Return one line for each tool, in the order given."""
    return "\n".join(render_tool(tool, description_limit=description_limit) for tool in tools)


def render_tool(tool: ToolSpec, *, description_limit: int | None = DESCRIPTION_LIMIT) -> str:
    """Return the signature of one tool."""
    writer = _Writer(tool.parameters, description_limit)
    schema = resolve(tool.parameters, tool.parameters)
    line = f"{tool.name}({writer.members(schema, ())})"
    description = writer.cut(tool.description)
    return f"{line} - {description}" if description else line


class _Writer:
    """Writes the types of one tool."""

    def __init__(self, root: Any, limit: int | None) -> None:
        """Write types of the document `root`; descriptions are cut to `limit` characters."""
        self.root = root
        self.limit = limit

    def cut(self, text: Any) -> str:
        """Return text on one line, cut to the limit."""
        line = " ".join(str(text or "").split())
        if self.limit is not None and len(line) > self.limit:
            line = line[: self.limit - 1].rstrip() + "…"
        return line

    def members(self, schema: Any, inside: tuple[str, ...]) -> str:
        """Return the properties of an object, separated by commas."""
        parts = []
        for part in self._parts(schema):
            required = part.get("required", ())
            parts += [
                self._member(name, sub, name in required, inside)
                for name, sub in part.get("properties", {}).items()
            ]
        extra = schema.get("additionalProperties") if isinstance(schema, Mapping) else None
        if isinstance(extra, Mapping) and extra:
            parts.append(f"*:{self.type(extra, inside)}")
        elif extra is True:
            parts.append("*")
        return ", ".join(parts)

    def type(self, schema: Any, inside: tuple[str, ...]) -> str:
        """Return the type of a value."""
        if not isinstance(schema, Mapping):
            return "any"
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference in inside:
                return "#" + (reference.rsplit("/", 1)[-1].lstrip("#") or "root")
            return self.type(resolve(schema, self.root), (*inside, reference))
        if "const" in schema or "enum" in schema:
            return _values([schema["const"]] if "const" in schema else schema["enum"])
        for keyword in ("anyOf", "oneOf"):
            if schema.get(keyword) and "properties" not in schema:
                return "|".join(dict.fromkeys(self.type(branch, inside) for branch in schema[keyword]))
        types = schema.get("type", "object" if "properties" in schema or "allOf" in schema else "any")
        names = [types] if isinstance(types, str) else list(types)
        return "|".join(self._one(name, schema, inside) for name in names)

    def _member(self, name: str, schema: Any, required: bool, inside: tuple[str, ...]) -> str:
        resolved = resolve(schema, self.root)
        text = f"{_bare(name)}{'' if required else '?'}:{self.type(schema, inside)}"
        notes = {**resolved, **schema} if isinstance(schema, Mapping) and isinstance(resolved, Mapping) else {}
        if notes.get("default") is not None:
            text += f"={_json(notes['default'])}"
        description = self.cut(notes.get("description"))
        return f"{text} {_json(description)}" if description else text

    def _one(self, name: str, schema: Mapping[str, Any], inside: tuple[str, ...]) -> str:
        if name == "object":
            members = self.members(schema, inside)
            return f"{{{members}}}" if members else "object"
        if name == "array":
            if "prefixItems" in schema:
                return "[" + ", ".join(self.type(item, inside) for item in schema["prefixItems"]) + "]"
            return f"[{self.type(schema.get('items', True), inside)}]"
        if name == "string" and "format" in schema:
            return f"string<{schema['format']}>"
        limits = "".join(
            f"{sign}{schema[key]}"
            for key, sign in _RANGES
            if name in ("integer", "number") and _is_telling(schema.get(key))
        )
        return _SHORT_TYPES.get(name, name) + limits

    def _parts(self, schema: Any) -> list[Mapping[str, Any]]:
        """Return the schema and the members of its `allOf`."""
        if not isinstance(schema, Mapping):
            return []
        parts = [resolve(part, self.root) for part in schema.get("allOf", ())]
        return [schema, *(part for part in parts if isinstance(part, Mapping))]


def _values(values: Sequence[Any]) -> str:
    shown = "|".join(_json(value) for value in values[:_MAX_ENUM])
    return shown if len(values) <= _MAX_ENUM else f"{shown}|…"


def _is_telling(bound: Any) -> bool:
    return isinstance(bound, int | float) and abs(bound) <= _TELLING_BOUND


def _bare(name: str) -> str:
    """Return a property's name, quoted if it would be ambiguous."""
    return name if name.replace("_", "").replace("-", "").replace(".", "").isalnum() else _json(name)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
