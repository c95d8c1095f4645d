"""Schemas that somebody else wrote: same verdicts as jsonschema, in bounded work."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from agentkit.errors import ModelRetry, ToolDefinitionError
from agentkit.tools.json_schema import MAX_CACHED_CHARS, CheckTooCostly, compile_schema

FILE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "pattern": "^[a-z/.]+$"},
        "n": {"type": "integer", "minimum": 0},
        "mode": {"enum": ["read", "write"]},
        "where": {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"line": {"type": "integer"}}}]},
    },
    "required": ["path"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ({"pth": "a"}, ["path: required but missing", "pth: unknown argument; did you mean 'path'?"]),
        ({"path": "a", "zzz": 1}, ["zzz: unknown argument; known: path, n, mode, where."]),
        ({"path": 3}, ["path: must be string (got 3)"]),
        ({"path": "A"}, ["path: must match the pattern ^[a-z/.]+$"]),
        ({"path": "a", "n": "1"}, ["n: must be integer (got '1')"]),
        ({"path": "a", "n": True}, ["n: must be integer (got True)"]),
        ({"path": "a", "n": -1}, ["n: -1 is less than the minimum of 0"]),
        ({"path": "a", "mode": "reed"}, ["mode: must be one of 'read', 'write' (got 'reed')"]),
        ({"path": "a", "where": {"line": "x"}}, ["where.line: must be integer (got 'x')"]),
    ],
)
def test_mistakes_have_path_rule_and_nearest_name(arguments: dict[str, Any], lines: list[str]) -> None:
    check = compile_schema(FILE, name="tool")
    assert check.problems(arguments) == lines
    with pytest.raises(ModelRetry) as caught:
        check.arguments(json.dumps(arguments))
    assert str(caught.value) == "\n".join(["Invalid arguments:", *lines])


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"path": NaN}', "[" * 5000, '{"path": "a"} x'])
def test_text_that_is_no_object_is_sent_back(text: str) -> None:
    with pytest.raises(ModelRetry, match="Invalid arguments: "):
        compile_schema(FILE, name="tool").arguments(text)


def test_no_text_is_no_arguments() -> None:
    assert compile_schema({"type": "object"}, name="tool").arguments("") == {}


def test_a_recursive_ref_checks_a_deep_value() -> None:
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"$ref": "#/$defs/node"}, "n": {"type": "integer"}},
                "additionalProperties": False,
            }
        },
    }
    check = compile_schema(schema, name="tool")
    good: dict[str, Any] = {"n": 1}
    bad: dict[str, Any] = {"n": "1"}
    for _ in range(40):
        good, bad = {"next": good}, {"next": bad}
    assert check.problems(good) == []
    assert check.problems(bad) == ["next." * 40 + "n: must be integer (got '1')"]
    for _ in range(3000):
        good = {"next": good}
    with pytest.raises(CheckTooCostly, match="too deeply"):
        check.problems(good)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.com/x.json"},
        {"$id": "https://example.com/a/", "properties": {"a": {"$ref": "b"}}},
        {"allOf": [{"if": {"$ref": "file:///etc/passwd"}}]},
        {"$ref": "#/$defs/missing"},
        {"$ref": "#/x", "x": {"properties": {"a": {"$ref": "http://example.com"}}}},
    ],
)
def test_references_that_lead_outside_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ToolDefinitionError, match="never fetched"):
        compile_schema(schema, name="tool")


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}},
        {
            "$ref": "#/$defs/a0",
            "$defs": {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)} | {"a40": {}},
        },
    ],
    ids=["root", "in place", "doubling"],
)
def test_references_without_end_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ToolDefinitionError, match="does not end|never end"):
        compile_schema(schema, name="tool")


def test_a_doubling_that_shows_only_in_a_value_runs_out_of_fuel() -> None:
    doubling = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)} | {"a40": False}
    check = compile_schema({"properties": {"x": {"$ref": "#/$defs/a0"}}, "$defs": doubling}, name="tool")
    with pytest.raises(CheckTooCostly):
        check.problems({"x": 1})


def test_invalid_schemas_are_refused_with_the_place() -> None:
    with pytest.raises(ToolDefinitionError, match="invalid at 'properties/a/type'"):
        compile_schema({"properties": {"a": {"type": 3}}}, name="tool")
    with pytest.raises(ToolDefinitionError, match="invalid at"):
        compile_schema({"$ref": "#/x", "x": {"minLength": "1"}}, name="tool")
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(3000):
        inner["properties"] = {"a": {}}
        inner = inner["properties"]["a"]
    with pytest.raises(ToolDefinitionError, match="too deeply"):
        compile_schema(deep, name="tool")


@pytest.mark.parametrize("pattern", ["(a+)+$", "^(a|a)*$", "^(a|aa)+$", "(.*a){12}$", "^([a-zA-Z]+)*$"])
def test_pathological_patterns_are_enforced_in_linear_time(pattern: str) -> None:
    check = compile_schema({"properties": {"s": {"pattern": pattern}}}, name="tool")
    assert check.unenforced == ()
    check.problems({"s": "a" * 100_000 + "!"})  # `re` would not come back
    keys = compile_schema({"patternProperties": {pattern: {}}, "additionalProperties": False}, name="tool")
    keys.problems({"a" * 100_000 + "!": 1})
    # Not even where a subschema brings its own `$schema`, which makes jsonschema switch classes.
    nested = {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": pattern}
    compile_schema({"properties": {"s": nested}}, name="tool").problems({"s": "a" * 100_000 + "!"})


def test_patterns_that_the_engine_cannot_run_are_reported_and_not_enforced() -> None:
    schema = {
        "properties": {"a": {"pattern": "^(?=.*x).+$"}},
        "patternProperties": {r"(.)\1": False},
        "additionalProperties": False,
        "unevaluatedProperties": False,
    }
    check = compile_schema(schema, name="tool")
    assert len(check.unenforced) == 3 and "(?=" in " ".join(check.unenforced)
    assert check.problems({"a": "y", "bb": 1}) == []


def test_a_pattern_searches_and_dollar_means_the_end() -> None:
    check = compile_schema({"properties": {"s": {"pattern": "b$"}}}, name="tool")
    assert check.problems({"s": "ab"}) == []
    assert check.problems({"s": "ab\n"}) != []


def test_unique_items_does_not_compare_pairwise() -> None:
    check = compile_schema({"properties": {"l": {"uniqueItems": True}}}, name="tool")
    assert check.problems({"l": [{"n": n} for n in range(20_000)]}) == []
    assert check.problems({"l": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]}) == ["l: the items must all be different"]
    assert check.problems({"l": [1, True, "1", None]}) == []


def test_older_drafts_keep_their_meaning() -> None:
    draft7 = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "properties": {"pair": {"items": [{"type": "string"}, {"type": "integer"}]}},
        "definitions": {"a": {}},
    }
    check = compile_schema(draft7, name="tool")
    assert check.problems({"pair": ["a", 1]}) == []
    assert check.problems({"pair": [1, "a"]}) != []
    with pytest.raises(ToolDefinitionError, match=r"`\$schema` is not a string"):
        compile_schema({"$schema": 3}, name="tool")


NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, "", "a", "ab", "b1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
SCHEMAS = st.recursive(
    st.booleans()
    | st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["string", "integer", "number", "object", "array", "null", "boolean"]),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "minimum": st.integers(-3, 3),
            "maxLength": st.integers(0, 2),
            "pattern": st.sampled_from(["^a", "b$", "[0-9]", "^(a|ab)*$"]),
            "required": st.lists(NAMES, unique=True, max_size=2),
            "const": VALUES,
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), inner, max_size=2),
            "additionalProperties": inner,
            "propertyNames": inner,
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "contains": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "$defs": st.fixed_dictionaries({"d": inner}),
        },
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(SCHEMAS.filter(lambda schema: isinstance(schema, dict)), VALUES)
def test_the_verdict_is_jsonschemas(schema: dict[str, Any], value: Any) -> None:
    ours = compile_schema(schema, name="tool").problems(value) == []
    assert ours == Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "$ref": "#"},
        {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
        {"not": {"$ref": "#"}},
        {
            "properties": {"x": {"$ref": "#/$defs/a"}},
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        },
        {"$defs": {"a": {"if": {"allOf": [{"$ref": "#/$defs/a"}]}}}, "properties": {"x": {"$ref": "#/$defs/a"}}},
        {"dependentSchemas": {"x": {"oneOf": [{"$ref": "#"}]}}},
    ],
)
def test_a_reference_that_leads_back_without_a_step_into_the_value_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ToolDefinitionError, match="leads back to itself"):
        compile_schema(schema, name="tool")


def test_a_reference_that_leads_back_behind_a_step_is_fine_at_any_depth() -> None:
    tree = {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"next": {"$ref": "#/$defs/tree"}}}]}
    check = compile_schema(
        {"properties": {"tree": {"$ref": "#/$defs/tree"}}, "$defs": {"tree": tree}}, name="tool"
    )
    assert check.problems({"tree": {"next": {"next": None}}}) == []
    value: dict[str, Any] = {}
    for _ in range(5_000):
        value = {"next": value}

    def asked(depth: int) -> None:
        """Ask from any depth of the stack: a panic of what is written in Rust is no way out."""
        if depth:
            asked(depth - 1)
        else:
            with pytest.raises(CheckTooCostly, match="too deeply"):
                check.problems({"tree": value})

    for depth in range(0, 600, 7):
        asked(depth)


def test_an_equal_schema_is_compiled_once_unless_it_is_long() -> None:
    assert compile_schema(FILE, name="a") is compile_schema(deepcopy(FILE), name="b")
    long = {**FILE, "description": "x" * MAX_CACHED_CHARS}
    assert compile_schema(long, name="a") is not compile_schema(long, name="a")


def test_a_compiled_schema_does_not_follow_changes_of_the_original() -> None:
    schema: dict[str, Any] = {"properties": {"n": {"type": "integer"}}, "title": "changed below"}
    check = compile_schema(schema, name="t")
    schema["properties"]["n"]["type"] = "string"
    assert check.problems({"n": 1}) == [] and check.problems({"n": "1"}) != []
    assert compile_schema(schema, name="t").problems({"n": "1"}) == []


def test_a_refused_schema_names_each_of_its_owners_and_a_tuple_is_no_array() -> None:
    assert compile_schema({"required": ["a"]}, name="list").problems({}) == ["a: required but missing"]
    for owner in ("one", "two"):
        with pytest.raises(ToolDefinitionError, match=f"{owner}: the schema is invalid at 'required'"):
            compile_schema({"required": ("a",)}, name=owner)
