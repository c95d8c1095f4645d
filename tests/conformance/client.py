"""Our client, as the conformance scenarios start it: URL as the last argument, scenario in the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import anyio

from agentkit.context import RunContext
from agentkit.mcp.elicitation import Elicitation
from agentkit.mcp.toolset import MCPToolset

CALLS: dict[str, dict[str, Any]] = {
    "initialize": {},
    "tools_call": {"add_numbers": {"a": 5, "b": 3}},
    "elicitation-sep1034-client-defaults": {"test_client_elicitation_defaults": {}},
    "sse-retry": {"test_reconnection": {}},
}


async def accept(question: Elicitation) -> Mapping[str, Any]:
    """Agree, and leave every field as it is."""
    return {}


async def main() -> None:
    """List the tools and make the calls of the scenario."""
    calls = CALLS.get(os.environ["MCP_CONFORMANCE_SCENARIO"], {})
    context = RunContext(deps=None)
    async with MCPToolset.http(sys.argv[-1], on_elicit=accept, pins=None) as toolset:
        tools = {tool.name: tool for tool in await toolset.list_tools(context)}
        for name, arguments in calls.items():
            output = await tools[name].call(arguments, context)
            print(name, output)


if __name__ == "__main__":
    anyio.run(main)
