"""Attacks on the schema check by schemas and values of a hostile server: loops, drafts, numbers, sizes, depths."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentkit.basics.hidden import has_hidden
from agentkit.errors import ModelRetry, ToolDefinitionError
from agentkit.tools.json_schema import CheckTooCostly, compile_schema
from tests.mcp_servers.attack_bounds import cpu_at_most

DRAFTS = "http://json-schema.org/draft-0{}/schema#"
BIG, INFINITE, NONE = 10**400, float("inf"), float("nan")


def nested(levels: int, opening: str, closing: str, inside: str = "{}") -> Any:
    return json.loads(opening * levels + inside + closing * levels)


REFUSED: dict[str, Any] = {
    "Draft 3": {"$schema": DRAFTS.format(3), "properties": {"a": {"required": True}}},
    "Draft 3 with types of types": {"$schema": DRAFTS.format(3), "properties": {"a": {"type": [{"type": "string"}]}}},
    "a reference to itself": {"$ref": "#"},
    "a name that refers to itself": {"$ref": "#x", "$defs": {"x": {"$anchor": "x", "$ref": "#x"}}},
    "a moving name that refers to itself": {"$dynamicAnchor": "n", "$dynamicRef": "#n"},
    "a recursive reference": {
        "$schema": "https://json-schema.org/draft/2019-09/schema", "$recursiveAnchor": True, "$recursiveRef": "#",
    },
    "a condition that is itself": {"if": {"$ref": "#"}},
    "an identity that refers to itself": {"$id": "urn:x", "$ref": "urn:x"},
    "alternatives that are itself": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
    "the opposite of itself": {"not": {"$ref": "#"}},
    "definitions that double": {
        "$ref": "#/$defs/d0",
        "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {}},
    },
    "a place in the network": {"properties": {"a": {"$ref": "http://127.0.0.1:1/x"}}},
    "a file": {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
    "an identity in the network": {"$id": "http://127.0.0.1:1/", "$ref": "other.json"},
    "10,000 alternatives": {"properties": {"a": {"oneOf": [{"type": "integer"}] * 20_000}}},
    "20,000 properties": {"properties": {f"p{n}": {"type": "string", "minLength": n} for n in range(20_000)}},
    "200 levels of properties": nested(200, '{"properties": {"a": ', "}}"),
    "300 levels of items": nested(300, '{"items": ', "}"),
    "300 levels of alternatives": nested(300, '{"allOf": [', "]}"),
    "300 levels of negation": nested(300, '{"not": ', "}"),
    "a length that is no whole number": {"properties": {"a": {"minLength": "9" * 100_000}}},
    "names that are numbers": {"required": [1, 2]},
    "names that are an object": {"required": {"a": 1}},
    "a type that nobody knows": {"properties": {"a": {"type": "x" * 1_000_000}}},
    "a draft that is a number": {"$schema": 5},
    "a place of 100 KB": {"$ref": "#/" + "x" * 100_000},
    "a place that hides": {"$ref": "#/\u202e\x1b[2J"},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_schema_that_cannot_be_used_is_refused_in_a_moment_and_a_few_words(name: str) -> None:
    with cpu_at_most(3.0), pytest.raises(ToolDefinitionError) as refused:
        compile_schema(REFUSED[name], name="tool")
    assert len(str(refused.value)) < 600
    assert not has_hidden(str(refused.value)), ascii(str(refused.value))
    assert compile_schema({"properties": {"a": {"type": "string"}}}, name="tool").problems({"a": 5})


@pytest.mark.parametrize("levels", range(80, 200, 5))
@pytest.mark.parametrize("opening", ['{"properties": {"a": ', '{"items": ', '{"allOf": [', '{"not": '])
def test_at_every_depth_a_schema_is_taken_or_refused_and_nothing_else(opening: str, levels: int) -> None:
    """Where the stack ends within a library of Rust, the error is no `Exception` and would end the program."""
    closing = {"[": "]}", "{": "}"}.get(opening.rstrip()[-1], "}")
    schema = nested(levels, opening, "}}" if "properties" in opening else closing)
    with cpu_at_most(2.0):
        try:
            compile_schema(schema, name="tool")
        except ToolDefinitionError as refused:
            assert "nested too deeply" in str(refused) or "does not end" in str(refused)


def of(**rule: Any) -> dict[str, Any]:
    return {"properties": {"a": rule}}


COSTLY = "costly"
VALUES: dict[str, tuple[dict[str, Any], Any, bool | str]] = {
    "a multiple of a half of 400 digits": (of(multipleOf=0.5), BIG, True),
    "a multiple of a half without an end": (of(multipleOf=0.5), INFINITE, False),
    "a multiple of the smallest number": (of(multipleOf=5e-324), 1e308, True),
    "a multiple of 400 digits": (of(multipleOf=BIG), 3.5, False),
    "a multiple of 3 that is no number": (of(multipleOf=3), NONE, False),
    "a multiple of three tenths of 400 digits": (of(multipleOf=0.3), BIG + 1, False),
    "a whole number without an end": (of(type="integer"), INFINITE, False),
    "a whole number that is none": (of(type="integer"), NONE, False),
    "at most 3, 400 digits": (of(maximum=3), BIG, False),
    "at most 3, without an end": (of(maximum=3), INFINITE, False),
    "at least 400 digits": (of(minimum=BIG), 3.5, False),
    "3 of 400 digits": (of(const=3), BIG, False),
    "a length beyond all": (of(minLength=1e300), "x", False),
    "one of 100,000": (of(enum=list(range(100_000))), -1, False),
    "one of many lists": (of(enum=[[[[[[1]]]]]] * 5_000), [[[[[2]]]]], False),
    "a text of 1 MB against a pattern": (of(pattern="^(a+)+$"), "a" * 1_000_000 + "b", False),
    "alternatives of alternatives": (
        {"items": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, "type": "array"}, nested(20, "[", "]", "1"), COSTLY,
    ),
    "names that refer to all": ({"propertyNames": {"$ref": "#/$defs/n"}, "$defs": {"n": {"maxLength": 3}}}, {"x" * 99: 1}, True),
    "100,000 different items": (of(uniqueItems=True), [{"x": n} for n in range(100_000)], True),
    "a name of 1 MB": ({"additionalProperties": False}, None, False),
    "names of 1 MB that are known": (
        {"properties": {f"{n}" + "x" * 1_000_000: {} for n in range(3)}, "additionalProperties": False}, 1, False,
    ),
    "a name of 1 MB that is missing": ({"properties": {"a": {}}, "required": ["x" * 1_000_000]}, 1, False),
    "values of 5,000 levels": (of(type="object"), nested(900, "[", "]", "1"), False),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_any_value_is_judged_in_a_moment(name: str) -> None:
    schema, value, is_right = VALUES[name]
    check = compile_schema(schema, name="tool")
    given = {"a": value} if "properties" in schema else {"x" * 1_000_000: 1} if value is None else value
    if "propertyNames" in schema:
        given = {"a": value}
    with cpu_at_most(3.0):
        try:
            problems = check.problems(given)
        except CheckTooCostly:
            assert is_right == COSTLY
            return
    assert is_right != COSTLY
    assert (not problems) == is_right, problems
    assert all(len(problem) <= 1_000 for problem in problems)


@pytest.mark.parametrize(
    "text",
    [
        "{" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a": ' * 50_000 + "1" + "}" * 50_000, '{"a": ' + "9" * 5_000 + "}",
        '{"a": 1e999}', '{"a": NaN}', '{"a": -Infinity}', '{"a": "\\ud800"}', '{"a": 1, "a": "x"}', "null", "[]", '"a"', "1",
        '{"a": "x"} {"a": "y"}', "{'a': 'x'}", '{"a": "\x01"}', "\ufeff{}", '{"a": ' + "-" * 100_000 + "1}",
    ],
    ids=lambda text: ascii(text[:24]),
)  # fmt: skip
def test_any_text_of_arguments_is_an_object_or_said_to_be_none(text: str) -> None:
    check = compile_schema({"properties": {"a": {"type": "string"}}, "required": ["a"]}, name="tool")
    with cpu_at_most(1.0):
        try:
            arguments = check.arguments(text)
        except ModelRetry as retry:
            assert len(str(retry)) < 1_000
        else:
            assert isinstance(arguments["a"], str)
