"""Signatures of found tools, as they stand in the conversation: one line each, of bounded length.

The grammar of the local model and the tools array of a server hold the whole schema; the line is what a small
window can afford.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from agentkit.tools.definition import ToolDefinition

if TYPE_CHECKING:
    from modelstack.toolcalls.convention import ToolSpec

MAX_SIGNATURE_CHARS = 240
"""Characters of a signature, about 70 tokens. A model on a processor evaluates them before its first token."""
_DESCRIPTION_LIMITS = (80, 40, 20)
"""Characters of each description in a line; the first that lets the line fit is used."""


def signature(definition: ToolDefinition, *, max_chars: int = MAX_SIGNATURE_CHARS) -> str:
    """Return the line of a tool: descriptions are shortened first, then optional parameters are left out."""
    from modelstack.toolcalls.convention import ToolSpec
    from modelstack.toolcalls.signatures import render_tool

    spec = ToolSpec(definition.name, definition.description, definition.parameters_json_schema)
    for limit in _DESCRIPTION_LIMITS:
        line = render_tool(spec, description_limit=limit)
        if len(line) <= max_chars:
            return line
    description = " ".join(definition.description.split())[: _DESCRIPTION_LIMITS[1]]
    required = render_tool(_required(spec), description_limit=_DESCRIPTION_LIMITS[-1]).removesuffix(")")
    call = f"{required}…)" if required.endswith("(") else f"{required}, …)"
    if len(call) + len(description) > max_chars:
        call = f"{definition.name}(…)"
    return f"{call} - {description}" if description else call


def _required(spec: ToolSpec) -> ToolSpec:
    """Return a tool without description and optional parameters."""
    from modelstack.toolcalls.convention import ToolSpec

    schema = spec.parameters
    required = cast("list[str]", schema.get("required") or [])
    properties = cast("Mapping[str, Any]", schema.get("properties") or {})
    kept = {name: value for name, value in properties.items() if name in required}
    definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return ToolSpec(spec.name, "", {"type": "object", "properties": kept, "required": required, **definitions})
