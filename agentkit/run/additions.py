"""Calls of toolsets' optional methods: additions to the prompt of a new run, and the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentkit.basics.well_formed import well_formed
from agentkit.context import RunContext
from agentkit.messages import Addition, ModelRequest, RetryPromptPart, ToolCallPart, UserPromptPart, text_of
from agentkit.run.setup import RunSetup
from agentkit.run.state import RunState
from agentkit.tools.toolset import Toolset, overriding

if TYPE_CHECKING:
    from agentkit.guardrails.checks import Checks


async def with_additions(
    request: ModelRequest, toolsets: Sequence[Toolset], checks: Checks | None, context: RunContext[Any]
) -> ModelRequest:
    """Return the first request of a run with the additions of the toolsets, after the guardrails of tool results.

    An addition that a guardrail blocks is left out.
    """
    adding = overriding(toolsets, "additions")
    if not adding:
        return request
    *before, last = request.parts
    if not isinstance(last, UserPromptPart):
        return request
    prompt, added = text_of(last.said), list[Addition]()
    for toolset in adding:
        for each in await toolset.additions(context, prompt):
            text = await _checked(each, toolset, checks, context)
            if text:
                added.append(replace(each, text=well_formed(text)))
    return ModelRequest((*before, last.with_additions(tuple(added))))


def is_tainted_by(request: ModelRequest) -> bool:
    """Return whether the first request of a run contains an untrusted addition."""
    prompts = (part for part in request.parts if isinstance(part, UserPromptPart))
    return any(each.is_untrusted for part in prompts for each in part.additions)


async def tell_end(setup: RunSetup[Any, Any], state: RunState, context: RunContext[Any]) -> None:
    """Give the messages of an ended run to the toolsets of all agents that took part."""
    members = [setup]
    if setup.team is not None:
        handed = [setup.team.others[each.to].setup for each in state.handed if each.to in setup.team.others]
        members = [setup.team.root.setup, *handed]
    toolsets = dict.fromkeys(each for member in members for each in member.toolsets)
    for toolset in overriding(tuple(toolsets), "run_ended"):
        await toolset.run_ended(context, state.messages[state.n_history :])


async def _checked(
    addition: Addition, toolset: Toolset, checks: Checks | None, context: RunContext[Any]
) -> str | None:
    """Return the text of an addition after the guardrails of tool results; None if one blocks it."""
    if checks is None or not checks.guardrails.tool_result:
        return addition.text
    from agentkit.messages import ToolReturnPart
    from agentkit.tools.tool import Tool

    source = replace(Tool.external(addition.source, toolset.id, {}), is_untrusted=addition.is_untrusted)
    part = ToolReturnPart(addition.source, "", addition.text)
    call = ToolCallPart(addition.source, "{}", "")
    checked = await checks.result(part, call, source, context)
    if isinstance(checked, RetryPromptPart) or checked.is_error:
        return None
    return checked.text
