"""Replies of the Gemini API, recorded and made, beside what Google's SDK reads in them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from google.genai import types

from agentkit.errors import UnexpectedModelBehavior
from agentkit.messages import ModelRequest, ModelResponse, TextPart, ThinkingPart, ToolReturnPart, UserPromptPart
from agentkit.models.base import FilterDelta, ModelDelta, TextDelta, ThinkingDelta, ToolCallDelta
from agentkit.models.google.contents import gemini_conversation
from agentkit.models.google.dialect import PROVIDER
from agentkit.models.google.generate_reply import GeminiReply
from agentkit.models.http.sse import SSEParser
from agentkit.usage import RequestUsage

RECORDINGS = Path(__file__).parent / "providers" / "gemini"
READ = sorted(
    path.name
    for path in RECORDINGS.iterdir()
    if path.suffix in (".json", ".sse") and not re.match(r"error_|context_|.*\.expected\.", path.name)
)


def chunks_of(name: str) -> list[Any]:
    """Return the JSON values of a recording."""
    content = (RECORDINGS / name).read_bytes()
    if name.endswith(".json"):
        return [json.loads(content)]
    parser = SSEParser()
    return [json.loads(event.data) for event in (*parser.feed(content), *parser.close())]


def read(chunks: Sequence[Any], **options: Any) -> tuple[ModelResponse, list[ModelDelta]]:
    """Return the response of some chunks, and its deltas."""
    reply = GeminiReply(**options)
    deltas = [delta for chunk in chunks for delta in reply.feed(chunk)]
    deltas += reply.close()
    return reply.response("asked-for"), deltas


def candidate(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, **fields}]}


def test_the_recordings_are_there() -> None:
    assert len(READ) >= 20 and {"text.sse", "one_call.sse", "long_thought_streamed.sse"} <= set(READ)


@pytest.mark.parametrize("name", READ)
def test_a_recording_is_read_as_by_the_sdk(name: str) -> None:
    chunks = chunks_of(name)
    theirs = [types.GenerateContentResponse._from_response(response=chunk, kwargs={}) for chunk in chunks]
    parts = [part for one in theirs if one.candidates for part in (one.parts or [])]
    response, deltas = read(chunks)
    assert response.text == "".join(part.text or "" for part in parts if not part.thought)
    thoughts = [part.content for part in response.parts if isinstance(part, ThinkingPart)]
    assert "".join(thoughts) == "".join(part.text or "" for part in parts if part.thought)
    calls = [part.function_call for part in parts if part.function_call is not None]
    assert [(call.tool_name, call.arguments_dict()) for call in response.tool_calls] == [
        (call.name, call.args) for call in calls
    ]
    for ours, call in zip(response.tool_calls, calls, strict=True):
        assert ours.tool_call_id == call.id or (call.id is None and ours.tool_call_id.startswith("call_"))
    assert response.model_name == theirs[-1].model_version
    usage = theirs[-1].usage_metadata
    assert usage is not None
    assert response.usage == RequestUsage(
        input_tokens=usage.prompt_token_count or 0,
        cache_read_tokens=usage.cached_content_token_count or 0,
        output_tokens=(usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
    )
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == response.text
    assert "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta)) == "".join(thoughts)


@pytest.mark.parametrize("name", [name for name in READ if "thoughtSignature" in (RECORDINGS / name).read_text()])
def test_the_signatures_of_a_recording_go_back_as_they_came(name: str) -> None:
    received = [part for chunk in chunks_of(name) for part in chunk["candidates"][0]["content"].get("parts", [])]
    signed = [part for part in received if "thoughtSignature" in part]
    response, _ = read(chunks_of(name))
    results = tuple(ToolReturnPart(call.tool_name, call.tool_call_id, "x") for call in response.tool_calls)
    history = (ModelRequest((UserPromptPart("?"),)), response, ModelRequest((*results, UserPromptPart("And?"))))
    sent = [part for part in gemini_conversation(history).contents[1]["parts"] if "thoughtSignature" in part]
    for part in sent:
        if "functionCall" in part and "id" not in signed[0].get("functionCall", {}):
            del part["functionCall"]["id"]
    assert sent == signed


@pytest.mark.parametrize(
    ("name", "finish_reason", "n_parts"),
    [
        ("signed_text.json", "stop", 2),
        ("two_pieces.sse", "stop", 1),
        ("empty_arguments.json", "tool_calls", 1),
        ("one_call.sse", "tool_calls", 1),
        ("structured_output.sse", "stop", 2),
        ("parallel_calls.json", "tool_calls", 3),
        ("stop_length.json", "length", 1),
        ("stop_in_thought.json", "length", 0),
        ("refusal.json", "content_filter", 0),
        ("blocked_prompt.json", "content_filter", 0),
        ("blocked_reply.json", "content_filter", 0),
        ("unexpected_tool_call.json", "error", 1),
        ("usage_cache.json", "stop", 1),
    ],
)
def test_a_recording_ends_for_its_reason(name: str, finish_reason: str, n_parts: int) -> None:
    response, _ = read(chunks_of(name))
    assert (response.finish_reason, len(response.parts)) == (finish_reason, n_parts)


def test_parallel_calls_have_ids_of_their_own_and_the_first_has_the_signature() -> None:
    response, deltas = read(chunks_of("parallel_calls.json"))
    assert len({call.tool_call_id for call in response.tool_calls}) == 3
    assert [call.provider for call in response.tool_calls] == [PROVIDER, None, None]
    assert [call.signature is None for call in response.tool_calls] == [False, True, True]
    assert [delta.index for delta in deltas if isinstance(delta, ToolCallDelta)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("refusal.json", FilterDelta("reply", "SAFETY")),
        (
            "blocked_prompt.json",
            FilterDelta("request", "MODEL_ARMOR: The prompt violated Prompt Injection and Jailbreak filters."),
        ),
        (
            "blocked_reply.json",
            FilterDelta(
                "reply",
                "MODEL_ARMOR: The response violated Responsible AI Safety settings (Hate Speech, Harassment, "
                "Dangerous) filters.",
            ),
        ),
    ],
)
def test_what_a_filter_stopped_is_reported_with_its_reason(name: str, expected: FilterDelta) -> None:
    _, deltas = read(chunks_of(name))
    assert deltas == [expected]


@pytest.mark.parametrize("reason", [reason.value for reason in types.FinishReason])
def test_every_finish_reason_of_the_sdk_is_read(reason: str) -> None:
    response, _ = read([candidate({"text": "x"}, finishReason=reason)])
    expected = {"STOP": "stop", "MAX_TOKENS": "length", "FINISH_REASON_UNSPECIFIED": None}
    if reason in expected:
        assert response.finish_reason == expected[reason]
    else:
        failures = (
            "OTHER",
            "MALFORMED",
            "UNEXPECTED",
            "TOO_MANY",
            "MISSING",
            "CONTINUATION",
            "IMAGE_OTHER",
            "NO_IMAGE",
        )
        assert response.finish_reason == ("error" if reason.startswith(failures) else "content_filter")


def test_a_malformed_call_is_a_failure_without_parts() -> None:
    response, deltas = read([{"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL", "content": {}}]}])
    assert (response.parts, response.finish_reason, deltas) == ((), "error", [])


def test_names_of_tools_are_translated_back() -> None:
    response, deltas = read(
        [candidate({"functionCall": {"name": "_a_1", "args": {"x": "ü"}}})], tool_names={"_a_1": "a/1"}
    )
    assert [(call.tool_name, call.arguments) for call in response.tool_calls] == [("a/1", '{"x":"ü"}')]
    assert deltas == [ToolCallDelta(0, "a/1", '{"x":"ü"}')]


def test_an_id_that_the_conversation_has_used_is_replaced() -> None:
    parts = [{"functionCall": {"name": "look", "id": call_id}} for call_id in ("used", "new", "new")]
    response, _ = read([candidate(*parts)], taken_ids={"used"})
    ids = [call.tool_call_id for call in response.tool_calls]
    assert ids[1] == "new" and len(set(ids)) == 3 and "used" not in ids
    assert [call.arguments for call in response.tool_calls] == ["{}"] * 3


def test_text_with_and_without_a_signature_stays_apart() -> None:
    response, _ = read(
        [candidate({"text": "a"}, {"text": "b"}, {"text": "c", "thoughtSignature": "S"}, {"text": "d"})]
    )
    assert response.parts == (
        TextPart("ab"), ThinkingPart("", "S", PROVIDER), TextPart("c"), TextPart("d"),
    )  # fmt: skip


def test_a_signed_thought_keeps_its_signature() -> None:
    response, _ = read(
        [candidate({"text": "Hm", "thought": True}, {"text": "m", "thought": True, "thoughtSignature": "S"})]
    )
    assert response.parts == (ThinkingPart("Hm"), ThinkingPart("m", "S", PROVIDER))


def test_unknown_parts_fields_and_further_candidates_are_ignored() -> None:
    chunk = candidate(
        {"text": "a", "new": 1}, {"hologram": {}}, {"inlineData": {"mimeType": "image/png", "data": ""}}
    )
    chunk["candidates"].append({"index": 1, "content": {"parts": [{"text": "other"}]}})
    response, _ = read([{**chunk, "surprise": []}, {"responseId": "r"}])
    assert response.parts == (TextPart("a"),) and response.model_name == "asked-for"


def test_surrogates_that_were_cut_between_pieces_are_joined() -> None:
    halves = [json.loads(r'"\ud83d"'), json.loads(r'"\ude00 \ud83d"')]
    response, deltas = read([candidate({"text": half}) for half in halves])
    assert response.text == "\U0001f600 \ufffd"
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == response.text


@pytest.mark.parametrize(
    ("chunk", "why"),
    [
        ({}, "neither `candidates` nor `blockReason`"),
        ({"candidates": []}, "neither `candidates` nor `blockReason`"),
        ([], "list where an object"),
        ("text", "str where an object"),
        ({"candidates": {}}, "dict in 'candidates'"),
        ({"candidates": ["x"]}, "str where an object"),
        (candidate("x"), "str where an object"),
        (candidate({"text": 1}), "int in 'text'"),
        (candidate({"functionCall": {"name": "a", "args": []}}), "list in 'args'"),
        (candidate({"text": "a", "thought": "yes"}), "str in 'thought'"),
        (candidate({"text": "a", "thoughtSignature": 5}), "int in 'thoughtSignature'"),
        ({"usageMetadata": []}, "list in 'usageMetadata'"),
    ],
)
def test_a_reply_of_another_form_is_an_error_that_names_the_field(chunk: Any, why: str) -> None:
    with pytest.raises(UnexpectedModelBehavior, match=why):
        read([chunk])


def test_counts_that_are_no_numbers_count_nothing() -> None:
    usage = {"promptTokenCount": "many", "candidatesTokenCount": -3, "thoughtsTokenCount": 2}
    response, _ = read([{**candidate({"text": "a"}), "usageMetadata": usage}])
    assert response.usage == RequestUsage(output_tokens=2)


def test_progress_is_described() -> None:
    reply = GeminiReply()
    assert reply.describe() == "" and not reply.finished
    reply.feed(candidate({"text": "Hmm", "thought": True}, {"text": "Hello"}, {"functionCall": {"name": "look"}}))
    assert reply.describe() == "3 characters of reasoning and 5 characters of text and a call of 'look'"
    assert not reply.finished
    reply.feed(candidate(finishReason="STOP"))
    assert reply.finished
