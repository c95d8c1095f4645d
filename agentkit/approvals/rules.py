"""Approval rules: they decide whether a call requires approval before it runs."""

from __future__ import annotations

import inspect
from typing import Any

from agentkit.context import RunContext
from agentkit.errors import ModelRetry
from agentkit.messages import ToolCallPart
from agentkit.tools.tool import ApprovalPredicate, ApprovalRule, Tool

_BY_RULE = "its tool needs approval"


async def reason_to_ask(tool: Tool, call: ToolCallPart, context: RunContext[Any]) -> str | None:
    """Return the reason why the call requires approval; None if it requires none.

    A call with invalid arguments requires none: it goes back to the model and never runs.
    """
    rule = tool.requires_approval
    if isinstance(rule, bool):
        return _BY_RULE if rule and _arguments(tool, call) is not None else None
    arguments = _arguments(tool, call)
    if arguments is None:
        return None
    verdict = await _asked(rule, arguments, context)
    return verdict if isinstance(verdict, str) and verdict else _BY_RULE if verdict else None


def either_asks(one: ApprovalRule, other: ApprovalRule) -> ApprovalRule:
    """Return a rule that requires approval if either rule does."""
    if isinstance(one, bool):
        return one or other
    if isinstance(other, bool):
        return other or one

    async def either(arguments: dict[str, Any], context: RunContext[Any]) -> bool | str:
        return await _asked(one, arguments, context) or await _asked(other, arguments, context)

    return either


async def _asked(rule: ApprovalPredicate, arguments: dict[str, Any], context: RunContext[Any]) -> bool | str:
    verdict = rule(arguments, context)
    return await verdict if inspect.isawaitable(verdict) else verdict


def _arguments(tool: Tool, call: ToolCallPart) -> dict[str, Any] | None:
    try:
        return tool.validate(call.arguments)
    except ModelRetry:
        return None
