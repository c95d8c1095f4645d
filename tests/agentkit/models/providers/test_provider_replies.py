"""Recorded replies of every provider, as our models read them, and the requests that led to them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from chat_server import ChatServer, raw, stream
from protocols import PROTOCOLS
from provider_protocol import CASES, KEY, PNG, WEATHER, ModelAt, ProviderProtocol, Recording, origin_of

from agentkit.messages import (
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
    messages_to_json,
)
from agentkit.models.base import ModelDelta, ModelRequestParameters, TextDelta, ThinkingDelta, ToolCallDelta

pytestmark = pytest.mark.anyio

Serve = Callable[..., ChatServer]
RECORDINGS = [
    pytest.param(protocol, recording, id=f"{protocol.name}-{recording.file.name}")
    for protocol in PROTOCOLS
    for case in protocol.cases
    for recording in protocol.recordings(case)
]
STREAMS = [
    pytest.param(protocol, recording, id=f"{protocol.name}-{recording.case}")
    for protocol in PROTOCOLS
    for case in protocol.cases
    for recording in protocol.recordings(case)
    if recording.is_stream
]


def test_every_provider_has_every_case_or_says_why_not(protocol: ProviderProtocol) -> None:
    assert protocol.missing.keys() <= CASES.keys()
    for case in protocol.cases:
        assert protocol.recordings(case), f"{protocol.name} has no recording of {case!r}"
    whole_and_streamed = {recording.is_stream for recording in protocol.recordings("text")}
    assert whole_and_streamed == {True, False}


def stored(response: ModelResponse) -> dict[str, Any]:
    """Return a response as it is stored."""
    return json.loads(messages_to_json((response,)))[0]


def picked(value: Any, like: Any) -> Any:
    """Return of `value` what `like` has, so that fields that are not compared fall away."""
    if isinstance(like, dict):
        return {key: picked(value.get(key), each) for key, each in like.items()}
    if isinstance(like, list) and isinstance(value, list) and len(value) == len(like):
        return [picked(one, each) for one, each in zip(value, like, strict=True)]
    return value


def check_deltas(deltas: list[ModelDelta], response: ModelResponse) -> None:
    """Check that the deltas add up to the response."""
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    thinking = "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta))
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            names.setdefault(delta.index, delta.tool_name or "")
            arguments[delta.index] = arguments.get(delta.index, "") + delta.arguments
    assert text == response.text
    assert thinking == "".join(part.content for part in response.parts if isinstance(part, ThinkingPart))
    assert [names[index] for index in sorted(names)] == [call.tool_name for call in response.tool_calls]
    for index, call in enumerate(response.tool_calls):
        assert json.loads(arguments[index] or "{}") == call.arguments_dict()


@pytest.mark.parametrize(("protocol", "recording"), RECORDINGS)
async def test_a_recorded_reply_is_read(
    protocol: ProviderProtocol, recording: Recording, model_at: ModelAt, serve: Serve
) -> None:
    case = protocol.cases[recording.case]
    with_deltas, without = serve(recording.reply), serve(recording.reply)
    deltas: list[ModelDelta] = []
    response = await model_at(with_deltas).request(case.messages, case.parameters, on_delta=deltas.append)
    assert picked(stored(response), recording.expected) == recording.expected
    check_deltas(deltas, response)
    quiet = await model_at(without).request(case.messages, case.parameters)
    assert picked(stored(quiet), recording.expected) == recording.expected
    for server in (with_deltas, without):
        (received,) = server.requests
        protocol.check_body(received.body)
        assert received.path in protocol.paths
        assert received.headers[protocol.key_header].endswith(KEY)
        assert KEY not in received.path and KEY not in json.dumps(received.body)


@pytest.mark.parametrize(("protocol", "recording"), STREAMS)
@pytest.mark.parametrize("n_bytes", [1, 7])
async def test_a_stream_may_be_cut_into_any_pieces(
    protocol: ProviderProtocol, recording: Recording, n_bytes: int, model_at: ModelAt, serve: Serve
) -> None:
    content = recording.content
    pieces = [content[start : start + n_bytes] for start in range(0, len(content), n_bytes)]
    case = protocol.cases[recording.case]
    deltas: list[ModelDelta] = []
    response = await model_at(serve(stream(pieces))).request(
        case.messages, case.parameters, on_delta=deltas.append
    )
    assert picked(stored(response), recording.expected) == recording.expected
    check_deltas(deltas, response)


def with_unknown(event: bytes) -> bytes:
    """Return an event with a field that no version of the protocol has; an end mark unchanged."""
    lines = event.split(b"\n")
    for number, line in enumerate(lines):
        if line.startswith(b"data: {"):
            data = {**json.loads(line[6:]), "brand_new_field": {"a": [1, None]}}
            lines[number] = b"data: " + json.dumps(data, ensure_ascii=False).encode()
    return b"\n".join(lines)


@pytest.mark.parametrize(("protocol", "recording"), STREAMS)
async def test_unknown_events_and_fields_are_ignored(
    protocol: ProviderProtocol, recording: Recording, model_at: ModelAt, serve: Serve
) -> None:
    new = b'event: brand_new\ndata: {"type": "brand_new", "brand_new_field": 1}\n\n'
    events = [part for event in recording.events for part in (new, b": a comment\n\n", with_unknown(event))]
    case = protocol.cases[recording.case]
    response = await model_at(serve(stream(events))).request(case.messages, case.parameters)
    assert picked(stored(response), recording.expected) == recording.expected


async def test_unknown_fields_of_a_whole_reply_are_ignored(
    protocol: ProviderProtocol, model_at: ModelAt, serve: Serve
) -> None:
    (recording,) = (each for each in protocol.recordings("text") if not each.is_stream)
    body = {**json.loads(recording.content), "brand_new_field": {"a": [1, None]}}
    response = await model_at(serve(raw(json.dumps(body).encode()))).request(
        CASES["text"].messages, ModelRequestParameters()
    )
    assert picked(stored(response), recording.expected) == recording.expected


@pytest.mark.parametrize("streamed", [False, True])
def test_the_providers_own_package_reads_the_same_text(
    protocol: ProviderProtocol, streamed: bool, serve: Serve
) -> None:
    (recording,) = (each for each in protocol.recordings("text") if each.is_stream is streamed)
    text = protocol.official_text(origin_of(serve(recording.reply)), streamed=streamed)
    assert text == "".join(part["content"] for part in recording.expected["parts"])


async def thought_and_answered(
    protocol: ProviderProtocol, model_at: ModelAt, serve: Serve, recording: Recording
) -> tuple[ModelResponse, list[Any]]:
    """Return a recorded response with a thought and a call, and the conversation with the call's result."""
    case = protocol.cases[recording.case]
    response = await model_at(serve(recording.reply)).request(case.messages, case.parameters)
    (call,) = response.tool_calls
    result = ModelRequest((ToolReturnPart(call.tool_name, call.tool_call_id, "17 degrees"),))
    return response, [*case.messages, response, result]


THOUGHTS = [
    pytest.param(protocol, recording, id=f"{protocol.name}-{recording.file.name}")
    for protocol in PROTOCOLS
    for case in protocol.cases
    if "thinking" in case
    for recording in protocol.recordings(case)
]


@pytest.mark.parametrize(("protocol", "recording"), THOUGHTS)
async def test_signatures_go_back_unchanged_and_to_their_provider_only(
    protocol: ProviderProtocol, recording: Recording, model_at: ModelAt, serve: Serve
) -> None:
    response, messages = await thought_and_answered(protocol, model_at, serve, recording)
    signed = [part for part in response.parts if not isinstance(part, TextPart) and part.signature is not None]
    assert {part.provider for part in signed} <= {protocol.provider}
    server = serve(protocol.streamed_text.reply)
    parameters = ModelRequestParameters(tools=(WEATHER,))
    await model_at(server).request(messages, parameters)
    protocol.check_body(server.bodies[0])
    assert protocol.signatures(server.bodies[0]) == [part.signature for part in signed]

    def foreign(part: Any) -> Any:
        return replace(part, signature="c2lnbmVk", provider="elsewhere") if part in signed else part

    messages[1] = replace(response, parts=tuple(foreign(part) for part in response.parts))
    await model_at(server).request(messages, parameters)
    protocol.check_body(server.bodies[1])
    assert "c2lnbmVk" not in json.dumps(server.bodies[1])
    assert not set(protocol.signatures(server.bodies[1])) & {part.signature for part in signed}


async def test_files_are_sent_in_a_prompt_and_in_a_result(
    protocol: ProviderProtocol, model_at: ModelAt, serve: Serve
) -> None:
    server = serve(protocol.streamed_text.reply)
    call = ToolCallPart("get_weather", '{"location": "Oslo"}', "call_1")
    messages = (
        ModelRequest((SystemPromptPart("Be brief."), UserPromptPart(("What is this?", PNG)))),
        ModelResponse((call,)),
        ModelRequest((ToolReturnPart("get_weather", "call_1", ("A chart:", PNG)),)),
    )
    await model_at(server).request(messages, ModelRequestParameters(tools=(WEATHER,)))
    protocol.check_body(server.bodies[0])
    assert protocol.files(server.bodies[0]) == [b64encode(PNG.data).decode()] * 2
