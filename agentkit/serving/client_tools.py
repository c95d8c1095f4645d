"""Tools that a client brings with its request for a run, and runs itself: those of a web page, for example.

Their definitions are stored with the request, so that any process that takes the run up has them. A call ends the
run until the client gives its result. Results count as untrusted: nobody knows what a page read them from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentkit.errors import AgentKitError
from agentkit.serving.errors import RequestRefused
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.function import FunctionToolset
from agentkit.tools.tool import Tool
from agentkit.tools.toolset import Toolset


def client_tool(name: str, description: str, parameters: Mapping[str, Any]) -> ToolDefinition:
    """Return the definition of a client's tool.

    Raises:
        RequestRefused: its name or its schema cannot be used.
    """
    try:
        return Tool.external(name, description, parameters).definition
    except AgentKitError as error:
        raise RequestRefused(
            "unprocessable", f"the tool {name!r} of the request cannot be used: {error}"
        ) from error


def client_toolset(definitions: Sequence[ToolDefinition]) -> Toolset:
    """Return the tools of a client, for one run.

    Raises:
        UserError: two have the same name.
    """
    tools = [
        Tool.external(each.name, each.description, each.parameters_json_schema, untrusted_output=True)
        for each in definitions
    ]
    return FunctionToolset(tools, id="client")
