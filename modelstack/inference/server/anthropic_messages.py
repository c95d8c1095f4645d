"""Anthropic's messages: requests, whole replies and streamed ones.

Source: the API reference of `/v1/messages`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from modelstack.inference.server.bodies import Body, SampledBody
from modelstack.inference.server.chat_completions import new_id
from modelstack.inference.server.conversations import (
    Choice,
    past_call,
    require_one_form,
    results_in_order,
    tool_choice,
    tool_spec,
)
from modelstack.inference.server.errors import ApiError
from modelstack.inference.server.replying import Pieces
from modelstack.inference.server.turns import (
    CallPiece,
    Piece,
    ReplyRequest,
    ServedReply,
    TextPiece,
    ThoughtPiece,
    Turn,
)


class CacheControl(Body):
    """Hint of where to cut the cache, which finds every common beginning by itself here."""

    type: Literal["ephemeral"]
    ttl: str | None = None


class TextBlock(Body):
    """Text of a message."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: None = None


class ThinkingBlock(Body):
    """Earlier thought; models are not shown it again."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class ToolUseBlock(Body):
    """Call in an assistant's message."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None


class ToolResultBlock(Body):
    """Result of a call, in a user's message."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] = ""
    is_error: bool = False
    cache_control: CacheControl | None = None


Block = Annotated[TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]


class Message(Body):
    """Turn of the conversation."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class Tool(Body):
    """Tool that the model may call."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    strict: bool | None = None
    """Without effect: arguments always follow the schema."""
    cache_control: CacheControl | None = None


class ToolChoice(Body):
    """Whether tools may, must or must not be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Body):
    """Whether the model thinks before its reply."""

    type: Literal["enabled", "disabled"]
    budget_tokens: int | None = Field(default=None, ge=1)
    display: Literal["summarized"] | None = None
    """Without effect: a thought is shown as it was written."""


class JsonFormat(Body):
    """Schema of an answer."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    """Form of an answer."""

    format: JsonFormat | None = None
    effort: None = None


class MessagesBody(SampledBody):
    """Body of a request."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    system: str | list[TextBlock] = ""
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    stop_sequences: list[str] | None = None
    # What describes the request to Anthropic's own service changes no reply.
    cache_control: CacheControl | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None


def messages_request(body: MessagesBody, adapter: str | None, temperature: float) -> ReplyRequest:
    """Return what a body asks for.

    Args:
        body: The checked body.
        adapter: Adapter that its model name stands for.
        temperature: Temperature of requests that name none.

    Raises:
        ApiError: Fields contradict each other.
    """
    tools = tuple(tool_spec(each.name, each.description, each.input_schema, "tools") for each in body.tools or ())
    choice = body.tool_choice or ToolChoice(type="auto")
    callable_, must_call = tool_choice(_CHOICES[choice.type], tools, choice.name)
    stop = tuple(body.stop_sequences or ())
    if "" in stop:
        raise ApiError(400, "a stop sequence is empty, so every reply would end at once", "stop_sequences")
    system = _text(body.system)
    answer = None if body.output_config is None else body.output_config.format
    require_one_form(must_call, answer is not None, "output_config")
    return ReplyRequest(
        turns=(*((Turn("system", system),) if system else ()), *_turns(body.messages)),
        tools=tools,
        callable=callable_,
        must_call=must_call,
        parallel=not (choice.disable_parallel_tool_use or choice.type == "tool"),
        answer_schema=None if answer is None else answer.schema_,
        max_tokens=body.max_tokens,
        thinking_tokens=_thinking_tokens(body),
        stop=stop,
        sampling=body.sampling(temperature),
        adapter=adapter,
    )


_CHOICES: dict[str, Choice] = {"auto": "auto", "none": "none", "any": "required", "tool": "named"}


def _thinking_tokens(body: MessagesBody) -> int | None:
    thinking = body.thinking
    if thinking is None or thinking.type == "disabled":
        return None
    if thinking.budget_tokens is None or thinking.budget_tokens >= body.max_tokens:
        raise ApiError(
            400,
            f"budget_tokens is {thinking.budget_tokens}; it must be given, and below max_tokens={body.max_tokens}",
            "thinking.budget_tokens",
        )
    return thinking.budget_tokens


def _turns(messages: Sequence[Message]) -> list[Turn]:
    turns: list[Turn] = []
    for number, message in enumerate(messages):
        where = f"messages.{number}.content"
        blocks = (
            [TextBlock(type="text", text=message.content)] if isinstance(message.content, str) else message.content
        )
        words = "".join(block.text for block in blocks if isinstance(block, TextBlock))
        if message.role == "assistant":
            if any(isinstance(block, ToolResultBlock) for block in blocks):
                raise ApiError(400, "an assistant's message has a tool_result; it belongs to the user's", where)
            calls = [
                past_call(block.id, block.name, block.input, where)
                for block in blocks
                if isinstance(block, ToolUseBlock)
            ]
            turns.append(Turn("assistant", words, tuple(calls)))
            continue
        if any(isinstance(block, ToolUseBlock | ThinkingBlock) for block in blocks):
            raise ApiError(
                400, "a user's message has a tool_use or thinking block; it belongs to the assistant's", where
            )
        found = [block for block in blocks if isinstance(block, ToolResultBlock)]
        results = [(block.tool_use_id, _text(block.content)) for block in found]
        failed = {block.tool_use_id for block in found if block.is_error}
        turns += results_in_order(turns, results, where, failed)
        if words or not results:
            turns.append(Turn("user", words))
    return turns


def _text(content: str | Sequence[TextBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)


def whole_message(body: MessagesBody, reply: ServedReply) -> dict[str, Any]:
    """Return the body of a response."""
    blocks: list[dict[str, Any]] = []
    if reply.thought:
        blocks.append({"type": "thinking", "thinking": reply.thought, "signature": ""})
    if reply.text:
        blocks.append({"type": "text", "text": reply.text})
    blocks += [
        {"type": "tool_use", "id": new_id("toolu_"), "name": name, "input": json.loads(arguments)}
        for name, arguments in reply.calls
    ]
    return {**_head(body), "content": blocks, **_end(reply), "usage": _usage(reply)}


async def streamed_message(body: MessagesBody, pieces: Pieces) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of a response; the field `type` of each is its name."""
    nothing = {"input_tokens": 0, "output_tokens": 0}
    head = {**_head(body), "content": [], "stop_reason": None, "stop_sequence": None, "usage": nothing}
    yield {"type": "message_start", "message": head}
    number, kind = -1, ""
    async for _, piece in pieces:
        if isinstance(piece, ServedReply):
            if number >= 0:
                yield {"type": "content_block_stop", "index": number}
            yield {"type": "message_delta", "delta": _end(piece), "usage": _usage(piece)}
            continue
        new_kind, block, delta = _as_block(piece)
        if new_kind != kind:
            if number >= 0:
                yield {"type": "content_block_stop", "index": number}
            number, kind = number + 1, new_kind
            yield {"type": "content_block_start", "index": number, "content_block": block}
        if delta is not None:
            yield {"type": "content_block_delta", "index": number, "delta": delta}
    yield {"type": "message_stop"}


def _as_block(piece: Piece) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """Return which block a piece belongs to, the block as it begins, and the piece as a delta."""
    match piece:
        case TextPiece(text):
            return "text", {"type": "text", "text": ""}, {"type": "text_delta", "text": text}
        case ThoughtPiece(text):
            block = {"type": "thinking", "thinking": "", "signature": ""}
            return "thinking", block, {"type": "thinking_delta", "thinking": text}
        case CallPiece(index, arguments, name):
            block = {"type": "tool_use", "id": new_id("toolu_"), "name": name or "", "input": {}}
            delta = {"type": "input_json_delta", "partial_json": arguments} if arguments else None
            return f"call {index}", block, delta


def _head(body: MessagesBody) -> dict[str, Any]:
    return {"id": new_id("msg_"), "type": "message", "role": "assistant", "model": body.model}


def _end(reply: ServedReply) -> dict[str, Any]:
    if reply.stopped_by is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": reply.stopped_by}
    reasons = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
    return {"stop_reason": reasons[reply.finish_reason], "stop_sequence": None}


def _usage(reply: ServedReply) -> dict[str, int]:
    return {
        "input_tokens": reply.n_prompt - reply.n_cached,
        "cache_read_input_tokens": reply.n_cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": reply.n_written,
    }
