"""Examples from hand-written tools: right by schema, grounded in what is said, near-misses without their tool."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from modelstack.data.examples import check_example
from modelstack.data.tools.clauses import slots_of
from modelstack.data.tools.everyday import ask, show
from modelstack.data.tools.everyday_tools import EverydayTool, everyday_tools
from modelstack.data.tools.making import BROAD_FIELDS, SORTS, Made, Stock, made
from modelstack.data.tools.spoken import COPIED, scene

STOCK = Stock(everyday_tools())


def some(sort: str, n: int = 60) -> list[Made]:
    found = [made(STOCK, sort, 7, number) for number in range(n)]
    return [each for each in found if each is not None]


def field_of(name: str) -> set[str]:
    return {tool.field for tool in STOCK.tools if name in tool.names}


def test_there_are_many_tools_with_sentences_and_near_misses() -> None:
    assert len(STOCK.tools) >= 160
    assert all(len(tool.say) >= 3 and len(tool.beyond) >= 2 for tool in STOCK.tools)


def test_two_tools_never_share_a_name() -> None:
    names = [name for tool in STOCK.tools for name in tool.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("tool", STOCK.tools, ids=lambda tool: tool.names[0])
def test_every_tool_can_be_asked_for(tool: EverydayTool) -> None:
    for i in range(4):
        now = scene("each", tool.names[0], i)
        shown = show(tool, now)
        clause = ask(shown, now)
        assert clause is not None
        (name, arguments), *others = clause.calls
        assert name == shown.tool.name
        assert not others
        assert set(shown.tool.parameters["required"]) <= set(arguments)
        assert "{" not in clause.text
        assert "|" not in clause.text
    known = {p.name for p in tool.parameters} | {"stay"}
    assert all(set(slots_of(text)) <= known for text in [*tool.beyond, *(request for request, _ in tool.vague)])


@pytest.mark.parametrize("sort", SORTS)
def test_examples_of_each_sort_are_right_by_their_schemas(sort: str) -> None:
    found = some(sort)
    assert len(found) >= 20
    for each in found:
        check_example(each.example)
        assert each.example.source == "everyday"


def test_the_same_number_gives_the_same_example_and_others_differ() -> None:
    assert made(STOCK, "single", 7, 3) == made(STOCK, "single", 7, 3)
    assert made(STOCK, "single", 8, 3) != made(STOCK, "single", 7, 3)


def leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in leaves(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in leaves(inner)]
    return [value] if isinstance(value, str) else [] if isinstance(value, bool) else [json.dumps(value)]


def test_values_that_are_not_in_the_request_have_a_rule_that_made_them() -> None:
    for each in some("single", 300):
        said = each.example.messages[-1].content.lower()
        absent = [
            text for call in each.example.calls for text in leaves(call.arguments) if text.lower() not in said
        ]
        worked_out = [rule for rule in each.rules if rule != COPIED]
        n_lists = sum(rule.startswith(("list", "date_span", "record")) for rule in worked_out)
        assert len(absent) <= len(worked_out) + 4 * n_lists, (said, absent, each.rules)


def test_a_request_with_relative_words_comes_with_todays_date() -> None:
    for each in some("single", 300):
        if any(rule in ("relative_date", "relative_year", "relative_weekday") for rule in each.rules):
            assert each.example.messages[0].role == "system"


def test_parallel_examples_call_one_tool_several_times_and_never_alike() -> None:
    for each in some("parallel"):
        calls = each.example.calls
        assert len(calls) >= 2
        assert len({call.name for call in calls}) == 1
        assert len({json.dumps(call.arguments, sort_keys=True) for call in calls}) == len(calls)


def test_multi_examples_call_several_tools() -> None:
    assert all(len({call.name for call in each.example.calls}) >= 2 for each in some("multi"))


def test_a_tool_that_was_taken_away_is_not_shown_but_siblings_are() -> None:
    for each in some("tool_removed"):
        assert each.example.calls == ()
        assert each.example.reply is None
        assert each.example.kind == "irrelevant"
        assert any(field_of(tool.name) for tool in each.example.tools)


def test_siblings_that_could_do_the_work_are_known_tools_of_the_field() -> None:
    for tool in STOCK.tools:
        assert set(tool.akin) <= {other.names[0] for other in STOCK.siblings(tool)}


def test_a_wish_beyond_the_field_shows_its_tool() -> None:
    assert all(each.example.kind == "irrelevant" and each.example.tools for each in some("beyond"))


def test_tools_that_can_do_nearly_anything_are_not_shown_where_nothing_fits() -> None:
    for sort in ("far", "beyond", "tool_removed"):
        shown = [tool.name for each in some(sort) for tool in each.example.tools]
        assert not {field for name in shown for field in field_of(name)} & set(BROAD_FIELDS)


def test_vague_requests_get_a_question_back() -> None:
    for each in some("clarify"):
        assert each.example.reply is not None
        assert each.example.reply.rstrip().endswith("?")
        assert each.example.kind == "clarify"


def test_answers_follow_a_tools_result_and_use_it() -> None:
    for each in some("answer"):
        assert [m.role for m in each.example.messages if m.role != "system"] == ["user", "assistant", "tool"]
        assert each.example.reply
        assert "{" not in each.example.reply


def test_answers_about_longer_results_name_only_what_was_said_or_read() -> None:
    """Names and numbers of an answer stand in the question or the result; a number may also be a count."""
    for each in some("read_result"):
        _, *messages = [m for m in each.example.messages if m.role != "system"]
        called, result = messages
        assert called.train and result.role == "tool"
        known = f"{each.example.messages[-3].content} {result.content}"
        reply = each.example.reply or ""
        for word in re.findall(r"\w+", reply)[1:]:
            named = word[0].isupper() and word not in ("I", "Yes", "It")
            counted = word.isdigit() and int(word) <= 20
            assert word in known or counted or not (named or word.isdigit()), (word, reply, known)
        assert len(reply.split()) >= 3


def test_follow_ups_keep_what_was_not_said_again() -> None:
    for each in some("follow_up"):
        before = next(m for m in each.example.messages if m.calls).calls[0]
        after = each.example.calls[0]
        assert after.name == before.name
        assert after.arguments != before.arguments
