"""Replies that no grammar held: read as calls where they are calls, as text where they are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelstack.toolcalls.convention import ResponseFormat, ToolSpec, render_calls
from modelstack.toolcalls.free_form import read_free_reply

ADD = ToolSpec("add", "Add.", {"type": "object", "properties": {"a": {"type": "integer"}}})
TOOLS = ResponseFormat(tools=(ADD,), abstain=True)
ONE_CALL = (("add", '{"a": 1}'),)


@pytest.mark.parametrize(
    "text",
    [
        '[{"name":"add","arguments":{"a":1}}]',
        '```json\n[{"name": "add", "arguments": {"a": 1}}]\n```',
        'Sure, here it is: [{"name": "add", "arguments": {"a": 1}}] Anything else?',
        '{"name": "add", "parameters": {"a": 1}}',
        'The set [1, 2] and {x: [{"name": "add", "arguments": {"a": 1}}]',
    ],
)
def test_calls_are_found_in_the_forms_that_models_write(text: str) -> None:
    assert read_free_reply(text, TOOLS).calls == ONE_CALL


@pytest.mark.parametrize(
    "text",
    [
        '[{"name":"add","arguments":{"a":1}',
        '[{"name":"add","arguments":"a"}]',
        "add(a=1)",
        "",
        "[1, 2]",
        '{"name": "Sea Green"}',
        "[" * 5000,
    ],
)
def test_what_is_no_call_stays_text_as_it_was_written(text: str) -> None:
    read = read_free_reply(text, TOOLS)
    assert (read.kind, read.answer) == ("text", text)


def test_calls_that_each_stand_alone_are_all_read() -> None:
    text = '{"name": "add", "arguments": {"a": 1}}\n{"name": "add", "arguments": {"a": 2}}\nDone: {"sum": 3}'
    assert read_free_reply(text, TOOLS).calls == (("add", '{"a": 1}'), ("add", '{"a": 2}'))


def test_an_offered_tool_may_lack_arguments() -> None:
    assert read_free_reply('[{"name":"add"}]', TOOLS).calls == (("add", "{}"),)


def test_an_unknown_tool_is_still_a_call() -> None:
    assert read_free_reply('[{"name":"sub","arguments":{}}]', TOOLS).calls == (("sub", "{}"),)


def test_an_empty_list_abstains_only_where_that_is_allowed() -> None:
    assert read_free_reply(" [] ", TOOLS).abstained
    assert not read_free_reply("[]", ResponseFormat(tools=(ADD,))).abstained


def test_a_structured_answer_may_lack_its_wrapper() -> None:
    wanted = ResponseFormat(answer={"type": "object"})
    assert read_free_reply('{"result": {"x": 1}}', wanted).answer == {"x": 1}
    assert read_free_reply('Here: {"x": 1}', wanted).answer == {"x": 1}


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text()), min_size=1, max_size=3))
def test_what_the_convention_writes_is_read_back(arguments: list[dict[str, int | str]]) -> None:
    try:
        text = render_calls([("add", each) for each in arguments])
    except ValueError:  # a lone surrogate
        return
    assert len(read_free_reply(text, TOOLS).calls) == len(arguments)
