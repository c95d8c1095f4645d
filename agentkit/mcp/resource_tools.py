"""The resources of a server as two tools for the model: list and read.

The definitions are ours and fixed, so there is nothing of the server to pin in them: what the server says of its
resources comes as a tool's result, bounded and untrusted. A server's own tool of the same name takes precedence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentkit.context import RunContext
from agentkit.errors import MCPRequestError
from agentkit.mcp.results import bounded
from agentkit.tools.definition import ToolAnnotations, ToolDefinition
from agentkit.tools.json_schema import compile_schema
from agentkit.tools.tool import Tool, ToolOutput

if TYPE_CHECKING:
    from agentkit.mcp.server_data import ServerData

LIST, READ = "list_resources", "read_resource"
PAGE_RESOURCES = 100
"""Resources in one answer: about 5,000 tokens."""
MAX_LINE_CHARS = 300
"""Characters about one resource."""

_LIST_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "page": {"type": "integer", "minimum": 1, "default": 1, "description": "Page of a long list."},
    },
    "additionalProperties": False,
}
_READ_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"uri": {"type": "string", "description": f"URI that {LIST} shows."}},
    "required": ["uri"],
    "additionalProperties": False,
}


def resource_tools(
    data: ServerData, *, is_untrusted: bool, is_consequential: bool, result_limit: int
) -> tuple[Tool, Tool]:
    """Return the two tools of a server that has resources.

    `is_consequential` applies to reading, whose URI may carry data to the server.
    """

    async def list_resources(arguments: dict[str, Any], context: RunContext[Any]) -> ToolOutput:
        try:
            lines = await _lines(data)
        except MCPRequestError as error:
            return ToolOutput(str(error), is_error=True)
        page: int = arguments.get("page", 1)
        n_pages = max(1, -(-len(lines) // PAGE_RESOURCES))
        if page > n_pages:
            return ToolOutput(f"There is no page {page}; the last is {n_pages}.", is_error=True)
        shown = lines[(page - 1) * PAGE_RESOURCES : page * PAGE_RESOURCES] or ["no resources"]
        note = f"\n(page {page} of {n_pages})" if n_pages > 1 else ""
        return ToolOutput(bounded("\n".join(shown), result_limit, clean=False) + note)

    async def read_resource(arguments: dict[str, Any], context: RunContext[Any]) -> ToolOutput:
        try:
            return ToolOutput((await data.read_resource(arguments["uri"])).content)
        except MCPRequestError as error:
            return ToolOutput(str(error), is_error=True)

    reads = ToolAnnotations(read_only=True, destructive=False, idempotent=True)
    listing = ToolDefinition(LIST, f"List the resources of {data.id}.", _LIST_SCHEMA, annotations=reads)
    reading = ToolDefinition(READ, f"Read a resource of {data.id}.", _READ_SCHEMA, annotations=reads)
    return (
        Tool(
            definition=listing,
            call=list_resources,
            validate=compile_schema(_LIST_SCHEMA, name=f"tool {LIST!r}").arguments,
            is_untrusted=is_untrusted,
            is_repeatable=not is_untrusted,
        ),
        Tool(
            definition=reading,
            call=read_resource,
            validate=compile_schema(_READ_SCHEMA, name=f"tool {READ!r}").arguments,
            is_untrusted=is_untrusted,
            is_consequential=is_consequential,
            is_repeatable=not is_untrusted,
        ),
    )


async def _lines(data: ServerData) -> Sequence[str]:
    """Return a line for each resource, then one for each template."""
    listed = [
        (each.uri, each.title or each.name, each.description, each.media_type)
        for each in await data.list_resources()
    ]
    listed += [
        (each.uri_template, each.title or each.name, f"{each.description} (fill in the braces)", each.media_type)
        for each in await data.list_resource_templates()
    ]
    return [
        " ".join(f"{uri} {name}{f' [{media_type}]' if media_type else ''}: {about}".split())[:MAX_LINE_CHARS]
        for uri, name, about, media_type in listed
    ]
