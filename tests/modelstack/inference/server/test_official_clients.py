"""The clients that OpenAI and Anthropic publish, against our server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import jsonschema
import openai
import pytest

from tests.modelstack.inference.server.serving import NAME, Served

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Oslo", "Rome"]},
        "days": {"type": "integer", "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "Forecast.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now", "description": "The time."}},
]
ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 5}},
    "required": ["sure", "n"],
    "additionalProperties": False,
}
SCHEMA: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "schema": ANSWER, "strict": True},
}
ASK: list[Any] = [{"role": "user", "content": "Will it rain in Oslo?"}]


@pytest.fixture(scope="module")
def client(tiny_server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{tiny_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def chat(client: openai.OpenAI) -> Any:
    return client.chat.completions


@pytest.fixture(scope="module")
def claude(tiny_server: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=tiny_server.url, api_key="none", max_retries=0) as client:
        yield client


def assembled(chunks: Any) -> dict[str, Any]:
    """Return text, calls and end of a stream, put together as a client does."""
    text, calls, finish = "", dict[int, dict[str, str]](), None
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                known = calls.setdefault(call.index, {"id": call.id, "name": call.function.name, "arguments": ""})
                known["arguments"] += call.function.arguments
            finish = choice.finish_reason or finish
    return {"text": text, "calls": [calls[index] for index in sorted(calls)], "finish": finish}


def taken(reply: Any) -> dict[str, Any]:
    """Return a whole reply in the form of `assembled`."""
    (choice,) = reply.choices
    calls = [
        {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for call in choice.message.tool_calls or ()
    ]
    return {"text": choice.message.content or "", "calls": calls, "finish": choice.finish_reason}


def check_calls(calls: list[dict[str, str]]) -> None:
    schemas = {"weather": WEATHER, "now": {"type": "object", "properties": {}}}
    assert len({call["id"] for call in calls}) == len(calls)
    for call in calls:
        jsonschema.validate(json.loads(call["arguments"]), schemas[call["name"]])


CHOICES: dict[str, Any] = {
    "none": "none",
    "auto": "auto",
    "required": "required",
    "named": {"type": "function", "function": {"name": "weather"}},
}
FORMATS: dict[str, Any] = {"text": {"type": "text"}, "object": {"type": "json_object"}, "schema": SCHEMA}


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("choice", CHOICES)
def test_choice_format_and_stream_hold_in_every_combination(
    chat: Any, choice: str, wanted: str, streams: bool
) -> None:
    """Random weights write whatever is legal, so each reply shows a rule, not a habit of the model."""
    forces = choice in ("required", "named")
    for seed in range(6):
        options: dict[str, Any] = {
            "model": NAME, "messages": ASK, "tools": TOOLS, "tool_choice": CHOICES[choice],
            "response_format": FORMATS[wanted], "temperature": 1.5, "seed": seed, "max_tokens": 120,
        }  # fmt: skip
        if forces and wanted != "text":
            with pytest.raises(openai.BadRequestError, match="no answer that response_format could describe"):
                chat.create(**options)
            continue
        reply = assembled(chat.create(**options, stream=True)) if streams else taken(chat.create(**options))
        check_calls(reply["calls"])
        assert not (choice == "none" and reply["calls"])
        assert not forces or reply["calls"]
        assert choice != "named" or [call["name"] for call in reply["calls"]] == ["weather"]
        if reply["calls"]:
            assert reply["finish"] == "tool_calls"
        elif wanted == "schema":
            jsonschema.validate(json.loads(reply["text"]), ANSWER)
        elif wanted == "object":
            assert isinstance(json.loads(reply["text"]), dict)


def test_a_stream_says_what_the_whole_reply_says(chat: Any) -> None:
    for choice in ("required", "none"):
        options = {"model": NAME, "messages": ASK, "tools": TOOLS, "tool_choice": choice, "max_tokens": 60}
        whole, streamed = taken(chat.create(**options)), assembled(chat.create(**options, stream=True))
        for each in (whole, streamed):
            for call in each["calls"]:
                del call["id"]
        assert whole == streamed


def test_one_call_where_parallel_ones_are_off(chat: Any) -> None:
    for seed in range(8):
        reply = chat.create(
            model=NAME, messages=ASK, tools=TOOLS, tool_choice="required", parallel_tool_calls=False,
            temperature=2.0, seed=seed, max_tokens=200,
        )  # fmt: skip
        assert len(reply.choices[0].message.tool_calls) == 1


def test_a_conversation_with_calls_and_results_goes_on_from_the_cache(chat: Any) -> None:
    messages = list[Any](ASK)
    first = chat.create(model=NAME, messages=messages, tools=TOOLS, tool_choice="required", max_tokens=100)
    message = first.choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls[::-1]]
    second = chat.create(model=NAME, messages=messages, tools=TOOLS, max_tokens=20)
    n_known = first.usage.total_tokens - 1  # the last token of a reply is not evaluated
    assert second.usage.prompt_tokens_details.cached_tokens >= n_known
    assert second.usage.prompt_tokens > n_known


def test_several_replies_have_seeds_of_their_own_and_one_prompt(chat: Any) -> None:
    options = {"model": NAME, "messages": ASK, "temperature": 1.0, "seed": 3, "max_tokens": 12}
    several = chat.create(**options, n=3)
    texts = [choice.message.content for choice in several.choices]
    assert [choice.index for choice in several.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert texts[0] == chat.create(**options).choices[0].message.content
    assert several.usage.prompt_tokens == chat.create(**options).usage.prompt_tokens
    chunks = list(chat.create(**options, n=3, stream=True, stream_options={"include_usage": True}))
    streamed = [
        "".join(c.delta.content or "" for k in chunks for c in k.choices if c.index == i) for i in range(3)
    ]
    assert streamed == texts and chunks[-1].usage.completion_tokens == several.usage.completion_tokens


def test_stop_ends_the_words_before_it(chat: Any) -> None:
    whole = chat.create(model=NAME, messages=ASK, max_tokens=30).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    for stream in (False, True):
        options = {"model": NAME, "messages": ASK, "max_tokens": 30, "stop": [stop, "never"]}
        reply = assembled(chat.create(**options, stream=True)) if stream else taken(chat.create(**options))
        assert reply["text"] == whole[: whole.find(stop)] and reply["finish"] == "stop"


def test_log_probabilities_are_those_of_the_written_tokens(chat: Any) -> None:
    reply = chat.create(model=NAME, messages=ASK, max_tokens=8, logprobs=True)
    tokens = reply.choices[0].logprobs.content
    assert len(tokens) == reply.usage.completion_tokens == 8
    assert all(each.logprob <= 0 for each in tokens)
    assert (
        b"".join(bytes(each.bytes) for each in tokens).decode("utf-8", "replace")
        == reply.choices[0].message.content
    )


def test_a_thought_comes_before_the_reply(chat: Any) -> None:
    for stream in (False, True):
        options = {"model": NAME, "messages": ASK, "max_tokens": 5, "extra_body": {"thinking_tokens": 6}}
        if stream:
            deltas = [chunk.choices[0].delta for chunk in chat.create(**options, stream=True)]
            thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        else:
            thought = chat.create(**options).choices[0].message.reasoning_content
        assert thought


def test_completions_continue_texts_and_tokens(client: openai.OpenAI, tiny_server: Served) -> None:
    one = client.completions.create(model=NAME, prompt="Once", max_tokens=6, logprobs=0)
    assert one.usage is not None and one.usage.completion_tokens == 6
    assert one.choices[0].logprobs is not None and len(one.choices[0].logprobs.tokens or ()) == 6
    ids = tiny_server.model.encode("Once")
    two = client.completions.create(model=NAME, prompt=[ids, tiny_server.model.encode("Twice")], max_tokens=6)
    assert [choice.text for choice in two.choices][0] == one.choices[0].text and len(two.choices) == 2
    chunks = client.completions.create(model=NAME, prompt="Once", max_tokens=6, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == one.choices[0].text


def test_models_are_listed_and_unknown_ones_are_named(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="'gpt-4o' is not served here; known: 'tiny'"):
        client.chat.completions.create(model="gpt-4o", messages=ASK)


CLAUDE_TOOLS: list[Any] = [
    {"name": "weather", "description": "Forecast.", "input_schema": WEATHER},
    {"name": "now", "description": "The time.", "input_schema": {"type": "object", "properties": {}}},
]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("choice", ["none", "auto", "any", "tool"])
def test_messages_of_anthropic_hold_their_tool_choice(
    claude: anthropic.Anthropic, choice: str, streams: bool
) -> None:
    chosen: Any = {"type": choice, "name": "weather"} if choice == "tool" else {"type": choice}
    for _ in range(4):
        options: dict[str, Any] = {
            "model": NAME, "max_tokens": 120, "messages": ASK, "tools": CLAUDE_TOOLS, "tool_choice": chosen,
            "system": "Be brief.", "extra_body": {"temperature": 1.0},
        }  # fmt: skip
        if streams:
            with claude.messages.stream(**options) as stream:
                message = stream.get_final_message()
        else:
            message = claude.messages.create(**options)
        calls = [block for block in message.content if block.type == "tool_use"]
        check_calls([{"id": c.id, "name": c.name, "arguments": json.dumps(c.input)} for c in calls])
        assert not (choice == "none" and calls)
        assert choice not in ("any", "tool") or calls
        assert choice != "tool" or [call.name for call in calls] == ["weather"]
        assert not calls or message.stop_reason in ("tool_use", "max_tokens")
        assert message.usage.output_tokens > 0


def test_a_schema_of_anthropic_holds_beside_tools(claude: anthropic.Anthropic) -> None:
    answers, choices = 0, list[Any]([{"type": "auto"}, {"type": "none"}])
    for number in range(6):
        message = claude.messages.create(
            model=NAME, max_tokens=120, messages=ASK, tools=CLAUDE_TOOLS, extra_body={"temperature": 1.0},
            output_config={"format": {"type": "json_schema", "schema": ANSWER}},
            tool_choice=choices[number % 2],
        )  # fmt: skip
        for block in message.content:
            if block.type == "text" and message.stop_reason == "end_turn":
                jsonschema.validate(json.loads(block.text), ANSWER)
                answers += 1
            elif block.type == "tool_use":
                check_calls([{"id": block.id, "name": block.name, "arguments": json.dumps(block.input)}])
    assert answers >= 3


def test_results_stop_sequences_and_thoughts_of_anthropic(claude: anthropic.Anthropic) -> None:
    first = claude.messages.create(
        model=NAME, max_tokens=100, messages=ASK, tools=CLAUDE_TOOLS, tool_choice={"type": "any"}
    )
    results: list[Any] = [
        {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "rain"}]}
        for block in first.content
        if block.type == "tool_use"
    ]
    content: Any = [block.model_dump(exclude_none=True) for block in first.content]
    turns: list[Any] = [*ASK, {"role": "assistant", "content": content}, {"role": "user", "content": results}]
    second = claude.messages.create(model=NAME, max_tokens=8, messages=turns, tools=CLAUDE_TOOLS)
    assert (second.usage.cache_read_input_tokens or 0) > 0

    def words(message: anthropic.types.Message) -> str:
        return "".join(block.text for block in message.content if block.type == "text")

    whole = words(claude.messages.create(model=NAME, max_tokens=30, messages=ASK))
    stop = whole[len(whole) // 2 :][:3]
    stopped = claude.messages.create(model=NAME, max_tokens=30, messages=ASK, stop_sequences=[stop])
    assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == stop
    assert words(stopped) == whole[: whole.find(stop)]
    with claude.messages.stream(
        model=NAME, max_tokens=20, messages=ASK, thinking={"type": "enabled", "budget_tokens": 6}
    ) as stream:
        kinds = [block.type for block in stream.get_final_message().content]
    assert kinds[0] == "thinking"


def test_errors_are_typed_in_both_clients(claude: anthropic.Anthropic, chat: Any) -> None:
    with pytest.raises(anthropic.NotFoundError, match="not served here"):
        claude.messages.create(model="claude", max_tokens=5, messages=ASK)
    with pytest.raises(anthropic.BadRequestError, match="budget_tokens"):
        claude.messages.create(
            model=NAME, max_tokens=5, messages=ASK, thinking={"type": "enabled", "budget_tokens": 2000}
        )
    with pytest.raises(openai.BadRequestError) as found:
        chat.create(model=NAME, messages=[{"role": "user", "content": "word " * 9000}])
    assert found.value.code == "context_length_exceeded"
