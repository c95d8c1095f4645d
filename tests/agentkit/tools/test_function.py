"""Schemas from signatures and docstrings, and strict validation against them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from inline_snapshot import snapshot
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from agentkit import ModelRetry, RunContext, UserError, tool
from agentkit.testing.schema_values import smallest_value
from agentkit.tools.function import function_tool


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: float
    title: str = "origin"


@dataclass
class Box:
    width: int


def draw(
    context: RunContext[None],
    points: list[Point],
    colour: Colour,
    size: Annotated[int, Field(ge=1, le=10, description="In points.")],
    json: Literal["a", "b"] = "a",
    _hidden: int | None = None,
    *,
    box: Box | None = None,
) -> None:
    """Draw a polygon.

    Longer words.

    Args:
        points: The corners.
        colour: Of the line.
        size: Not used: the annotation wins.
        json: A name that pydantic models reserve.
    """


def test_signature_and_docstring_become_the_schema() -> None:
    made = function_tool(draw)
    assert made.definition.description == "Draw a polygon.\n\nLonger words."
    assert made.definition.parameters_json_schema == snapshot(
        {
            "$defs": {
                "Box": {
                    "additionalProperties": False,
                    "properties": {"width": {"type": "integer"}},
                    "required": ["width"],
                    "type": "object",
                },
                "Colour": {"enum": ["red", "blue"], "type": "string"},
                "Point": {
                    "properties": {"x": {"type": "number"}, "title": {"default": "origin", "type": "string"}},
                    "required": ["x"],
                    "type": "object",
                },
            },
            "additionalProperties": False,
            "properties": {
                "points": {"description": "The corners.", "items": {"$ref": "#/$defs/Point"}, "type": "array"},
                "colour": {"$ref": "#/$defs/Colour", "description": "Of the line."},
                "size": {"description": "In points.", "maximum": 10, "minimum": 1, "type": "integer"},
                "json": {
                    "default": "a",
                    "description": "A name that pydantic models reserve.",
                    "enum": ["a", "b"],
                    "type": "string",
                },
                "_hidden": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
                "box": {"anyOf": [{"$ref": "#/$defs/Box"}, {"type": "null"}], "default": None},
            },
            "required": ["points", "colour", "size"],
            "type": "object",
        }
    )


def test_defaults_are_left_to_the_function() -> None:
    made = function_tool(draw)
    values = made.validate('{"points": [{"x": 1}], "colour": "red", "size": 3}')
    assert values == {"points": [Point(x=1)], "colour": Colour.RED, "size": 3}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ('{"points": [], "colour": "red", "size": "3"}', "size: Input should be a valid integer (got '3')"),
        ('{"points": [], "colour": "red", "size": true}', "size: Input should be a valid integer (got True)"),
        ('{"points": [], "colour": "green", "size": 3}', "colour: Input should be 'red' or 'blue'"),
        ('{"points": [], "colour": "red", "size": 11}', "size: Input should be less than or equal to 10"),
        ('{"points": [], "colour": "red"}', "size: required argument is missing"),
        (
            '{"points": [], "colour": "red", "size": 3, "colr": 1}',
            "colr: unknown argument; did you mean 'colour'?",
        ),
        ('{"points": [{"y": 1}], "colour": "red", "size": 3}', "points.0.x: required argument is missing"),
        ('{"points": ', "Invalid JSON"),
        ("[1]", "should be an object"),
        ("null", "should be an object"),
        ('{"size": NaN}', "points: required argument is missing"),
    ],
)
def test_invalid_arguments_say_where_and_why(arguments: str, complaint: str) -> None:
    with pytest.raises(ModelRetry) as caught:
        function_tool(draw).validate(arguments)
    assert complaint in str(caught.value)


def test_validator_and_schema_agree_on_the_smallest_value() -> None:
    import json

    made = function_tool(draw)
    value = smallest_value(made.definition.parameters_json_schema)
    Draft202012Validator(dict(made.definition.parameters_json_schema)).validate(value)
    made.validate(json.dumps(value))


def test_no_arguments_may_come_as_an_empty_text() -> None:
    def ping() -> None:
        """Ping."""

    made = function_tool(ping)
    assert made.validate("") == {}
    assert made.definition.parameters_json_schema == {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }


def test_options_of_the_decorator_reach_the_tool_and_leave_the_function_callable() -> None:
    @tool(name="plus", description="Adds.", timeout_s=3, sequential=True, retries=4)
    def add(a: int, b: int) -> int:
        return a + b

    made = function_tool(add)
    assert add(1, 2) == 3
    assert (made.name, made.definition.description) == ("plus", "Adds.")
    assert (made.timeout_s, made.sequential, made.max_retries) == (3, True, 4)


def test_methods_and_callable_objects_are_tools() -> None:
    class Counter:
        def __init__(self) -> None:
            self.n = 0

        def increase(self, by: int) -> int:
            """Increase."""
            self.n += by
            return self.n

        def __call__(self, by: int) -> int:
            """Call."""
            return self.increase(by)

    counter = Counter()
    assert list(function_tool(counter.increase).definition.parameters_json_schema["properties"]) == ["by"]
    assert function_tool(counter).name == "Counter"


def test_types_that_have_no_schema_are_refused() -> None:
    class Opaque:
        pass

    def use(thing: Any) -> None: ...

    use.__annotations__["thing"] = Opaque
    with pytest.raises(UserError, match="'use'"):
        function_tool(use)


# --- a function that is made a tool again ----------------------------------------------------------------------


def test_what_was_read_of_a_function_is_not_shared_between_its_tools() -> None:
    def add(a: int, b: list[int]) -> int:
        """Add."""
        return a

    one, other = function_tool(add), function_tool(add)
    schema: Any = one.definition.parameters_json_schema
    schema["properties"]["a"]["type"] = "string"
    schema["required"].clear()
    assert other.definition.parameters_json_schema == function_tool(add).definition.parameters_json_schema
    assert other.definition.parameters_json_schema["required"] == ["a", "b"]


def test_a_function_that_has_changed_is_read_again() -> None:
    def add(a: int = 1) -> int:
        """Add."""
        return a

    def form(function: Any) -> Any:
        made = function_tool(function).definition
        return made.name, made.description, made.parameters_json_schema["properties"]

    before = form(add)
    add.__doc__ = "Add up."
    assert form(add) == (before[0], "Add up.", before[2])
    add.__defaults__ = (True,)
    assert form(add)[2]["a"]["default"] is True
    add.__annotations__["a"] = str
    assert form(add)[2]["a"]["type"] == "string"
    assert function_tool(add, name="sum").name == "sum"
    with pytest.raises(ModelRetry):
        function_tool(add).validate('{"a": 1}')


def test_an_annotation_is_looked_up_anew() -> None:
    """In a notebook a class is defined again, and the function that names it is not."""
    scope: dict[str, Any] = {"BaseModel": BaseModel}
    exec("class Item(BaseModel):\n    x: int", scope)
    exec("def take(item: 'Item') -> None:\n    pass", scope)
    function_tool(scope["take"]).validate('{"item": {"x": 1}}')
    exec("class Item(BaseModel):\n    y: int", scope)
    function_tool(scope["take"]).validate('{"item": {"y": 1}}')


def test_a_function_is_not_kept_alive_by_having_been_a_tool() -> None:
    import gc
    import weakref

    def add(point: Point, size: Annotated[int, Field(ge=1)] = 2) -> int:
        """Add."""
        return size

    known = weakref.ref(add)
    function_tool(add)
    del add
    gc.collect()
    assert known() is None
