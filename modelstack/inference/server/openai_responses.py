"""OpenAI's responses: requests, whole replies and streamed ones.

Source: the API reference of `/v1/responses`. Nothing is stored, so a conversation is sent whole with each request.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from pydantic import Field

from modelstack.inference.server.bodies import Body, OpenAIBody
from modelstack.inference.server.chat_completions import (
    Function,
    JsonObjectFormat,
    TextFormat,
    new_id,
    token_logprobs,
)
from modelstack.inference.server.conversations import (
    ToolChoice,
    past_call,
    require_one_form,
    results_in_order,
    tool_choice,
    tool_spec,
)
from modelstack.inference.server.replying import Pieces
from modelstack.inference.server.response_items import (
    NOT_CHOSEN,
    PREFIXES,
    Kind,
    MessageItem,
    OutputItem,
    ResultItem,
    Status,
    response_usage,
    text_of,
)
from modelstack.inference.server.turns import (
    CallPiece,
    ReplyRequest,
    ServedReply,
    TextPiece,
    ThoughtPiece,
    Turn,
)
from modelstack.toolcalls.convention import ToolSpec

LOGPROBS = "message.output_text.logprobs"
"""Value of `include` that asks for log-probabilities."""


class CallItem(Body):
    """Call of a tool."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None


class ReasoningItem(Body):
    """Earlier thought; models are not shown it again."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Any] | None = None
    content: list[Any] | None = None
    encrypted_content: str | None = None
    status: Status | None = None


class FunctionTool(Function):
    """Tool that the model may call."""

    type: Literal["function"]


class NamedFunction(Body):
    """Choice of one tool."""

    type: Literal["function"]
    name: str


class AllowedTools(Body):
    """Choice among some tools; all of them stay in the prompt, so that what was read of it holds."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedFunction] = Field(min_length=1)


Choice = Literal["none", "auto", "required"] | NamedFunction | AllowedTools


class SchemaFormat(Body):
    """Schema of an answer."""

    type: Literal["json_schema"]
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None
    """Without effect: answers always follow the schema."""


class TextOptions(Body):
    """Form of an answer."""

    format: TextFormat | JsonObjectFormat | SchemaFormat | None = None
    verbosity: None = None


class ResponsesBody(OpenAIBody):
    """Body of a request."""

    input: str | list[CallItem | ResultItem | ReasoningItem | MessageItem]
    instructions: str | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Choice = "auto"
    text: TextOptions | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    previous_response_id: None = None
    truncation: Literal["disabled"] | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None


def responses_request(body: ResponsesBody, adapter: str | None, temperature: float) -> ReplyRequest:
    """Return what a body asks for.

    Args:
        body: The checked body.
        adapter: Adapter that its model name stands for.
        temperature: Temperature of requests that name none.

    Raises:
        ApiError: Fields contradict each other.
    """
    tools = tuple(tool_spec(each.name, each.description, each.parameters, "tools") for each in body.tools or ())
    callable_, must_call = _tool_choice(body.tool_choice, tools)
    schema = _answer_schema(body)
    require_one_form(must_call, schema is not None, "text.format")
    return ReplyRequest(
        turns=(*([Turn("system", body.instructions)] if body.instructions else []), *_turns(body)),
        tools=tools,
        callable=callable_,
        must_call=must_call,
        parallel=body.parallel_tool_calls and not isinstance(body.tool_choice, NamedFunction),
        answer_schema=schema,
        max_tokens=body.max_output_tokens,
        thinking_tokens=body.thinking_tokens,
        sampling=body.sampling(temperature),
        adapter=adapter,
        n_top_logprobs=body.n_top_logprobs(bool(body.include), f"include=[{LOGPROBS!r}]"),
    )


def _tool_choice(choice: Choice, tools: Sequence[ToolSpec]) -> ToolChoice:
    """Return which tools a reply may call, and whether it must.

    Raises:
        ApiError: The choice names a tool that the request does not have, or forces a call without tools.
    """
    match choice:
        case NamedFunction(name=name):
            return tool_choice("named", tools, name)
        case AllowedTools(mode=mode, tools=allowed):
            for each in allowed:
                tool_choice("named", tools, each.name)
            return frozenset(each.name for each in allowed), mode == "required"
        case _:
            return tool_choice(choice, tools)


def _answer_schema(body: ResponsesBody) -> dict[str, Any] | None:
    match None if body.text is None else body.text.format:
        case SchemaFormat(schema_=schema):
            return schema
        case JsonObjectFormat():
            return {"type": "object"}
        case _:
            return None


def _turns(body: ResponsesBody) -> list[Turn]:
    """Return the turns; a message and the calls after it are one turn of the assistant."""
    if isinstance(body.input, str):
        return [Turn("user", body.input)]
    turns: list[Turn] = []
    results: list[tuple[str, str]] = []
    for number, item in enumerate(body.input):
        where = f"input.{number}"
        match item:
            case ResultItem(call_id=call_id, output=output):
                results.append((call_id, text_of(output)))
                following = body.input[number + 1] if number + 1 < len(body.input) else None
                if not isinstance(following, ResultItem):
                    turns += results_in_order(turns, results, f"{where}.call_id")
                    results = []
            case CallItem(call_id=call_id, name=name, arguments=arguments):
                call = past_call(call_id, name, arguments, f"{where}.arguments")
                said = turns.pop() if turns and turns[-1].role == "assistant" else Turn("assistant", "")
                turns.append(Turn("assistant", said.text, (*said.calls, call)))
            case MessageItem(role="user" | "assistant" as role, content=content):
                turns.append(Turn(role, text_of(content)))
            case MessageItem(content=content):
                turns.append(Turn("system", text_of(content)))
            case ReasoningItem():
                pass
    return turns


def whole_response(body: ResponsesBody, reply: ServedReply) -> dict[str, Any]:
    """Return the body of a response."""
    items: list[OutputItem] = []
    if reply.thought:
        items.append(_item("reasoning", items, text=reply.thought))
    if reply.text or not reply.calls:
        items.append(_item("message", items, text=reply.text))
        items[-1].logprobs = token_logprobs(reply.logprobs)
    for name, arguments in reply.calls:
        items.append(_item("function_call", items, name, arguments))
    for item in items:
        item.status = "completed"
    output = [item.shown() for item in items]
    return {**_head(body, new_id("resp_"), int(time.time())), **_end(reply), "output": output}


def _item(kind: Kind, before: Sequence[OutputItem], name: str = "", text: str = "") -> OutputItem:
    """Return the item behind some others."""
    fields = {"call_id": new_id("call_"), "name": name} if kind == "function_call" else {}
    return OutputItem(kind, new_id(PREFIXES[kind]), len(before), fields, text)


async def streamed_response(body: ResponsesBody, pieces: Pieces) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of a response; the field `type` of each is its name."""
    number = 0
    async for event in _events(body, pieces):
        yield {**event, "sequence_number": number}
        number += 1


async def _events(body: ResponsesBody, pieces: Pieces) -> AsyncIterator[dict[str, Any]]:
    head = {**_head(body, new_id("resp_"), int(time.time())), "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": head}
    yield {"type": "response.in_progress", "response": head}
    items: list[OutputItem] = []
    async for _, piece in pieces:
        if isinstance(piece, ServedReply):
            if items and items[-1].kind == "message":  # a last token may have no text of its own
                items[-1].logprobs = token_logprobs(piece.logprobs)
            for event in _closed(items):
                yield event
            end = {**head, **_end(piece), "output": [item.shown() for item in items]}
            yield {"type": f"response.{end['status']}", "response": end}
            continue
        kind: Kind = "message"
        if isinstance(piece, ThoughtPiece):
            kind = "reasoning"
        elif isinstance(piece, CallPiece):
            kind = "function_call"
        is_next_call = isinstance(piece, CallPiece) and piece.name is not None
        if not items or items[-1].kind != kind or is_next_call:
            for event in _closed(items):
                yield event
            name = piece.name or "" if isinstance(piece, CallPiece) else ""
            items.append(_item(kind, items, name))
            for event in items[-1].opened():
                yield event
        delta = piece.arguments if isinstance(piece, CallPiece) else piece.text
        if delta:
            yield items[-1].written(delta, token_logprobs(piece.logprobs if isinstance(piece, TextPiece) else ()))


def _closed(items: Sequence[OutputItem]) -> list[dict[str, Any]]:
    """Return the events that end the latest item; none if there is no item."""
    return items[-1].closed() if items else []


def _head(body: ResponsesBody, reply_id: str, created: int) -> dict[str, Any]:
    choice = body.tool_choice
    return {
        **NOT_CHOSEN,
        "id": reply_id,
        "created_at": created,
        "model": body.model,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls,
        "store": False,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [tool.model_dump() for tool in body.tools or ()],
        **({} if body.text is None else {"text": body.text.model_dump(by_alias=True)}),
    }


def _end(reply: ServedReply) -> dict[str, Any]:
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    reason = reasons.get(reply.finish_reason)
    return {
        "status": "completed" if reason is None else "incomplete",
        "incomplete_details": None if reason is None else {"reason": reason},
        "usage": response_usage(
            n_read=reply.n_prompt, n_cached=reply.n_cached, n_written=reply.n_written, n_thought=reply.n_thought
        ),
    }
