"""A conversation as the body of a chat completion request: pure functions from our messages to OpenAI's.

The form is that of OpenAI's API reference ("Create chat completion"); a `Dialect` names where the servers that
imitate it (vLLM, llama.cpp, Ollama, SGLang) differ. Earlier messages are rendered the same when a conversation
grows, so a server's prefix cache holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentkit.errors import UserError
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    SystemPromptPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.models.base import (
    ModelProfile,
    ModelRequestParameters,
    ModelSettings,
    OutputSchema,
    merged_objects,
)
from agentkit.models.openai.strict_schema import allows_strict
from agentkit.tools.definition import ToolDefinition

MAX_SCHEMA_NAME_CHARS = 64
"""OpenAI's bound on the name of a response format."""

_RESERVED = frozenset({"messages", "stream"})


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
    body: dict[str, Any] = {"model": model_name, "messages": chat_messages(messages, dialect)}
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


def chat_messages(messages: Sequence[ModelMessage], dialect: Dialect = OPENAI) -> list[dict[str, Any]]:
    """Return the conversation as OpenAI's messages."""
    mapped: list[dict[str, Any]] = []
    for message in messages:
        if isinstance(message, ModelRequest):
            mapped.extend(_request_messages(message))
        else:
            mapped.append(_assistant_message(message, dialect))
    return mapped


def _request_messages(request: ModelRequest) -> list[dict[str, Any]]:
    """Return answers to calls first, for they must follow the calls directly; adjacent system parts become one."""
    answers: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for part in request.parts:
        if isinstance(part, ToolReturnPart) or (isinstance(part, RetryPromptPart) and part.tool_call_id):
            answers.append({"role": "tool", "tool_call_id": part.tool_call_id, "content": part.content})
        elif isinstance(part, SystemPromptPart):
            if others and others[-1]["role"] == "system":
                others[-1]["content"] += "\n\n" + part.content
            else:
                others.append({"role": "system", "content": part.content})
        else:
            assert isinstance(part, UserPromptPart | RetryPromptPart)
            others.append({"role": "user", "content": part.content})
    return answers + others


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
    function = {"name": part.tool_name, "arguments": _sendable_arguments(part.arguments)}
    return {"id": part.tool_call_id, "type": "function", "function": function}


def _sendable_arguments(arguments: str) -> str:
    """Wrap arguments that are not a JSON object.

    Chat templates parse the arguments, so one bad call in the history would make a server refuse every later
    request (litellm#33678).
    """
    if not arguments.strip():
        return "{}"
    try:
        if isinstance(json.loads(arguments, parse_constant=_no_constant), dict):
            return arguments
    except (ValueError, RecursionError):
        pass
    return json.dumps({"invalid_arguments": arguments}, ensure_ascii=False)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


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
        body["response_format"] = {"type": "json_schema", "json_schema": _json_schema_format(output)}
        return
    if mode == "json_object":
        body["response_format"] = {"type": "json_object"}
    instruction = _output_instruction(output)
    messages: list[dict[str, Any]] = body["messages"]
    if messages and messages[0]["role"] == "system":
        messages[0] = {"role": "system", "content": f"{messages[0]['content']}\n\n{instruction}"}
    else:
        messages.insert(0, {"role": "system", "content": instruction})


def _json_schema_format(output: OutputSchema) -> dict[str, Any]:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", output.name)[:MAX_SCHEMA_NAME_CHARS] or "output"
    described = {"description": output.description} if output.description else {}
    schema = dict(output.json_schema)
    return {"name": name, **described, "schema": schema, "strict": allows_strict(schema)}


def _output_instruction(output: OutputSchema) -> str:
    described = f" ({output.description})" if output.description else ""
    schema = json.dumps(dict(output.json_schema), ensure_ascii=False, separators=(",", ":"))
    return (
        f"Give your final answer{described} as one JSON object, with no other text and no code fence, "
        f"that is valid under this JSON Schema:\n{schema}"
    )


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
