"""Signatures of found tools, as they stand in the conversation: one line each, of bounded length.

The grammar of the local model and the tools array of a server hold the whole schema; the line is what a small
window can afford.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from agentkit.tools.definition import ToolDefinition

if TYPE_CHECKING:
    from modelstack.toolcalls.convention import ToolSpec

MAX_FIRST_CHARS, MAX_SIGNATURE_CHARS = 160, 100
"""Characters of the signature of the nearest tool, which is called most often, and of the others. A model on a
processor evaluates them before its first token: five lines have about 100 tokens."""
_DESCRIPTION_LIMITS = (80, 40)
"""Characters of each description in a line; the first that lets the line fit is used."""


def signature(definition: ToolDefinition, *, max_chars: int = MAX_SIGNATURE_CHARS) -> str:
    """Return the line of a tool: the fullest form that fits.

    Descriptions are shortened, those of parameters and then optional parameters are left out, in this order.
    """
    forms = list(_forms(definition))
    return next((line for line in forms if len(line) <= max_chars), forms[-1][:max_chars])


def _forms(definition: ToolDefinition) -> Iterator[str]:
    """Yield the line of a tool in forms of falling length."""
    from modelstack.toolcalls.convention import ToolSpec
    from modelstack.toolcalls.signatures import render_tool

    spec = ToolSpec(definition.name, definition.description, definition.parameters_json_schema)
    for limit in _DESCRIPTION_LIMITS:
        yield render_tool(spec, description_limit=limit)
    description = " ".join(definition.description.split())[: _DESCRIPTION_LIMITS[-1]]
    ending = f" - {description}" if description else ""
    yield render_tool(_undescribed(spec, required_only=False)) + ending
    required = render_tool(_undescribed(spec, required_only=True)).removesuffix(")")
    yield (f"{required}…)" if required.endswith("(") else f"{required}, …)") + ending
    yield f"{definition.name}(…)" + ending


def _undescribed(spec: ToolSpec, *, required_only: bool) -> ToolSpec:
    """Return a tool without its description and those of its parameters, or without optional parameters, too."""
    from modelstack.toolcalls.convention import ToolSpec

    schema = spec.parameters
    required = cast("list[str]", schema.get("required") or [])
    properties = cast("Mapping[str, Any]", schema.get("properties") or {})
    kept = {name: _bare(value) for name, value in properties.items() if name in required or not required_only}
    definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return ToolSpec(spec.name, "", {"type": "object", "properties": kept, "required": required, **definitions})


def _bare(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    return {key: value for key, value in cast("Mapping[str, Any]", schema).items() if key != "description"}
