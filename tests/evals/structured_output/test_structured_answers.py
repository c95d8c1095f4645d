"""Reading answers and comparing them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.structured_output.answers import field_f1, read_leniently, read_strictly, same

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "text", ["", "yes", '{"a": 1', '{"a": NaN}', "[Infinity]", '{"a": 1} and more', "[" * 100_000]
)
def test_what_is_not_json_as_a_whole_is_not_read_strictly(text: str) -> None:
    assert not read_strictly(text).parsed


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        ' \n{"a": 1}\n',
        '```json\n{"a": 1}\n```',
        'Sure, here it is:\n```\n{"a": 1}\n```\nAnything else?',
        'The answer is {"a": 1}.',
        'As {name} asked: {"a": 1}',
    ],
)
def test_the_json_in_an_answer_is_found_leniently(text: str) -> None:
    assert read_leniently(text).value == {"a": 1}


def test_a_lenient_reader_gives_up_on_noise() -> None:
    assert not read_leniently("[{" * 50_000).parsed
    assert not read_leniently("I cannot say.").parsed


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ({"a": "São Paulo"}, {"a": "  são\u00a0 PAULO "}),
        ({"a": "it's"}, {"a": "It’s"}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": 1, "b": None}),
        ({}, {"b": None}),
        ({"a": [1, {"b": []}]}, {"a": [1, {"b": []}]}),
    ],
)
def test_the_stated_rules_make_values_the_same(expected: Any, answer: Any) -> None:
    assert same(expected, answer)
    assert field_f1(expected, answer) == 1.0


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": True}),
        ({"a": "x"}, {"a": "x", "b": ""}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": []}, {"a": {}}),
        ({"a": {}}, {}),
        ({"a": "x."}, {"a": "x"}),
        ("no", {"result": "no"}),
    ],
)
def test_other_values_are_not_the_same(expected: Any, answer: Any) -> None:
    assert not same(expected, answer)


def test_field_f1_counts_leaves_and_not_positions() -> None:
    assert field_f1({"a": 1, "b": 2}, {"a": 1}) == pytest.approx(2 / 3)
    assert field_f1({"a": [1, 2, 3]}, {"a": [2, 3]}) == pytest.approx(4 / 5)
    assert field_f1({"a": 1}, {"b": 1}) == 0.0
    assert field_f1({}, {"a": 1}) == 0.0
    assert field_f1({}, {}) == 1.0


@given(JSON_VALUES)
def test_a_value_agrees_with_itself_through_json(value: Any) -> None:
    text = json.dumps(value)
    read = read_strictly(text)
    assert read.parsed
    assert same(value, read.value)
    assert field_f1(value, read.value) == 1.0


def test_depth_costs_no_recursion() -> None:
    deep: Any = 1
    for _ in range(1_500):
        deep = {"a": deep}
    assert same(deep, deep)
    while isinstance(deep, dict):  # freed level by level, as recursion would not survive it
        deep = deep.pop("a")
