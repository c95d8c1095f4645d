"""Conversations as Anthropic's API accepts them, whatever history they come from."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

import pytest
from anthropic.types import MessageParam
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from agentkit.errors import UserError
from agentkit.messages import (
    BinaryContent,
    FileReference,
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
from agentkit.models.anthropic.conversation import CONTINUE, claude_conversation, claude_tool_name

MESSAGES = TypeAdapter(list[MessageParam])
PNG = BinaryContent(b"\x89PNG\r\n\x1a\n", "image/png")
PDF = BinaryContent(b"%PDF-1.7", "application/pdf", "report.pdf")


def user(text: str = "Hello") -> ModelRequest:
    return ModelRequest((UserPromptPart(text),))


def rendered(*messages: ModelMessage) -> list[dict[str, Any]]:
    found = claude_conversation(messages).messages
    check_valid(found)
    return found


def check_valid(messages: Sequence[dict[str, Any]]) -> None:
    """Check what the API demands of `messages`, by its error messages and the types of its package."""
    MESSAGES.validate_python(messages)
    assert messages[0]["role"] == messages[-1]["role"] == "user"
    assert all(one["role"] != other["role"] for one, other in zip(messages, messages[1:], strict=False))
    seen: set[str] = set()
    expected: list[str] = []
    for message in messages:
        blocks = message["content"]
        kinds = [block["type"] for block in blocks]
        assert blocks and set(kinds) & {"text", "tool_use", "tool_result", "image", "document"}
        assert all(block["text"].strip() for block in blocks if block["type"] == "text")
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        assert kinds[: len(results)] == ["tool_result"] * len(results)
        assert sorted(results) == sorted(expected)
        expected = [block["id"] for block in blocks if block["type"] == "tool_use"]
        assert kinds[len(kinds) - len(expected) :] == ["tool_use"] * len(expected)
        assert len(set(expected)) == len(expected) and not seen & set(expected)
        assert all(
            set(call_id) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
            for call_id in expected
        )
        seen |= set(expected)


TEXTS = st.sampled_from(["", " ", "\n", "Hello", "Grüße"])
IDS = st.sampled_from(["call_1", "call_2", "call|3", "", "ä" * 300])
NAMES = st.sampled_from(["look", "server.look", "a b", "x" * 200])
SIGNATURES = st.sampled_from([None, "c2ln", "redacted_thinking:ZGF0YQ=="])
PROVIDERS = st.sampled_from([None, "anthropic", "openai"])
CONTENT = st.one_of(TEXTS, st.lists(st.one_of(TEXTS, st.just(PNG), st.just(PDF)), max_size=3).map(tuple))
REQUEST_PARTS = st.one_of(
    st.builds(SystemPromptPart, TEXTS),
    st.builds(UserPromptPart, CONTENT),
    st.builds(ToolReturnPart, NAMES, IDS, CONTENT, is_error=st.booleans()),
    st.builds(RetryPromptPart, TEXTS, NAMES, st.one_of(st.none(), IDS)),
)
RESPONSE_PARTS = st.one_of(
    st.builds(TextPart, TEXTS),
    st.builds(ThinkingPart, TEXTS, SIGNATURES, PROVIDERS),
    st.builds(ToolCallPart, NAMES, st.sampled_from(["", "{}", '{"a": 1}', "[1]", "{"]), IDS),
)
HISTORIES = st.lists(
    st.one_of(
        st.lists(REQUEST_PARTS, max_size=4).map(lambda parts: ModelRequest(tuple(parts))),
        st.lists(RESPONSE_PARTS, max_size=4).map(lambda parts: ModelResponse(tuple(parts))),
    ),
    max_size=6,
)


@given(HISTORIES)
def test_every_history_becomes_valid(history: list[ModelMessage]) -> None:
    check_valid(claude_conversation(history).messages)


@given(HISTORIES, HISTORIES)
def test_what_was_sent_stays_the_same_when_a_conversation_grows(
    history: list[ModelMessage], more: list[ModelMessage]
) -> None:
    """All but the last message, to which the continuation may add, and which may be our own `CONTINUE`."""
    before = claude_conversation([*history, user("then")]).messages
    after = claude_conversation([*history, user("then"), *more]).messages
    assert after[: len(before) - 1] == before[:-1]


def test_results_stand_first_and_keep_their_calls() -> None:
    calls = (ToolCallPart("look", '{"at": "a"}', "call_a"), ToolCallPart("look", '{"at": "b"}', "call_b"))
    _, assistant, results = rendered(
        user(),
        ModelResponse((ToolCallPart("look", '{"at": "a"}', "call_a"), TextPart("I look."), calls[1])),
        ModelRequest(
            (
                UserPromptPart("Hurry."),
                ToolReturnPart("look", "call_b", "Nothing", is_error=True),
                ToolReturnPart("look", "call_a", ""),
            )
        ),
    )
    assert assistant["content"] == [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "call_a", "name": "look", "input": {"at": "a"}},
        {"type": "tool_use", "id": "call_b", "name": "look", "input": {"at": "b"}},
    ]
    assert results["content"] == [
        {
            "type": "tool_result",
            "tool_use_id": "call_b",
            "content": [{"type": "text", "text": "Nothing"}],
            "is_error": True,
        },
        {"type": "tool_result", "tool_use_id": "call_a"},
        {"type": "text", "text": "Hurry."},
    ]


def test_a_call_without_a_result_gets_one() -> None:
    _, _, answered = rendered(user(), ModelResponse((ToolCallPart("look", "{}", "call_a"),)), user("Go on."))
    result, prompt = answered["content"]
    assert result["tool_use_id"] == "call_a" and result["is_error"] is True
    assert prompt == {"type": "text", "text": "Go on."}


def test_a_conversation_that_begins_or_ends_with_the_model() -> None:
    first, answer, last = rendered(ModelResponse((TextPart("Welcome."),)))
    assert first == last == {"role": "user", "content": [{"type": "text", "text": CONTINUE}]}
    assert answer["content"] == [{"type": "text", "text": "Welcome."}]
    assert rendered() == [first]


def test_system_prompts_go_to_the_top_in_their_order() -> None:
    first = ModelRequest((SystemPromptPart("Be brief."), SystemPromptPart(" "), UserPromptPart("Hello")))
    later = ModelRequest((SystemPromptPart("Now in French."), UserPromptPart("Again")))
    found = claude_conversation((first, ModelResponse((TextPart("Hi"),)), later))
    assert found.system == [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Now in French."}]
    assert [message["content"] for message in found.messages] == [
        [{"type": "text", "text": "Hello"}],
        [{"type": "text", "text": "Hi"}],
        [{"type": "text", "text": "Again"}],
    ]


def test_thoughts_go_back_in_their_order_and_unsigned_or_foreign_ones_do_not() -> None:
    thoughts = (
        ThinkingPart("First", "c2lnMQ==", "anthropic"),
        ThinkingPart("", "redacted_thinking:ZGF0YQ==", "anthropic"),
        ThinkingPart("", "c2lnMg==", "anthropic"),
        ThinkingPart("Foreign", "c2lnMw==", "openai"),
        ThinkingPart("Unsigned"),
    )
    _, assistant, _ = rendered(user(), ModelResponse((*thoughts, TextPart("Done."))), user())
    assert assistant["content"] == [
        {"type": "thinking", "thinking": "First", "signature": "c2lnMQ=="},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        {"type": "thinking", "thinking": "", "signature": "c2lnMg=="},
        {"type": "text", "text": "Done."},
    ]
    (alone,) = rendered(user(), ModelResponse((thoughts[0],)))
    assert alone["content"] == [{"type": "text", "text": "Hello"}], "a message of thoughts alone is refused"


def test_ids_that_repeat_or_have_other_characters_are_replaced_with_those_of_their_results() -> None:
    def turn(call_id: str) -> tuple[ModelMessage, ModelMessage]:
        call = ModelResponse((ToolCallPart("look", "{}", call_id),))
        return call, ModelRequest((ToolReturnPart("look", call_id, "seen"),))

    messages = rendered(user(), *turn("call_1"), *turn("call_1"), *turn("fc|ä"))
    ids = [message["content"][0]["id"] for message in messages if message["role"] == "assistant"]
    assert ids[:2] == ["call_1", "call_1_2"]
    assert [message["content"][0]["tool_use_id"] for message in messages[2::2]] == ids


def test_files_stand_where_they_were() -> None:
    prompt = ModelRequest((UserPromptPart(("Compare", PNG, "with", PDF)),))
    (message,) = rendered(prompt)
    image, document = message["content"][1], message["content"][3]
    assert image["source"] == {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    assert (document["type"], document["title"]) == ("document", "report.pdf")
    assert b64decode(document["source"]["data"]) == PDF.data
    reference = FileReference("0" * 64, "image/png", 20_000, "gone.png")
    (message,) = rendered(ModelRequest((UserPromptPart(("See", reference)),)))
    assert message["content"][-1]["text"].endswith("[image/png, 20 kB: gone.png] is not shown here")


def test_a_result_with_a_file_keeps_it_unless_it_is_an_error() -> None:
    def result(is_error: bool) -> dict[str, Any]:
        part = ToolReturnPart("draw", "call_1", ("Here", PNG), is_error=is_error)
        call = ModelResponse((ToolCallPart("draw", "{}", "call_1"),))
        return rendered(user(), call, ModelRequest((part,)))[-1]["content"][0]

    assert [block["type"] for block in result(False)["content"]] == ["text", "image"]
    assert [block["type"] for block in result(True)["content"]] == ["text"], "the API refuses files in errors"


def test_a_file_that_claude_does_not_read_is_refused_or_noted() -> None:
    sound = ModelRequest((UserPromptPart((BinaryContent(b"RIFF", "audio/wav"),)),))
    with pytest.raises(UserError, match="Claude reads no audio/wav .* convert it to one of image/gif"):
        claude_conversation((sound,))
    (message,) = claude_conversation((sound,), {"image", "document"}).messages
    assert "audio/wav" in message["content"][0]["text"]
    call = ModelResponse((ToolCallPart("listen", "{}", "call_1"),))
    result = ModelRequest((ToolReturnPart("listen", "call_1", (BinaryContent(b"RIFF", "audio/wav"),)),))
    (block,) = rendered(user(), call, result)[-1]["content"]
    assert "audio/wav" in block["content"][0]["text"], "a tool's result must not end the run"


def test_arguments_that_are_not_an_object_are_wrapped() -> None:
    call = ModelResponse((ToolCallPart("look", "{broken", "call_1"),))
    assert rendered(user(), call)[1]["content"][0]["input"] == {"invalid_arguments": "{broken"}


def test_names_of_tools_keep_to_the_apis_characters() -> None:
    assert claude_tool_name("get_weather-2") == "get_weather-2"
    odd = [claude_tool_name(name) for name in ("server.look", "server look", "look" * 50, "größe")]
    assert len(set(odd)) == len(odd)
    assert all(len(name) <= 128 and name.isascii() for name in odd)
    assert json.loads(json.dumps(odd)) == odd
