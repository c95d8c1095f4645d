"""Conversations made whole again: every call has its result, and every result its call.

A conversation that was cut off between a call and its result (a crash, a cancelled request, a history that
somebody shortened) is refused by most models' servers for ever after (letta-ai/letta#3308,
anthropics/claude-code#21041). What is missing is added and says so; what belongs to nothing is left out. A whole
conversation comes back as it is, so nothing that was evaluated of it is lost.
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
    """Return the conversation with each response's calls answered by the request behind it, each once."""
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
    """Return the answer to a call of which nothing is known."""
    text = "Interrupted; the call may or may not have taken effect."
    return ToolReturnPart(call.tool_name, call.tool_call_id, text, is_error=True)


def _answered(request: ModelRequest, response: ModelResponse | None) -> ModelRequest:
    """Return a request with the answers that `response` needs, and no others."""
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
    """Return the request that answers a response behind which there is none."""
    if response is None or not response.tool_calls:
        return []
    return [_answered(ModelRequest(()), response)]
