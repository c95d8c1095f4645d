"""Prepared tools: a function of the run's context that selects and changes the tool definitions of each step.

A tool that it leaves out is masked: the prompt keeps its definition, so that prompt caches stay valid, and a call
of it goes back to the model. A changed definition is sent changed; arguments are still validated by the tool.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentkit.basics.near_names import near_names
from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.tools.definition import ToolDefinition

PrepareTools = Callable[
    [RunContext[Any], Sequence[ToolDefinition]],
    "Sequence[ToolDefinition | str] | Awaitable[Sequence[ToolDefinition | str]]",
]
"""Returns the definitions of one step, or their names, or a mixture; sync or async."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """The tools of one step, relative to all tools of the agent."""

    withheld: tuple[str, ...] = ()
    """Tools that are left out, in the order of the definitions."""
    changed: Mapping[str, ToolDefinition] = field(default_factory=dict[str, ToolDefinition])
    """Definitions that are sent in place of the tool's own."""


async def chosen(
    prepare: PrepareTools, context: RunContext[Any], definitions: Sequence[ToolDefinition]
) -> ToolChoice:
    """Ask for the tools of one step.

    Raises:
        UserError: the function names an unknown tool.
    """
    result = prepare(context, definitions)
    given = {definition.name: definition for definition in definitions}
    kept = {
        each if isinstance(each, str) else each.name: each
        for each in (await result if inspect.isawaitable(result) else result)
    }
    if unknown := [name for name in kept if name not in given]:
        near = {name: near_names(name, list(given), n=1) for name in unknown}
        hints = ", ".join(
            f"{name!r}" + (f" (nearest: {near[name][0]!r})" if near[name] else "") for name in unknown
        )
        raise UserError(f"prepare_tools returned unknown tools: {hints}; the agent has {sorted(given)}.")
    withheld = tuple(name for name in given if name not in kept)
    changed = {name: each for name, each in kept.items() if not isinstance(each, str) and each != given[name]}
    return ToolChoice(withheld, changed)
