"""The tools of a run as they are now, listed from all toolsets, with the rules and checks that follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.events import AgentEvent
from agentkit.loop import LoopRules
from agentkit.messages import ModelRequest, ToolReturnPart
from agentkit.run_plan import RunPlan
from agentkit.state import RunState
from agentkit.tools.definition import Tool, ToolDefinition
from agentkit.tools.toolset import Toolset

if TYPE_CHECKING:
    from agentkit.guardrails.checks import Checks


@dataclass(frozen=True, slots=True)
class Offer:
    """What a run has at one moment."""

    tools: Mapping[str, Tool] = field(default_factory=dict[str, Tool])
    """Those that the model can call."""
    nested: Mapping[str, Tool] = field(default_factory=dict[str, Tool])
    """Those that only code can call."""
    definitions: tuple[ToolDefinition, ...] = ()
    """What the model is told of its tools."""
    rules: LoopRules = LoopRules(max_retries={})
    checks: Checks | None = None
    revisions: tuple[int, ...] = ()

    def has_changed(self, toolsets: Sequence[Toolset]) -> bool:
        """Say whether some toolset has other tools now."""
        return any(each.revision != seen for each, seen in zip(toolsets, self.revisions, strict=True))

    def taints(self, state: RunState) -> bool:
        """Say whether a conversation holds results of tools that are not trusted, or not known any more."""
        results = (part for m in state.messages if isinstance(m, ModelRequest) for part in m.parts)
        names = {part.tool_name for part in results if isinstance(part, ToolReturnPart)}
        known = (self.tools.get(name) or self.nested.get(name) for name in names)
        return any(tool is None or tool.is_untrusted for tool in known)


async def offered(
    plan: RunPlan[Any, Any], context: RunContext[Any], emit: Callable[[AgentEvent], None] | None
) -> Offer:
    """List the tools.

    Raises:
        UserError: two have one name.
    """
    revisions = tuple(toolset.revision for toolset in plan.toolsets)
    tools, nested = _by_name(plan.toolsets, await _list_all(plan.toolsets, context)), dict[str, Tool]()
    checks = _checks(plan, tools, emit)
    if plan.code_mode is not None:
        direct = {name: tool for name, tool in tools.items() if name in plan.handoffs}
        nested = {name: tool for name, tool in tools.items() if name not in direct}
        code = plan.code_mode.tool(tuple(nested.values()))
        tools = {code.name: code, **direct}
    rules = LoopRules(
        max_retries={
            name: plan.retries if tool.max_retries is None else tool.max_retries for name, tool in tools.items()
        },
        limits=plan.limits,
        output_retries=plan.retries,
        max_revisions=None if plan.planner is None else plan.planner.max_revisions,
        handoffs=plan.handoffs,
    )
    definitions = tuple(tool.definition for tool in tools.values())
    return Offer(tools, nested, definitions, rules, checks, revisions)


def _by_name(toolsets: Sequence[Toolset], listed: Sequence[Sequence[Tool]]) -> dict[str, Tool]:
    tools: dict[str, Tool] = {}
    origin: dict[str, str] = {}
    for toolset, its_tools in zip(toolsets, listed, strict=True):
        for tool in its_tools:
            if tool.name in tools:
                raise UserError(
                    f"tool {tool.name!r} is in {origin[tool.name]!r} and in {toolset.id!r}; give one of them "
                    f"a prefix, e.g. `toolset.prefixed({toolset.id.split()[0]!r})`, or rename it."
                )
            tools[tool.name], origin[tool.name] = tool, toolset.id
    return tools


def _checks(
    plan: RunPlan[Any, Any], tools: Mapping[str, Tool], emit: Callable[[AgentEvent], None] | None
) -> Checks | None:
    taints = plan.taint_rule and any(tool.is_untrusted for tool in tools.values())
    if not plan.guardrails and not taints:
        return None
    from agentkit.guardrails.checks import Checks
    from agentkit.guardrails.guardrail import Guardrails
    from agentkit.guardrails.rules import TaintRule

    has_own = any(isinstance(each, TaintRule) for each in plan.guardrails)
    rule = (TaintRule(),) if taints and not has_own else ()
    return Checks(Guardrails.of((*plan.guardrails, *rule)), emit)


async def _list_all(toolsets: Sequence[Toolset], context: RunContext[Any]) -> list[Sequence[Tool]]:
    """List every toolset's tools, several at once: a server may still be starting."""
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
