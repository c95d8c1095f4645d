"""AgentDojo's tools as a toolset: the agent makes the calls, the bridge executes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pydantic_core import from_json

from agentkit.context import RunContext
from agentkit.errors import ModelRetry
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.tool import Tool, ToolOutput
from agentkit.tools.toolset import Toolset
from evals.injection.bridge_process import Bridge


class BridgeToolset(Toolset):
    """The tools of the open task in a bridge."""

    def __init__(self, bridge: Bridge, definitions: Sequence[Mapping[str, Any]]) -> None:
        """Create tools from `definitions`, each with name, description and parameters (a JSON Schema)."""
        self._tools = tuple(_tool(bridge, definition) for definition in definitions)

    @property
    def id(self) -> str:
        """Name for errors and traces."""
        return "agentdojo"

    async def list_tools(self, context: RunContext[Any]) -> Sequence[Tool]:
        """Return the tools; they never change."""
        return self._tools


def arguments_of(text: str) -> dict[str, Any]:
    """Parse a call's arguments as an object; AgentDojo validates its content, with its own messages.

    Raises:
        ModelRetry: the arguments are not a JSON object.
    """
    try:
        value: Any = from_json(text or "{}", allow_inf_nan=False)
    except ValueError as error:
        raise ModelRetry(f"Invalid arguments: not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise ModelRetry(f"Invalid arguments: expected a JSON object, got {type(value).__name__}.")
    return value


def _tool(bridge: Bridge, definition: Mapping[str, Any]) -> Tool:
    name = definition["name"]
    return Tool(
        definition=ToolDefinition(name, definition["description"], definition["parameters"]),
        call=partial(_call, bridge, name),
        validate=arguments_of,
        # AgentDojo executes the calls of a response one after another, including repeated ones.
        sequential=True,
        allows_repeats=True,
    )


async def _call(bridge: Bridge, name: str, arguments: dict[str, Any], context: RunContext[Any]) -> ToolOutput:
    answer = await bridge.ask_async("call", name=name, arguments=arguments)
    return ToolOutput(answer["text"], is_error=answer["is_error"])
