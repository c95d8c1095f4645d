from __future__ import annotations

import json

import pytest
import tool_sets
from jsonschema import Draft202012Validator

from modelstack.toolcalls.grammar.dialects import bfcl_tool, from_bfcl, modernise


def test_bfcl_types_become_json_schema_types() -> None:
    schema = {
        "type": "dict",
        "properties": {
            "a": {"type": "float", "optional": True},
            "b": {"type": "tuple", "items": {"type": "integer"}},
            "c": {"type": "any", "description": "x"},
            "d": {"type": "ArrayList", "items": {"type": "String"}},
            "type": {"type": "string", "nullable": True},
        },
    }
    assert from_bfcl(schema) == {
        "type": "object",
        "properties": {
            "a": {"type": "number"},
            "b": {"type": "array", "items": {"type": "integer"}},
            "c": {"description": "x"},
            "d": {"type": "array", "items": {"type": "string"}},
            "type": {"type": ["string", "null"]},
        },
    }


def test_older_drafts_are_modernised() -> None:
    old = {
        "items": [{"minimum": 1, "exclusiveMinimum": True}],
        "additionalItems": False,
        "dependencies": {"a": ["b"], "c": {"required": ["d"]}},
    }
    assert modernise(old) == {
        "prefixItems": [{"exclusiveMinimum": 1}],
        "items": False,
        "dependentRequired": {"a": ["b"]},
        "dependentSchemas": {"c": {"required": ["d"]}},
    }


@pytest.mark.skipif(not tool_sets.BFCL.exists(), reason="shared/data/evals/bfcl is not here")
def test_every_function_of_bfcl_becomes_a_valid_schema() -> None:
    for path in sorted(tool_sets.BFCL.glob("BFCL_v4_*.json")):
        for line in path.read_text().splitlines():
            for function in json.loads(line).get("function", []):
                Draft202012Validator.check_schema(bfcl_tool(function).parameters)
