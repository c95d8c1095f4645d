"""Schemas as Anthropic's constrained decoding accepts them, beside what its own package makes of them."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import pytest
from anthropic import transform_schema
from pydantic import BaseModel, Field

from agentkit.models.anthropic.closed_schema import MAX_DEPTH, StrictLimits, closed_schema


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str = Field(min_length=3, description="With the number.")
    city: str


class Person(BaseModel):
    """A person."""

    name: str
    age: int = Field(ge=0, le=150)
    email: str = Field(json_schema_extra={"format": "email"})
    homes: list[Address] = Field(min_length=1, max_length=3)
    colour: Colour
    kind: Literal["a", "b"]
    note: str | None = None
    choice: Address | int


class Scores(BaseModel):
    by_name: dict[str, float]


class Node(BaseModel):
    children: list[Node]


class Pair(BaseModel):
    pair: tuple[int, str]


def without(schema: Any, *names: str) -> Any:
    """Return a schema without some keywords."""
    if isinstance(schema, dict):
        return {key: without(value, *names) for key, value in schema.items() if key not in names}
    return [without(value, *names) for value in schema] if isinstance(schema, list) else schema


def test_it_agrees_with_the_package_of_the_provider() -> None:
    for model in (Person, Address):
        schema = model.model_json_schema()
        # Descriptions hold the unenforced keywords in different words.
        assert without(closed_schema(schema), "description", "minItems") == without(
            transform_schema(schema), "description", "minItems"
        )


def test_what_is_not_enforced_is_told_in_the_description() -> None:
    closed = closed_schema(Person.model_json_schema())
    assert closed is not None
    age, homes = closed["properties"]["age"], closed["properties"]["homes"]
    assert age == {"type": "integer", "title": "Age", "description": '{"maximum": 150, "minimum": 0}'}
    assert homes["minItems"] == 1 and homes["description"] == '{"maxItems": 3}'
    street = closed["$defs"]["Address"]["properties"]["street"]
    assert street["description"] == 'With the number.\n\n{"minLength": 3}'
    assert closed["properties"]["email"]["format"] == "email"


@pytest.mark.parametrize(
    "schema",
    [
        Scores.model_json_schema(),
        Node.model_json_schema(),
        Pair.model_json_schema(),
        {"type": "object"},
        {"type": "object", "properties": {"a": {}}},
        {"type": "object", "properties": {"a": True}},
        {"type": "object", "properties": {"a": {"type": "array"}}},
        {"type": "object", "properties": {"a": {"$ref": "https://example.com/a.json"}}},
        {"type": "object", "properties": {"a": {"enum": [{"b": 1}]}}},
        {"type": "object", "properties": [], "additionalProperties": False},
        {"type": "object", "properties": {"a": {"anyOf": 3}}},
        {"type": "string"},
        {"anyOf": [{"type": "object", "properties": {}}]},
    ],
)
def test_what_cannot_be_expressed_is_not(schema: dict[str, Any]) -> None:
    """Free keys, recursion, tuples, anything at all; the provider's package would change some of them."""
    assert closed_schema(schema) is None


def test_a_schema_that_is_nested_without_end_is_given_up() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(MAX_DEPTH * 40):
        schema = {"type": "object", "properties": {"a": schema}}
    assert closed_schema(schema) is None


def test_a_list_of_types_becomes_a_union() -> None:
    schema = {"type": "object", "properties": {"a": {"type": ["string", "null"], "pattern": "x", "minimum": 3}}}
    closed = closed_schema(schema)
    assert closed is not None
    assert closed["properties"]["a"] == {
        "anyOf": [{"type": "string", "description": '{"pattern": "x"}'}, {"type": "null"}]
    }


def test_the_limits_of_a_request() -> None:
    limits = StrictLimits()
    union = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]}
    closed = closed_schema(union)
    assert closed is not None
    assert [limits.take(closed) for _ in range(18)] == [True] * 16 + [False] * 2
    assert (limits.n_tools, limits.n_unions, limits.n_optional) == (16, 16, 0)


def test_the_given_schema_is_not_changed() -> None:
    schema = Person.model_json_schema()
    closed_schema(schema)
    assert schema == Person.model_json_schema()
