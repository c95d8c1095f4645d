"""Current tools of a run, listed from all toolsets, with the loop rules and checks that depend on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from agentkit.context import RunContext
from agentkit.errors import UserError
from agentkit.events import AgentEvent
from agentkit.messages import ModelRequest, RetryPromptPart, ToolReturnPart
from agentkit.run.admission import LoopRules
from agentkit.run.setup import RunSetup
from agentkit.run.state import RunState
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.tool import Tool
from agentkit.tools.toolset import Toolset

if TYPE_CHECKING:
    from agentkit.guardrails.checks import Checks


_UNCHANGED: Mapping[str, ToolDefinition] = {}


@dataclass(frozen=True, slots=True)
class Offer:
    """Tools, rules and checks of a run at one moment."""

    tools: Mapping[str, Tool] = field(default_factory=dict[str, Tool])
    """Tools that the model can call."""
    nested: Mapping[str, Tool] = field(default_factory=dict[str, Tool])
    """Tools that only code can call."""
    definitions: tuple[ToolDefinition, ...] = ()
    """Definitions that are sent to the model."""
    rules: LoopRules = LoopRules(max_retries={})
    checks: Checks | None = None
    checks_if_tainted: Callable[[], Checks | None] | None = None
    """Returns the checks of a tainted run; None if `checks` already are these."""
    revisions: tuple[int, ...] = ()

    def has_changed(self, toolsets: Sequence[Toolset]) -> bool:
        """Return whether the tools of any toolset have changed."""
        return any(each.revision != seen for each, seen in zip(toolsets, self.revisions, strict=True))

    def tainted(self) -> Offer:
        """Return the offer of a run that is tainted."""
        if self.checks_if_tainted is None:
            return self
        return replace(self, checks=self.checks_if_tainted(), checks_if_tainted=None)

    def narrowed(
        self,
        setup: RunSetup[Any, Any],
        withheld: Sequence[str],
        changed: Mapping[str, ToolDefinition] = _UNCHANGED,
    ) -> Offer:
        """Return the offer of a step without the tools `withheld`, and with `changed` definitions.

        Only code mode removes tools from the prompt: the code tool lists the functions that can be called. All
        other tools are masked for the step, so that prompt caches stay valid.
        """
        tools = self.tools
        if setup.code_mode is not None:
            code = setup.code_mode.tool(
                [
                    replace(tool, definition=changed.get(name, tool.definition))
                    for name, tool in self.nested.items()
                    if name not in withheld
                ]
            )
            known = tools[code.name]
            tools = {**tools, code.name: known if known.definition == code.definition else code}
        definitions = tuple(changed.get(name, tool.definition) for name, tool in tools.items())
        same = tools == self.tools and definitions == self.definitions
        return self if same else replace(self, tools=tools, definitions=definitions)

    def taints(self, state: RunState) -> bool:
        """Return whether a conversation contains results of tools that are untrusted or no longer known."""
        parts = [part for m in state.messages if isinstance(m, ModelRequest) for part in m.parts]
        returned = {part.tool_name for part in parts if isinstance(part, ToolReturnPart)}
        if any(name not in self.tools and name not in self.nested for name in returned):
            return True
        # A retry prompt may contain a tool's text too. An unknown name there comes from the model and is ignored.
        told = {part.tool_name for part in parts if isinstance(part, RetryPromptPart) and part.tool_name}
        return any(self._may_taint(name) for name in returned | told)

    def _may_taint(self, name: str) -> bool:
        tool = self.tools.get(name) or self.nested.get(name)
        if tool is None:
            return False
        runs_code = bool(self.nested) and name in self.tools and name not in self.rules.handoffs
        return tool.is_untrusted or (runs_code and any(each.is_untrusted for each in self.nested.values()))


async def offered(
    setup: RunSetup[Any, Any], context: RunContext[Any], emit: Callable[[AgentEvent], None] | None
) -> Offer:
    """List the tools of all toolsets.

    Raises:
        UserError: two tools share a name.
    """
    revisions = tuple(toolset.revision for toolset in setup.toolsets)
    tools, nested = _by_name(setup.toolsets, await _list_all(setup.toolsets, context)), dict[str, Tool]()
    has_rule = setup.taint_rule and (context.tainted or any(tool.is_untrusted for tool in tools.values()))
    checks = _checks(setup, emit, taint_rule=has_rule)
    if_tainted = None if has_rule or not setup.taint_rule else partial(_checks, setup, emit, taint_rule=True)
    if setup.code_mode is not None:
        direct = {name: tool for name, tool in tools.items() if name in setup.handoffs}
        nested = {name: tool for name, tool in tools.items() if name not in direct}
        code = setup.code_mode.tool(tuple(nested.values()))
        tools = {code.name: code, **direct}
    rules = LoopRules(
        max_retries={
            name: setup.retries if tool.max_retries is None else tool.max_retries for name, tool in tools.items()
        },
        limits=setup.limits,
        output_retries=setup.retries,
        max_revisions=None if setup.planner is None else setup.planner.max_revisions,
        handoffs=setup.handoffs,
        read_only=frozenset(name for name, tool in tools.items() if tool.definition.annotations.read_only),
        allow_repeats=frozenset(name for name, tool in tools.items() if tool.allows_repeats),
    )
    definitions = tuple(tool.definition for tool in tools.values())
    return Offer(tools, nested, definitions, rules, checks, if_tainted, revisions)


async def prepared(
    offer: Offer, setup: RunSetup[Any, Any], context: RunContext[Any]
) -> tuple[Offer, tuple[str, ...]]:
    """Return the offer of one step as `prepare_tools` chooses, and the names of the tools that it left out.

    In code mode it chooses among the functions of the code, not the tool that runs the code.

    Raises:
        UserError: it returned an unknown tool.
    """
    if setup.prepare_tools is None:
        return offer, ()
    from agentkit.tools.prepare import chosen

    code = None if setup.code_mode is None else setup.code_mode.tool_name
    tools = [*offer.nested.values(), *(tool for name, tool in offer.tools.items() if name != code)]
    choice = await chosen(setup.prepare_tools, context, [tool.definition for tool in tools])
    return offer.narrowed(setup, choice.withheld, choice.changed), choice.withheld


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
    setup: RunSetup[Any, Any], emit: Callable[[AgentEvent], None] | None, *, taint_rule: bool
) -> Checks | None:
    """Return the checks of a run, with the taint rule if requested; None if there is no check."""
    if not setup.guardrails and not taint_rule:
        return None
    from agentkit.guardrails.checks import Checks
    from agentkit.guardrails.guardrail import Guardrails
    from agentkit.guardrails.rules import TaintRule

    has_own = any(isinstance(each, TaintRule) for each in setup.guardrails)
    rule = (TaintRule(),) if taint_rule and not has_own else ()
    return Checks(Guardrails.of((*setup.guardrails, *rule)), emit)


async def _list_all(toolsets: Sequence[Toolset], context: RunContext[Any]) -> list[Sequence[Tool]]:
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
