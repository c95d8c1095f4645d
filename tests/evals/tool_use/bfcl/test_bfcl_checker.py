"""BFCL's rules: which calls fit a key."""

from __future__ import annotations

from typing import Any

import pytest

from evals.tool_use.bfcl.checker import calls_from_dicts, check_calls, check_relevance
from evals.tool_use.bfcl.data import Language
from evals.tool_use.bfcl.values import standardised


def function(name: str = "f", required: tuple[str, ...] = (), **schemas: Any) -> dict[str, Any]:
    properties = {key: {"type": value} if isinstance(value, str) else value for key, value in schemas.items()}
    return {"name": name, "parameters": {"type": "dict", "properties": properties, "required": list(required)}}


def fits(declared: Any, value: Any, acceptable: list[Any], language: Language = "python") -> bool:
    """Whether a value fits, as the only argument of the only call."""
    verdict = check_calls(
        [function(x=declared)],
        [("f", {"x": value})],
        [{"f": {"x": acceptable}}],
        category="simple",
        language=language,
    )
    return verdict.valid


def array(inner: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": inner}}


@pytest.mark.parametrize(
    ("declared", "value", "acceptable", "expected"),
    [
        ("integer", 5, [5], True),
        ("integer", 5.0, [5], False),
        ("integer", "5", [5], False),
        ("integer", True, [1], False),
        ("float", 5, [5.0], True),
        ("float", 5.5, [5.0, 5.5], True),
        ("float", 10**400, [5.0], False),
        ("boolean", True, [True], True),
        ("boolean", 1, [True], False),
        ("string", None, ["a"], False),
        ("any", "a", ["a"], True),
        ("any", 3, [3], True),
        ("string", 3, [3], True),  # a value of the key's own type passes for a variable
        ("integer", "count", ["count"], True),
        ("integer", "Count", ["count"], False),  # variables are compared exactly
        ("no-such-type", "a", ["a"], False),
        ("float", float("nan"), [1.0], False),
    ],
)
def test_a_scalar_needs_the_declared_type_and_an_acceptable_value(
    declared: str, value: Any, acceptable: list[Any], expected: bool
) -> None:
    assert fits(declared, value, acceptable) is expected


def test_text_is_compared_without_case_spaces_and_some_punctuation() -> None:
    assert fits("string", "april 1st, 2024", ["April-1st/2024"])
    assert fits("string", "it's", ['IT"S'])
    assert not fits("string", "April 1st: 2024", ["April 1st 2024"])
    assert standardised("A, b./-_*^ 'C'") == 'ab"c"'


@pytest.mark.parametrize(
    ("declared", "value", "acceptable", "expected"),
    [
        (array("integer"), [1, 2], [[1, 2]], True),
        (array("integer"), [2, 1], [[1, 2]], False),
        (array("integer"), [2, 1], [[1, 2], [2, 1]], True),
        (array("integer"), (1, 2), [[1, 2]], False),
        ({"type": "tuple", "items": {"type": "integer"}}, (1, 2), [[1, 2]], True),
        ({"type": "tuple", "items": {"type": "integer"}}, [1, 2], [[1, 2]], True),
        (array("float"), [1, 2], [[1.0, 2.0]], False),  # elements are not converted
        (array("float"), [1, 2], [[1, 2]], True),  # but may have the type of the key's elements
        (array("string"), ["A b", "c."], [["ab", "C"]], True),
        (array("string"), [], ["", ["a"]], True),  # the mark "may be left out" reads as an empty list
        (array("string"), [], [["a"], ""], True),
        (array("string"), [], [["a"]], False),
        (array("array"), [[1], [2]], [[[1], [2]]], True),
        ({"type": "array"}, [1], [[1]], False),
    ],
)
def test_a_list_is_compared_in_order_with_one_level_of_element_types(
    declared: Any, value: Any, acceptable: list[Any], expected: bool
) -> None:
    assert fits(declared, value, acceptable) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1, "b": "X y"}, True),
        ({"a": 2, "b": "xy"}, True),
        ({"b": "xy"}, False),
        ({"a": 1}, True),
        ({"a": 1, "b": "z"}, False),
        ({"a": 1, "c": 0}, False),
        ("a", False),
    ],
)
def test_an_object_is_compared_key_by_key(value: Any, expected: bool) -> None:
    assert fits("dict", value, [{"a": [1, 2], "b": ["xy", ""]}]) is expected


def test_a_list_of_objects_is_compared_in_order() -> None:
    acceptable = [[{"a": [1]}, {"a": [2]}]]
    assert fits(array("dict"), [{"a": 1}, {"a": 2}], acceptable)
    assert not fits(array("dict"), [{"a": 2}, {"a": 1}], acceptable)
    assert not fits(array("dict"), [{"a": 1}], acceptable)
    assert not fits(array("dict"), ["a", "b"], ["", *acceptable])


@pytest.mark.parametrize(
    ("arguments", "error_type"),
    [
        ({"a": 1, "b": 2}, ""),
        ({"a": 1}, ""),
        ({"b": 2}, "simple_function_checker:missing_required"),
        ({"a": 1, "b": 2, "z": 0}, "simple_function_checker:unexpected_param"),
        ({"a": 1, "c": 3}, "simple_function_checker:unexpected_param"),  # in the schema, not in the key
        ({"a": 9}, "value_error:others"),
        ({"a": "1"}, "type_error:simple"),
    ],
)
def test_a_call_needs_its_required_parameters_and_none_beyond_the_key(arguments: Any, error_type: str) -> None:
    functions = [function(required=("a",), a="integer", b="integer", c="integer")]
    key = [{"f": {"a": [1], "b": [2, ""]}}]
    verdict = check_calls(functions, [("f", arguments)], key, category="simple_python")
    assert (verdict.valid, verdict.error_type) == (not error_type, error_type)


def test_a_parameter_may_be_left_out_only_where_the_key_says_so() -> None:
    verdict = check_calls([function(a="integer")], [("f", {})], [{"f": {"a": [1]}}], category="simple_python")
    assert verdict.error_type == "simple_function_checker:missing_optional"


def test_names_with_dots_may_be_told_with_underscores() -> None:
    functions, key = [function("a.b.c")], [{"a.b.c": {}}]
    assert check_calls(functions, [("a.b.c", {})], key, category="simple_python").valid
    assert not check_calls(functions, [("a_b_c", {})], key, category="simple_python").valid
    assert check_calls(functions, [("a_b_c", {})], key, category="simple_python", underscores=True).valid
    assert not check_calls(functions, [("a.b.c", {})], key, category="simple_python", underscores=True).valid


def test_multiple_wants_the_one_right_function() -> None:
    functions, key = [function("f", x="integer"), function("g", x="integer")], [{"g": {"x": [1]}}]
    assert check_calls(functions, [("g", {"x": 1})], key, category="multiple").valid
    assert not check_calls(functions, [("f", {"x": 1})], key, category="multiple").valid
    assert not check_calls(functions, [("g", {"x": 1}), ("g", {"x": 1})], key, category="live_multiple").valid


def test_parallel_wants_as_many_calls_in_any_order() -> None:
    functions = [function("f", x="integer")]
    key = [{"f": {"x": [1]}}, {"f": {"x": [2]}}]
    for calls, expected in (([1, 2], True), ([2, 1], True), ([1, 1], False), ([1], False), ([1, 2, 2], False)):
        made = [("f", {"x": x}) for x in calls]
        assert check_calls(functions, made, key, category="parallel").valid is expected, calls


def test_parallel_matching_is_greedy_like_the_original() -> None:
    functions = [function("f", x="integer")]
    key = [{"f": {"x": [1, 2]}}, {"f": {"x": [1]}}]
    assert check_calls(functions, [("f", {"x": 2}), ("f", {"x": 1})], key, category="parallel").valid
    assert not check_calls(functions, [("f", {"x": 1}), ("f", {"x": 2})], key, category="parallel").valid


def test_a_key_that_names_no_function_of_the_question_accepts_nothing() -> None:
    verdict = check_calls([function("f")], [("f", {})], [{"g": {}}], category="parallel_multiple")
    assert not verdict.valid


def test_relevance_wants_any_call_and_irrelevance_none() -> None:
    assert check_relevance([("f", {})], wanted=True).valid
    assert not check_relevance([], wanted=True).valid
    assert check_relevance([], wanted=False).valid
    assert check_relevance([("f", {})], wanted=False).error_type == "irrelevance_error:decoder_success"


def test_calls_in_the_form_of_the_original_are_read_and_others_refused() -> None:
    assert calls_from_dicts([{"f": {"x": 1}}, {"g": {}}]) == [("f", {"x": 1}), ("g", {})]
    broken_forms: list[Any] = [[{"f": {}, "g": {}}], [{}], [{"f": [1]}]]
    for broken in broken_forms:
        with pytest.raises(ValueError):
            calls_from_dicts(broken)


@pytest.mark.parametrize(
    ("language", "declared", "value", "acceptable", "expected"),
    [
        ("java", "integer", "5", [5], True),
        ("java", "integer", 5, [5], False),
        ("java", "long", "5L", [5], True),
        ("java", "long", "5", [5], False),
        ("java", "HashMap", 'new HashMap<String, Object>() {{ put("a", 1); }}', [{"a": [1]}], True),
        ("java", {"type": "Array", "items": {"type": "String"}}, "new String[]{a, b}", [["a", "b"]], True),
        ("java", "Set", "new HashSet<>()", ["x"], False),
        ("java", "any", "anything", ["anything"], True),
        ("javascript", "Boolean", "true", [True], True),
        ("javascript", "Boolean", True, [True], False),
        ("javascript", "dict", "{'a': 'B c'}", [{"a": ["bc"]}], True),
        ("javascript", {"type": "array", "items": {"type": "String"}}, "['a', \"b\"]", [["a", "b"]], True),
    ],
)
def test_values_of_java_and_javascript_arrive_as_literals(
    language: Language, declared: Any, value: Any, acceptable: list[Any], expected: bool
) -> None:
    assert fits(declared, value, acceptable, language) is expected
