"""A conversation as a request body, compared as whole objects."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from agentkit.errors import UserError
from agentkit.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from agentkit.models.base import ModelProfile, ModelRequestParameters, ModelSettings, OutputSchema
from agentkit.models.openai.messages import Dialect, chat_body, chat_messages
from agentkit.models.openai.model import OpenAICompatibleModel
from agentkit.models.openai.strict_schema import allows_strict
from agentkit.tools.definition import ToolDefinition

NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
ADD = ToolDefinition("add", "Add two integers.", NUMBERS)
NOW = ToolDefinition("now", "")
ANSWER = OutputSchema("An answer!", NUMBERS, description="Two numbers.")

CONVERSATION: tuple[ModelMessage, ...] = (
    ModelRequest((SystemPromptPart("Be brief."), SystemPromptPart("Use tools."), UserPromptPart("19 + 23?"))),
    ModelResponse(
        (
            ThinkingPart("A sum."),
            TextPart("Let me add."),
            ToolCallPart("add", '{"a": 19, "b": 23}', "c1"),
            ToolCallPart("now", "", "c2"),
        )
    ),
    ModelRequest(
        (
            UserPromptPart("Quick."),
            ToolReturnPart("add", "c1", "42", data=42),
            RetryPromptPart("now is broken", tool_name="now", tool_call_id="c2"),
        )
    ),
    ModelResponse((ThinkingPart("Done."), TextPart("forty-two"))),
    ModelRequest((RetryPromptPart("Answer with digits."),)),
)


def test_every_kind_of_part_has_its_place() -> None:
    assert chat_messages(CONVERSATION) == [
        {"role": "system", "content": "Be brief.\n\nUse tools."},
        {"role": "user", "content": "19 + 23?"},
        {
            "role": "assistant",
            "content": "Let me add.",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "add", "arguments": '{"a": 19, "b": 23}'},
                },
                {"id": "c2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "tool", "tool_call_id": "c2", "content": "now is broken"},
        {"role": "user", "content": "Quick."},
        {"role": "assistant", "content": "forty-two"},
        {"role": "user", "content": "Answer with digits."},
    ]


def test_a_longer_conversation_begins_with_the_shorter_one_unchanged() -> None:
    whole = chat_messages(CONVERSATION)
    for n_messages in range(len(CONVERSATION)):
        shorter = chat_messages(CONVERSATION[:n_messages])
        assert whole[: len(shorter)] == shorter


def test_reasoning_is_sent_back_only_where_the_server_wants_it() -> None:
    (message,) = chat_messages([CONVERSATION[3]], Dialect(send_reasoning=True))
    assert message == {"role": "assistant", "content": "forty-two", "reasoning_content": "Done."}


def test_a_call_without_text_has_null_content_and_an_empty_reply_has_none() -> None:
    call = ModelResponse((ToolCallPart("now", "{}", "c"),))
    assert chat_messages([call])[0]["content"] is None
    assert chat_messages([ModelResponse((ThinkingPart("Hm."),))]) == [{"role": "assistant", "content": ""}]


@pytest.mark.parametrize("arguments", ['{"a": 1', "[1]", "nonsense", '{"a": NaN}', '"x"', "[" * 100_000])
def test_arguments_that_are_no_object_are_wrapped_for_servers_that_parse_the_history(arguments: str) -> None:
    import json

    (message,) = chat_messages([ModelResponse((ToolCallPart("add", arguments, "c"),))])
    sent = message["tool_calls"][0]["function"]["arguments"]
    assert json.loads(sent) == {"invalid_arguments": arguments}


def test_a_plain_request_has_nothing_that_was_not_asked_for() -> None:
    hello = [ModelRequest((UserPromptPart("Hello"),))]
    assert chat_body("m", hello, ModelRequestParameters()) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": False,
    }


def test_everything_at_once() -> None:
    settings = ModelSettings(
        temperature=0.0,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        max_tokens=256,
        seed=7,
        stop=("END",),
        extra_body={"logit_bias": {"1": -100}, "top_p": 0.5},
    )
    body = chat_body(
        "m",
        [ModelRequest((UserPromptPart("19 + 23?"),))],
        ModelRequestParameters(tools=(ADD, NOW), output=ANSWER, tool_choice="required", parallel_tool_calls=False),
        settings=settings,
        profile=ModelProfile(native_output=True, logprobs=True),
        stream=True,
    )
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "19 + 23?"}],
        "tools": [
            {
                "type": "function",
                "function": {"name": "add", "description": "Add two integers.", "parameters": NUMBERS},
            },
            {
                "type": "function",
                "function": {
                    "name": "now",
                    "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
                },
            },
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "An_answer_",
                "description": "Two numbers.",
                "schema": NUMBERS,
                "strict": True,
            },
        },
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 40,
        "min_p": 0.05,
        "max_tokens": 256,
        "seed": 7,
        "stop": ["END"],
        "logprobs": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logit_bias": {"1": -100},
    }


def test_masked_tools_are_not_sent() -> None:
    def sent(**parameters: Any) -> tuple[list[str], Any]:
        body = chat_body("m", [], ModelRequestParameters(tools=(ADD, NOW), **parameters))
        return [tool["function"]["name"] for tool in body.get("tools", [])], body.get("tool_choice")

    assert sent() == (["add", "now"], "auto")
    assert sent(allowed_tools=frozenset({"now"})) == (["now"], "auto")
    assert sent(allowed_tools=frozenset()) == ([], None)
    assert sent(tool_choice="none") == (["add", "now"], "none")
    assert sent(tool_choice="none", allowed_tools=frozenset({"now"})) == (["now"], "none")


def test_a_profile_without_parallel_calls_leaves_the_field_out() -> None:
    parameters = ModelRequestParameters(tools=(ADD,))
    body = chat_body("m", [], parameters, profile=ModelProfile(parallel_tool_calls=False))
    assert "parallel_tool_calls" not in body
    assert chat_body("m", [], parameters)["parallel_tool_calls"] is True


INSTRUCTION = (
    "Give your final answer (Two numbers.) as one JSON object, with no other text and no code fence, that is "
    'valid under this JSON Schema:\n{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":'
    '"integer"}},"required":["a","b"],"additionalProperties":false}'
)


def test_servers_without_schemas_are_told_in_the_system_message() -> None:
    body = chat_body(
        "m", CONVERSATION, ModelRequestParameters(output=ANSWER), dialect=Dialect(output="json_object")
    )
    assert body["response_format"] == {"type": "json_object"}
    assert body["messages"][0] == {"role": "system", "content": f"Be brief.\n\nUse tools.\n\n{INSTRUCTION}"}

    hello = [ModelRequest((UserPromptPart("Hello"),))]
    body = chat_body("m", hello, ModelRequestParameters(output=ANSWER), dialect=Dialect(output="prompt"))
    assert body == {
        "model": "m",
        "messages": [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": "Hello"}],
        "stream": False,
    }


def test_a_profile_without_native_output_falls_back_to_the_prompt() -> None:
    body = chat_body("m", [], ModelRequestParameters(output=ANSWER), profile=ModelProfile())
    assert "response_format" not in body
    assert body["messages"] == [{"role": "system", "content": INSTRUCTION}]


def test_a_server_that_cannot_mix_schema_and_tools_gets_the_schema_when_the_tools_are_gone() -> None:
    dialect = Dialect(output_with_tools=False)
    with_tools = chat_body("m", [], ModelRequestParameters(tools=(ADD,), output=ANSWER), dialect=dialect)
    assert "response_format" not in with_tools
    last = ModelRequestParameters(tools=(ADD,), output=ANSWER, tool_choice="none")
    assert chat_body("m", [], last, dialect=dialect)["response_format"]["type"] == "json_schema"


def test_names_of_fields_follow_the_dialect() -> None:
    dialect = Dialect(max_tokens_field="max_completion_tokens", include_usage=False)
    settings = ModelSettings(max_tokens=5)
    body = chat_body("m", [], ModelRequestParameters(), settings=settings, dialect=dialect, stream=True)
    assert body == {"model": "m", "messages": [], "max_completion_tokens": 5, "stream": True}


def test_extra_body_cannot_change_what_the_reply_is_read_by() -> None:
    settings = ModelSettings(extra_body={"stream": False, "messages": []})
    with pytest.raises(UserError, match="messages, stream"):
        chat_body("m", [], ModelRequestParameters(), settings=settings)


def _object(**properties: Any) -> dict[str, Any]:
    return {**NUMBERS, "properties": properties, "required": list(properties)}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (NUMBERS, True),
        (_object(x={"type": ["string", "null"], "enum": ["a", None]}, y={"const": 1}), True),
        (_object(x={"anyOf": [NUMBERS, {"type": "null"}]}), True),
        ({**_object(x={"$ref": "#/$defs/N"}), "$defs": {"N": NUMBERS}}, True),
        (_object(x={"type": "array", "items": {"type": "string", "format": "date"}, "maxItems": 3}), True),
        ({**NUMBERS, "required": ["a"]}, False),
        ({**NUMBERS, "additionalProperties": True}, False),
        ({"type": "object", "properties": {}}, False),
        ({"anyOf": [NUMBERS, NUMBERS]}, False),
        ({"type": "array", "items": {"type": "string"}}, False),
        (_object(x={"type": "string", "default": ""}), False),
        (_object(x={"type": "string", "format": "color"}), False),
        (_object(x={"oneOf": [{"type": "string"}]}), False),
        (_object(x={"type": "array"}), False),
        (_object(x={}), False),
        (_object(x=True), False),
        (_object(x={"type": "object", "properties": {"y": {"type": "string"}}}), False),
        ({**NUMBERS, "$defs": {"N": {"type": "object"}}}, False),
    ],
)
def test_strict_is_claimed_only_for_schemas_within_strict_mode(schema: dict[str, Any], strict: bool) -> None:
    assert allows_strict(schema) is strict


def test_a_deep_schema_is_not_strict() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(3000):
        schema = _object(x=schema)
    assert allows_strict(schema) is False


def test_further_fields_are_merged_object_by_object() -> None:
    model = ModelSettings(extra_body={"chat_template_kwargs": {"a": 1, "b": 1}, "user": "u", "list": [1]})
    request = ModelSettings(extra_body={"chat_template_kwargs": {"b": 2}, "list": [2]})
    merged = model.merged(request)
    assert merged.extra_body == {"chat_template_kwargs": {"a": 1, "b": 2}, "user": "u", "list": [2]}
    assert (model.extra_body["list"], request.extra_body["list"]) == ([1], [2])
    settings = ModelSettings(extra_body={"stream_options": {"continuous_usage_stats": True}})
    body = chat_body("m", [], ModelRequestParameters(), settings=settings, stream=True)
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


@pytest.mark.parametrize(
    ("address", "dialect", "name"),
    [
        ("https://api.openai.com/v1", Dialect(), "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", Dialect(), "max_completion_tokens"),
        ("https://api.openai.com/v1", Dialect(max_tokens_field="max_tokens"), "max_tokens"),
        ("https://api.openai.com.example.org/v1", Dialect(), "max_tokens"),
        ("http://127.0.0.1:8080/v1", Dialect(), "max_tokens"),
        ("http://127.0.0.1:8080/v1", Dialect(max_tokens_field="max_completion_tokens"), "max_completion_tokens"),
    ],
)
@pytest.mark.anyio
async def test_the_token_limit_has_the_name_that_the_server_takes(
    address: str, dialect: Dialect, name: str
) -> None:
    sent: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        said = {"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
        return httpx.Response(200, json={"choices": [said]})

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    model = OpenAICompatibleModel("m", base_url=address, dialect=dialect, http_client=client, api_key="")
    hello = [ModelRequest((UserPromptPart("Hello"),))]
    await model.request(hello, ModelRequestParameters(settings=ModelSettings(max_tokens=5)))
    await client.aclose()
    assert {key for key in sent[0] if "tokens" in key} == {name}
