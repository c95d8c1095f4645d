"""Why lm-format-enforcer's own JSON-schema parser is not used: what it does, shown by driving it."""

from __future__ import annotations

from typing import Any

import pytest
from lmformatenforcer import CharacterLevelParserConfig, JsonSchemaParser

S = {"type": "string"}
TWO = {"type": "object", "properties": {"a": S, "b": {"type": "integer"}}, "required": ["a"]}


def parser_accepts(schema: dict[str, Any], text: str) -> bool:
    config = CharacterLevelParserConfig(alphabet="".join(map(chr, range(9, 127))))
    parser: Any = JsonSchemaParser(schema, config)
    for character in text:
        if character not in parser.get_allowed_characters():
            return False
        parser = parser.add_character(character)
    return parser.can_end()


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (TWO, '{"a":"x",}'),
        ({"type": "integer"}, "1e-5"),
        ({"type": "integer"}, "-0.5"),
        (S, '"raw\ttab"'),
    ],
)
def test_it_lets_through_what_is_no_json_or_no_integer(schema: dict[str, Any], text: str) -> None:
    assert parser_accepts(schema, text)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer", "minimum": 5}, "1"),
        ({"type": "integer", "multipleOf": 5}, "7"),
        ({"type": "string", "format": "date"}, '"x"'),
        ({"type": "array", "items": S, "uniqueItems": True}, '["a","a"]'),
        ({**S, "not": {"enum": ["a"]}}, '"a"'),
        ({**TWO, "if": {"required": ["a"]}, "then": {"required": ["b"]}}, '{"a":"x"}'),
        ({**TWO, "dependentRequired": {"a": ["b"]}}, '{"a":"x"}'),
        ({**TWO, "minProperties": 2}, '{"a":"x"}'),
        ({**TWO, "allOf": [{"type": "object", "properties": {}}]}, "{}"),
        ({"type": "object", "propertyNames": {"pattern": "^a"}}, '{"b":1}'),
        ({"type": "object", "patternProperties": {"^a": {"type": "integer"}}}, '{"a":"x"}'),
        ({"type": ["string", "object"], "properties": {"a": {"type": "integer"}}}, '{"z":1}'),
        ({"type": "object", "additionalProperties": False}, '{"z":1}'),
    ],
)
def test_it_ignores_keywords_in_silence(schema: dict[str, Any], text: str) -> None:
    assert parser_accepts(schema, text)


@pytest.mark.parametrize(
    "schema",
    [{"const": 1}, {"enum": ["a", 1]}, {"self": {}, **TWO}, {"type": "object", "properties": {"v": {}}}],
)
def test_it_fails_on_schemas_without_type_on_constants_and_on_a_key_called_self(
    schema: dict[str, Any],
) -> None:
    with pytest.raises(Exception):  # noqa: B017  # TypeError, AttributeError, and bare Exception, by schema
        parser_accepts(schema, '{"v":1}')
