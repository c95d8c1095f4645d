"""Validity against a schema, as given and closed."""

from __future__ import annotations

from typing import Any

from evals.structured_output.validity import check


def test_a_value_with_undeclared_properties_is_valid_but_not_closed() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert check(schema, {"a": 1}).closed
    verdict = check(schema, {"a": 1, "b": 2})
    assert verdict.valid and not verdict.closed
    assert "'b'" in verdict.why


def test_keywords_that_no_grammar_enforces_are_checked() -> None:
    schema = {"type": "array", "uniqueItems": True, "contains": {"const": 1}}
    assert check(schema, [1, 2]).valid
    assert not check(schema, [1, 1]).valid
    assert not check(schema, [2]).valid


def test_old_spellings_are_read_as_what_they_meant() -> None:
    schema = {"type": "array", "items": [{"type": "string"}, {"minimum": 3, "exclusiveMinimum": True}]}
    assert check(schema, ["a", 4]).valid
    assert not check(schema, ["a", 3]).valid


def test_nothing_is_valid_under_what_is_no_usable_schema() -> None:
    assert "not a JSON Schema" in check({"type": "objekt"}, {}).why
    assert "leads nowhere" in check({"$ref": "#/$defs/missing"}, {}).why
    assert not check({"$ref": "https://example.org/schema.json"}, {}).valid


def test_a_hostile_pattern_and_a_deep_value_end() -> None:
    assert not check({"type": "string", "pattern": "^(a+)+$"}, "a" * 200 + "!").valid
    recursive = {
        "$ref": "#/$defs/n",
        "$defs": {"n": {"type": "object", "additionalProperties": {"$ref": "#/$defs/n"}}},
    }
    deep: Any = {}
    for _ in range(900):
        deep = {"a": deep}
    verdict = check(recursive, deep)
    assert not verdict.valid and "deeply" in verdict.why
