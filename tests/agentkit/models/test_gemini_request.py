"""Bodies of generateContent requests: as whole objects, and beside those that Google's SDK sends."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from chat_server import Connection, Reply
from google import genai
from google.genai import types

from agentkit.errors import UserError
from agentkit.messages import ModelMessage, ModelRequest, SystemPromptPart, UserPromptPart
from agentkit.models.base import ModelProfile, ModelRequestParameters, ModelSettings, OutputSchema
from agentkit.models.google.contents import function_name
from agentkit.models.google.dialect import GEMINI_2, GEMINI_3, OLDEST, GeminiDialect
from agentkit.models.google.generate_request import generate_content_body
from agentkit.tools.definition import ToolDefinition

NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
ADD = ToolDefinition("add", "Add two integers.", NUMBERS)
NOW = ToolDefinition("now", "")
ANSWER = OutputSchema("answer", NUMBERS, description="Two numbers.")
PLAIN = ModelRequestParameters()
HELLO = (ModelRequest((UserPromptPart("Hello"),)),)


def body_of(
    parameters: ModelRequestParameters = PLAIN,
    *,
    messages: tuple[ModelMessage, ...] = HELLO,
    **options: Any,
) -> dict[str, Any]:
    """Return a body, after Google's own types accepted its parts."""
    body = generate_content_body(messages, parameters, **options)
    for content in body["contents"]:
        types.Content.model_validate(content)
    for tool in body.get("tools", []):
        types.Tool.model_validate(tool)
    types.ToolConfig.model_validate(body.get("toolConfig", {}))
    types.GenerationConfig.model_validate(body.get("generationConfig", {}))
    types.Content.model_validate(body.get("systemInstruction", {}))
    return body


def calling(parameters: ModelRequestParameters) -> dict[str, Any]:
    return body_of(parameters)["toolConfig"]["functionCallingConfig"]


def test_a_plain_request_has_nothing_but_the_contents() -> None:
    assert body_of() == {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


def test_tools_are_declared_with_json_schemas() -> None:
    body = body_of(ModelRequestParameters(tools=(ADD, NOW)))
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {"name": "add", "description": "Add two integers.", "parametersJsonSchema": NUMBERS},
                {"name": "now"},
            ]
        }
    ]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tool_choice": "required"}, {"mode": "ANY"}),
        ({"tool_choice": "none"}, {"mode": "NONE"}),
        ({"allowed_tools": frozenset({"add", "now"})}, {"mode": "VALIDATED"}),
        ({"allowed_tools": frozenset({"add"})}, {"mode": "VALIDATED", "allowedFunctionNames": ["add"]}),
        (
            {"allowed_tools": frozenset({"now"}), "tool_choice": "required"},
            {"mode": "ANY", "allowedFunctionNames": ["now"]},
        ),
        ({"allowed_tools": frozenset()}, {"mode": "NONE"}),
        ({"allowed_tools": frozenset(), "tool_choice": "required"}, {"mode": "NONE"}),
    ],
)
def test_the_mode_narrows_calls_and_the_declarations_stay(
    changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    parameters = ModelRequestParameters(tools=(ADD, NOW))
    assert calling(replace(parameters, **changes)) == expected
    assert body_of(replace(parameters, **changes))["tools"] == body_of(parameters)["tools"]


def test_models_without_validated_calls_are_declared_only_what_they_may_call() -> None:
    parameters = ModelRequestParameters(tools=(ADD, NOW), allowed_tools=frozenset({"now"}))
    body = body_of(parameters, dialect=OLDEST)
    assert body["tools"] == [{"functionDeclarations": [{"name": "now"}]}]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "AUTO"}}
    forced = body_of(replace(parameters, tool_choice="required"), dialect=OLDEST)
    assert forced["toolConfig"]["functionCallingConfig"] == {"mode": "ANY", "allowedFunctionNames": ["now"]}
    closed = body_of(replace(parameters, tool_choice="none"), dialect=OLDEST)
    assert closed["toolConfig"]["functionCallingConfig"] == {"mode": "NONE"}
    assert len(closed["tools"][0]["functionDeclarations"]) == 2


def test_names_that_gemini_refuses_are_replaced_in_declarations_and_in_the_allowed_names() -> None:
    odd = ToolDefinition("server/look up", "Look up.")
    body = body_of(ModelRequestParameters(tools=(odd, NOW), allowed_tools=frozenset({odd.name})))
    (tools,) = body["tools"]
    assert tools["functionDeclarations"][0]["name"] == function_name(odd.name)
    assert body["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"] == [function_name(odd.name)]


def test_a_structured_answer_has_a_schema_in_the_subset() -> None:
    schema = {**NUMBERS, "properties": {"a": {"type": "integer", "exclusiveMinimum": 0}, "b": {"const": "x"}}}
    config = body_of(ModelRequestParameters(output=OutputSchema("answer", schema, "Two.")))["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert config["responseJsonSchema"] == {
        **NUMBERS,
        "properties": {"a": {"type": "integer", "minimum": 1}, "b": {"type": "string", "enum": ["x"]}},
        "description": "Two.",
    }


def test_an_answer_that_refers_to_itself_is_sent_as_google_has_accepted_it() -> None:
    node = {
        "description": "A node.",
        "properties": {
            "children": {"items": {"$ref": "#/$defs/Node"}, "type": "array"},
            "value": {"type": "string"},
        },
        "required": ["value"],
        "type": "object",
    }
    schema = {"$defs": {"Node": {**node, "title": "Node"}}, "$ref": "#/$defs/Node"}
    body = body_of(ModelRequestParameters(output=OutputSchema("Node", schema, "A tree.")))
    expected = {"$defs": {"Node": node}, "$ref": "#/$defs/Node"}
    assert body["generationConfig"]["responseJsonSchema"] == expected


@pytest.mark.parametrize("tool_choice", ["auto", "none"])
def test_older_models_are_asked_for_json_in_the_prompt_while_there_are_tools(tool_choice: Any) -> None:
    parameters = ModelRequestParameters(tools=(ADD,), output=ANSWER, tool_choice=tool_choice)
    messages = (ModelRequest((SystemPromptPart("Be brief."), UserPromptPart("Hi"))),)
    body = body_of(parameters, messages=messages, dialect=GEMINI_2)
    assert "generationConfig" not in body
    first, second = body["systemInstruction"]["parts"]
    assert first == {"text": "Be brief."} and "one JSON object" in second["text"]
    assert json.dumps(NUMBERS, separators=(",", ":")) in second["text"]
    newer = body_of(parameters, messages=messages, dialect=GEMINI_3)
    assert newer["generationConfig"]["responseMimeType"] == "application/json"
    assert newer["systemInstruction"]["parts"] == [first]
    without_tools = body_of(replace(parameters, tools=()), messages=messages, dialect=GEMINI_2)
    assert without_tools["generationConfig"]["responseMimeType"] == "application/json"


def test_a_forced_call_has_no_response_schema() -> None:
    body = body_of(ModelRequestParameters(tools=(ADD,), output=ANSWER, tool_choice="required"))
    assert "generationConfig" not in body


def test_a_model_without_native_output_gets_the_schema_in_the_prompt() -> None:
    body = body_of(ModelRequestParameters(output=ANSWER), profile=ModelProfile())
    assert "one JSON object" in body["systemInstruction"]["parts"][0]["text"]


def test_settings_have_googles_names() -> None:
    settings = ModelSettings(
        temperature=0.0, top_p=0.9, top_k=40, max_tokens=100, seed=7, stop=("END", "\n\n"), timeout_s=3
    )
    assert body_of(settings=settings)["generationConfig"] == {
        "temperature": 0.0,
        "topP": 0.9,
        "topK": 40,
        "maxOutputTokens": 100,
        "seed": 7,
        "stopSequences": ["END", "\n\n"],
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"settings": ModelSettings(thinking_tokens=0), "dialect": GEMINI_2}, {"thinkingBudget": 0}),
        (
            {"settings": ModelSettings(thinking_tokens=512), "dialect": GEMINI_2},
            {"thinkingBudget": 512, "includeThoughts": True},
        ),
        ({"settings": ModelSettings(thinking_tokens=0)}, {"thinkingLevel": "low"}),
        (
            {"settings": ModelSettings(thinking_tokens=0), "dialect": replace(GEMINI_3, least_level="minimal")},
            {"thinkingLevel": "minimal"},
        ),
        ({"settings": ModelSettings(thinking_tokens=1024)}, {"thinkingLevel": "low", "includeThoughts": True}),
        ({"settings": ModelSettings(thinking_tokens=1025)}, {"thinkingLevel": "medium", "includeThoughts": True}),
        ({"settings": ModelSettings(thinking_tokens=30_000)}, {"thinkingLevel": "high", "includeThoughts": True}),
        ({"thinking_level": "medium"}, {"thinkingLevel": "medium", "includeThoughts": True}),
        ({"thinking_level": "medium", "include_thoughts": False}, {"thinkingLevel": "medium"}),
        ({"include_thoughts": True}, {"includeThoughts": True}),
        (
            {"settings": ModelSettings(thinking_tokens=9000), "thinking_level": "low"},
            {"thinkingLevel": "high", "includeThoughts": True},
        ),
    ],
)
def test_thinking_is_limited_in_the_models_form(options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert body_of(**options)["generationConfig"]["thinkingConfig"] == expected


@pytest.mark.parametrize(
    ("n_tokens", "dialect", "why"),
    [
        (100, OLDEST, "the model does not think"),
        (-1, GEMINI_2, "the least is 0"),
        (-1, GEMINI_3, "the least is 0"),
    ],
)
def test_a_thinking_budget_that_means_nothing_is_refused(n_tokens: int, dialect: GeminiDialect, why: str) -> None:
    with pytest.raises(UserError, match=f"thinking_tokens={n_tokens}: {why}"):
        body_of(settings=ModelSettings(thinking_tokens=n_tokens), dialect=dialect)


def test_extra_body_is_merged_into_objects() -> None:
    extra = {
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        "generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_LOW"},
    }
    body = body_of(settings=ModelSettings(temperature=1.0, extra_body=extra))
    assert body["safetySettings"] == extra["safetySettings"]
    assert body["generationConfig"] == {"temperature": 1.0, "mediaResolution": "MEDIA_RESOLUTION_LOW"}


@pytest.mark.parametrize("name", ["contents", "systemInstruction"])
def test_extra_body_may_not_replace_the_conversation(name: str) -> None:
    with pytest.raises(UserError, match=f"extra_body may not set {name}"):
        body_of(settings=ModelSettings(extra_body={name: []}))


async def _answer(connection: Connection) -> None:
    text = json.dumps({"candidates": [{"content": {"role": "model", "parts": [{"text": "Hi"}]}}]}).encode()
    await connection.head(200, {"Content-Type": "application/json", "Content-Length": str(len(text))})
    await connection.write(text)


def test_the_sdk_of_google_sends_the_same_body(serve: Any) -> None:
    reply: Reply = _answer
    server = serve(reply)
    options = types.HttpOptions(base_url=server.base_url.removesuffix("/v1"), api_version="v1beta")
    with genai.Client(api_key="k", vertexai=False, http_options=options) as client:
        client.models.generate_content(
            model="gemini-3.8-flash",
            contents=[types.Content(role="user", parts=[types.Part(text="Hello")])],
            config=types.GenerateContentConfig(
                system_instruction=[types.Part(text="Be brief.")],
                temperature=0.5,
                max_output_tokens=10,
                seed=7,
                stop_sequences=["END"],
                response_mime_type="application/json",
                response_json_schema=NUMBERS,
                thinking_config=types.ThinkingConfig(
                    include_thoughts=True, thinking_level=types.ThinkingLevel.MEDIUM
                ),
                tools=[
                    types.Tool(
                        function_declarations=[
                            types.FunctionDeclaration(
                                name="add", description="Add two integers.", parameters_json_schema=NUMBERS
                            ),
                            types.FunctionDeclaration(name="now"),
                        ]
                    )
                ],
                tool_config=types.ToolConfig(
                    function_calling_config=types.FunctionCallingConfig(
                        mode=types.FunctionCallingConfigMode.VALIDATED, allowed_function_names=["add"]
                    )
                ),
                automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            ),
        )
    parameters = ModelRequestParameters(
        tools=(ADD, NOW), allowed_tools=frozenset({"add"}), output=OutputSchema("answer", NUMBERS)
    )
    ours = body_of(
        parameters,
        messages=(ModelRequest((SystemPromptPart("Be brief."), UserPromptPart("Hello"))),),
        settings=ModelSettings(temperature=0.5, max_tokens=10, seed=7, stop=("END",)),
        thinking_level="medium",
    )
    assert server.requests[0].path == "/v1beta/models/gemini-3.8-flash:generateContent"
    assert _normalised(ours) == _normalised(server.bodies[0])


def _normalised(body: Any) -> Any:
    """Return a body with proto3's other spellings of the same: field names, and enums in lower case."""
    body["systemInstruction"].pop("role", None)
    for declaration in body["tools"][0]["functionDeclarations"]:
        if "parameters_json_schema" in declaration:
            declaration["parametersJsonSchema"] = declaration.pop("parameters_json_schema")
    thinking = body["generationConfig"]["thinkingConfig"]
    body["generationConfig"]["thinkingConfig"] = {
        name.replace("include_thoughts", "includeThoughts").replace("thinking_level", "thinkingLevel"): (
            value.lower() if isinstance(value, str) else value
        )
        for name, value in thinking.items()
    }
    return body
