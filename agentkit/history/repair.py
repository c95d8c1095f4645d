"""Repair of conversations, so that every call has a result, and every result a call.

Most model servers permanently reject a conversation that was cut off between a call and its result, by a crash, a
cancelled request, or a shortened history (letta-ai/letta#3308, anthropics/claude-code#21041). Missing results are
added and marked as interrupted; results without a call are removed. A complete conversation keeps its message
objects, so a model's cache stays valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    RetryPromptPart,
    ToolCallPart,
    ToolReturnPart,
)


def repaired(messages: Sequence[ModelMessage]) -> tuple[ModelMessage, ...]:
    """Return the conversation with each call answered exactly once, in the request after its response."""
    whole: list[ModelMessage] = []
    asked: ModelResponse | None = None
    for message in messages:
        if isinstance(message, ModelResponse):
            whole += _missing(asked)
            asked = message
            whole.append(message)
        else:
            answered = _answered(message, asked)
            asked = None
            if answered.parts:
                whole.append(answered)
    whole += _missing(asked)
    return tuple(whole)


def not_finished(call: ToolCallPart) -> ToolReturnPart:
    """Return the answer to a call whose outcome is unknown."""
    text = "Interrupted; the call may or may not have taken effect."
    return ToolReturnPart(call.tool_name, call.tool_call_id, text, is_error=True)


def _answered(request: ModelRequest, response: ModelResponse | None) -> ModelRequest:
    """Return the request with exactly the answers that `response` needs."""
    calls = {call.tool_call_id: call for call in response.tool_calls} if response is not None else {}
    parts: list[ModelRequestPart] = []
    for part in request.parts:
        call_id = part.tool_call_id if isinstance(part, (ToolReturnPart, RetryPromptPart)) else None
        if call_id is None or calls.pop(call_id, None) is not None:
            parts.append(part)
    added = [not_finished(call) for call in calls.values()]
    if not added and len(parts) == len(request.parts):
        return request
    return replace(request, parts=(*added, *parts))


def _missing(response: ModelResponse | None) -> list[ModelRequest]:
    """Return the missing request that answers the calls of `response`; empty if none is needed."""
    if response is None or not response.tool_calls:
        return []
    return [_answered(ModelRequest(()), response)]
