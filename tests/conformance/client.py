"""Our client, as the conformance scenarios start it: URL as the last argument, scenario in the environment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import anyio
import httpx

from agentkit.context import RunContext
from agentkit.mcp.elicitation import Elicitation
from agentkit.mcp.oauth import MemoryStorage, OAuth
from agentkit.mcp.toolset import MCPToolset

CALLS: dict[str, dict[str, Any]] = {
    "initialize": {},
    "tools_call": {"add_numbers": {"a": 5, "b": 3}},
    "elicitation-sep1034-client-defaults": {"test_client_elicitation_defaults": {}},
    "sse-retry": {"test_reconnection": {}},
    "auth/scope-step-up": {"test-tool": {}},
}
CLIENT_METADATA = "https://conformance-test.local/client-metadata.json"
"""Client id metadata document that the scenario `auth/basic-cimd` expects; nobody requests it."""


async def accept(question: Elicitation) -> Mapping[str, Any]:
    """Agree, and leave every field as it is."""
    return {}


async def visit(url: str) -> None:
    """Follow the pages of the authorization server as a browser does: it grants every login at once."""
    async with httpx.AsyncClient(follow_redirects=True) as browser:
        (await browser.get(url)).raise_for_status()


def oauth(scenario: str) -> OAuth:
    """Return the options of a scenario: its context has the credentials of a client, if there is one."""
    given = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    return OAuth(
        client_id=given.get("client_id"),
        client_secret=given.get("client_secret"),
        private_key=given.get("private_key_pem"),
        client_metadata_url=CLIENT_METADATA if "client_id" not in given else None,
        grant="client_credentials" if "/client-credentials" in scenario else "authorization_code",
        on_authorize=visit,
        storage=MemoryStorage(),
    )


async def main() -> None:
    """List the tools and make the calls of the scenario."""
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    calls = CALLS.get(scenario, {})
    context = RunContext(deps=None)
    auth = oauth(scenario) if scenario.startswith("auth/") else None
    async with MCPToolset.http(sys.argv[-1], auth=auth, on_elicit=accept, pins=None) as toolset:
        tools = {tool.name: tool for tool in await toolset.list_tools(context)}
        for name, arguments in calls.items():
            output = await tools[name].call(arguments, context)
            print(name, output)


if __name__ == "__main__":
    anyio.run(main)
