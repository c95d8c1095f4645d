"""The tools of several toolsets: listed concurrently, and by unique names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.tools.tool import Tool
from agentkit.tools.toolset import Toolset


async def tools_by_name(toolsets: Sequence[Toolset], context: RunContext[Any]) -> dict[str, Tool]:
    """Return the tools of all toolsets, in their order.

    Raises:
        UserError: two tools share a name.
    """
    tools: dict[str, Tool] = {}
    origin: dict[str, str] = {}
    for toolset, its_tools in zip(toolsets, await list_all(toolsets, context), strict=True):
        for tool in its_tools:
            if tool.name in tools:
                raise UserError(
                    f"tool {tool.name!r} is in {origin[tool.name]!r} and in {toolset.id!r}; give one of them "
                    f"a prefix, e.g. `toolset.prefixed({toolset.id.split()[0]!r})`, or rename it."
                )
            tools[tool.name], origin[tool.name] = tool, toolset.id
    return tools


async def list_all(toolsets: Sequence[Toolset], context: RunContext[Any]) -> list[Sequence[Tool]]:
    """List the tools of all toolsets concurrently: a server may still be starting."""
    import anyio

    if len(toolsets) == 1:
        return [await toolsets[0].list_tools(context)]
    listed: list[Sequence[Tool]] = [()] * len(toolsets)
    failures: list[Exception] = []

    async def list_one(index: int) -> None:
        try:
            listed[index] = await toolsets[index].list_tools(context)
        except Exception as error:
            failures.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for index in range(len(toolsets)):
            tasks.start_soon(list_one, index)
    if failures:
        raise failures[0]
    return listed
