"""Function documents as the model sees them, identical to the original evaluation.

The original appends a hint on the language to every description. For Java and JavaScript it declares every
parameter as a string that holds a literal of that language, and states the real type in the description. The
checker converts the literals to values (`java`, `javascript`). Source: `bfcl_eval/utils.py` of the bfcl-eval
wheel.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from evals.tool_use.bfcl.data import Language, Question, language
from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.grammar.dialects import bfcl_tool

_HINTS: Mapping[Language, str] = {
    "python": " Note that the provided function is in Python 3 syntax.",
    "java": " Note that the provided function is in Java 8 SDK syntax.",
    "javascript": " Note that the provided function is in JavaScript syntax.",
}
_NAMES: Mapping[Language, str] = {"java": "Java", "javascript": "JavaScript"}
_LISTS: Mapping[Language, tuple[str, ...]] = {"java": ("ArrayList", "Array"), "javascript": ("array",)}


def told_tools(question: Question, *, underscores: bool = False) -> tuple[ToolSpec, ...]:
    """Return the tools of a question as a model sees them, in JSON Schema.

    Args:
        question: The question.
        underscores: Write `_` for `.` in names, for servers that refuse dots; pass the same value to the checker.
    """
    tools = [bfcl_tool(told_function(function, language(question.category))) for function in question.functions]
    if not underscores:
        return tuple(tools)
    return tuple(ToolSpec(tool.name.replace(".", "_"), tool.description, tool.parameters) for tool in tools)


def told_function(function: Mapping[str, Any], spoken: Language) -> dict[str, Any]:
    """Return a function document with the hints of its language, in BFCL's dialect."""
    told = copy.deepcopy(dict(function))
    told["description"] = f"{told.get('description', '')}{_HINTS[spoken]}"
    if spoken != "python":
        for schema in told["parameters"].get("properties", {}).values():
            _as_literal(schema, spoken)
    return told


def _as_literal(schema: dict[str, Any], spoken: Language) -> None:
    """Redeclare one parameter as a string that holds a literal."""
    kind, name = schema["type"], _NAMES[spoken]
    notes: Sequence[str] = [f" This is {name} {kind} type parameter in string representation."]
    if kind == "any":
        notes = [f" This parameter can be of any type of {name} object in string representation."]
    if kind in _LISTS[spoken]:
        inner = schema.pop("items")["type"]
        notes = [*notes, f" The list elements are of type {inner}; they are not in string representation."]
    if spoken == "javascript" and kind == "dict" and "properties" in schema:
        entries = json.dumps(schema.pop("properties"))
        schema_note = (
            f" The dictionary entries have the following schema; they are not in string representation. {entries}"
        )
        notes = [*notes, schema_note]
    schema["description"] = schema.get("description", "") + "".join(notes)
    schema["type"] = "string"
