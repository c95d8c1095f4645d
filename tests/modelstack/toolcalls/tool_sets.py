"""Tool sets to drive the grammars with: some written here, many real ones where they lie."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import zstandard

from modelstack.toolcalls import ToolSpec
from modelstack.toolcalls.grammar.dialects import bfcl_tool

SHARED = Path(__file__).parents[4] / "shared" / "data"
BFCL = SHARED / "evals" / "bfcl"
TOOL_SCHEMAS = SHARED / "tooluse" / "tool_schemas.jsonl.zst"


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


STRING: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}
NUMBER: dict[str, Any] = {"type": "number"}
FLAG: dict[str, Any] = {"type": "boolean"}
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/node"}},
    "required": ["root"],
    "$defs": {
        "node": _object(
            ["label"],
            label=STRING,
            child={"$ref": "#/$defs/node"},
            more={"type": "array", "items": {"$ref": "#/$defs/node"}},
        )
    },
}

INLINE: list[list[tuple[str, dict[str, Any]]]] = [
    [
        ("read_file", _object(["path"], path=STRING)),
        ("write_file", _object(["path", "content"], path=STRING, content=STRING)),
    ],
    [
        ("get", _object(["x"], x=STRING)),
        ("get_weather", _object(["city"], city=STRING, days=INTEGER)),
        ("get_we", _object([])),
    ],
    [("add", _object(["a", "b"], a=NUMBER, b=NUMBER))],
    [("now", _object([]))],
    [("tree", TREE)],
    [
        (
            "search",
            _object(
                ["query"],
                query={"type": "string", "minLength": 3},
                limit=INTEGER,
                site={"enum": ["a.org", "b.org"]},
            ),
        )
    ],
    [("set_mode", _object(["mode"], mode={"enum": ["off", "on", "auto", 1, None, True, {"level": 2}]}))],
    [("tags", _object(["tags"], tags={"type": "array", "items": STRING, "minItems": 2, "maxItems": 4}))],
    [
        (
            "point",
            _object(["at"], at={"type": "array", "prefixItems": [NUMBER, NUMBER], "items": False, "minItems": 2}),
        )
    ],
    [
        (
            "book",
            _object(
                ["date", "email"],
                date={"type": "string", "format": "date"},
                email={"type": "string", "format": "email"},
            ),
        )
    ],
    [("plate", _object(["code"], code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}))],
    [("note", _object(["text"], text={"type": ["string", "null"], "maxLength": 12}))],
    [("either", _object(["v"], v={"anyOf": [STRING, INTEGER, _object(["k"], k=STRING), {"type": "null"}]}))],
    [
        (
            "shape",
            _object(
                ["s"],
                s={
                    "oneOf": [
                        _object(["kind", "r"], kind={"const": "circle"}, r=NUMBER),
                        _object(["kind", "w", "h"], kind={"const": "box"}, w=NUMBER, h=NUMBER),
                    ]
                },
            ),
        )
    ],
    [
        (
            "meta",
            _object(
                ["labels"], labels={"type": "object", "additionalProperties": STRING}, free={"type": "object"}
            ),
        )
    ],
    [("merged", {"allOf": [_object(["a"], a=STRING), _object(["b"], b=INTEGER)]})],
    [("wide", _object([f"field_{i}" for i in range(8)], **{f"field_{i}": FLAG for i in range(8)}))],
    [
        (
            "deep",
            _object(
                ["a"],
                a=_object(["b"], b=_object(["c"], c=_object(["d"], d={"type": "array", "items": INTEGER}))),
            ),
        )
    ],
    [
        (
            "quoted",
            _object(['a"b\\c', "é"], **{'a"b\\c': STRING, "é": {"enum": ['x"y\\', "日本", "tab\there"]}}),
        )
    ],
    [
        ("anything", _object(["v"], v={})),
        ("last.one/v2", _object(["n"], n={"type": "integer", "enum": [1, 10, 100]})),
    ],
]


def inline() -> list[tuple[ToolSpec, ...]]:
    """Return the 20 sets written here; both engines enforce all of them."""
    return [tuple(ToolSpec(name, f"The {name} tool.", schema) for name, schema in group) for group in INLINE]


@lru_cache
def bfcl(n_sets: int = 12) -> list[tuple[ToolSpec, ...]]:
    """Return tool sets of BFCL's `multiple`, [] where the files are not."""
    path = BFCL / "BFCL_v4_multiple.json"
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    entries = [json.loads(line) for line in lines[:: max(1, len(lines) // n_sets)][:n_sets]]
    return [tuple(bfcl_tool(function) for function in entry["function"]) for entry in entries]


@lru_cache
def servers(n_sets: int = 12) -> list[tuple[ToolSpec, ...]]:
    """Return the tools of real MCP servers and APIs, at most 8 of each, [] where the files are not."""
    if not TOOL_SCHEMAS.exists():
        return []
    with TOOL_SCHEMAS.open("rb") as packed:
        text = zstandard.ZstdDecompressor().stream_reader(packed).read().decode()
    groups: dict[str, dict[str, ToolSpec]] = {}
    for line in text.splitlines():
        tool = json.loads(line)
        group = groups.setdefault(f"{tool['source']}/{tool['origin']}", {})
        if len(group) < 8:
            group[tool["name"]] = ToolSpec(tool["name"], tool["description"], tool["parameters"])
    wide = [tuple(group.values()) for group in groups.values() if len(group) >= 3]
    return wide[:: max(1, len(wide) // n_sets)][:n_sets]
