"""Depth of data is counted without recursion."""

from __future__ import annotations

from typing import Any

import pytest

from modelstack.nesting import is_nested_deeper


@pytest.mark.parametrize(
    ("value", "depth"),
    [
        (1, 0),
        ("[[[", 0),
        ([], 1),
        ({"a": 1, "b": 2}, 1),
        ([1, [2], {"a": [3]}], 3),
        ({"a": {"b": {}}}, 3),
    ],
)
def test_depth_is_the_number_of_lists_and_dicts_inside_each_other(value: Any, depth: int) -> None:
    assert not is_nested_deeper(value, depth)
    if depth:
        assert is_nested_deeper(value, depth - 1)


def test_deep_values_and_values_that_contain_themselves_have_an_answer() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    assert is_nested_deeper(value, 99_999)
    endless: list[Any] = []
    endless.append(endless)
    assert is_nested_deeper(endless, 1_000)
    while value:  # freed level by level
        value = value[0]
