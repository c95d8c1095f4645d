"""Responses read back, whole and streamed, from events that OpenAI's own types accept and from worse ones."""

from __future__ import annotations

import json
from typing import Any, Literal, Union, get_args, get_origin

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel
from responses_events import call, checked, message, read, reasoning, streamed, whole

from agentkit.errors import UnexpectedModelBehavior
from agentkit.messages import ModelResponse, TextPart, ThinkingPart, ToolCallPart
from agentkit.models.base import ModelDelta, TextDelta, ThinkingDelta, ToolCallDelta
from agentkit.models.openai.kept_items import KeptFields, KeptReasoning, kept_fields
from agentkit.models.openai.responses_reply import ResponsesReplyBuilder
from agentkit.usage import RequestUsage

MIXED = (
    reasoning("Look at the port.", "Then at the sea.", encrypted_content="gAAA-complete"),
    message("Looking.", phase="commentary"),
    reasoning(n=2, encrypted_content="gAAA-2"),
    call("look", '{"place": "port"}'),
    call("now", "{}", n=2),
)


def kept(part: Any) -> KeptFields:
    assert isinstance(part, ThinkingPart) and part.provider == "openai"
    return kept_fields(part, "openai", "api.openai.com")


def replayed(deltas: list[ModelDelta]) -> tuple[str, str, list[tuple[str, str]]]:
    """Deltas that a listener hears: text, thoughts, and name and arguments of each call; a name comes once."""
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    thoughts = "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta))
    calls: dict[int, tuple[str, str]] = {}
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            name, arguments = calls.get(delta.index, ("", ""))
            assert not (name and delta.tool_name)
            calls[delta.index] = (name + (delta.tool_name or ""), arguments + delta.arguments)
    return text, thoughts, [calls[index] for index in sorted(calls)]


def check_deltas(response: ModelResponse, deltas: list[ModelDelta]) -> None:
    """The deltas add up to the response."""
    text, thoughts, calls = replayed(deltas)
    assert text == response.text
    assert thoughts == "".join(part.content for part in response.parts if isinstance(part, ThinkingPart))
    assert calls == [(part.tool_name, part.arguments) for part in response.tool_calls]


@pytest.mark.parametrize("events", [streamed(*MIXED), [whole(*MIXED)]], ids=["stream", "whole"])
def test_reasoning_text_and_calls_in_their_order(events: list[Any]) -> None:
    response, deltas = read(events)
    check_deltas(response, deltas)
    first, text, second, *calls = response.parts
    assert first.content == "Look at the port.\n\nThen at the sea."
    summary = ("Look at the port.", "Then at the sea.")
    led_to = (("message", "msg_1"),)
    assert kept(first) == KeptFields(KeptReasoning("rs_1", summary, (), "gAAA-complete", led_to), "commentary")
    assert text == TextPart("Looking.")
    assert second.content == "" and kept(second).reasoning == KeptReasoning(
        "rs_2", (), (), "gAAA-2", (("call_1", "fc_1"), ("call_2", "fc_2"))
    )
    assert calls == [
        ToolCallPart("look", '{"place": "port"}', "call_1"),
        ToolCallPart("now", "{}", "call_2"),
    ]
    assert response.finish_reason == "tool_calls" and response.model_name == "gpt-5-2025-08-07"
    assert response.usage == RequestUsage(
        input_tokens=90, cache_read_tokens=64, cache_write_tokens=16, output_tokens=30
    )


def test_a_text_comes_in_pieces() -> None:
    response, deltas = read(streamed(message("Hello there")))
    assert response.parts == (TextPart("Hello there"),) and response.finish_reason == "stop"
    assert deltas == [TextDelta("Hell"), TextDelta("o th"), TextDelta("ere")]


@pytest.mark.parametrize(
    ("fields", "finish_reason"),
    [
        ({"status": "incomplete", "reason": "max_output_tokens"}, "length"),
        ({"status": "incomplete", "reason": "content_filter"}, "content_filter"),
        ({"status": "incomplete", "reason": "max_messages"}, "length"),
        ({}, "stop"),
    ],
)
def test_why_a_response_ended(fields: dict[str, Any], finish_reason: str) -> None:
    for events in (streamed(message("Hello"), **fields), [whole(message("Hello"), **fields)]):
        response, _ = read(events)
        assert (response.text, response.finish_reason) == ("Hello", finish_reason)


def test_a_call_that_was_cut_off_is_told_as_far_as_it_came() -> None:
    cut = call("look", '{"pla', status="incomplete")
    for events in (
        streamed(cut, status="incomplete", reason="max_output_tokens"),
        [whole(cut, status="incomplete", reason="max_output_tokens")],
    ):
        response, deltas = read(events)
        check_deltas(response, deltas)
        assert response.finish_reason == "length" and response.tool_calls[0].arguments == '{"pla'


def test_a_refusal_is_text_that_was_filtered() -> None:
    for events in (streamed(message("I cannot.", refusal=True)), [whole(message("I cannot.", refusal=True))]):
        response, deltas = read(events)
        check_deltas(response, deltas)
        assert (response.text, response.finish_reason) == ("I cannot.", "content_filter")


def test_raw_reasoning_of_an_open_model_is_kept_as_text() -> None:
    item = reasoning(content=[{"type": "reasoning_text", "text": "Think hard."}])
    for events in (streamed(item, message("Hi.")), [whole(item, message("Hi."))]):
        response, deltas = read(events)
        check_deltas(response, deltas)
        assert response.parts[0].content == "Think hard."
        assert kept(response.parts[0]).reasoning == KeptReasoning(
            "rs_1", (), ("Think hard.",), None, (("message", ""),)
        )


def test_reasoning_without_what_could_return_has_no_signature() -> None:
    response, _ = read([whole(reasoning("Hm."), message("Hi."))])
    assert response.parts == (ThinkingPart("Hm."), TextPart("Hi."))
    response, _ = read([whole(reasoning(), message("Hi."))])
    assert response.parts == (TextPart("Hi."),)


def test_a_phase_is_kept_without_reasoning() -> None:
    response, _ = read([whole(message("Hi.", phase="final_answer"))])
    carrier, text = response.parts
    assert carrier.content == "" and kept(carrier) == KeptFields(phase="final_answer")
    assert text == TextPart("Hi.")


def test_items_of_tools_that_the_server_runs_are_left_out_with_the_reasoning_before_them() -> None:
    search: dict[str, Any] = {
        "id": "ws_1",
        "type": "web_search_call",
        "status": "completed",
        "action": {"type": "search", "query": "port"},
    }
    thought = reasoning("Search.", encrypted_content="gAAA")
    for events in (streamed(thought, search, message("Found.")), [whole(thought, search, message("Found."))]):
        response, _ = read(events)
        assert response.parts == (ThinkingPart("Search."), TextPart("Found."))


def test_a_repeated_call_id_is_replaced() -> None:
    output = (call("look", "{}"), call("now", "{}", n=2, call_id="call_1"), call("now", "{}", n=3, call_id="old"))
    response, _ = read(streamed(*output), taken_ids={"old"})
    ids = [part.tool_call_id for part in response.tool_calls]
    assert ids[0] == "call_1" and len({*ids, "old"}) == 4
    thought = reasoning(encrypted_content="gAAA")
    response, _ = read(streamed(thought, output[2]), taken_ids={"old"})
    (renamed,) = response.tool_calls
    assert renamed.tool_call_id != "old"
    assert kept(response.parts[0]).reasoning == KeptReasoning(
        "rs_1", (), (), "gAAA", ((renamed.tool_call_id, "fc_3"),)
    )


# -- servers that send less, or in another way ------------------------------------------------------------------


def without(events: list[Any], *parts_of_type: str) -> list[Any]:
    return [event for event in events if not any(part in event["type"] for part in parts_of_type)]


@pytest.mark.parametrize(
    "missing",
    [
        (".delta",),
        (".done",),
        ("output_item.done", "_text.done", "arguments.done"),
        ("output_item.added",),
        ("response.created", "in_progress", "part."),
        ("output_item", "part.", ".delta", ".done"),
    ],
    ids=" ".join,
)
def test_each_text_arrives_once_whatever_events_are_missing(missing: tuple[str, ...]) -> None:
    response, deltas = read(without(streamed(*MIXED), *missing))
    check_deltas(response, deltas)
    assert response == read([whole(*MIXED)])[0]


def test_a_stream_whose_end_has_no_output_keeps_what_came_before() -> None:
    events = streamed(*MIXED)
    events[-1]["response"]["output"] = []
    assert read(events)[0] == read([whole(*MIXED)])[0]


def test_events_without_an_index_belong_to_the_item_of_their_id() -> None:
    events = [{k: v for k, v in event.items() if k != "output_index"} for event in streamed(*MIXED)]
    response, deltas = read(events)
    check_deltas(response, deltas)
    assert [part.part_kind for part in response.parts] == [
        "thinking",
        "text",
        "thinking",
        "tool-call",
        "tool-call",
    ]


def test_another_whole_text_does_not_replace_what_was_delivered() -> None:
    events = streamed(message("Hello there"))
    for event in events:
        if event["type"] == "response.output_text.done":
            event["text"] = "Something else"
    response, deltas = read(events)
    check_deltas(response, deltas)
    assert response.text == "Hello there"


def test_an_emoji_cut_in_two_is_joined() -> None:
    first, second = "🦉".encode("utf-16-be", "surrogatepass")[:2], "🦉".encode("utf-16-be")[2:]
    halves = [half.decode("utf-16-be", "surrogatepass") for half in (first, second)]
    pieces = [
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": half}
        for half in halves
    ]
    end = {"type": "response.completed", "response": whole(message("🦉"))}
    response, deltas = read([*pieces, end])
    assert response.text == "🦉" and deltas == [TextDelta("🦉")]
    response, deltas = read([pieces[0], {"type": "response.completed", "response": whole(message("🦉"))}])
    assert response.text == "🦉" and deltas == [TextDelta("🦉")]


def minimal(kind: Any) -> Any:
    """A smallest value of a type of the package."""
    origin = get_origin(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields.items()
        return {f.alias or name: minimal(f.annotation) for name, f in fields if f.is_required()}
    if origin is Literal:
        return get_args(kind)[0]
    if origin is Union:
        return minimal(get_args(kind)[0])
    if hasattr(kind, "__metadata__"):
        return minimal(get_args(kind)[0])
    if kind in (int, float, bool):
        return kind(0)
    return {list: [], dict: {}}.get(origin, "x" if kind is str else None)


EVENT_CLASSES = get_args(get_args(ResponseStreamEvent)[0])


def test_every_event_of_the_package_is_read_or_ignored() -> None:
    assert len(EVENT_CLASSES) > 50, openai.__version__
    expected = read(streamed(*MIXED))
    n_ignored = 0
    for kind in EVENT_CLASSES:
        event = minimal(kind)
        kind.model_validate(event)
        builder = ResponsesReplyBuilder()
        assert isinstance(builder.feed(event), list), kind
        if event["type"].startswith("response.") and not builder.describe() and not builder.finished:
            events = streamed(*MIXED)
            n_ignored += read([*events[:3], {**event, "output_index": 9}, *events[3:]]) == expected
    assert n_ignored > 40


def test_unknown_events_fields_and_items_are_ignored() -> None:
    events = streamed(*MIXED)
    unknown = [
        {"type": "keepalive", "sequence_number": 3},
        {"type": "response.telepathy.delta", "delta": {"x": [1]}, "output_index": 0},
        {"type": "response.output_text.annotation.added", "annotation": {}, "output_index": 1},
        {},
    ]
    mixed = [piece for event in events for piece in (event, *unknown)]
    noisy = [{**event, "obfuscation": "xyz"} for event in mixed if event is not events[-1]]
    assert read([*noisy[:-4], events[-1]]) == read(events)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([], "has no `status`"),
        ([{"object": "list", "data": []}], "has no `status`"),
        ([whole(status="in_progress")], "has the status 'in_progress'"),
        ([whole(status="queued")], "has the status 'queued'"),
        ([whole(status="cancelled")], "has the status 'cancelled'"),
        (["text"], "where an object with 'type' belongs"),
        ([{"type": "response.completed", "response": {"output": {}}}], "dict in 'output', where list belongs"),
        ([{"type": "response.completed", "response": {"output": ["x"]}}], "where an object with 'type' belongs"),
        ([{"type": "response.output_text.delta", "delta": 5}], "int in 'delta', where str belongs"),
        (
            [
                {"type": "response.output_item.added", "output_index": 0, "item": call("look", "")},
                {"type": "response.output_text.delta", "output_index": 0, "delta": "x"},
            ],
            "'response.output_text' for an item of type 'function_call'",
        ),
    ],
)
def test_what_is_no_response_is_an_error(events: list[Any], message: str) -> None:
    with pytest.raises(UnexpectedModelBehavior, match=message):
        read(events)


def test_progress_is_described() -> None:
    builder = ResponsesReplyBuilder()
    assert builder.describe() == ""
    for event in streamed(*MIXED)[:-1]:
        builder.feed(event)
    assert builder.describe() == (
        "33 characters of reasoning and 8 characters of text and a call of 'look' with 17 characters of arguments "
        "and a call of 'now' with 2 characters of arguments"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "output", "id"]), inner),
    max_leaves=6,
)


@given(st.data())
def test_a_changed_stream_is_read_or_refused(data: st.DataObject) -> None:
    events = json.loads(json.dumps(streamed(*MIXED)))
    for _ in range(3):
        event = data.draw(st.sampled_from(events))
        event[data.draw(st.sampled_from(sorted(event)))] = data.draw(JSON)
    try:
        response, deltas = read(events)
    except UnexpectedModelBehavior:
        return
    text, _, _ = replayed(deltas)
    assert text == response.text and isinstance(response.usage, RequestUsage)


def test_streams_of_the_tests_are_those_of_the_package() -> None:
    assert checked(streamed(*MIXED)) == streamed(*MIXED)
