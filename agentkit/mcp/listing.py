"""Turns a server's `tools/list` into tools that may be shown to a model, or raises an error with the reason.

Everything here is untrusted: the number of pages and tools, names, prose and schemas. Bounds stop an endless
listing. Hidden characters are removed from prose, and long prose is cut. A tool with an unusable name or schema is
left out with a warning that names it: one such tool must not block the others of its server.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError
from pydantic_core import to_json

from agentkit.basics.hidden import has_hidden, strip_prose
from agentkit.basics.near_names import MAX_NAME_CHARS, near_names
from agentkit.errors import ToolDefinitionError, UserError
from agentkit.tools.definition import ToolAnnotations, ToolDefinition
from agentkit.tools.json_schema import SchemaCheck, compile_schema

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import Tool as WireTool

MAX_LISTING_BYTES = 8_000_000
"""Bytes of all definitions of one server. One with 741 tools needed about 2 MB (G-Core/gcore-mcp-server#14)."""

MAX_SCHEMA_BYTES = 200_000
"""Bytes of one tool's input schema; the largest of those 741 tools is far below."""

MAX_DESCRIPTION_CHARS = 8_000
"""Characters of a description: about 2,000 tokens; more than that is a manual."""

MAX_TITLE_CHARS = 200

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""SEP-986, https://modelcontextprotocol.io/specification/2025-11-25/server/tools#tool-names"""

_PROSE_KEYS = ("description", "title", "$comment")

OnBadTool = Literal["fail", "skip"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a listing."""

    max_tools: int
    max_pages: int


@dataclass(frozen=True, slots=True)
class ServerTool:
    """A usable tool of a server."""

    definition: ToolDefinition
    arguments: SchemaCheck
    output: SchemaCheck | None


@dataclass(frozen=True, slots=True)
class Listing:
    """All usable tools of a server, and warnings about the others."""

    tools: Mapping[str, ServerTool]
    warnings: tuple[str, ...] = ()


async def fetch_tools(client: Client, bounds: Bounds, *, server: str) -> list[WireTool]:
    """Fetch all pages.

    Raises:
        ToolDefinitionError: the listing does not end within the bounds, or a page is not valid MCP.
    """
    tools: list[WireTool] = []
    cursors: set[str] = set()
    cursor: str | None = None
    n_bytes = 0
    for n_pages in range(1, bounds.max_pages + 1):
        try:
            page = await client.list_tools(cursor=cursor)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ToolDefinitionError(
                f"MCP server {server!r}: page {n_pages} of its tool list is not valid MCP at {where!r}: "
                f"{first['msg']}. Its author has to fix that."
            ) from error
        tools += page.tools
        n_bytes += sum(len(tool.model_dump_json()) for tool in page.tools)
        if len(tools) > bounds.max_tools:
            raise ToolDefinitionError(
                f"MCP server {server!r} lists {len(tools):,} tools or more ({n_pages} pages); at most "
                f"max_tools={bounds.max_tools:,} are taken. Raise max_tools if it really has so many."
            )
        if n_bytes > MAX_LISTING_BYTES:
            raise ToolDefinitionError(
                f"MCP server {server!r}: its {len(tools):,} tool definitions hold {n_bytes:,} bytes, more "
                f"than {MAX_LISTING_BYTES:,}. No model can read that; use a server with fewer tools."
            )
        cursor = page.next_cursor
        if cursor is None:
            return tools
        if cursor in cursors:
            raise ToolDefinitionError(
                f"MCP server {server!r} repeats a cursor on page {n_pages} of its tool list ({len(tools):,} "
                f"tools so far): the list would never end. Its author has to fix that."
            )
        cursors.add(cursor)
    raise ToolDefinitionError(
        f"MCP server {server!r}: its tool list goes on after max_pages={bounds.max_pages} pages "
        f"({len(tools):,} tools). Raise max_pages if that is right."
    )


async def make_listing(
    wire: Sequence[WireTool], *, server: str, allow: Collection[str] | None, on_bad_tool: OnBadTool
) -> Listing:
    """Check the tools that `allow` names (None: all).

    Raises:
        ToolDefinitionError: two tools share a name, or one is unusable and `on_bad_tool` is "fail".
    """
    tools: dict[str, ServerTool] = {}
    skipped: list[str] = []
    for tool in wire:
        if allow is not None and tool.name not in allow:
            continue
        if tool.name in tools:
            raise ToolDefinitionError(
                f"MCP server {server!r} lists the tool {tool.name!r} twice; which one is called is unknown. "
                f"Leave it out with `allow=[...]`, or have the server fixed."
            )
        try:
            tools[tool.name] = _server_tool(tool, server)
        except ToolDefinitionError as error:
            if on_bad_tool == "fail":
                raise ToolDefinitionError(
                    f'{error} MCPToolset(..., on_bad_tool="skip") leaves such tools out; `allow=[...]` names the '
                    f"tools to take."
                ) from error
            skipped.append(f"left out: {str(error).replace(f' of MCP server {server!r}', '', 1)}")
        await asyncio.sleep(0)  # compiling a schema takes 2 ms; other tasks run between the tools
    return Listing(tools, tuple(skipped))


def check_allowed(allow: Collection[str], wire: Sequence[WireTool], *, server: str) -> None:
    """Check that every name in `allow` exists.

    Raises:
        UserError: a name does not exist; the message names the nearest.
    """
    names = [tool.name for tool in wire]
    for name in allow:
        if name not in names:
            near = near_names(name, names)
            known = [each[:MAX_NAME_CHARS] for each in names[:20]]
            hint = f"nearest: {near[0]!r}" if near else f"it has {known!a}"
            raise UserError(f"allow={name!r}: MCP server {server!r} has no such tool; {hint}.")


def _server_tool(wire: WireTool, server: str) -> ServerTool:
    where = f"tool {wire.name[:MAX_NAME_CHARS]!r} of MCP server {server!r}"
    if not _NAME.fullmatch(wire.name):
        raise ToolDefinitionError(f"{where}: a name has 1 to 128 of A-Z a-z 0-9 . _ - (SEP-986).")
    if (n_bytes := len(to_json(wire.input_schema))) > MAX_SCHEMA_BYTES:
        raise ToolDefinitionError(f"{where}: its schema has {n_bytes:,} bytes; at most {MAX_SCHEMA_BYTES:,}.")
    warnings: list[str] = []
    try:
        schema = clean_schema(wire.input_schema, where, warnings)
    except RecursionError:
        raise ToolDefinitionError(f"{where}: its schema is nested too deeply.") from None
    arguments = compile_schema(schema, name=where)
    output = compile_schema(wire.output_schema, name=f"{where}, output") if wire.output_schema else None
    warnings += arguments.unenforced
    if output is not None:
        warnings += [f"output: {line}" for line in output.unenforced]
    title = wire.title or (wire.annotations.title if wire.annotations else None)
    title = _clean_prose(title, MAX_TITLE_CHARS, "title", warnings) if title else None
    description = _clean_prose(wire.description or "", MAX_DESCRIPTION_CHARS, "description", warnings)
    hints = wire.annotations
    definition = ToolDefinition(
        name=wire.name,
        description=description or title or "",
        parameters_json_schema=schema,
        output_json_schema=wire.output_schema,
        annotations=ToolAnnotations(
            title=title,
            read_only=hints.read_only_hint if hints else None,
            destructive=hints.destructive_hint if hints else None,
            idempotent=hints.idempotent_hint if hints else None,
            open_world=hints.open_world_hint if hints else None,
        ),
        warnings=tuple(warnings),
    )
    return ServerTool(definition, arguments, output)


def _clean_prose(text: str, limit: int, what: str, warnings: list[str]) -> str:
    text, n_hidden = strip_prose(text)
    if n_hidden:
        warnings.append(f"{what}: {n_hidden} hidden characters were removed")
    if len(text) > limit:
        warnings.append(f"{what}: {len(text) - limit:,} of {len(text):,} characters were cut")
        text = text[:limit] + "..."
    return text


def clean_schema(schema: Any, where: str, warnings: list[str]) -> Any:
    """Clean the prose in a schema; reject hidden characters in names and values, which carry meaning.

    Raises:
        ToolDefinitionError: a name or value has hidden characters.
    """
    if isinstance(schema, list):
        return [clean_schema(item, where, warnings) for item in schema]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(schema, str):
        if has_hidden(schema):
            raise ToolDefinitionError(f"{where}: its schema has hidden characters in {schema!a:.100}.")
        return schema
    if not isinstance(schema, dict):
        return schema
    cleaned: dict[str, Any] = {}
    for key, value in schema.items():  # pyright: ignore[reportUnknownVariableType]
        clean_schema(key, where, warnings)
        if key in _PROSE_KEYS and isinstance(value, str):
            cleaned[key] = _clean_prose(value, MAX_DESCRIPTION_CHARS, f"schema {key}", warnings)
        else:
            cleaned[key] = clean_schema(value, where, warnings)
    return cleaned
