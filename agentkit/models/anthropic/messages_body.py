"""The body of a request to `/v1/messages`: a pure function of conversation, parameters and settings.

From Anthropic's API reference ("Create a Message"), and its guides on tool use, thinking, structured outputs and
prompt caching. What a model accepts is read off the table of capabilities, as the API refuses the rest with 400.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentkit.errors import UserError
from agentkit.messages import ModelMessage
from agentkit.models.anthropic.cache_points import PromptCacheTTL, mark_cache_points
from agentkit.models.anthropic.closed_schema import StrictLimits, closed_schema
from agentkit.models.anthropic.conversation import claude_conversation, claude_tool_name
from agentkit.models.base import ModelProfile, ModelRequestParameters, ModelSettings, OutputSchema, merged_objects
from agentkit.models.capabilities import ModelCapabilities
from agentkit.tools.definition import ToolDefinition

Effort = Literal["low", "medium", "high", "xhigh", "max"]
"""Values of `output_config.effort`; not every model has all of them."""
MIN_THINKING_TOKENS = 1024
"""The API's lower bound on `budget_tokens`."""
DEFAULT_MAX_TOKENS = 4096
"""`max_tokens` where the model's own limit is not known, or may not exceed what the context has left."""
OUTPUT_TOOL = "give_final_answer"
"""Tool whose arguments are the structured answer of a model without native output."""
UNKNOWN_MODEL = ModelCapabilities(
    image_input=True, document_input=True, thinking="budget", least_thinking="omitted"
)
"""Capabilities of a model that the table does not have: those that each model behind this protocol has."""

_RESERVED = frozenset({"messages", "stream"})
_SAMPLING = ("temperature", "top_p", "top_k")


@dataclass(frozen=True, slots=True)
class ClaudeOptions:
    """Options of a Claude model besides the settings that all models have."""

    prompt_cache: PromptCacheTTL | None = "5m"
    effort: Effort | None = None
    strict_tools: bool = False


def messages_body(
    model_name: str,
    messages: Sequence[ModelMessage],
    parameters: ModelRequestParameters,
    *,
    settings: ModelSettings = ModelSettings(),
    profile: ModelProfile = ModelProfile(native_output=True),
    capabilities: ModelCapabilities = UNKNOWN_MODEL,
    options: ClaudeOptions = ClaudeOptions(),
    stream: bool = False,
) -> dict[str, Any]:
    """Return the JSON body of one request; `settings` are the merged ones.

    Raises:
        UserError: the settings contradict each other or the model, or `extra_body` sets a reserved field.
    """
    conversation = claude_conversation(messages, profile.inputs)
    thinking = _thinking(model_name, settings, capabilities)
    body: dict[str, Any] = {"model": model_name, "max_tokens": _max_tokens(settings, capabilities, thinking)}
    if conversation.system:
        body["system"] = conversation.system
    body["messages"] = conversation.messages
    _add_tools(body, model_name, parameters, profile, capabilities, options, thinking)
    if thinking is not None:
        body["thinking"] = thinking
    if options.effort is not None:
        body.setdefault("output_config", {})["effort"] = options.effort
    if settings.stop:
        body["stop_sequences"] = list(settings.stop)
    body.update({name: value for name in _SAMPLING if (value := getattr(settings, name)) is not None})
    if options.prompt_cache is not None:
        mark_cache_points(body, options.prompt_cache)
    body["stream"] = stream
    if reserved := _RESERVED & settings.extra_body.keys():
        raise UserError(f"extra_body may not set {', '.join(sorted(reserved))}: the request is built around it.")
    return merged_objects(body, settings.extra_body)


def left_out_settings(settings: ModelSettings, capabilities: ModelCapabilities) -> tuple[str, ...]:
    """Return the names of the given settings that the model does not accept, and that are therefore not sent."""
    accepts_sampling = capabilities.sampling and not settings.thinking_tokens
    refused = ("seed", "min_p") if accepts_sampling else ("seed", "min_p", *_SAMPLING)
    return tuple(name for name in refused if getattr(settings, name) is not None)


def output_tool_name(parameters: ModelRequestParameters, profile: ModelProfile) -> str | None:
    """Return the name of the tool that carries the structured answer; None if it is text, or native."""
    if parameters.output is None or _native_schema(parameters.output, profile) is not None:
        return None
    name, taken = OUTPUT_TOOL, {claude_tool_name(tool.name) for tool in parameters.tools}
    while name in taken:
        name += "_"
    return name


def _native_schema(output: OutputSchema, profile: ModelProfile) -> dict[str, Any] | None:
    return closed_schema(output.json_schema) if profile.native_output else None


def _thinking(model_name: str, settings: ModelSettings, capabilities: ModelCapabilities) -> dict[str, Any] | None:
    """Return the field `thinking`; None leaves the model its default."""
    n_tokens = settings.thinking_tokens
    if n_tokens is None or (n_tokens == 0 and capabilities.least_thinking == "omitted"):
        return None
    if capabilities.thinking not in ("budget", "adaptive"):
        if n_tokens == 0:
            return None
        raise UserError(f"thinking_tokens={n_tokens}: {model_name!r} does not think; leave the setting out.")
    if n_tokens == 0:
        if capabilities.least_thinking is None:
            raise UserError(f"thinking_tokens=0: {model_name!r} always thinks; leave the setting out.")
        return {"type": capabilities.least_thinking}
    if capabilities.thinking == "adaptive":
        return {"type": "adaptive", "display": "summarized"}
    if n_tokens < MIN_THINKING_TOKENS:
        raise UserError(f"thinking_tokens={n_tokens}: Claude takes 0, or {MIN_THINKING_TOKENS} and more.")
    return {"type": "enabled", "budget_tokens": n_tokens}


def _max_tokens(settings: ModelSettings, capabilities: ModelCapabilities, thinking: dict[str, Any] | None) -> int:
    """Return `max_tokens`, which the API demands, and which thinking counts towards."""
    n_thinking: int = (thinking or {}).get("budget_tokens", 0)
    if settings.max_tokens is not None:
        if settings.max_tokens <= n_thinking:
            raise UserError(
                f"max_tokens={settings.max_tokens} is not above thinking_tokens={n_thinking}: thinking counts "
                f"towards max_tokens. Raise max_tokens, or lower thinking_tokens."
            )
        return settings.max_tokens
    # Models before Claude 4.5 refuse a prompt that together with max_tokens exceeds the context window.
    if capabilities.max_output_tokens is not None and capabilities.native_output:
        return capabilities.max_output_tokens
    return n_thinking + DEFAULT_MAX_TOKENS


def _add_tools(
    body: dict[str, Any],
    model_name: str,
    parameters: ModelRequestParameters,
    profile: ModelProfile,
    capabilities: ModelCapabilities,
    options: ClaudeOptions,
    thinking: dict[str, Any] | None,
) -> None:
    can_force = capabilities.forced_tool_choice and (thinking or {}).get("type") != "enabled"
    limits = StrictLimits()
    output_tool = output_tool_name(parameters, profile)
    if parameters.output is not None and output_tool is None:
        schema = _native_schema(parameters.output, profile)
        assert schema is not None
        limits.take(schema, is_tool=False)
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    is_strict = options.strict_tools and capabilities.strict_tools
    tools = [_tool(tool, limits if is_strict else None) for tool in parameters.offered_tools]
    choice: dict[str, Any] = {"type": _CHOICES[parameters.tool_choice]}
    if output_tool is not None:
        assert parameters.output is not None
        if parameters.tool_choice == "none" and not can_force:
            tools = []  # calls could not be prevented otherwise
        tools.append(_answer_tool(output_tool, parameters.output))
        choice = _choice_with_answer(output_tool, can_force=can_force, has_others=bool(parameters.callable_tools))
    elif choice["type"] == "any" and tools and not can_force:
        raise UserError(
            f"tool_choice='required': {model_name!r} cannot be made to call a tool"
            f"{' while it thinks' if capabilities.forced_tool_choice else ''}; "
            f"leave tool_choice{' or thinking_tokens' if capabilities.forced_tool_choice else ''} out."
        )
    if not tools:
        return
    if choice["type"] != "none" and not (parameters.parallel_tool_calls and profile.parallel_tool_calls):
        choice["disable_parallel_tool_use"] = True
    body["tools"] = tools
    body["tool_choice"] = choice


_CHOICES = {"auto": "auto", "required": "any", "none": "none"}


def _choice_with_answer(output_tool: str, *, can_force: bool, has_others: bool) -> dict[str, Any]:
    """Return the choice between the answer's tool and the others; without force, the runtime asks again."""
    if not can_force:
        return {"type": "auto"}
    return {"type": "any"} if has_others else {"type": "tool", "name": output_tool}


def _tool(tool: ToolDefinition, limits: StrictLimits | None) -> dict[str, Any]:
    definition: dict[str, Any] = {"name": claude_tool_name(tool.name)}
    if tool.description.strip():
        definition["description"] = tool.description
    schema = None if limits is None else closed_schema(tool.parameters_json_schema)
    if schema is not None and limits is not None and limits.take(schema):
        return {**definition, "input_schema": schema, "strict": True}
    return {**definition, "input_schema": {"type": "object", **tool.parameters_json_schema}}


def _answer_tool(name: str, output: OutputSchema) -> dict[str, Any]:
    about = output.description or output.name
    return {
        "name": name,
        "description": f"Call this with your final answer ({about}), instead of writing it as text.",
        "input_schema": {"type": "object", **output.json_schema},
    }
