"""Chat completions read back, whole and streamed, from servers that follow OpenAI and from those that do not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.errors import UnexpectedModelBehavior
from agentkit.messages import ModelResponse, TextPart, ThinkingPart, ToolCallPart
from agentkit.models.base import ModelDelta, TextDelta, ThinkingDelta, ToolCallDelta
from agentkit.models.local.tool_probability import opening_call_probability
from agentkit.models.openai.reply import ChatReplyBuilder
from agentkit.usage import RequestUsage


def built(*chunks: Any, tools: tuple[str, ...] = ("add", "add_all", "now"), taken: tuple[str, ...] = ()) -> Any:
    """The response and the deltas of a stream of chunks."""
    builder = ChatReplyBuilder(tools, taken)
    deltas: list[ModelDelta] = [delta for chunk in chunks for delta in builder.feed(chunk)]
    deltas += builder.close()
    return builder.response("asked"), deltas


def chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def piece(
    arguments: Any = None, *, name: str | None = None, index: int | None = None, id: str | None = None
) -> Any:
    """One entry of `tool_calls`; what is None is absent."""
    function = {k: v for k, v in (("name", name), ("arguments", arguments)) if v is not None}
    entry = {"index": index, "id": id, "function": function}
    return {k: v for k, v in entry.items() if v is not None}


def calls(*chunks: list[Any], tools: tuple[str, ...] = ("add", "add_all", "now")) -> list[tuple[str, str]]:
    response, deltas = built(*(chunk(tool_calls=entries) for entries in chunks), tools=tools)
    found = [(call.tool_name, call.arguments) for call in response.tool_calls]
    assert [(d["name"], d["arguments"]) for d in _replayed(deltas)] == found
    assert len({call.tool_call_id for call in response.tool_calls}) == len(found)
    return found


def _replayed(deltas: list[ModelDelta]) -> list[dict[str, str]]:
    """What a listener makes of the deltas by joining them per index; a name comes once, whole."""
    heard: dict[int, dict[str, str]] = {}
    for delta in deltas:
        assert isinstance(delta, ToolCallDelta)
        call = heard.setdefault(delta.index, {"name": "", "arguments": ""})
        if delta.tool_name is not None:
            assert not call["name"]
            call["name"] = delta.tool_name
        call["arguments"] += delta.arguments
    return [heard[index] for index in sorted(heard)]


WHOLE = {
    "model": "served",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": "Let me see.",
                "reasoning_content": "A sum.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}},
                    {"id": "c2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
                ],
            },
        }
    ],
    "usage": {
        "prompt_tokens": 90,
        "completion_tokens": 12,
        "total_tokens": 102,
        "prompt_tokens_details": {"cached_tokens": 64},
    },
}
WHOLE_RESPONSE = ModelResponse(
    parts=(
        ThinkingPart("A sum."),
        TextPart("Let me see."),
        ToolCallPart("add", '{"a":1}', "c1"),
        ToolCallPart("now", "{}", "c2"),
    ),
    usage=RequestUsage(input_tokens=90, cache_read_tokens=64, output_tokens=12),
    model_name="served",
    finish_reason="tool_calls",
)


def test_a_whole_reply() -> None:
    response, deltas = built(WHOLE)
    assert response == WHOLE_RESPONSE
    assert deltas == [
        ThinkingDelta("A sum."),
        TextDelta("Let me see."),
        ToolCallDelta(0, "add", '{"a":1}'),
        ToolCallDelta(1, "now", "{}"),
    ]


def test_a_stream_with_interleaved_calls_gives_the_same_response() -> None:
    response, deltas = built(
        {"model": "served", **chunk(role="assistant", content="")},
        chunk(reasoning_content="A "),
        chunk(reasoning_content="sum."),
        chunk(content="Let me "),
        chunk(content="see."),
        chunk(tool_calls=[piece("", name="add", index=0, id="c1")]),
        chunk(tool_calls=[piece("", name="now", index=1, id="c2")]),
        chunk(tool_calls=[piece('{"a"', index=0), piece("{", index=1)]),
        chunk(tool_calls=[piece("}", index=1)]),
        chunk(tool_calls=[piece(":1}", index=0)]),
        chunk("tool_calls"),
        {"choices": [], "usage": WHOLE["usage"]},
    )
    assert response == WHOLE_RESPONSE
    assert deltas[4:] == [
        ToolCallDelta(0, "add", '{"a"'),
        ToolCallDelta(1, "now", "{"),
        ToolCallDelta(1, None, "}"),
        ToolCallDelta(0, None, ":1}"),
    ]


A, B = '{"a":1}', '{"b":2}'
ONE_CALL = [("add", A)]
TWO_CALLS = [("add", A), ("add_all", B)]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([[piece(A, name="add", index=0, id="x")], [piece(B, name="add_all", index=0, id="y")]], TWO_CALLS),
        ([[piece(A, name="add", index=0)], [piece(B, name="add_all", index=0)]], TWO_CALLS),
        ([[piece(A, name="add")], [piece(B, name="add_all")]], TWO_CALLS),
        ([[piece(A, name="add"), piece(B, name="add_all")]], TWO_CALLS),
        ([[piece(A, name="add", id="x")], [piece(B, name="add_all", id="y")]], TWO_CALLS),
        ([[piece(json.loads(A), name="add")]], [("add", '{"a": 1}')]),
        ([[piece(A, name="add")], [piece(A, name="add")]], ONE_CALL * 2),
        ([[piece(name="now"), piece(name="now")]], [("now", "")] * 2),
        ([[piece(name="add", index=0)], [piece(name="now", index=0)]], [("add", ""), ("now", "")]),
        ([[piece(A, name="add", index=3)], [piece(B, name="add_all", index=7)]], TWO_CALLS),
        ([[piece("", name="add", id="x")], [piece('{"a"')], [piece(":1}")]], ONE_CALL),
        ([[piece("", name="add", id="x")], [piece('{"a"', id="x")], [piece(":1}", id="x")]], ONE_CALL),
        ([[piece('{"a"', name="add", index=0, id="x")], [piece(":1}", index=0, id="new")]], ONE_CALL),
        ([[piece('{"a"', name="add", index=0, id="x")], [piece(":1}", name="add", index=0, id="x")]], ONE_CALL),
        ([[piece('{"a"', name="add", index=0)], [piece(":1}", name="add", index=0)]], ONE_CALL),
        ([[piece(A, name="add", index=0)], [piece("", name="add", index=0)]], ONE_CALL),
        ([[piece(name="ad", index=0, id="x")], [piece(name="d", index=0)], [piece(A, index=0)]], ONE_CALL),
        ([[piece(name="add", index=0)], [piece(name="_all", index=0)], [piece(B, index=0)]], TWO_CALLS[1:]),
        ([[piece(name="ad")], [piece(name="add")], [piece(A)]], ONE_CALL),
        ([[piece('{"a"', index=0, id="x")], [piece(":1}", name="add", index=0)]], ONE_CALL),
        ([[piece('{"a": oops', name="nonsense", index=0)]], [("nonsense", '{"a": oops')]),
    ],
    ids=[
        "index 0 for all, ids differ",
        "index 0 for all, no ids",
        "no index, no ids",
        "no index, no ids, one chunk",
        "no index, ids",
        "arguments as an object",
        "the same call twice",
        "two calls without arguments in one chunk",
        "calls without arguments under one index",
        "an index that does not start at 0",
        "no index, in pieces",
        "no index, in pieces, id repeated",
        "a new id with every piece",
        "name and id repeated",
        "name repeated",
        "name repeated after the end",
        "name in pieces",
        "name in pieces, of which one is a tool",
        "name so far, repeated",
        "name after the arguments began",
        "invalid JSON and an unknown tool are passed on",
    ],
)
def test_calls_are_put_together_from_any_servers_pieces(chunks: list[Any], expected: Any) -> None:
    assert calls(*chunks) == expected


@given(
    arguments=st.lists(
        st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=8), max_size=3),
        min_size=1,
        max_size=4,
    ),
    data=st.data(),
)
def test_calls_that_arrive_interleaved_in_any_order_are_told_apart_by_index(
    arguments: list[dict[str, Any]], data: st.DataObject
) -> None:
    texts = [json.dumps(a, ensure_ascii=False) for a in arguments]
    chunks = [[piece("", name="add", index=i, id=f"c{i}")] for i in range(len(texts))]
    left = dict(enumerate(texts))
    while left:
        index = data.draw(st.sampled_from(sorted(left)))
        n_chars = data.draw(st.integers(1, max(1, len(left[index]))))
        chunks.append([piece(left[index][:n_chars], index=index)])
        left[index] = left[index][n_chars:]
        if not left[index]:
            del left[index]
    assert calls(*chunks) == [("add", text) for text in texts]


def test_ids_are_new_to_the_conversation_and_the_servers_own_where_possible() -> None:
    entries = [piece("{}", name="now", index=i, id=id) for i, id in enumerate(["call_0", "call_1", "", "call_1"])]
    response, _ = built(chunk(tool_calls=entries), taken=("call_0",))
    ids = [call.tool_call_id for call in response.tool_calls]
    assert ids[1] == "call_1"
    assert len({"call_0", *ids}) == 5
    assert all(ids)


def test_text_in_blocks_and_reasoning_under_its_other_name() -> None:
    blocks = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "Hello"},
    ]
    assert built(chunk(content=blocks))[0].parts == (ThinkingPart("Hm."), TextPart("Hello"))
    assert built(chunk(reasoning="Hm.", content="Hello"))[0].parts == (ThinkingPart("Hm."), TextPart("Hello"))


def test_a_refusal_is_text_with_the_filters_finish_reason() -> None:
    response, _ = built(chunk("stop", content=None, refusal="I cannot help with that."))
    assert response.parts == (TextPart("I cannot help with that."),)
    assert response.finish_reason == "content_filter"


@pytest.mark.parametrize(
    ("given_reason", "has_call", "reason"),
    [
        ("stop", False, "stop"),
        ("stop", True, "tool_calls"),
        ("length", True, "length"),
        ("function_call", True, "tool_calls"),
        ("content_filter", False, "content_filter"),
        ("eos", False, None),
        (None, False, None),
    ],
)
def test_finish_reasons(given_reason: str | None, has_call: bool, reason: str | None) -> None:
    delta = {"tool_calls": [piece("{}", name="now", index=0)]} if has_call else {"content": "x"}
    assert built(chunk(given_reason, **delta))[0].finish_reason == reason


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 2}, RequestUsage(5, 0, 2)),
        ({"prompt_tokens": 5, "prompt_tokens_details": None, "completion_tokens": None}, RequestUsage(5, 0, 0)),
        ({"prompt_tokens": 5, "prompt_cache_hit_tokens": 4, "completion_tokens": 2}, RequestUsage(5, 4, 2)),
        ({"prompt_tokens": -1, "completion_tokens": "many"}, RequestUsage()),
        ({}, RequestUsage()),
        (None, RequestUsage()),
    ],
)
def test_usage(usage: Any, expected: RequestUsage) -> None:
    assert built({**chunk(content="x"), "usage": usage})[0].usage == expected


def test_the_last_usage_counts_where_every_chunk_has_one() -> None:
    response, _ = built(
        {**chunk(content="a"), "usage": {"prompt_tokens": 5, "completion_tokens": 1}},
        {**chunk("stop", content="b"), "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
        {"choices": [], "usage": None},
    )
    assert response.usage == RequestUsage(5, 0, 2)


def test_other_choices_are_left_out() -> None:
    other = {"index": 1, "delta": {"content": "B"}}
    assert built({"choices": [*chunk(content="A")["choices"], other]})[0].text == "A"


def test_surrogate_halves_are_joined_and_lone_ones_replaced() -> None:
    response, deltas = built(chunk(content="an owl \ud83e"), chunk(content="\udd89!"), chunk(content="\ud83e"))
    assert deltas == [TextDelta("an owl "), TextDelta("🦉!"), TextDelta("\ufffd")]
    assert response.text == "an owl 🦉!\ufffd"
    assert calls([piece('{"a":"\ud83e"}', name="add", index=0)]) == [("add", '{"a":"\ufffd"}')]


@pytest.mark.parametrize(
    "reply",
    [
        [],
        None,
        "text",
        {},
        {"choices": None},
        {"choices": "none"},
        {"choices": [None]},
        {"choices": [{"delta": []}]},
        {"choices": [{"delta": {"content": 5}}]},
        {"choices": [{"delta": {"content": [5]}}]},
        {"choices": [{"delta": {"tool_calls": {}}}]},
        {"choices": [{"delta": {"tool_calls": [None]}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": "add"}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": "0"}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": [1]}}]}}]},
        {"choices": [{"delta": {}, "finish_reason": 1}]},
    ],
)
def test_a_reply_of_another_form_is_unexpected(reply: Any) -> None:
    with pytest.raises(UnexpectedModelBehavior, match="the server's reply"):
        built(reply)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "delta", "message", "content", "tool_calls", "function", "name", "arguments", "index",
             "id", "usage", "logprobs", "finish_reason", "thinking", "text"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.lists(JSON, max_size=3))
def test_no_json_breaks_the_reader_in_any_other_way(chunks: list[Any]) -> None:
    try:
        response, _ = built(*chunks)
    except UnexpectedModelBehavior:
        return
    assert isinstance(response, ModelResponse)


HERMES = [("<tool_call>", -0.5), ('\n{"name": "', -0.1), ("ad", -0.2), ("d", -0.1), ('", "', 0.0), ("arg", -9.0)]


def with_logprobs(tokens: list[tuple[str, float]], **delta: Any) -> dict[str, Any]:
    content = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in tokens]
    choice = {"index": 0, "message": delta, "logprobs": {"content": content}, "finish_reason": "tool_calls"}
    return {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": len(tokens)}}


def test_the_opening_calls_probability_is_that_of_all_tokens_up_to_its_name() -> None:
    entries = [piece(A, name="add"), piece("{}", name="now")]
    response, _ = built(with_logprobs(HERMES, tool_calls=entries))
    first, second = response.tool_calls
    assert first.probability == pytest.approx(0.4066, abs=1e-4)  # exp(-0.9)
    assert second.probability is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"content": "Let me add."}, "text comes before the call"),
        ({"reasoning": "A sum."}, "reasoning comes before the call"),
        ({"tool_calls": [piece(A, name="now")]}, "the name is not in the tokens"),
        ({"tool_calls": [piece(A, name="ad")]}, "the name is only a part of another"),
    ],
)
def test_no_probability_where_its_meaning_is_unsure(changes: dict[str, Any], why: str) -> None:
    response, _ = built(with_logprobs(HERMES, **{"tool_calls": [piece(A, name="add")], **changes}))
    assert response.tool_calls[0].probability is None, why


def test_no_probability_from_tokens_that_are_not_all() -> None:
    assert opening_call_probability(HERMES, "add", len(HERMES)) is not None
    assert opening_call_probability(HERMES, "add", len(HERMES) + 1) is not None
    assert opening_call_probability(HERMES, "add", len(HERMES) + 2) is None
    assert opening_call_probability(HERMES, "add", 0) is None
    assert opening_call_probability([("x" * 99, 0.0), *HERMES], "add", len(HERMES) + 1) is None
    assert opening_call_probability([], "add", 0) is None
    assert opening_call_probability([("add", float("nan"))], "add", 1) is None


@pytest.mark.parametrize("logprobs", [None, [], {"content": None}, {"content": [None, {"token": 1}]}, "x"])
def test_servers_without_logprobs_are_fine(logprobs: Any) -> None:
    choice = {"message": {"tool_calls": [piece(A, name="add", id="c")]}, "logprobs": logprobs}
    response, _ = built({"choices": [choice]})
    assert response.tool_calls == (replace(WHOLE_RESPONSE.tool_calls[0], tool_call_id="c"),)
