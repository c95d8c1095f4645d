"""How a message of Anthropic's API is read, from events that the provider's own types have made."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import (
    CacheCreation,
    InputJSONDelta,
    Message,
    MessageDeltaUsage,
    RawContentBlockDeltaEvent,
    RawContentBlockStartEvent,
    RawContentBlockStopEvent,
    RawMessageDeltaEvent,
    RawMessageStartEvent,
    RawMessageStopEvent,
    RefusalStopDetails,
    SignatureDelta,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
    Usage,
)
from anthropic.types.raw_message_delta_event import Delta

from agentkit.errors import UnexpectedModelBehavior
from agentkit.messages import TextPart, ThinkingPart, ToolCallPart
from agentkit.models import base
from agentkit.models.anthropic.messages_reply import MessagesReplyBuilder
from agentkit.usage import RequestUsage


def message(*content: Any, stop_reason: Any = None, **usage: Any) -> Message:
    counted = Usage(**{"input_tokens": 10, "output_tokens": 1, **usage})
    return Message(
        id="msg_1",
        type="message",
        role="assistant",
        model="claude-served",
        content=list(content),
        stop_reason=stop_reason,
        usage=counted,
    )


def begin(**usage: Any) -> RawMessageStartEvent:
    return RawMessageStartEvent(type="message_start", message=message(**usage))


def block(index: int, found: Any, *deltas: Any) -> list[Any]:
    return [
        RawContentBlockStartEvent(type="content_block_start", index=index, content_block=found),
        *(RawContentBlockDeltaEvent(type="content_block_delta", index=index, delta=each) for each in deltas),
        RawContentBlockStopEvent(type="content_block_stop", index=index),
    ]


def end(stop_reason: Any = "end_turn", **fields: Any) -> list[Any]:
    delta = Delta(stop_reason=stop_reason, **fields)
    usage = MessageDeltaUsage(output_tokens=7)
    return [
        RawMessageDeltaEvent(type="message_delta", delta=delta, usage=usage),
        RawMessageStopEvent(type="message_stop"),
    ]


def text(*pieces: str) -> tuple[Any, ...]:
    return (TextBlock(type="text", text=""), *(TextDelta(type="text_delta", text=piece) for piece in pieces))


def call(call_id: str, name: str, *pieces: str) -> tuple[Any, ...]:
    started = ToolUseBlock(type="tool_use", id=call_id, name=name, input={})
    return (started, *(InputJSONDelta(type="input_json_delta", partial_json=piece) for piece in pieces))


def fed(builder: MessagesReplyBuilder, *events: Any) -> list[base.ModelDelta]:
    """Feed events, given as the provider's types or as data; return the deltas with those of the end."""
    data = [event if isinstance(event, dict) else json.loads(event.to_json()) for event in events]
    deltas = [delta for event in data for delta in builder.feed(event)]
    return [*deltas, *builder.close()]


def test_a_streamed_reply() -> None:
    builder = MessagesReplyBuilder()
    thought = (
        ThinkingBlock(type="thinking", thinking="", signature=""),
        ThinkingDelta(type="thinking_delta", thinking="Hm"),
        SignatureDelta(type="signature_delta", signature="c2ln"),
    )
    events = [
        begin(),
        *block(0, *thought),
        *block(1, *text("I ", "look.")),
        *block(2, *call("t1", "look", '{"at"', ': "a"}')),
        *block(3, *call("t2", "wait")),
    ]
    deltas = fed(builder, *events)
    assert not builder.finished and not builder.ended
    assert builder.describe() == (
        "2 characters of thinking and 7 characters of text and "
        "11 characters of a call of 'look' and 0 characters of a call of 'wait'"
    )
    fed(builder, *end("tool_use"))
    assert builder.finished and builder.ended
    assert deltas == [
        base.ThinkingDelta("Hm"),
        base.TextDelta("I "),
        base.TextDelta("look."),
        base.ToolCallDelta(0, "look"),
        base.ToolCallDelta(0, None, '{"at"'),
        base.ToolCallDelta(0, None, ': "a"}'),
        base.ToolCallDelta(1, "wait"),
    ]
    response = builder.response("asked")
    assert response.parts == (
        ThinkingPart("Hm", "c2ln", "anthropic"),
        TextPart("I look."),
        ToolCallPart("look", '{"at": "a"}', "t1"),
        ToolCallPart("wait", "{}", "t2"),
    )
    assert (response.model_name, response.finish_reason) == ("claude-served", "tool_calls")
    assert response.usage == RequestUsage(input_tokens=10, output_tokens=7)


def test_a_whole_reply_says_the_same() -> None:
    builder = MessagesReplyBuilder()
    found = message(
        ThinkingBlock(type="thinking", thinking="Hm", signature="c2ln"),
        TextBlock(type="text", text="I look."),
        ToolUseBlock(type="tool_use", id="t1", name="look", input={"at": "größe"}),
        stop_reason="tool_use",
        cache_read_input_tokens=100,
        cache_creation_input_tokens=20,
        cache_creation=CacheCreation(ephemeral_1h_input_tokens=20, ephemeral_5m_input_tokens=0),
    )
    deltas = fed(builder, found)
    assert deltas == [
        base.ThinkingDelta("Hm"),
        base.TextDelta("I look."),
        base.ToolCallDelta(0, "look"),
        base.ToolCallDelta(0, None, '{"at": "größe"}'),
    ]
    response = builder.response("asked")
    assert response.parts[-1] == ToolCallPart("look", '{"at": "größe"}', "t1")
    assert response.usage == RequestUsage(
        130, cache_read_tokens=100, cache_write_tokens=20, cache_write_1h_tokens=20, output_tokens=1
    )


def test_the_tool_for_answers_gives_text() -> None:
    builder = MessagesReplyBuilder(output_tool="give_final_answer")
    events = [begin(), *block(0, *call("t1", "give_final_answer", '{"n":', " 3}")), *end("tool_use")]
    assert fed(builder, *events) == [base.TextDelta('{"n":'), base.TextDelta(" 3}")]
    response = builder.response("asked")
    assert (response.parts, response.finish_reason) == ((TextPart('{"n": 3}'),), "stop")
    both = MessagesReplyBuilder(output_tool="give_final_answer")
    deltas = fed(
        both, begin(), *block(0, *call("t1", "give_final_answer", "{}")), *block(1, *call("t2", "look", "{}"))
    )
    assert base.ToolCallDelta(0, "look") in deltas, "calls are counted without the answer"


def test_names_are_those_of_our_tools_and_ids_are_new() -> None:
    builder = MessagesReplyBuilder({"server_look_ab": "server.look"}, taken_ids={"t1"})
    calls = [*block(0, *call("t1", "server_look_ab")), *block(1, *call("t2", "x")), *block(2, *call("t2", "x"))]
    fed(builder, begin(), *calls, *end("tool_use"))
    first, second, third = builder.response("asked").tool_calls
    assert (first.tool_name, second.tool_name) == ("server.look", "x")
    assert second.tool_call_id == "t2"
    assert len({"t1", first.tool_call_id, second.tool_call_id, third.tool_call_id}) == 4


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("refusal", "content_filter"),
        ("tool_use", "stop"),
        ("brand_new", None),
    ],
)
def test_stop_reasons(stop_reason: str, finish_reason: str | None) -> None:
    builder = MessagesReplyBuilder()
    delta = {"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": 1}}
    fed(builder, begin(), *block(0, *text("Hi")), delta)
    assert builder.response("asked").finish_reason == finish_reason


def test_a_refusal_without_text_is_explained() -> None:
    details = RefusalStopDetails(type="refusal", category="cyber", explanation="Declined.")
    silent, with_text = MessagesReplyBuilder(), MessagesReplyBuilder()
    assert fed(silent, begin(), *end("refusal", stop_details=details)) == [base.TextDelta("Declined.")]
    assert silent.response("asked").parts == (TextPart("Declined."),)
    fed(with_text, begin(), *block(0, *text("I cannot.")), *end("refusal", stop_details=details))
    assert with_text.response("asked").parts == (TextPart("I cannot."),)


def test_blocks_and_deltas_of_other_types_are_ignored() -> None:
    builder = MessagesReplyBuilder()
    other = [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "server_tool_use", "input": {}}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "input_json_delta", "partial_json": '{"query": 1}'},
        },
        {"type": "content_block_delta", "index": 1, "delta": {"type": "brand_new_delta", "text": "no"}},
        {"type": "brand_new"},
        {},
    ]
    assert fed(builder, begin(), *other, *block(1, *text("Yes"))) == [base.TextDelta("Yes")]
    assert builder.response("asked").parts == (TextPart("Yes"),)


def test_an_emoji_in_two_halves_is_joined() -> None:
    builder = MessagesReplyBuilder()
    pieces = [json.loads('"a\\ud83d"'), json.loads('"\\ude00b"')]
    halves = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        for piece in pieces
    ]
    started = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    assert fed(builder, begin(), started, *halves) == [base.TextDelta("a"), base.TextDelta("😀b")]
    assert builder.response("asked").text == "a😀b"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "message_start", "message": []},
        {"type": "content_block_start", "index": "0", "content_block": {"type": "text"}},
        {"type": "content_block_start", "content_block": {"type": "text"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": 3}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "input": "x"}},
        {"type": "message_delta", "delta": {"stop_reason": 3}},
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": "many"}},
        {"type": 3},
        [],
        None,
    ],
)
def test_fields_of_the_wrong_type_are_errors_that_name_them(event: Any) -> None:
    with pytest.raises(UnexpectedModelBehavior, match="the server's reply has"):
        MessagesReplyBuilder().feed(event)


def test_a_reply_without_a_message_is_an_error() -> None:
    with pytest.raises(UnexpectedModelBehavior, match="no object of type 'message'"):
        fed(MessagesReplyBuilder(), {"object": "chat.completion", "choices": []})


def test_counts_that_are_missing_or_negative_do_no_harm() -> None:
    builder = MessagesReplyBuilder()
    usage = {"input_tokens": None, "output_tokens": -5, "cache_read_input_tokens": 3}
    fed(builder, begin(), {"type": "message_delta", "delta": {}, "usage": usage})
    assert builder.response("asked").usage == RequestUsage(input_tokens=13, cache_read_tokens=3)
