"""Tools of running MCP servers: their definitions as shown to a model, and their answers.

Servers are the user's own choice, but their output is not trusted: `agentkit.mcp` bounds and cleans definitions,
and results are cut. A tool is called only if it declares itself read-only, and the user can forbid even that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import anyio

from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.messages import text_of
from agentkit.tools.tool import Tool as RunnableTool
from agentkit.tools.tool import ToolOutput
from agentkit.tools.toolset import Toolset
from modelstack.data.examples import Tool

CALL_SECONDS = 20.0
"""Seconds after which a call is abandoned as a source of values."""


@dataclass(frozen=True, slots=True)
class LiveTool:
    """A tool of a running server."""

    server: str
    shown: Tool
    """Definition as shown to a model."""
    runnable: RunnableTool

    @property
    def name(self) -> str:
        """Name that a model uses."""
        return self.shown.name

    @property
    def is_safe(self) -> bool:
        """True if the tool declares itself read-only."""
        return self.runnable.definition.annotations.read_only is True

    @property
    def properties(self) -> Mapping[str, Any]:
        """Schemas of the parameters by name."""
        found: Any = self.shown.parameters.get("properties")
        return cast("dict[str, Any]", found) if isinstance(found, dict) else {}

    @property
    def required(self) -> list[str]:
        """Names of the required parameters."""
        return [name for name in self.shown.parameters.get("required", []) if name in self.properties]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a call."""

    text: str
    data: Any
    is_error: bool


@asynccontextmanager
async def connected(toolsets: Sequence[Toolset]) -> AsyncGenerator[list[LiveTool]]:
    """Start the servers and yield their tools, in order.

    Raises:
        UserError: There is no tool, or two tools share a name.
    """
    async with AsyncExitStack() as stack:
        found: list[LiveTool] = []
        context = RunContext(None)
        for toolset in toolsets:
            await stack.enter_async_context(toolset)
            listed = await toolset.list_tools(context)
            found += [LiveTool(toolset.id, _shown(tool), tool) for tool in listed]
        _check_names(found)
        yield found


async def call(tool: LiveTool, arguments: Mapping[str, Any]) -> Outcome:
    """Call a tool; any error becomes an outcome."""
    try:
        with anyio.fail_after(CALL_SECONDS):
            checked = tool.runnable.validate(json.dumps(dict(arguments), ensure_ascii=False))
            given = await tool.runnable.call(checked, RunContext(None))
    except Exception as error:  # a tool may raise anything, and one value is not worth aborting the run
        return Outcome(f"{type(error).__name__}: {error}", None, is_error=True)
    if isinstance(given, ToolOutput):
        return Outcome(text_of(given.content), given.data, given.is_error)
    return Outcome(json.dumps(given, ensure_ascii=False, default=str), given, is_error=False)


def fingerprint_of(tools: Sequence[LiveTool]) -> str:
    """Return a SHA-256 of the definitions shown to models; it changes when the servers do."""
    content = [tool.shown.model_dump(mode="json") for tool in tools]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _shown(tool: RunnableTool) -> Tool:
    definition = tool.definition
    schema = json.loads(json.dumps(dict(definition.parameters_json_schema)))
    return Tool(name=definition.name, description=definition.description, parameters=schema)


def _check_names(tools: Sequence[LiveTool]) -> None:
    if not tools:
        raise UserError("the servers offer no tools: there is nothing to specialise on.")
    seen: dict[str, str] = {}
    for tool in tools:
        if tool.name in seen:
            raise UserError(
                f"two servers, {seen[tool.name]!r} and {tool.server!r}, offer a tool {tool.name!r}: give them "
                f"prefixes, --mcp NAME=SERVER."
            )
        seen[tool.name] = tool.server
