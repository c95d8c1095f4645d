"""Bodies of requests to the Responses API, each checked against the types of OpenAI's own package."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)
from pydantic import TypeAdapter

from agentkit.errors import UserError
from agentkit.messages import (
    BinaryContent,
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
from agentkit.models.openai.kept_items import KeptFields, KeptReasoning, kept_fields, signature_of
from agentkit.models.openai.responses_body import ResponsesOptions, responses_body
from agentkit.models.openai.responses_input import Reader
from agentkit.tools.definition import ToolDefinition

WHOLE = TypeAdapter[Any](ResponseCreateParamsNonStreaming)
STREAMED = TypeAdapter[Any](ResponseCreateParamsStreaming)
PNG = BinaryContent(b"\x89PNG...", "image/png", "chart.png")
PDF = BinaryContent(b"%PDF-1.7", "application/pdf")
WAV = BinaryContent(b"RIFF....WAVE", "audio/wav")
PNG_URL = "data:image/png;base64," + b64encode(PNG.data).decode()
PDF_URL = "data:application/pdf;base64," + b64encode(PDF.data).decode()
HERE = Reader("openai", "api.openai.com")
NO_PARAMETERS = ModelRequestParameters()
HELLO = (ModelRequest((UserPromptPart("Hello"),)),)
CLOSED = {
    "type": "object",
    "properties": {"place": {"type": "string"}},
    "required": ["place"],
    "additionalProperties": False,
}
OPEN = {"type": "object", "properties": {"place": {"type": "string"}}}
LOOK = ToolDefinition("look", "Look at a place.", CLOSED)
FIND = ToolDefinition("find", "", OPEN)
NOW = ToolDefinition("now", "Tell the time.")


def body(
    messages: Sequence[ModelMessage] = HELLO,
    parameters: ModelRequestParameters = NO_PARAMETERS,
    *,
    stream: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """The body of a request, which OpenAI's types accept without dropping a field."""
    made = responses_body("gpt-5", messages, parameters, **{"reader": HERE, "stream": stream, **options})
    adapter = STREAMED if stream else WHOLE
    assert json.loads(adapter.dump_json(adapter.validate_python(made))) == made
    return made


def thought(
    phase: str | None = None, *, to: str = "c1", server: str = "api.openai.com", n: int = 1, **fields: Any
) -> ThinkingPart:
    """A thought as a response of this server leaves it; it led to a call, or to a message (`to="message"`)."""
    following = {"following": ((to, f"item_{n}"),)}
    kept = KeptReasoning(
        f"rs_{n}", **{"summary": ("Look first.",), "encrypted_content": f"gAAA{n}", **following, **fields}
    )
    return ThinkingPart("Look first.", signature_of(server, KeptFields(kept, phase)), "openai")


def reasoning(n: int = 1) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": "Look first."}]
    return {"type": "reasoning", "id": f"rs_{n}", "summary": summary, "encrypted_content": f"gAAA{n}"}


def said(text: str, n: int, **fields: Any) -> dict[str, Any]:
    """A message with its id."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    head = {"type": "message", "id": f"item_{n}", "role": "assistant", "status": "completed"}
    return {**head, "content": content, **fields}


def sent(*parts: Any, **options: Any) -> list[dict[str, Any]]:
    """The items of one earlier response between two prompts, without the prompts."""
    messages = (*HELLO, ModelResponse(parts), ModelRequest((UserPromptPart("Go on."),)))
    return body(messages, **options)["input"][1:-1]


def test_a_question() -> None:
    messages = (ModelRequest((SystemPromptPart("Be brief."), UserPromptPart("Hello"))),)
    assert body(messages, stream=True) == {
        "model": "gpt-5",
        "instructions": "Be brief.",
        "input": [{"type": "message", "role": "user", "content": "Hello"}],
        "store": False,
        "stream": True,
    }


def test_a_system_prompt_alone_is_input_and_later_ones_stay_in_their_place() -> None:
    alone = body((ModelRequest((SystemPromptPart("Greet."), SystemPromptPart("Be kind."))),))
    assert "instructions" not in alone
    assert alone["input"] == [{"type": "message", "role": "system", "content": "Greet.\n\nBe kind."}]
    later = body((*HELLO, ModelResponse((TextPart("Hi."),)), ModelRequest((SystemPromptPart("Now rhyme."),))))
    assert "instructions" not in later
    assert [item["role"] for item in later["input"]] == ["user", "assistant", "system"]


def test_a_conversation_with_calls_answers_and_a_correction() -> None:
    calls = (ToolCallPart("look", '{"place": "port"}', "c1"), ToolCallPart("find", "not json", "c2"))
    answers = (
        UserPromptPart("Hurry."),
        ToolReturnPart("look", "c1", "Two ships."),
        RetryPromptPart("Not JSON.", "find", "c2"),
        RetryPromptPart("Answer in English."),
    )
    made = body((*HELLO, ModelResponse((TextPart("Looking."), *calls)), ModelRequest(answers)))
    assert made["input"][1:] == [
        {"type": "message", "role": "assistant", "content": "Looking."},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"place": "port"}'},
        {
            "type": "function_call",
            "call_id": "c2",
            "name": "find",
            "arguments": '{"invalid_arguments": "not json"}',
        },
        {"type": "function_call_output", "call_id": "c1", "output": "Two ships."},
        {"type": "function_call_output", "call_id": "c2", "output": "Not JSON."},
        {"type": "message", "role": "user", "content": "Hurry."},
        {"type": "message", "role": "user", "content": "Answer in English."},
    ]


def test_what_was_sent_stays_the_same_when_the_conversation_grows() -> None:
    first = (*HELLO, ModelResponse((thought(), ToolCallPart("look", "{}", "c1"))))
    second = (*first, ModelRequest((ToolReturnPart("look", "c1", ("Two ships.", PNG)),)))
    before, after = body(first)["input"], body(second)["input"]
    assert after[: len(before)] == before and len(after) == len(before) + 1


def test_images_and_documents_in_a_prompt_and_in_a_result() -> None:
    question = ModelRequest((UserPromptPart(("What is this?", PNG, PDF)),))
    call = ModelResponse((ToolCallPart("look", "{}", "c1"), ToolCallPart("look", "{}", "c2")))
    answers = ModelRequest(
        (ToolReturnPart("look", "c1", ("A chart:", PNG)), ToolReturnPart("look", "c2", ("two", "lines")))
    )
    items = body((question, call, answers))["input"]
    image = {"type": "input_image", "image_url": PNG_URL, "detail": "auto"}
    assert items[0]["content"] == [
        {"type": "input_text", "text": "What is this?"},
        image,
        {"type": "input_file", "filename": "file.pdf", "file_data": PDF_URL},
    ]
    assert items[3]["output"] == [{"type": "input_text", "text": "A chart:"}, image]
    assert items[4]["output"] == "two\nlines"


def test_a_note_stands_for_a_file_that_the_api_or_the_model_does_not_take() -> None:
    question = (ModelRequest((UserPromptPart(("Listen.", WAV)),)),)
    assert body(question)["input"][0]["content"] == f"Listen.\n{WAV.note} is not shown here"
    seen = body((ModelRequest((UserPromptPart(("See.", PNG)),)),), reader=replace(HERE, kinds=frozenset()))
    assert seen["input"][0]["content"] == f"See.\n{PNG.note} is not shown here"


# -- reasoning --------------------------------------------------------------------------------------------------


def test_reasoning_returns_before_what_it_led_to_with_the_ids_of_both() -> None:
    call = ToolCallPart("look", "{}", "c1")
    item = {"type": "function_call", "id": "item_1", "call_id": "c1", "name": "look", "arguments": "{}"}
    assert sent(thought(), call) == [reasoning(), item]
    items = sent(thought("commentary", to="message"), TextPart("Looking."), thought(n=2), call)
    assert items == [reasoning(), said("Looking.", 1, phase="commentary"), reasoning(2), {**item, "id": "item_2"}]


def test_each_item_up_to_the_next_reasoning_has_its_id() -> None:
    first = thought(following=(("message", "msg_1"), ("c1", "fc_1"), ("c2", "fc_2")))
    parts = (TextPart("Looking."), ToolCallPart("look", "{}", "c1"), ToolCallPart("now", "{}", "c2"))
    assert [item.get("id") for item in sent(first, *parts)] == ["rs_1", "msg_1", "fc_1", "fc_2"]
    assert [item.get("id") for item in sent(first, parts[0], parts[2])] == ["rs_1", "msg_1", "fc_2"]
    assert [item.get("id") for item in sent(*parts)] == [None] * 3
    assert [item.get("id") for item in sent(first, *parts[1:])] == [None] * 2, "the message is missing"
    again = (thought(n=2, to="c3"), ToolCallPart("now", "{}", "c3"), ToolCallPart("now", "{}", "c2"))
    assert [item.get("id") for item in sent(first, parts[0], *again)] == ["rs_1", "msg_1", "rs_2", "item_2", None]


def test_reasoning_that_the_api_would_refuse_is_not_sent() -> None:
    call = ToolCallPart("look", "{}", "c1")
    assert sent(call, thought()) == sent(call), "nothing follows it"
    assert sent(thought(n=1), thought(n=2), call) == sent(thought(n=2), call), "reasoning follows it"
    assert sent(thought(), TextPart("Hi.")) == sent(TextPart("Hi.")), "another item follows it"
    assert sent(thought(), replace(call, tool_call_id="c9")) == sent(replace(call, tool_call_id="c9"))
    assert thought(encrypted_content=None).signature is None
    assert thought(following=()).signature is None


@pytest.mark.parametrize(
    "foreign",
    [
        thought(server="eu.example.com"),
        replace(thought(), provider="anthropic"),
        replace(thought(), provider=None),
        replace(thought(), signature="EqQBCgIYAhIM"),
        replace(thought(), signature="[" * 100_000),
        replace(thought(), signature='["api.openai.com"]'),
        replace(
            thought(), signature='{"server": "api.openai.com", "id": 5, "encrypted_content": {}, "phase": []}'
        ),
        replace(thought(), signature='{"server": "api.openai.com", "id": "r", "summary": 5, "content": "x"}'),
        replace(
            thought(),
            signature='{"server":"api.openai.com","id":"r","encrypted_content":"x","following":[5,["a"],["b",1]]}',
        ),
    ],
)
def test_reasoning_of_others_is_not_sent(foreign: ThinkingPart) -> None:
    assert kept_fields(foreign, "openai", "api.openai.com") == KeptFields()
    assert [item["type"] for item in sent(foreign, TextPart("Hi."))] == ["message"]


def test_reasoning_is_not_sent_to_a_model_that_reads_none() -> None:
    kept = thought("final_answer", to="message")
    reader = replace(HERE, reads_encrypted=False)
    assert sent(kept, TextPart("Hi."), reader=reader) == [
        {"type": "message", "role": "assistant", "content": "Hi.", "phase": "final_answer"}
    ]


def test_an_open_models_reasoning_returns_as_text() -> None:
    kept = thought(content=("Think.", "Again."), encrypted_content=None, summary=(), following=(("message", ""),))
    (item, answer) = sent(kept, TextPart("Hi."))
    assert answer == {"type": "message", "role": "assistant", "content": "Hi."}
    assert item == {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Think."}, {"type": "reasoning_text", "text": "Again."}],
    }


def test_options_of_reasoning_are_sent() -> None:
    options = ResponsesOptions(reasoning_effort="low", reasoning_summary="auto", includes_encrypted=True)
    made = body(options=options)
    assert made["reasoning"] == {"effort": "low", "summary": "auto"}
    assert made["include"] == ["reasoning.encrypted_content"]
    harder = body(options=options, settings=ModelSettings(extra_body={"reasoning": {"effort": "high"}}))
    assert harder["reasoning"] == {"effort": "high", "summary": "auto"}
    assert body().keys().isdisjoint({"reasoning", "include"})


# -- tools and answers ------------------------------------------------------------------------------------------


def test_a_tool_is_strict_where_its_schema_permits() -> None:
    made = body(parameters=ModelRequestParameters(tools=(LOOK, FIND, NOW), parallel_tool_calls=False))
    assert made["tools"] == [
        {
            "type": "function",
            "name": "look",
            "description": "Look at a place.",
            "parameters": CLOSED,
            "strict": True,
        },
        {"type": "function", "name": "find", "parameters": OPEN, "strict": False},
        {
            "type": "function",
            "name": "now",
            "description": "Tell the time.",
            "parameters": {"type": "object", "properties": {}, "additionalProperties": False, "required": []},
            "strict": True,
        },
    ]
    assert made["tool_choice"] == "auto" and made["parallel_tool_calls"] is False
    alone = ModelProfile(parallel_tool_calls=False)
    assert "parallel_tool_calls" not in body(parameters=ModelRequestParameters(tools=(LOOK,)), profile=alone)


@pytest.mark.parametrize(
    ("allowed", "choice", "expected"),
    [
        (None, "required", "required"),
        (None, "none", "none"),
        ({"look", "find"}, "auto", "auto"),
        (set[str](), "required", "none"),
        ({"find"}, "none", "none"),
        ({"find"}, "auto", {"mode": "auto"}),
        ({"find"}, "required", {"mode": "required"}),
    ],
)
def test_a_choice_that_narrows_keeps_all_tools_in_the_request(
    allowed: set[str] | None, choice: Any, expected: Any
) -> None:
    names = None if allowed is None else frozenset(allowed)
    parameters = ModelRequestParameters(tools=(LOOK, FIND), allowed_tools=names, tool_choice=choice)
    if isinstance(expected, dict):
        expected = {"type": "allowed_tools", **expected, "tools": [{"type": "function", "name": "find"}]}
    made = body(parameters=parameters)
    assert made["tool_choice"] == expected
    assert [tool["name"] for tool in made["tools"]] == ["look", "find"]


def test_a_server_without_allowed_tools_is_sent_only_what_may_be_called() -> None:
    narrow = ModelRequestParameters(tools=(LOOK, FIND), allowed_tools=frozenset({"find"}), tool_choice="required")
    made = body(parameters=narrow, options=ResponsesOptions(narrows_by_choice=False))
    assert [tool["name"] for tool in made["tools"]] == ["find"] and made["tool_choice"] == "required"
    nothing = replace(narrow, allowed_tools=frozenset[str]())
    assert "tools" not in body(parameters=nothing, options=ResponsesOptions(narrows_by_choice=False))


def test_a_structured_answer_is_a_format_or_an_instruction() -> None:
    output = OutputSchema("City of the world", CLOSED, "A city.")
    asked = ModelRequestParameters(output=output)
    assert body(parameters=asked)["text"] == {
        "format": {
            "type": "json_schema",
            "name": "City_of_the_world",
            "description": "A city.",
            "schema": CLOSED,
            "strict": True,
        }
    }
    loose = ModelRequestParameters(output=replace(output, json_schema=OPEN))
    assert body(parameters=loose)["text"]["format"]["strict"] is False
    told = body(parameters=asked, profile=ModelProfile(native_output=False))
    assert "text" not in told and '"additionalProperties":false' in told["instructions"]


def test_settings() -> None:
    settings = ModelSettings(temperature=0.5, top_p=0.9, max_tokens=7, extra_body={"text": {"verbosity": "low"}})
    made = body(settings=settings, parameters=ModelRequestParameters(output=OutputSchema("o", CLOSED)))
    assert (made["temperature"], made["top_p"], made["max_output_tokens"]) == (0.5, 0.9, 7)
    assert made["text"]["verbosity"] == "low" and made["text"]["format"]["name"] == "o"
    assert body(settings=ModelSettings(extra_body={"store": True}))["store"] is True


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ModelSettings(stop=("END",)), r"stop=\('END',\) is not known .* extra_body=\{'stop': \.\.\.\}"),
        (ModelSettings(thinking_tokens=0), "thinking_tokens=0 .*reasoning_effort='low'"),
        (ModelSettings(extra_body={"input": [], "stream": True}), "may not set input, stream"),
        (ModelSettings(extra_body={"previous_response_id": "resp_1"}), "may not set previous_response_id"),
    ],
)
def test_settings_that_cannot_be_expressed_are_refused(settings: ModelSettings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        body(settings=settings)
