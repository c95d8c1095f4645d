from __future__ import annotations

from typing import Any

import pytest
import tool_sets

from modelstack.toolcalls import ToolSpec, render_tool, render_tools


def signature(
    properties: dict[str, Any], required: tuple[str, ...] = (), more: dict[str, Any] | None = None
) -> str:
    schema = {"type": "object", "properties": properties, "required": list(required), **(more or {})}
    return render_tool(ToolSpec("f", "Does it.", schema))


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"type": "string", "description": "City  and\ncountry"}, 'a?:string "City and country"'),
        ({"type": "integer", "default": 3}, "a?:int=3"),
        ({"type": "boolean", "default": False}, "a?:bool=false"),
        ({"enum": ["c", "f", 1, None]}, 'a?:"c"|"f"|1|null'),
        ({"const": "x"}, 'a?:"x"'),
        ({"type": "array", "items": {"type": "number"}}, "a?:[number]"),
        ({"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}]}, "a?:[number, string]"),
        ({"type": "object", "properties": {"k": {"type": "integer"}}, "required": ["k"]}, "a?:{k:int}"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "a?:{*:string}"),
        ({"type": ["string", "null"]}, "a?:string|null"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "a?:string|int"),
        ({"type": "integer", "minimum": 1, "maximum": 9}, "a?:int>=1<=9"),
        ({"type": "string", "format": "date"}, "a?:string<date>"),
        ({}, "a?:any"),
    ],
)
def test_each_kind_of_type_has_a_short_form(schema: dict[str, Any], written: str) -> None:
    assert signature({"a": schema}) == f"f({written}) - Does it."


def test_required_parameters_carry_no_question_mark() -> None:
    assert signature({"a": {"type": "string"}}, ("a",)) == "f(a:string) - Does it."


def test_a_recursive_type_is_written_once_and_then_named() -> None:
    tree = tool_sets.inline()[4]
    assert render_tools(tree) == "tree(root:{label:string, child?:#node, more?:[#node]}) - The tree tool."


def test_a_description_of_a_reference_is_kept() -> None:
    line = signature({"a": {"$ref": "#/$defs/d", "description": "When"}}, (), {"$defs": {"d": {"type": "string"}}})
    assert line == 'f(a?:string "When") - Does it.'


def test_long_descriptions_are_cut() -> None:
    assert len(render_tool(ToolSpec("f", "word " * 100, {}))) <= len("f() - ") + 120


def test_every_tool_takes_one_line_and_is_written_the_same_each_time() -> None:
    tools = [tool for group in (*tool_sets.inline(), *tool_sets.bfcl(), *tool_sets.servers()) for tool in group]
    text = render_tools(tools)
    assert len(text.split("\n")) == len(tools)
    assert text == render_tools(tools)
    assert all(line.startswith(tool.name + "(") for line, tool in zip(text.split("\n"), tools, strict=True))
