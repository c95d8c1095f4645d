"""Current tools of a run, listed from all toolsets, with the loop rules and checks that depend on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from agentkit.context import RunContext
from agentkit.events import AgentEvent
from agentkit.messages import ModelMessage, ModelRequest, RetryPromptPart, ToolReturnPart
from agentkit.run.additions import is_tainted_by
from agentkit.run.admission import LoopRules
from agentkit.run.setup import RunSetup
from agentkit.run.state import RunState
from agentkit.tools.definition import ToolDefinition
from agentkit.tools.found_tools import SEARCH_TOOL, found_names
from agentkit.tools.listing import tools_by_name
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
    deferred: Mapping[str, Tool] = field(default_factory=dict[str, Tool])
    """Tools that the conversation has not found yet; see `Tool.defer_loading`."""
    found: tuple[str, ...] = ()
    """Tools that the conversation has found, deferred or not, in the order of finding."""
    loaded: frozenset[str] = frozenset()
    """Deferred tools that are offered because they were found."""
    definitions: tuple[ToolDefinition, ...] = ()
    """Definitions that are sent to the model."""
    rules: LoopRules = LoopRules(max_retries={})
    checks: Checks | None = None
    checks_if_tainted: Callable[[], Checks | None] | None = None
    """Returns the checks of a tainted run; None if `checks` already are these."""
    revisions: tuple[int, ...] = ()

    @property
    def has_deferred(self) -> bool:
        """Whether a tool is deferred, or was before it was found."""
        return bool(self.deferred or self.loaded)

    def has_changed(self, toolsets: Sequence[Toolset], found: tuple[str, ...]) -> bool:
        """Return whether the tools of any toolset have changed, or the conversation has found others."""
        revised = (each.revision != seen for each, seen in zip(toolsets, self.revisions, strict=True))
        return found != self.found or any(revised)

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
            left = [
                replace(tool, definition=changed.get(name, tool.definition))
                for name, tool in self.nested.items()
                if name not in withheld
            ]
            code = setup.code_mode.tool(left)
            known = tools[code.name]
            is_known = len(left) == len(self.nested) and known.definition == code.definition
            tools = {**tools, code.name: known if is_known else code}
        definitions = tuple(changed.get(name, tool.definition) for name, tool in tools.items())
        same = tools == self.tools and definitions == self.definitions
        return self if same else replace(self, tools=tools, definitions=definitions)

    def taints(self, state: RunState) -> bool:
        """Return whether a conversation has untrusted additions, or results of untrusted or unknown tools."""
        requests = [message for message in state.messages if isinstance(message, ModelRequest)]
        if any(is_tainted_by(request) for request in requests):
            return True
        parts = [part for request in requests for part in request.parts]
        returned = {part.tool_name for part in parts if isinstance(part, ToolReturnPart)}
        if any(self._known(name) is None for name in returned):
            return True
        # A retry prompt may contain a tool's text too. An unknown name there comes from the model and is ignored.
        told = {part.tool_name for part in parts if isinstance(part, RetryPromptPart) and part.tool_name}
        return any(self._may_taint(name) for name in returned | told)

    def _known(self, name: str) -> Tool | None:
        return self.tools.get(name) or self.nested.get(name) or self.deferred.get(name)

    def _may_taint(self, name: str) -> bool:
        tool = self._known(name)
        if tool is None:
            return False
        runs_code = bool(self.nested) and name in self.tools and not _is_direct(name, self.rules.handoffs)
        callable_in_code = (*self.nested.values(), *self.deferred.values())
        return tool.is_untrusted or (runs_code and any(each.is_untrusted for each in callable_in_code))


async def offered(
    setup: RunSetup[Any, Any],
    context: RunContext[Any],
    emit: Callable[[AgentEvent], None] | None,
    read_found: Callable[[], tuple[str, ...]],
) -> Offer:
    """List the tools of all toolsets; of the deferred ones, those that were found are offered.

    `read_found` reads the whole conversation, and is called only if there are deferred tools.

    Raises:
        UserError: two tools share a name.
    """
    revisions = tuple(toolset.revision for toolset in setup.toolsets)
    all_tools, nested = await tools_by_name(setup.toolsets, context), dict[str, Tool]()
    has_rule = setup.taint_rule and (context.tainted or any(tool.is_untrusted for tool in all_tools.values()))
    checks = _checks(setup, emit, taint_rule=has_rule)
    if_tainted = None if has_rule or not setup.taint_rule else partial(_checks, setup, emit, taint_rule=True)
    found = read_found() if any(tool.defer_loading for tool in all_tools.values()) else ()
    loaded = {name: all_tools[name] for name in found if name in all_tools and all_tools[name].defer_loading}
    # Found tools come last, so that the list before them stays as it is.
    tools = {**{name: tool for name, tool in all_tools.items() if not tool.defer_loading}, **loaded}
    deferred = {name: tool for name, tool in all_tools.items() if name not in tools}
    if setup.code_mode is not None:
        direct = {name: tool for name, tool in tools.items() if _is_direct(name, setup.handoffs)}
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
    return Offer(
        tools, nested, deferred, found, frozenset(loaded), definitions, rules, checks, if_tainted, revisions
    )


def found_tools(state: RunState, conversation: Sequence[ModelMessage]) -> tuple[str, ...]:
    """Return the tools that the current agent's conversation has found, and those that its plan names."""
    shown = conversation
    if state.compacted is not None:
        from agentkit.history.compaction import view

        shown = view(conversation, state.compacted)
    found = found_names(shown, conversation)
    planned = () if state.plan is None else (step.tool for step in state.plan.steps if step.tool is not None)
    return tuple(dict.fromkeys((*found, *planned)))


def _is_direct(name: str, handoffs: Mapping[str, str]) -> bool:
    """Return whether the model calls a tool itself in code mode: the conversation shows what a search finds."""
    return name in handoffs or name == SEARCH_TOOL


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
