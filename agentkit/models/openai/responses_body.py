"""Body of a request to OpenAI's Responses API ("Create a model response" in the API reference)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentkit.errors import UserError
from agentkit.messages import ModelMessage
from agentkit.models.base import (
    ModelProfile,
    ModelRequestParameters,
    ModelSettings,
    merged_objects,
)
from agentkit.models.openai.output_format import json_schema_format, output_instruction
from agentkit.models.openai.responses_input import OPENAI_READER, Reader, input_items, split_instructions
from agentkit.models.openai.strict_schema import allows_strict
from agentkit.tools.definition import ToolDefinition

ReasoningSummary = Literal["auto", "concise", "detailed"]
ENCRYPTED_REASONING = "reasoning.encrypted_content"
"""Value of `include` that asks for reasoning items that can be sent back."""
_RESERVED = frozenset({"input", "instructions", "stream", "background", "previous_response_id", "conversation"})
"""Fields that a request is built around; the last three would need a stored conversation, or another endpoint."""


@dataclass(frozen=True, slots=True)
class ResponsesOptions:
    """Options of requests that follow from the model and its server."""

    reasoning_effort: str | None = None
    reasoning_summary: ReasoningSummary | None = None
    includes_encrypted: bool = False
    """Ask for encrypted reasoning; models that do not reason refuse the request."""
    narrows_by_choice: bool = True
    """Send all tools, and those that may be called now in `tool_choice`, so that the prompt cache holds."""


def responses_body(
    model_name: str,
    messages: Sequence[ModelMessage],
    parameters: ModelRequestParameters,
    *,
    settings: ModelSettings = ModelSettings(),
    profile: ModelProfile = ModelProfile(native_output=True),
    options: ResponsesOptions = ResponsesOptions(),
    reader: Reader = OPENAI_READER,
    stream: bool = False,
) -> dict[str, Any]:
    """Return the JSON body of one request; `settings` are the merged ones, `parameters.settings` is ignored.

    Raises:
        UserError: `extra_body` sets a field that the request is built around, or the API has no such setting.
    """
    instructions, others = split_instructions(messages)
    body: dict[str, Any] = {"model": model_name, "input": input_items(others, reader), "store": False}
    if parameters.output is not None:
        if profile.native_output:
            body["text"] = {"format": {"type": "json_schema", **json_schema_format(parameters.output)}}
        else:
            instructions = "\n\n".join(filter(None, (instructions, output_instruction(parameters.output))))
    if instructions:
        body["instructions"] = instructions
    _add_tools(body, parameters, profile, options)
    _add_settings(body, settings)
    if options.includes_encrypted:
        body["include"] = [ENCRYPTED_REASONING]
    reasoning = {"effort": options.reasoning_effort, "summary": options.reasoning_summary}
    if chosen := {name: value for name, value in reasoning.items() if value is not None}:
        body["reasoning"] = chosen
    body["stream"] = stream
    if reserved := _RESERVED & settings.extra_body.keys():
        raise UserError(f"extra_body may not set {', '.join(sorted(reserved))}: the request is built around it.")
    return merged_objects(body, settings.extra_body)


def _add_tools(
    body: dict[str, Any], parameters: ModelRequestParameters, profile: ModelProfile, options: ResponsesOptions
) -> None:
    offered = parameters.offered_tools
    sent = parameters.tools if options.narrows_by_choice else offered
    if not sent:
        return
    body["tools"] = [_tool(tool) for tool in sent]
    body["tool_choice"] = _tool_choice(parameters, sent)
    if profile.parallel_tool_calls:
        body["parallel_tool_calls"] = parameters.parallel_tool_calls


def _tool_choice(parameters: ModelRequestParameters, sent: Sequence[ToolDefinition]) -> str | dict[str, Any]:
    offered = parameters.offered_tools
    mode = parameters.tool_choice
    if mode == "none" or not offered:
        return "none"
    if len(offered) == len(sent):
        return mode
    allowed = [{"type": "function", "name": tool.name} for tool in offered]
    return {"type": "allowed_tools", "mode": mode, "tools": allowed}


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    """Return a tool. `strict` is always set, for the API would make an unset schema strict by changing it."""
    schema = dict(tool.parameters_json_schema)
    strict = allows_strict(schema)
    if strict:
        schema.setdefault("required", [])
    described = {"description": tool.description} if tool.description else {}
    return {"type": "function", "name": tool.name, **described, "parameters": schema, "strict": strict}


def _add_settings(body: dict[str, Any], settings: ModelSettings) -> None:
    if settings.thinking_tokens is not None:
        raise UserError(
            f"thinking_tokens={settings.thinking_tokens} is not known to the Responses API, which has efforts and "
            f"no budget: give OpenAIResponsesModel(reasoning_effort='low'), or "
            f"extra_body={{'reasoning': {{'effort': 'low'}}}}."
        )
    if settings.stop:
        raise UserError(
            f"stop={settings.stop!r} is not known to the Responses API. Leave it out, or use chat completions "
            f"(openai:NAME); for a server that knows it, give extra_body={{'stop': ...}}."
        )
    values: Mapping[str, Any] = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_output_tokens": settings.max_tokens,
    }
    body.update({name: value for name, value in values.items() if value is not None})
