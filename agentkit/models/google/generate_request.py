"""The body of a generateContent request: a pure function of the conversation, the parameters and the settings.

The form is that of Google's API reference ("Generating content", v1beta). Tools stay the same while fewer may be
called: `allowedFunctionNames` narrows them during decoding, so the prompt cache holds. The mode VALIDATED is AUTO
with arguments that follow the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentkit.errors import UserError
from agentkit.messages import ModelMessage
from agentkit.models.base import ModelProfile, ModelRequestParameters, ModelSettings, OutputSchema, merged_objects
from agentkit.models.google.contents import function_name, gemini_conversation
from agentkit.models.google.dialect import GEMINI_3, GeminiDialect, ThinkingLevel
from agentkit.models.google.schema_subset import gemini_schema
from agentkit.models.openai.output_format import output_instruction
from agentkit.tools.definition import ToolDefinition

_LEVEL_BUDGETS: tuple[tuple[int, ThinkingLevel], ...] = ((1_024, "low"), (8_192, "medium"))
"""Largest number of thinking tokens for each level but the highest: the pairs of Google's guide "OpenAI
compatibility", which maps efforts to levels and to budgets."""
_RESERVED = frozenset({"contents", "systemInstruction"})


def generate_content_body(
    messages: Sequence[ModelMessage],
    parameters: ModelRequestParameters,
    *,
    settings: ModelSettings = ModelSettings(),
    dialect: GeminiDialect = GEMINI_3,
    thinking_level: ThinkingLevel | None = None,
    include_thoughts: bool | None = None,
    profile: ModelProfile = ModelProfile(native_output=True),
) -> dict[str, Any]:
    """Return the JSON body of one request; the model's name and streaming are in the URL.

    `settings` are the merged ones; `parameters.settings` is ignored. `thinking_level` applies unless the settings
    limit thinking; `include_thoughts` None asks for thoughts where thinking is set.

    Raises:
        UserError: the request cannot be expressed.
    """
    conversation = gemini_conversation(messages, dialect, profile.inputs)
    config = _sampling(settings)
    if thinking := _thinking(settings, dialect, thinking_level, include_thoughts):
        config["thinkingConfig"] = thinking
    system = list(conversation.system)
    if (output := parameters.output) is not None:
        if not profile.native_output or (parameters.tools and not dialect.output_with_tools):
            system.append({"text": output_instruction(output)})
        elif not (parameters.tool_choice == "required" and parameters.callable_tools):  # ANY allows no schema
            config["responseMimeType"] = "application/json"
            config["responseJsonSchema"] = _output_schema(output)
    body: dict[str, Any] = {"contents": conversation.contents}
    if system:
        body["systemInstruction"] = {"parts": system}
    if tools := _declared(parameters, dialect):
        body["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in tools]}]
        body["toolConfig"] = {"functionCallingConfig": _calling_config(parameters, dialect)}
    if config:
        body["generationConfig"] = config
    if reserved := _RESERVED & settings.extra_body.keys():
        raise UserError(f"extra_body may not set {', '.join(sorted(reserved))}: the request is built around it.")
    return merged_objects(body, settings.extra_body)


def _sampling(settings: ModelSettings) -> dict[str, Any]:
    values: Mapping[str, Any] = {
        "temperature": settings.temperature,
        "topP": settings.top_p,
        "topK": settings.top_k,
        "maxOutputTokens": settings.max_tokens,
        "seed": settings.seed,
        "stopSequences": list(settings.stop) or None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _thinking(
    settings: ModelSettings, dialect: GeminiDialect, level: ThinkingLevel | None, include_thoughts: bool | None
) -> dict[str, Any]:
    n_tokens = settings.thinking_tokens
    if n_tokens is not None and (dialect.thinking == "none" or n_tokens < 0):
        why = "the model does not think" if dialect.thinking == "none" else "the least is 0"
        raise UserError(f"thinking_tokens={n_tokens}: {why}; leave the setting out.")
    thinking: dict[str, Any] = {}
    if n_tokens is not None and dialect.thinking == "budget":
        thinking["thinkingBudget"] = n_tokens
    elif n_tokens is not None:
        thinking["thinkingLevel"] = _level_for(n_tokens, dialect)
    elif level is not None:
        thinking["thinkingLevel"] = level
    if include_thoughts if include_thoughts is not None else (thinking and n_tokens != 0):
        thinking["includeThoughts"] = True
    return thinking


def _level_for(n_tokens: int, dialect: GeminiDialect) -> ThinkingLevel:
    """Return the lowest level whose usual budget holds `n_tokens`."""
    if n_tokens == 0:
        return dialect.least_level
    for most_tokens, level in _LEVEL_BUDGETS:
        if n_tokens <= most_tokens:
            return level
    return "high"


def _declaration(tool: ToolDefinition) -> dict[str, Any]:
    """Return the declaration of a tool; one without parameters has no schema."""
    declaration: dict[str, Any] = {"name": function_name(tool.name)}
    if tool.description:
        declaration["description"] = tool.description
    schema = gemini_schema(tool.parameters_json_schema)
    if schema.get("properties") or not schema.keys() <= {"type", "properties", "additionalProperties"}:
        declaration["parametersJsonSchema"] = schema
    return declaration


def _declared(parameters: ModelRequestParameters, dialect: GeminiDialect) -> tuple[ToolDefinition, ...]:
    """Return the tools to declare: all, unless only leaving some out keeps a model from calling them."""
    is_free = parameters.tool_choice == "auto" and parameters.callable_tools
    return parameters.callable_tools if is_free and not dialect.validated_calls else parameters.tools


def _calling_config(parameters: ModelRequestParameters, dialect: GeminiDialect) -> dict[str, Any]:
    """Return the mode, and the tools that may be called if they are not all; AUTO takes no list of names."""
    callable_tools = parameters.callable_tools
    if not callable_tools:
        return {"mode": "NONE"}
    free = "VALIDATED" if dialect.validated_calls else "AUTO"
    config: dict[str, Any] = {"mode": "ANY" if parameters.tool_choice == "required" else free}
    if config["mode"] != "AUTO" and len(callable_tools) < len(parameters.tools):
        config["allowedFunctionNames"] = [function_name(tool.name) for tool in callable_tools]
    return config


def _output_schema(output: OutputSchema) -> dict[str, Any]:
    schema = gemini_schema(output.json_schema)
    if output.description and not schema.keys() & {"description", "$ref"}:
        schema["description"] = output.description
    return schema
