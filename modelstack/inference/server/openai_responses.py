"""OpenAI's responses: requests, whole replies and streamed ones.

Source: the API reference of `/v1/responses`. Nothing is stored, so a conversation is sent whole with each request.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
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
    past_call,
    require_one_form,
    results_in_order,
    tool_choice,
    tool_spec,
)
from modelstack.inference.server.replying import Pieces
from modelstack.inference.server.turns import (
    CallPiece,
    ReplyRequest,
    ServedReply,
    TextPiece,
    ThoughtPiece,
    TokenLogprob,
    Turn,
)

LOGPROBS = "message.output_text.logprobs"
"""Value of `include` that asks for log-probabilities."""
Status = Literal["in_progress", "completed", "incomplete"]


class TextContent(Body):
    """Text of a message."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class MessageItem(Body):
    """Message of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[TextContent]
    id: str | None = None
    status: Status | None = None
    phase: str | None = None


class CallItem(Body):
    """Call of a tool."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None


class ResultItem(Body):
    """Result of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[TextContent]
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
    tool_choice: Literal["none", "auto", "required"] | NamedFunction = "auto"
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
    choice = body.tool_choice
    is_named = isinstance(choice, NamedFunction)
    name = choice.name if is_named else None
    callable_, must_call = tool_choice("named" if is_named else choice, tools, name)
    schema = _answer_schema(body)
    require_one_form(must_call, schema is not None, "text.format")
    return ReplyRequest(
        turns=(*([Turn("system", body.instructions)] if body.instructions else []), *_turns(body)),
        tools=tools,
        callable=callable_,
        must_call=must_call,
        parallel=body.parallel_tool_calls and not is_named,
        answer_schema=schema,
        max_tokens=body.max_output_tokens,
        thinking_tokens=body.thinking_tokens,
        sampling=body.sampling(temperature),
        adapter=adapter,
        n_top_logprobs=body.n_top_logprobs(bool(body.include), f"include=[{LOGPROBS!r}]"),
    )


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
                results.append((call_id, _text(output)))
                following = body.input[number + 1] if number + 1 < len(body.input) else None
                if not isinstance(following, ResultItem):
                    turns += results_in_order(turns, results, f"{where}.call_id")
                    results = []
            case CallItem(call_id=call_id, name=name, arguments=arguments):
                call = past_call(call_id, name, arguments, f"{where}.arguments")
                said = turns.pop() if turns and turns[-1].role == "assistant" else Turn("assistant", "")
                turns.append(Turn("assistant", said.text, (*said.calls, call)))
            case MessageItem(role="user" | "assistant" as role, content=content):
                turns.append(Turn(role, _text(content)))
            case MessageItem(content=content):
                turns.append(Turn("system", _text(content)))
            case ReasoningItem():
                pass
    return turns


def _text(content: str | Sequence[TextContent]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def whole_response(body: ResponsesBody, reply: ServedReply) -> dict[str, Any]:
    """Return the body of a response."""
    output: list[dict[str, Any]] = []
    if reply.thought:
        output.append(_Item("reasoning", text=reply.thought).shown("completed"))
    if reply.text or not reply.calls:
        output.append(_Item("message", text=reply.text, logprobs=[*reply.logprobs]).shown("completed"))
    output += [
        _Item("function_call", text=arguments, name=name).shown("completed") for name, arguments in reply.calls
    ]
    return {**_head(body, new_id("resp_"), int(time.time())), **_end(reply), "output": output}


_PREFIXES = {"reasoning": "rs_", "message": "msg_", "function_call": "fc_"}
Kind = Literal["reasoning", "message", "function_call"]


@dataclass(slots=True)
class _Item:
    """Item of the output."""

    kind: Kind
    text: str = ""
    """Words, thought or arguments as far as they are written."""
    name: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    """Tokens of a message, if they are asked for."""
    id: str = ""
    call_id: str = field(default_factory=lambda: new_id("call_"))

    def __post_init__(self) -> None:
        self.id = new_id(_PREFIXES[self.kind])

    def shown(self, status: Status, *, is_new: bool = False) -> dict[str, Any]:
        """Return the item as JSON; a new one has no content yet."""
        head = {"id": self.id, "type": self.kind, "status": status}
        if self.kind == "function_call":
            return {**head, "call_id": self.call_id, "name": self.name, "arguments": "" if is_new else self.text}
        content = [] if is_new else [self.part()]
        more = {"summary": []} if self.kind == "reasoning" else {"role": "assistant"}
        return {**head, **more, "content": content}

    def part(self, *, is_new: bool = False) -> dict[str, Any]:
        """Return the content of a message or a thought."""
        text = "" if is_new else self.text
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        logprobs = [] if is_new else token_logprobs(self.logprobs)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


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
    items: list[_Item] = []
    async for _, piece in pieces:
        if isinstance(piece, ServedReply):
            if items and items[-1].kind == "message":
                items[-1].logprobs[:] = piece.logprobs  # a last token may have no text of its own
            for event in _closed(items):
                yield event
            end = {**head, **_end(piece), "output": [item.shown("completed") for item in items]}
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
            items.append(_Item(kind, name=name))
            for event in _opened(items):
                yield event
        delta = piece.arguments if isinstance(piece, CallPiece) else piece.text
        if delta:
            items[-1].text += delta
            tokens = piece.logprobs if isinstance(piece, TextPiece) else ()
            items[-1].logprobs += tokens
            more = _logprobs(kind, tokens)
            yield {**_place(items), "type": f"response.{_DELTAS[kind]}.delta", "delta": delta, **more}


_DELTAS = {"reasoning": "reasoning_text", "message": "output_text", "function_call": "function_call_arguments"}


def _logprobs(kind: Kind, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"logprobs": token_logprobs(tokens)} if kind == "message" else {}


def _place(items: Sequence[_Item]) -> dict[str, Any]:
    """Return where the latest item, and its only content, stands."""
    place: dict[str, Any] = {"item_id": items[-1].id, "output_index": len(items) - 1}
    return place if items[-1].kind == "function_call" else {**place, "content_index": 0}


def _opened(items: Sequence[_Item]) -> list[dict[str, Any]]:
    """Return the events that begin the latest item."""
    item = items[-1]
    added = {
        "type": "response.output_item.added",
        "output_index": len(items) - 1,
        "item": item.shown("in_progress", is_new=True),
    }
    if item.kind != "message":
        return [added]
    return [added, {**_place(items), "type": "response.content_part.added", "part": item.part(is_new=True)}]


def _closed(items: Sequence[_Item]) -> list[dict[str, Any]]:
    """Return the events that end the latest item; none if there is no item."""
    if not items:
        return []
    item, place = items[-1], _place(items)
    whole = "arguments" if item.kind == "function_call" else "text"
    name = {"name": item.name} if item.kind == "function_call" else {}
    more = {**name, **_logprobs(item.kind, item.logprobs)}
    events = [{**place, "type": f"response.{_DELTAS[item.kind]}.done", whole: item.text, **more}]
    if item.kind == "message":
        events.append({**place, "type": "response.content_part.done", "part": item.part()})
    done = {
        "type": "response.output_item.done",
        "output_index": len(items) - 1,
        "item": item.shown("completed"),
    }
    return [*events, done]


def _head(body: ResponsesBody, reply_id: str, created: int) -> dict[str, Any]:
    tools = [tool.model_dump() for tool in body.tools or ()]
    choice = body.tool_choice
    return {
        "id": reply_id,
        "object": "response",
        "created_at": created,
        "model": body.model,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": None,
        "store": False,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": tools,
        "text": {"format": {"type": "text"}} if body.text is None else body.text.model_dump(by_alias=True),
        "truncation": "disabled",
        "error": None,
        "incomplete_details": None,
    }


def _end(reply: ServedReply) -> dict[str, Any]:
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    reason = reasons.get(reply.finish_reason)
    return {
        "status": "completed" if reason is None else "incomplete",
        "incomplete_details": None if reason is None else {"reason": reason},
        "usage": {
            "input_tokens": reply.n_prompt,
            "input_tokens_details": {"cached_tokens": reply.n_cached, "cache_write_tokens": 0},
            "output_tokens": reply.n_written,
            "output_tokens_details": {"reasoning_tokens": reply.n_thought},
            "total_tokens": reply.n_prompt + reply.n_written,
        },
    }
