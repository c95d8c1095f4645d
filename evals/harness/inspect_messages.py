"""Converts messages between agentkit and inspect-ai, and keeps everything that a log reader needs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentReasoning,
    ContentText,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolCall, ToolCallError

from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    RetryPromptPart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.usage import RequestUsage


def to_inspect(messages: Sequence[ModelMessage]) -> list[ChatMessage]:
    """Convert a conversation to Inspect's chat messages; each part of a request becomes one message."""
    converted: list[ChatMessage] = []
    for message in messages:
        if isinstance(message, ModelResponse):
            converted.append(_assistant(message))
        else:
            converted += [_request_part(part) for part in message.parts]
    return converted


def from_inspect(messages: Sequence[ChatMessage]) -> tuple[ModelMessage, ...]:
    """Convert Inspect's chat messages to a conversation; all messages between two responses form one request."""
    converted: list[ModelMessage] = []
    parts: list[ModelRequestPart] = []
    for message in messages:
        if isinstance(message, ChatMessageAssistant):
            converted += [ModelRequest(tuple(parts))] if parts else []
            parts = []
            converted.append(_response(message))
        elif isinstance(message, ChatMessageSystem):
            parts.append(SystemPromptPart(message.text))
        elif isinstance(message, ChatMessageTool):
            failed = message.error is not None
            text = message.error.message if message.error is not None else message.text
            parts.append(ToolReturnPart(message.function or "", message.tool_call_id or "", text, is_error=failed))
        else:
            parts.append(UserPromptPart(message.text))
    return (*converted, ModelRequest(tuple(parts))) if parts else tuple(converted)


def to_output(response: ModelResponse) -> ModelOutput:
    """Convert a response to the output of an Inspect generate call."""
    output = ModelOutput.from_message(
        _assistant(response), "max_tokens" if response.finish_reason == "length" else "stop"
    )
    output.model = response.model_name
    usage = response.usage
    output.usage = ModelUsage(
        input_tokens=usage.input_tokens - usage.cache_read_tokens,
        input_tokens_cache_read=usage.cache_read_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
    )
    return output


def from_output(output: ModelOutput, model_name: str) -> ModelResponse:
    """Convert the output of an Inspect generate call to a response.

    Raises:
        ValueError: the output holds no message.
    """
    if not output.choices:
        raise ValueError(f"{model_name} returned no message: {output.error or 'no reason given'}")
    usage = output.usage or ModelUsage()
    cached = usage.input_tokens_cache_read or 0
    response = _response(output.message)
    return ModelResponse(
        parts=response.parts,
        usage=RequestUsage(usage.input_tokens + cached, cached, usage.output_tokens),
        model_name=model_name,
        finish_reason="length" if output.stop_reason == "max_tokens" else None,
    )


def _assistant(response: ModelResponse) -> ChatMessageAssistant:
    thoughts = [ContentReasoning(reasoning=p.content) for p in response.parts if isinstance(p, ThinkingPart)]
    text = response.text
    return ChatMessageAssistant(
        content=[*thoughts, ContentText(text=text)] if thoughts else text,
        tool_calls=[_call(part) for part in response.tool_calls] or None,
        model=response.model_name or None,
        metadata={"abstained": True} if response.abstained else None,
    )


def _call(part: ToolCallPart) -> ToolCall:
    try:
        return ToolCall(id=part.tool_call_id, function=part.tool_name, arguments=part.arguments_dict())
    except ValueError as error:
        return ToolCall(part.tool_call_id, part.tool_name, {"raw": part.arguments}, parse_error=str(error))


def _response(message: ChatMessageAssistant) -> ModelResponse:
    content = message.content if isinstance(message.content, list) else [ContentText(text=message.content)]
    parts: list[ModelResponsePart] = []
    for piece in content:
        if isinstance(piece, ContentReasoning):
            parts.append(ThinkingPart(piece.reasoning))
        elif isinstance(piece, ContentText) and piece.text:
            parts.append(TextPart(piece.text))
    calls = [(c.function, json.dumps(c.arguments, ensure_ascii=False), c.id) for c in message.tool_calls or ()]
    return ModelResponse((*parts, *(ToolCallPart(*call) for call in calls)))


def _request_part(part: ModelRequestPart) -> ChatMessage:
    match part:
        case SystemPromptPart(content=text):
            return ChatMessageSystem(content=text)
        case UserPromptPart(text=text):
            return ChatMessageUser(content=text)
        case ToolReturnPart(tool_name=name, tool_call_id=call_id, text=text, is_error=is_error):
            error = ToolCallError("unknown", text) if is_error else None
            return ChatMessageTool(content=text, tool_call_id=call_id, function=name, error=error)
        case RetryPromptPart(content=text, tool_name=name, tool_call_id=call_id):
            if call_id is None:
                return ChatMessageUser(content=text)
            error = ToolCallError("parsing", text)
            return ChatMessageTool(content=text, tool_call_id=call_id, function=name, error=error)
