from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelstack.toolcalls import (
    ResponseFormat,
    ResponseParseError,
    ToolSpec,
    parse_response,
    render_answer,
    render_calls,
)
from modelstack.toolcalls.convention import NOT_FIRST_IN_TEXT

ANY = {"type": "object", "additionalProperties": True}
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'), min_size=1, max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
calls = st.lists(st.tuples(names, st.dictionaries(texts, values, max_size=4)), min_size=1, max_size=4)


def format_of(call_names: list[str], **options: Any) -> ResponseFormat:
    tools = tuple(ToolSpec(name, "", ANY) for name in dict.fromkeys(call_names))
    return ResponseFormat(tools, **options)


@given(calls)
def test_rendered_calls_are_parsed_back_to_the_same_calls(written: list[tuple[str, dict[str, Any]]]) -> None:
    text = render_calls(written)
    parsed = parse_response(text, format_of([name for name, _ in written]))
    assert [(name, json.loads(arguments)) for name, arguments in parsed.calls] == written
    assert parsed.kind == "calls"
    assert not parsed.abstained


@given(calls)
def test_rendering_parsed_calls_again_gives_the_same_text(written: list[tuple[str, dict[str, Any]]]) -> None:
    text = render_calls(written)
    parsed = parse_response(text, format_of([name for name, _ in written]))
    assert render_calls([(name, json.loads(arguments)) for name, arguments in parsed.calls]) == text


@given(texts)
def test_a_text_answer_is_never_taken_for_calls(answer: str) -> None:
    format_ = format_of(["x"], abstain=True)
    if not answer.strip(" \t\r\n\v\f"):
        return
    written = render_answer(answer, format_)
    assert written[0] not in NOT_FIRST_IN_TEXT
    assert parse_response(written, format_).answer == written


@given(values)
def test_structured_answers_are_parsed_back(value: Any) -> None:
    format_ = ResponseFormat(answer={})
    assert parse_response(render_answer(value, format_), format_).answer == value


@given(st.text(max_size=60))
def test_parsing_anything_gives_a_reply_or_a_parse_error(text: str) -> None:
    with contextlib.suppress(ResponseParseError):
        parse_response(text, format_of(["x"], abstain=True))


def test_keys_come_in_the_order_of_the_schema_at_every_level() -> None:
    inner = {"type": "object", "properties": {"p": {}, "q": {}}}
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/i"}, "b": {"items": inner}},
        "$defs": {"i": inner},
    }
    text = render_calls(
        [("x", {"b": [{"q": 1, "p": 2}], "a": {"q": 3, "p": 4}, "z": 0})], [ToolSpec("x", "", schema)]
    )
    assert text == '[{"name":"x","arguments":{"a":{"p":4,"q":3},"b":[{"p":2,"q":1}],"z":0}}]'


def test_whole_floats_for_integers_are_written_as_integers() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    assert render_calls([("x", {"n": 3.0})], [ToolSpec("x", "", schema)]) == '[{"name":"x","arguments":{"n":3}}]'


def test_the_delete_character_is_written_as_the_grammars_take_it() -> None:
    assert render_calls([("x", {"a": "\x7f"})]) == '[{"name":"x","arguments":{"a":"\\u007f"}}]'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_values_that_are_no_json_are_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        render_calls([("x", {"a": value})])


@pytest.mark.parametrize("name", ["", 'a"b', "a\\b", "a\nb", "a\x7fb", "\ud800"])
def test_names_that_cannot_stand_between_quotes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="tool name"):
        ToolSpec(name, "", ANY)


def test_a_text_that_begins_like_a_call_is_led_in() -> None:
    assert render_answer("[1] is the source", ResponseFormat()) == "Answer: [1] is the source"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "abstention"),
        ("", "must begin with a character"),
        (" hello", "must begin with a character"),
        ('[{"name":"y","arguments":{}}]', "unknown tool 'y'"),
        ('[{"name":"x","arguments":[]}]', "are not an object"),
        ('[{"name":"x","arguments":{}}', "expected"),
        ('[{"name":"x","arguments":{}}] ok', "text after"),
        ('[{"arguments":{},"name":"x"}]', "expected"),
        ('[{"name":"x","arguments":{}},{"name":"x","arguments":{}}]', "at most 1"),
        ('[{"name":"x","arguments":{"a":}}]', "no JSON value"),
        ('{"result":1}', "structured answer is not allowed"),
        ("[" * 20_000, "expected"),
        ('[{"name":"x","arguments":' + "[" * 200_000, "no JSON value"),
    ],
)
def test_each_fault_of_a_reply_is_named(text: str, problem: str) -> None:
    with pytest.raises(ResponseParseError, match=problem):
        parse_response(text, format_of(["x"], parallel=False))


def test_text_is_refused_where_the_format_has_no_text_answer() -> None:
    with pytest.raises(ResponseParseError, match="text answer is not allowed"):
        parse_response("hello", format_of(["x"], answer=None))


def test_the_arguments_keep_the_spelling_that_was_written() -> None:
    parsed = parse_response('[{"name":"x","arguments":{"a":1e5, "b":1.0}}]', format_of(["x"]))
    assert parsed.calls == (("x", '{"a":1e5, "b":1.0}'),)


def test_formats_that_allow_no_reply_or_a_name_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="no reply"):
        ResponseFormat(answer=None)
    with pytest.raises(ValueError, match="twice"):
        ResponseFormat((ToolSpec("x", "", ANY), ToolSpec("x", "", ANY)))
    with pytest.raises(ValueError, match="max_calls"):
        ResponseFormat(max_calls=0)


def test_the_fingerprint_tells_orders_of_properties_apart() -> None:
    one = ToolSpec("x", "", {"properties": {"a": {}, "b": {}}})
    two = ToolSpec("x", "", {"properties": {"b": {}, "a": {}}})
    assert ResponseFormat((one,)).fingerprint() != ResponseFormat((two,)).fingerprint()
    assert ResponseFormat((one,)).fingerprint() == ResponseFormat((one,)).fingerprint()
