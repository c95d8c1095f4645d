"""A conversation as the body of a chat completion request: pure functions from our messages to OpenAI's.

The form is that of OpenAI's API reference ("Create chat completion"); a `Dialect` names where the servers that
imitate it (vLLM, llama.cpp, Ollama, SGLang) differ. Earlier messages are rendered the same when a conversation
grows, so a server's prefix cache holds.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentkit.errors import UserError
from agentkit.files import files_of, kind_of, readable
from agentkit.messages import (
    BinaryContent,
    Content,
    ContentItem,
    FileReference,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    SystemPromptPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
    text_of,
)
from agentkit.models.base import (
    ModelProfile,
    ModelRequestParameters,
    ModelSettings,
    OutputSchema,
    merged_objects,
)
from agentkit.models.openai.call_arguments import sendable_arguments
from agentkit.models.openai.output_format import json_schema_format, output_instruction
from agentkit.tools.definition import ToolDefinition

_RESERVED = frozenset({"messages", "stream"})
_AUDIO_FORMATS = {"audio/mpeg": "mp3"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """Differences of a server's chat completions from OpenAI's."""

    output: Literal["json_schema", "json_object", "prompt"] = "json_schema"
    """Way to request a structured answer. The last two put the schema into the system message; only the
    runtime's validation enforces it then."""
    output_with_tools: bool = True
    """True if calls stay possible beside a `response_format`. False for servers that would force JSON and so
    forbid calls (vLLM, vllm#39929; Ollama): there the prompt holds the schema while tools may be called."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """Name of the token limit. OpenAI's newer models take only the second, most other servers only the first.
    None: the second at api.openai.com, the first elsewhere."""
    include_usage: bool = True
    """Ask for the usage at a stream's end (`stream_options`)."""
    send_reasoning: bool = False
    """Send earlier reasoning back as `reasoning_content`, as DeepSeek and Kimi want between tool calls."""
    always_stream: bool = False
    """Stream also without a listener, so that the idle deadline notices a server that hangs."""


OPENAI = Dialect()
"""The API as OpenAI defines it; llama.cpp follows it too."""


def chat_body(
    model_name: str,
    messages: Sequence[ModelMessage],
    parameters: ModelRequestParameters,
    *,
    settings: ModelSettings = ModelSettings(),
    profile: ModelProfile = ModelProfile(native_output=True),
    dialect: Dialect = OPENAI,
    stream: bool = False,
) -> dict[str, Any]:
    """Return the JSON body of one request.

    `settings` are the merged ones; `parameters.settings` is ignored. Tools that are not allowed now are left out,
    because a server cannot be trusted to mask them; `tool_choice` "none" leaves none out.

    Raises:
        UserError: `extra_body` sets a field that the request is built around.
    """
    body: dict[str, Any] = {"model": model_name, "messages": chat_messages(messages, dialect, profile.inputs)}
    tools = parameters.callable_tools
    if offered := parameters.offered_tools:
        body["tools"] = [_tool(tool) for tool in offered]
        body["tool_choice"] = parameters.tool_choice
        if profile.parallel_tool_calls:
            body["parallel_tool_calls"] = parameters.parallel_tool_calls
    if parameters.output is not None:
        _add_output(body, parameters.output, _output_mode(profile, dialect, has_tools=bool(tools)))
    _add_settings(body, settings, dialect)
    if profile.logprobs and tools:
        body["logprobs"] = True
    body["stream"] = stream
    if stream and dialect.include_usage:
        body["stream_options"] = {"include_usage": True}
    if reserved := _RESERVED & settings.extra_body.keys():
        raise UserError(f"extra_body may not set {', '.join(sorted(reserved))}: the request is built around it.")
    return merged_objects(body, settings.extra_body)


def chat_messages(
    messages: Sequence[ModelMessage], dialect: Dialect = OPENAI, inputs: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """Return the conversation as OpenAI's messages.

    `inputs` are the kinds of files that the model reads; None: all are sent.
    """
    mapped: list[dict[str, Any]] = []
    for message in messages:
        if isinstance(message, ModelRequest):
            mapped.extend(_request_messages(message, inputs))
        else:
            mapped.append(_assistant_message(message, dialect))
    return mapped


def _request_messages(request: ModelRequest, inputs: Collection[str] | None) -> list[dict[str, Any]]:
    """Return answers to calls first, for they must follow the calls directly; adjacent system parts become one.

    A tool message holds text only, so the files of results follow the answers in a message of the user.
    """
    answers: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    files: list[ContentItem] = []
    for part in request.parts:
        if isinstance(part, ToolReturnPart) or (isinstance(part, RetryPromptPart) and part.tool_call_id):
            content = readable(part.content, inputs)
            answers.append({"role": "tool", "tool_call_id": part.tool_call_id, "content": text_of(content)})
            if found := files_of(content):
                files += [f"Files of the result of {part.tool_name}:", *found]
        elif isinstance(part, SystemPromptPart):
            if others and others[-1]["role"] == "system":
                others[-1]["content"] += "\n\n" + part.content
            else:
                others.append({"role": "system", "content": part.content})
        else:
            assert isinstance(part, UserPromptPart | RetryPromptPart)
            others.append({"role": "user", "content": _user_content(readable(part.content, inputs))})
    if files:
        answers.append({"role": "user", "content": _user_content(tuple(files))})
    return answers + others


def _user_content(content: Content) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": item} if isinstance(item, str) else _file_part(item) for item in content]


def _file_part(file: BinaryContent | FileReference) -> dict[str, Any]:
    """Return a file as a content part ("Create chat completion", user message)."""
    assert isinstance(file, BinaryContent)  # `readable` leaves no references
    data = b64encode(file.data).decode()
    url = f"data:{file.media_type};base64,{data}"
    match kind_of(file):
        case "image":
            return {"type": "image_url", "image_url": {"url": url}}
        case "audio":
            form = _AUDIO_FORMATS.get(file.media_type, file.media_type.partition("/")[2])
            return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
        case _:
            return {"type": "file", "file": {"filename": file.name or "document.pdf", "file_data": url}}


def _assistant_message(response: ModelResponse, dialect: Dialect) -> dict[str, Any]:
    calls = [_call(part) for part in response.tool_calls]
    message: dict[str, Any] = {"role": "assistant", "content": response.text or (None if calls else "")}
    if dialect.send_reasoning:
        thinking = "".join(part.content for part in response.parts if isinstance(part, ThinkingPart))
        if thinking:
            message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = calls
    return message


def _call(part: ToolCallPart) -> dict[str, Any]:
    function = {"name": part.tool_name, "arguments": sendable_arguments(part.arguments)}
    return {"id": part.tool_call_id, "type": "function", "function": function}


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = dict(tool.parameters_json_schema)
    return {"type": "function", "function": function}


def _output_mode(profile: ModelProfile, dialect: Dialect, *, has_tools: bool) -> str:
    if has_tools and not dialect.output_with_tools:
        return "prompt"
    if dialect.output == "json_schema" and not profile.native_output:
        return "prompt"
    return dialect.output


def _add_output(body: dict[str, Any], output: OutputSchema, mode: str) -> None:
    if mode == "json_schema":
        body["response_format"] = {"type": "json_schema", "json_schema": json_schema_format(output)}
        return
    if mode == "json_object":
        body["response_format"] = {"type": "json_object"}
    instruction = output_instruction(output)
    messages: list[dict[str, Any]] = body["messages"]
    if messages and messages[0]["role"] == "system":
        messages[0] = {"role": "system", "content": f"{messages[0]['content']}\n\n{instruction}"}
    else:
        messages.insert(0, {"role": "system", "content": instruction})


def _add_settings(body: dict[str, Any], settings: ModelSettings, dialect: Dialect) -> None:
    if settings.thinking_tokens is not None:
        raise UserError(
            f"thinking_tokens={settings.thinking_tokens} is for models in this process; servers have no common "
            f"name for it. Give the server's own, e.g. extra_body={{'reasoning_effort': 'low'}}."
        )
    values: Mapping[str, Any] = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "min_p": settings.min_p,
        dialect.max_tokens_field or "max_tokens": settings.max_tokens,
        "seed": settings.seed,
        "stop": list(settings.stop) or None,
    }
    body.update({name: value for name, value in values.items() if value is not None})
