"""OpenAI's chat completions: requests, whole replies and streamed ones.

Source: the API reference of `/v1/chat/completions`. An addition, as in other local servers: `thinking_tokens` asks
for a thought of at most so many tokens, which comes as `reasoning_content`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from modelstack.inference.server.bodies import Body, OpenAIBody
from modelstack.inference.server.conversations import (
    past_call,
    require_one_form,
    results_in_order,
    tool_choice,
    tool_spec,
)
from modelstack.inference.server.errors import ApiError
from modelstack.inference.server.replying import Pieces
from modelstack.inference.server.turns import (
    FILTERED,
    CallPiece,
    FinishReason,
    PastCall,
    ReplyRequest,
    ServedReply,
    TextPiece,
    ThoughtPiece,
    TokenLogprob,
    Turn,
)

MOST_REPLIES = 16
"""Largest `n`."""
MOST_STOPS = 4


class TextPart(Body):
    """Text of a message."""

    type: Literal["text"]
    text: str


Content = str | list[TextPart]


class FunctionCall(Body):
    """Name and arguments, as JSON text, of a call."""

    name: str
    arguments: str


class ToolCall(Body):
    """Call in an assistant's message."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class SystemMessage(Body):
    """Instructions of the developer."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Body):
    """Words of the user."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantMessage(Body):
    """Earlier reply."""

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: list[ToolCall] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    """Earlier thought; models are not shown it again."""
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class ToolMessage(Body):
    """Result of a call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Body):
    """Description of a function."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """Without effect: arguments always follow the schema."""


class Tool(Body):
    """Tool that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """Name of a function."""

    name: str


class NamedTool(Body):
    """Choice of one tool."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchemaFormat(Body):
    """Schema of an answer."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None
    """Without effect: answers always follow the schema."""


class TextFormat(Body):
    """Answer in words."""

    type: Literal["text"]


class JsonObjectFormat(Body):
    """Answer that is any JSON object."""

    type: Literal["json_object"]


class JsonSchemaAnswer(Body):
    """Answer that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchemaFormat


class Prediction(Body):
    """Text that the reply may repeat, such as a file that is to be edited."""

    type: Literal["content"]
    content: Content


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(OpenAIBody):
    """Body of a request."""

    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: (
        Annotated[TextFormat | JsonObjectFormat | JsonSchemaAnswer, Field(discriminator="type")] | None
    ) = None
    stream_options: StreamOptions | None = None
    prediction: Prediction | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: str | list[str] | None = None
    n: int = Field(default=1, ge=1, le=MOST_REPLIES)
    logprobs: bool = False
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logit_bias: None = None
    modalities: list[Literal["text"]] | None = None


def reply_request(body: ChatRequest, adapter: str | None, temperature: float) -> ReplyRequest:
    """Return what a body asks for.

    Args:
        body: The checked body.
        adapter: Adapter that its model name stands for.
        temperature: Temperature of requests that name none.

    Raises:
        ApiError: Fields contradict each other.
    """
    tools = tuple(
        tool_spec(each.function.name, each.function.description, each.function.parameters, "tools")
        for each in body.tools or ()
    )
    choice = body.tool_choice or "auto"
    is_named = isinstance(choice, NamedTool)
    name = choice.function.name if is_named else None
    callable_, must_call = tool_choice("named" if is_named else choice, tools, name)
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise ApiError(
            400, "max_tokens and max_completion_tokens differ; give max_completion_tokens alone", "max_tokens"
        )
    schema = _answer_schema(body)
    require_one_form(must_call, schema is not None, "response_format")
    return ReplyRequest(
        turns=tuple(_turns(body.messages)),
        tools=tools,
        callable=callable_,
        must_call=must_call,
        parallel=body.parallel_tool_calls and not is_named,
        answer_schema=schema,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        thinking_tokens=body.thinking_tokens,
        stop=stops(body.stop),
        sampling=body.sampling(temperature),
        adapter=adapter,
        n_top_logprobs=body.n_top_logprobs(body.logprobs, "logprobs=true"),
        expected="" if body.prediction is None else _text(body.prediction.content),
    )


def stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the stop strings.

    Raises:
        ApiError: There are too many, or one is empty.
    """
    found = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(found) > MOST_STOPS:
        raise ApiError(400, f"stop has {len(found)} texts; give at most {MOST_STOPS}", "stop")
    if "" in found:
        raise ApiError(400, "a text of stop is empty, so every reply would end at once; leave it out", "stop")
    return found


def _answer_schema(body: ChatRequest) -> dict[str, Any] | None:
    match body.response_format:
        case JsonSchemaAnswer(json_schema=described):
            return described.schema_
        case JsonObjectFormat():
            return {"type": "object"}
        case _:
            return None


def _turns(messages: Sequence[Message]) -> list[Turn]:
    turns: list[Turn] = []
    results: list[tuple[str, str]] = []
    for number, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            results.append((message.tool_call_id, _text(message.content)))
            following = messages[number + 1] if number + 1 < len(messages) else None
            if not isinstance(following, ToolMessage):
                turns += results_in_order(turns, results, f"messages.{number}.tool_call_id")
                results = []
        elif isinstance(message, AssistantMessage):
            calls = _past_calls(message, f"messages.{number}.tool_calls")
            turns.append(Turn("assistant", _text(message.content or message.refusal or ""), calls))
        else:
            turns.append(Turn("user" if message.role == "user" else "system", _text(message.content)))
    return turns


def _past_calls(message: AssistantMessage, param: str) -> tuple[PastCall, ...]:
    calls = message.tool_calls or ()
    return tuple(past_call(each.id, each.function.name, each.function.arguments, param) for each in calls)


def _text(content: Content) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def new_id(prefix: str) -> str:
    """Return a new id of an object of the protocols."""
    return prefix + secrets.token_hex(12)


def whole_reply(body: ChatRequest, replies: Sequence[ServedReply]) -> dict[str, Any]:
    """Return the body of a response."""
    return {
        **_head(new_id("chatcmpl-"), body.model, "chat.completion", int(time.time())),
        "choices": [
            {
                "index": index,
                "message": _message(reply),
                "logprobs": _logprobs(reply.logprobs + reply.call_logprobs) if body.logprobs else None,
                "finish_reason": reply.finish_reason,
            }
            for index, reply in enumerate(replies)
        ],
        "usage": usage(replies),
    }


async def streamed_reply(body: ChatRequest, pieces: Pieces) -> AsyncIterator[dict[str, Any]]:
    """Yield the chunks of a response."""
    head = _head(new_id("chatcmpl-"), body.model, "chat.completion.chunk", int(time.time()))
    counts = body.stream_options is not None and body.stream_options.include_usage
    more: dict[str, Any] = {"usage": None} if counts else {}

    n_told = [0] * body.n
    """Number of tokens of each reply whose log-probabilities were sent."""

    def chunk(
        index: int, delta: dict[str, Any], tokens: Sequence[TokenLogprob] = (), finish: FinishReason | None = None
    ) -> Any:
        n_told[index] += len(tokens)
        logprobs = _logprobs(tokens) if tokens else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**head, "choices": [choice], **more}

    for index in range(body.n):
        yield chunk(index, {"role": "assistant", "content": ""})
    replies: list[ServedReply] = []
    async for index, piece in pieces:
        match piece:
            case TextPiece(text, tokens):
                yield chunk(index, {"content": text}, tokens)
            case ThoughtPiece(text):
                yield chunk(index, {"reasoning_content": text})
            case CallPiece(number, arguments, name, tokens):
                function: dict[str, Any] = {"arguments": arguments}
                call: dict[str, Any] = {"index": number, "function": function}
                if name is not None:
                    call |= {"id": new_id("call_"), "type": "function"}
                    function["name"] = name
                yield chunk(index, {"tool_calls": [call]}, tokens)
            case ServedReply():
                replies.append(piece)
                left = (piece.logprobs + piece.call_logprobs)[n_told[index] :]
                delta = {"refusal": FILTERED} if piece.finish_reason == "content_filter" else {}
                yield chunk(index, delta, left, piece.finish_reason)
    if counts:
        yield {**head, "choices": [], "usage": usage(replies)}


def usage(replies: Sequence[ServedReply]) -> dict[str, Any]:
    """Return the counts of replies to one prompt."""
    n_prompt, n_written = replies[0].n_prompt, sum(reply.n_written for reply in replies)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_written,
        "total_tokens": n_prompt + n_written,
        "prompt_tokens_details": {"cached_tokens": replies[0].n_cached},
        "completion_tokens_details": {
            "reasoning_tokens": sum(reply.n_thought for reply in replies),
            "accepted_prediction_tokens": sum(reply.n_accepted for reply in replies),
            "rejected_prediction_tokens": sum(reply.n_drafted - reply.n_accepted for reply in replies),
        },
    }


def _head(reply_id: str, model: str, kind: str, created: int) -> dict[str, Any]:
    return {"id": reply_id, "object": kind, "created": created, "model": model}


def _message(reply: ServedReply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.finish_reason == "content_filter":
        message |= {"content": None, "refusal": FILTERED}
    if reply.calls:
        message["content"] = reply.text or None
        message["tool_calls"] = [
            {"id": new_id("call_"), "type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments in reply.calls
        ]
    if reply.thought:
        message["reasoning_content"] = reply.thought
    return message


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": token_logprobs(tokens), "refusal": None}


def token_logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Return tokens in the form that chat completions and responses share."""
    return [
        {**_token(each.data, each.logprob), "top_logprobs": [_token(data, logprob) for data, logprob in each.top]}
        for each in tokens
    ]


def _token(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}
