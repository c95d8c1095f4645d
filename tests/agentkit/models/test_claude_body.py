"""Bodies of requests to Anthropic's API: tools, thinking, structured output, prompt cache, settings."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from pydantic import TypeAdapter

from agentkit.errors import UserError
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.models.anthropic.messages_body import (
    DEFAULT_MAX_TOKENS,
    UNKNOWN_MODEL,
    ClaudeOptions,
    left_out_settings,
    messages_body,
)
from agentkit.models.base import ModelProfile, ModelRequestParameters, ModelSettings, OutputSchema
from agentkit.models.capabilities import capabilities_of
from agentkit.tools.definition import ToolDefinition

BODY = TypeAdapter(MessageCreateParamsStreaming)
HELLO: tuple[ModelMessage, ...] = (ModelRequest((SystemPromptPart("Be brief."), UserPromptPart("Hello"))),)
LOOK = ToolDefinition(
    "look", "Look.", {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}
)
WAIT = ToolDefinition("wait", "", {"properties": {}})
ANSWER = OutputSchema("Answer", {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
NO_CACHE = ClaudeOptions(prompt_cache=None)


def body_of(
    model_name: str = "claude-opus-4-5",
    messages: tuple[ModelMessage, ...] = HELLO,
    *,
    profile: ModelProfile | None = None,
    options: ClaudeOptions = NO_CACHE,
    settings: ModelSettings = ModelSettings(),
    **parameters: Any,
) -> dict[str, Any]:
    capabilities = capabilities_of("anthropic", model_name) or UNKNOWN_MODEL
    body = messages_body(
        model_name,
        messages,
        ModelRequestParameters(**parameters),
        settings=settings,
        profile=profile or capabilities.profile(),
        capabilities=capabilities,
        options=options,
        stream=True,
    )
    BODY.validate_python(body)
    return body


def test_the_simplest_request() -> None:
    assert body_of() == {
        "model": "claude-opus-4-5",
        "max_tokens": 64_000,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "stream": True,
    }


# -- tools ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        ("auto", True, {"type": "auto"}),
        ("auto", False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", True, {"type": "any"}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
        ("none", False, {"type": "none"}),
    ],
)
def test_the_choice_of_tools(choice: str, parallel: bool, expected: dict[str, Any]) -> None:
    body = body_of(tools=(LOOK, WAIT), tool_choice=choice, parallel_tool_calls=parallel)
    assert body["tool_choice"] == expected
    assert body["tools"] == [
        {"name": "look", "description": "Look.", "input_schema": dict(LOOK.parameters_json_schema)},
        {"name": "wait", "input_schema": {"type": "object", "properties": {}}},
    ]


def test_tools_that_may_not_be_called_now_are_left_out() -> None:
    assert [tool["name"] for tool in body_of(tools=(LOOK, WAIT), allowed_tools=frozenset({"wait"}))["tools"]] == [
        "wait"
    ]
    assert "tool_choice" not in body_of(tools=(LOOK,), allowed_tools=frozenset())


def test_a_model_that_cannot_be_made_to_call_says_so() -> None:
    with pytest.raises(UserError, match="'claude-opus-5-5' cannot be made to call a tool; leave tool_choice out"):
        body_of("claude-opus-5-5", tools=(LOOK,), tool_choice="required")
    settings = ModelSettings(thinking_tokens=2000)
    with pytest.raises(UserError, match="cannot be made to call a tool while it thinks; leave .* thinking_tokens"):
        body_of(tools=(LOOK,), tool_choice="required", settings=settings)
    assert body_of(tools=(LOOK,), settings=settings)["tool_choice"] == {"type": "auto"}


def test_strict_tools_are_closed_within_the_apis_limits() -> None:
    options = ClaudeOptions(prompt_cache=None, strict_tools=True)
    free = ToolDefinition("free", "Any keys.", {"type": "object", "additionalProperties": {"type": "string"}})
    look, other = body_of(tools=(LOOK, free), options=options)["tools"]
    assert look["strict"] is True and look["input_schema"]["additionalProperties"] is False
    assert "strict" not in other and other["input_schema"] == dict(free.parameters_json_schema)
    many = tuple(ToolDefinition(f"look_{n}", "Look.", LOOK.parameters_json_schema) for n in range(25))
    assert sum("strict" in tool for tool in body_of(tools=many, options=options)["tools"]) == 20
    optional = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(10)}}
    wide = tuple(ToolDefinition(f"wide_{n}", "Wide.", optional) for n in range(4))
    assert sum("strict" in tool for tool in body_of(tools=wide, options=options)["tools"]) == 2
    old = body_of("claude-sonnet-4", tools=(LOOK,), options=options)["tools"]
    assert "strict" not in old[0], "the model does not have it"


# -- structured output ---------------------------------------------------------------------------------------


def test_native_output_beside_tools() -> None:
    body = body_of(tools=(LOOK,), output=ANSWER)
    schema = {**ANSWER.json_schema, "additionalProperties": False}
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert body["tool_choice"] == {"type": "auto"} and len(body["tools"]) == 1


@pytest.mark.parametrize(
    ("model_name", "parameters", "choice", "names"),
    [
        ("claude-sonnet-4", {}, {"type": "tool", "name": "give_final_answer"}, ["give_final_answer"]),
        ("claude-sonnet-4", {"tools": (LOOK,)}, {"type": "any"}, ["look", "give_final_answer"]),
        (
            "claude-sonnet-4",
            {"tools": (LOOK,), "tool_choice": "none"},
            {"type": "tool", "name": "give_final_answer"},
            ["look", "give_final_answer"],
        ),
        (
            "claude-sonnet-4",
            {"tools": (LOOK,), "tool_choice": "none", "settings": ModelSettings(thinking_tokens=2000)},
            {"type": "auto"},
            ["give_final_answer"],
        ),
        (
            "claude-sonnet-4",
            {"tools": (LOOK,), "settings": ModelSettings(thinking_tokens=2000)},
            {"type": "auto"},
            ["look", "give_final_answer"],
        ),
        (
            "some-server",
            {"tools": (ToolDefinition("give_final_answer", "Taken."),)},
            {"type": "any"},
            ["give_final_answer", "give_final_answer_"],
        ),
    ],
)
def test_without_native_output_a_tool_carries_the_answer(
    model_name: str, parameters: dict[str, Any], choice: dict[str, Any], names: list[str]
) -> None:
    body = body_of(model_name, output=ANSWER, **parameters)
    assert body["tool_choice"] == choice
    assert [tool["name"] for tool in body["tools"]] == names
    assert body["tools"][-1]["input_schema"] == dict(ANSWER.json_schema)
    assert "output_config" not in body


def test_a_schema_that_the_api_cannot_enforce_goes_to_a_tool() -> None:
    free = OutputSchema("Scores", {"type": "object", "additionalProperties": {"type": "number"}})
    body = body_of(output=free)
    assert body["tool_choice"] == {"type": "tool", "name": "give_final_answer"}
    assert body["tools"][0]["input_schema"] == dict(free.json_schema)


# -- thinking and settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_name", "n_tokens", "thinking"),
    [
        ("claude-opus-4-5", None, None),
        ("claude-opus-4-5", 0, None),
        ("claude-opus-4-5", 2000, {"type": "enabled", "budget_tokens": 2000}),
        ("claude-opus-4-8", 2000, {"type": "adaptive", "display": "summarized"}),
        ("claude-opus-4-8", 0, None),
        ("claude-opus-5", 0, {"type": "disabled"}),
        ("claude-sonnet-5-5", 0, {"type": "between_tools"}),
        ("claude-fable-5", 1, {"type": "adaptive", "display": "summarized"}),
        ("claude-3-5-haiku", 0, None),
    ],
)
def test_thinking_in_the_models_own_form(
    model_name: str, n_tokens: int | None, thinking: dict[str, Any] | None
) -> None:
    body = body_of(model_name, settings=ModelSettings(thinking_tokens=n_tokens))
    assert body.get("thinking") == thinking


@pytest.mark.parametrize(
    ("model_name", "settings", "message"),
    [
        ("claude-opus-4-5", ModelSettings(thinking_tokens=500), "thinking_tokens=500: Claude takes 0, or 1024"),
        ("claude-opus-5-5", ModelSettings(thinking_tokens=0), "'claude-opus-5-5' always thinks"),
        ("claude-3-5-haiku", ModelSettings(thinking_tokens=2000), "'claude-3-5-haiku' does not think"),
        (
            "claude-opus-4-5",
            ModelSettings(thinking_tokens=2000, max_tokens=2000),
            "max_tokens=2000 is not above thinking_tokens=2000",
        ),
        ("claude-opus-4-5", ModelSettings(extra_body={"messages": []}), "extra_body may not set messages"),
    ],
)
def test_settings_that_contradict_the_model(model_name: str, settings: ModelSettings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        body_of(model_name, settings=settings)


@pytest.mark.parametrize(
    ("model_name", "settings", "max_tokens"),
    [
        ("claude-opus-4-5", ModelSettings(max_tokens=100), 100),
        ("claude-opus-5", ModelSettings(), 128_000),
        ("claude-opus-4-5", ModelSettings(thinking_tokens=30_000), 64_000),
        ("claude-sonnet-4", ModelSettings(), DEFAULT_MAX_TOKENS),
        ("claude-sonnet-4", ModelSettings(thinking_tokens=30_000), 30_000 + DEFAULT_MAX_TOKENS),
        ("some-server", ModelSettings(), DEFAULT_MAX_TOKENS),
    ],
)
def test_max_tokens_is_always_there(model_name: str, settings: ModelSettings, max_tokens: int) -> None:
    assert body_of(model_name, settings=settings)["max_tokens"] == max_tokens


def test_settings_that_a_model_does_not_take_are_known() -> None:
    settings = ModelSettings(temperature=0.5, top_k=3, seed=1, min_p=0.1, stop=("END",))
    old = body_of(settings=settings)
    assert (old["temperature"], old["top_k"], old["stop_sequences"]) == (0.5, 3, ["END"])
    for name, names in (
        (old["model"], ("seed", "min_p")),
        ("claude-opus-5", ("seed", "min_p", "temperature", "top_k")),
    ):
        assert left_out_settings(settings, capabilities_of("anthropic", name) or UNKNOWN_MODEL) == names
    thinking = ModelSettings(temperature=0.5, thinking_tokens=2000)
    known = capabilities_of("anthropic", old["model"]) or UNKNOWN_MODEL
    assert left_out_settings(thinking, known) == ("temperature",), "the API refuses it while the model thinks"


def test_effort_and_further_fields() -> None:
    settings = ModelSettings(extra_body={"metadata": {"user_id": "u"}, "output_config": {"task_budget": None}})
    body = body_of("claude-opus-5", options=ClaudeOptions(None, effort="low"), settings=settings, output=ANSWER)
    assert body["output_config"]["effort"] == "low" and "format" in body["output_config"]
    assert body["output_config"]["task_budget"] is None and body["metadata"] == {"user_id": "u"}


# -- prompt cache --------------------------------------------------------------------------------------------


def marks(body: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return where the marks of the cache stand."""
    found: list[tuple[str, Any]] = []
    for name in ("tools", "system"):
        found += [
            (f"{name}.{n}", b["cache_control"]) for n, b in enumerate(body.get(name, [])) if "cache_control" in b
        ]
    for n, message in enumerate(body["messages"]):
        found += [
            (f"messages.{n}.{m}", block["cache_control"])
            for m, block in enumerate(message["content"])
            if "cache_control" in block
        ]
    return found


def test_four_marks_at_the_ends_of_what_stays() -> None:
    call, result = ToolCallPart("look", '{"at": "a"}', "call_1"), ToolReturnPart("look", "call_1", "seen")
    again = ToolCallPart("look", '{"at": "b"}', "call_2"), ToolReturnPart("look", "call_2", "seen")
    messages = (
        *HELLO,
        ModelResponse((call,)),
        ModelRequest((result,)),
        ModelResponse((TextPart("More."), again[0])),
        ModelRequest((again[1], UserPromptPart("Hurry."))),
    )
    mark = {"type": "ephemeral"}
    body = body_of(messages=messages, tools=(WAIT, LOOK), options=ClaudeOptions())
    assert marks(body) == [("tools.1", mark), ("system.0", mark), ("messages.2.0", mark), ("messages.4.1", mark)]
    hour = body_of(messages=messages, options=ClaudeOptions(prompt_cache="1h"))
    assert {tuple(each.items()) for _, each in marks(hour)} == {(("type", "ephemeral"), ("ttl", "1h"))}
    assert marks(body_of(messages=messages)) == []


def test_the_mark_of_one_request_is_found_by_the_next() -> None:
    """The prompt up to the end of the first request is the same in the second, and marked again."""
    first = body_of(options=ClaudeOptions())
    longer = (*HELLO, ModelResponse((TextPart("Hi"),)), ModelRequest((UserPromptPart("And?"),)))
    second = body_of(messages=longer, options=ClaudeOptions())
    assert second["messages"][0] == first["messages"][0]
    assert "cache_control" in first["messages"][0]["content"][-1]
