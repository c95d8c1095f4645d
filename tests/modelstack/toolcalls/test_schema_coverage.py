"""What each engine enforces is found by driving it, keyword by keyword."""

from __future__ import annotations

import json
from typing import Any

import pytest
from driving import ENGINES, accepts, compiler
from jsonschema import Draft202012Validator

from modelstack.toolcalls import (
    ResponseFormat,
    ToolSpec,
    UnsupportedSchemaError,
    parse_response,
    render_calls,
)
from modelstack.toolcalls.grammar.coverage import EngineName, KeywordUse

S = {"type": "string"}
OPEN = {"type": "object", "additionalProperties": True}
TWO = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}
BOTH: list[tuple[str, Any, list[Any], list[Any]]] = [
    ("type", {"type": "integer"}, [1, -3], ["1", 1.5, None, True]),
    ("type", {"type": ["string", "null"]}, ["x", None], [1, {}]),
    ("enum", {"enum": ["a", 1, None, {"k": [1]}]}, ["a", 1, None, {"k": [1]}], ["b", 2, {"k": [2]}]),
    ("const", {"const": "é"}, ["é"], ["e"]),
    ("properties", TWO, [{"a": "x", "b": 1}, {}], [{"a": 1}, {"c": 1}]),
    ("required", {**TWO, "required": ["b"]}, [{"b": 1}, {"a": "", "b": 1}], [{"a": "x"}, {}]),
    (
        "additionalProperties",
        {**TWO, "additionalProperties": {"type": "null"}},
        [{"a": "x", "z": None}],
        [{"z": 1}],
    ),
    ("items", {"type": "array", "items": S}, [[], ["a", "b"]], [[1], ["a", 1]]),
    (
        "prefixItems",
        {"type": "array", "prefixItems": [S, {"type": "integer"}], "items": False},
        [["a", 1], []],
        [[1], ["a", 1, 2]],
    ),
    ("minItems", {"type": "array", "items": S, "minItems": 2}, [["a", "b"]], [["a"], []]),
    ("maxItems", {"type": "array", "items": S, "maxItems": 1}, [["a"], []], [["a", "b"]]),
    (
        "minLength",
        {"type": "string", "minLength": 2},
        ["ab", "日本", 'a"', "a\n"],
        ["a", "", '"', "\n", "日"],
    ),
    ("maxLength", {"type": "string", "maxLength": 2}, ["ab", "日本", '\\"', ""], ["abc", "日本語", '""a']),
    ("pattern", {"type": "string", "pattern": "^[a-c]+$"}, ["abc"], ["abd", ""]),
    ("pattern", {"type": "string", "pattern": "b"}, ["abc", "b"], ["ac"]),
    ("pattern", {"type": "string", "pattern": "^a", "minLength": 3}, ["abc"], ["ab", "bbb"]),
    ("format", {"type": "string", "format": "date"}, ["2024-02-29"], ["2023-02-29", "x"]),
    ("anyOf", {"anyOf": [S, TWO]}, ["x", {"a": "x"}], [1, {"c": 1}]),
    ("oneOf", {"oneOf": [S, {"type": "integer"}]}, ["x", 1], [None]),
    ("allOf", {"allOf": [TWO, {"required": ["a"]}]}, [{"a": "x"}], [{"b": 1}]),
    (
        "$ref",
        {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}},
        [[], [[], [[]]]],
        [1, [1]],
    ),
    ("unevaluatedProperties", {**TWO, "unevaluatedProperties": False}, [{"a": "x"}], [{"c": 1}]),
]
LLGUIDANCE_ONLY: list[tuple[str, Any, list[Any], list[Any]]] = [
    ("minimum", {"type": "integer", "minimum": 7}, [7, 100], [6, -7]),
    ("maximum", {"type": "integer", "maximum": 7}, [7, -8], [8]),
    ("exclusiveMinimum", {"type": "integer", "exclusiveMinimum": 7}, [8], [7]),
    ("exclusiveMaximum", {"type": "integer", "exclusiveMaximum": 7}, [6], [7]),
    ("multipleOf", {"type": "integer", "multipleOf": 5}, [0, 15], [7]),
    ("minProperties", {**TWO, "minProperties": 1}, [{"a": "x"}], [{}]),
    ("maxProperties", {**TWO, "maxProperties": 1}, [{"a": "x"}, {}], [{"a": "x", "b": 1}]),
    (
        "patternProperties",
        {"type": "object", "patternProperties": {"^x": S}},
        [{"x1": "a"}, {}],
        [{"x1": 1}, {"y": "a"}],
    ),
]
NEITHER: list[tuple[str, Any, list[Any], list[Any]]] = [
    ("uniqueItems", {"type": "array", "items": S, "uniqueItems": True}, [["a", "b"]], [["a", "a"]]),
    ("not", {"type": "string", "not": {"enum": ["a"]}}, ["b"], ["a"]),
    (
        "if",
        {**TWO, "if": {"required": ["a"]}, "then": {"required": ["b"]}},
        [{"b": 1}, {"a": "x", "b": 1}],
        [{"a": "x"}],
    ),
    ("dependentRequired", {**TWO, "dependentRequired": {"a": ["b"]}}, [{"b": 1}], [{"a": "x"}]),
    ("dependentSchemas", {**TWO, "dependentSchemas": {"a": {"required": ["b"]}}}, [{"b": 1}], [{"a": "x"}]),
    ("propertyNames", {**OPEN, "propertyNames": {"pattern": "^a"}}, [{"ab": 1}], [{"b": 1}]),
    ("contains", {"type": "array", "contains": {"const": 1}}, [[2, 1]], [[2], []]),
    (
        "unevaluatedItems",
        {"type": "array", "prefixItems": [S], "unevaluatedItems": False},
        [["a"]],
        [["a", 1]],
    ),
    ("oneOf", {"oneOf": [{"type": "integer", "enum": [1, 2]}, {"enum": [2, 3]}]}, [1, 3], [2]),
    (
        "oneOf",
        {"oneOf": [{**TWO, "required": ["a"]}, {**TWO, "required": ["b"]}]},
        [{"a": "x"}],
        [{"a": "x", "b": 1}],
    ),
]


def format_of(value: Any) -> ResponseFormat:
    definitions = {"$defs": value["$defs"]} if "$defs" in value else {}
    sub = {key: inner for key, inner in value.items() if key != "$defs"}
    schema = {"type": "object", "properties": {"v": sub}, "required": ["v"], **definitions}
    return ResponseFormat((ToolSpec("t", "", schema),), answer=None)


def written(format_: ResponseFormat, value: Any) -> str:
    return render_calls([("t", {"v": value})], format_.tools)


def enforced_cases() -> list[Any]:
    cases = [(engine, *case) for engine in ENGINES for case in BOTH]
    return cases + [("llguidance", *case) for case in LLGUIDANCE_ONLY]


def refused_cases() -> list[Any]:
    cases = [(engine, *case) for engine in ENGINES for case in NEITHER]
    return cases + [("lm-format-enforcer", *case) for case in LLGUIDANCE_ONLY]


@pytest.mark.parametrize(("engine", "keyword", "schema", "good", "bad"), enforced_cases())
def test_an_enforced_keyword_lets_through_exactly_what_validates(
    engine: EngineName, keyword: str, schema: Any, good: list[Any], bad: list[Any]
) -> None:
    format_ = format_of(schema)
    compiled = compiler(engine).compile(format_)
    assert [value for value in good if not accepts(compiled, written(format_, value))] == []
    assert [value for value in bad if accepts(compiled, written(format_, value))] == []
    assert keyword == "$ref" or keyword in {use.keyword for use in compiled.coverage.enforced}
    assert compiled.coverage.checked == ()
    for value in good:
        assert compiled.violations(parse_response(written(format_, value), format_)) == []
    for value in bad:
        assert compiled.violations(parse_response(written(format_, value), format_)) != []


@pytest.mark.parametrize(("engine", "keyword", "schema", "good", "bad"), refused_cases())
def test_a_keyword_that_is_not_enforced_is_refused_with_its_pointer(
    engine: EngineName, keyword: str, schema: Any, good: list[Any], bad: list[Any]
) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        compiler(engine).compile(format_of(schema))
    error = caught.value
    assert (error.keyword, error.pointer) == (keyword, f"/properties/v/{keyword}")
    assert (error.engine, error.tool) == (engine, "t")
    assert error.hint
    assert keyword in str(error)
    assert error.pointer in str(error)


@pytest.mark.parametrize(("engine", "keyword", "schema", "good", "bad"), refused_cases())
def test_in_check_mode_the_rest_is_enforced_and_violations_find_what_was_dropped(
    engine: EngineName, keyword: str, schema: Any, good: list[Any], bad: list[Any]
) -> None:
    format_ = format_of(schema)
    compiled = compiler(engine, "check").compile(format_)
    assert KeywordUse("t", f"/properties/v/{keyword}", keyword) in compiled.coverage.checked
    for value in good:
        assert accepts(compiled, written(format_, value))
        assert compiled.violations(parse_response(written(format_, value), format_)) == []
    for value in bad:
        assert compiled.violations(parse_response(written(format_, value), format_)) != []
    assert not accepts(compiled, '[{"name":"t","arguments":{}}]')


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (
            {**TWO, "if": {"properties": {"b": {"not": {"const": 1}}}}, "then": {"required": ["a"]}},
            {"b": 1},
            {"b": 2},
        ),
        (
            {"oneOf": [{"type": "array", "items": S, "uniqueItems": True}, {"type": "array", "items": S}]},
            ["a", "a"],
            ["a", "b"],
        ),
        (
            {"type": "array", "items": S, "contains": {"not": {"const": "a"}}},
            ["b"],
            ["a"],
        ),
    ],
    ids=["if", "oneOf", "contains"],
)
def test_a_keyword_inside_one_that_is_dropped_is_dropped_with_it(
    engine: EngineName, schema: Any, right: Any, wrong: Any
) -> None:
    format_ = format_of(schema)
    compiled = compiler(engine, "check").compile(format_)
    dropped = {use.pointer for use in compiled.coverage.checked}
    assert any(inner.startswith(f"{outer}/") for inner in dropped for outer in dropped)
    for value in (right, wrong):
        assert accepts(compiled, written(format_, value))
    assert compiled.violations(parse_response(written(format_, right), format_)) == []
    assert compiled.violations(parse_response(written(format_, wrong), format_)) != []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_definition_that_refers_to_another_is_named_where_its_keywords_stand(engine: EngineName) -> None:
    strings = {"type": "array", "items": S, "uniqueItems": True}
    schema = {
        "properties": {"v": {"$ref": "#/$defs/one%20more"}},
        "$defs": {"one more": {"$ref": "#/$defs/list", "contains": {"const": "x"}}, "list": strings},
    }
    format_ = ResponseFormat((ToolSpec("t", "", schema),))
    compiled = compiler(engine, "check").compile(format_)
    dropped = {use.pointer for use in compiled.coverage.checked}
    assert dropped == {"/$defs/list/uniqueItems", "/$defs/one more/contains"}
    for value, is_right in ((["x"], True), (["x", "x"], False), (["y"], False)):
        parsed = parse_response(written(format_, value), format_)
        assert (compiled.violations(parsed) == []) == is_right


@pytest.mark.parametrize("engine", ENGINES)
def test_every_unsupported_keyword_of_a_format_is_named_at_once(engine: EngineName) -> None:
    schema = {
        "properties": {"a": {"type": "array", "uniqueItems": True}, "b": {"$ref": "#/$defs/n"}},
        "$defs": {"n": {"type": "string", "not": {"const": "x"}}},
    }
    with pytest.raises(UnsupportedSchemaError) as caught:
        compiler(engine).compile(ResponseFormat((ToolSpec("t", "", schema),)))
    assert {use.pointer for use in caught.value.refused} == {"/properties/a/uniqueItems", "/$defs/n/not"}


@pytest.mark.parametrize("engine", ENGINES)
def test_definitions_that_nothing_refers_to_are_not_held_against_a_schema(engine: EngineName) -> None:
    schema = {"properties": {"a": S}, "$defs": {"n": {"not": {"const": "x"}}}}
    assert compiler(engine).compile(ResponseFormat((ToolSpec("t", "", schema),))).coverage.checked == ()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("pattern", ["^(?!x)", "(a)\\1"])
def test_patterns_that_need_backtracking_are_refused(engine: EngineName, pattern: str) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        compiler(engine).compile(format_of({"type": "string", "pattern": pattern}))
    assert caught.value.pointer == "/properties/v/pattern"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pattern_that_would_stop_re_is_enforced_and_checked_in_linear_time(engine: EngineName) -> None:
    format_ = format_of({"type": "string", "pattern": "^(a+)+$", "not": {"const": "aa"}})
    compiled = compiler(engine, "check").compile(format_)
    assert accepts(compiled, written(format_, "a" * 60))
    assert not accepts(compiled, written(format_, "a" * 60 + "b"))
    hostile = parse_response(written(format_, "a" * 5_000 + "b"), format_)
    assert compiled.violations(hostile) != []


@pytest.mark.parametrize("engine", ENGINES)
def test_unknown_formats_are_listed_as_annotations(engine: EngineName) -> None:
    compiled = compiler(engine).compile(format_of({"type": "string", "format": "password"}))
    assert compiled.coverage.annotations == (KeywordUse("t", "/properties/v/format", "format"),)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("schema", [{"type": "dict"}, {"properties": []}, {"minLength": "3"}])
def test_schemas_of_other_dialects_are_refused_with_a_hint(engine: EngineName, schema: Any) -> None:
    with pytest.raises(UnsupportedSchemaError, match="from_bfcl"):
        compiler(engine).compile(format_of(schema))


@pytest.mark.parametrize("engine", ENGINES)
def test_remote_references_are_refused_and_never_fetched(engine: EngineName) -> None:
    with pytest.raises(UnsupportedSchemaError, match="never fetched"):
        compiler(engine, "check").compile(format_of({"$ref": "https://example.org/schema.json"}))


@pytest.mark.parametrize("engine", ENGINES)
def test_contradictions_are_refused_not_compiled(engine: EngineName) -> None:
    schema = {"type": "string", "minLength": 5, "maxLength": 3}
    with pytest.raises(UnsupportedSchemaError):
        compiler(engine).compile(format_of(schema))


@pytest.mark.parametrize("engine", ENGINES)
def test_violations_name_the_call_and_the_place(engine: EngineName) -> None:
    format_ = format_of({"type": "array", "items": S, "uniqueItems": True})
    compiled = compiler(engine, "check").compile(format_)
    (line,) = compiled.violations(parse_response(written(format_, ["a", "a"]), format_))
    assert line.startswith("call 1 (t)/v: ")


def test_violations_find_what_only_closing_forbids() -> None:
    format_ = ResponseFormat((ToolSpec("t", "", {"type": "object", "properties": {"a": S}}),))
    compiled = compiler("llguidance").compile(format_)
    invented = parse_response('[{"name":"t","arguments":{"a":"x","invented":1}}]', format_)
    assert Draft202012Validator(format_.tools[0].parameters).is_valid(json.loads(invented.calls[0][1]))
    assert compiled.violations(invented) == ["call 1 (t)/invented: property 'invented' is not allowed"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_schema_that_leads_back_to_itself_at_once_is_refused(engine: EngineName) -> None:
    for schema in ({"anyOf": [{"$ref": "#"}]}, {"type": "object", "$ref": "#"}):
        with pytest.raises(UnsupportedSchemaError):
            compiler(engine).compile(ResponseFormat((ToolSpec("t", "", schema),)))
