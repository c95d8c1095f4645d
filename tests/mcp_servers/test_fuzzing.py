"""A short run of `tests.mcp_servers.fuzzing`: it goes on for a minute a server where somebody asks for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.mcp_servers.browser_site import CHROMIUM, needs_chromium
from tests.mcp_servers.fuzzing import fitting, fuzz, world

BROWSER = pytest.param("browser", marks=[needs_chromium, pytest.mark.xdist_group("browser")])
SERVERS = ("fetch", "filesystem", "git", "memory", "python", "search", "sqlite", "time")


@pytest.mark.parametrize("name", [*SERVERS, BROWSER])
def test_every_call_is_answered_and_none_kills_the_server(name: str) -> None:
    with world() as servers:
        assert set(servers) == {*SERVERS, *(["browser"] if CHROMIUM else [])}
        tally = fuzz(name, servers[name], seconds=150, start=7, max_calls=30)
    assert tally.problems == []
    assert tally.answers["ok"] + tally.answers["error"] >= 20


SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "minLength": 1, "maxLength": 9},
        "number": {"type": "integer", "minimum": 2, "maximum": 5},
        "list": {"type": "array", "items": {"$ref": "#/$defs/Item"}, "minItems": 1},
        "choice": {"anyOf": [{"type": "null"}, {"enum": ["a", "b"]}]},
    },
    "required": ["text", "list"],
    "additionalProperties": False,
    "$defs": {"Item": {"type": "object", "properties": {"flag": {"type": "boolean"}}, "required": ["flag"]}},
}


@given(st.data())
def test_what_is_called_fitting_fits(data: st.DataObject) -> None:
    Draft202012Validator(SCHEMA).validate(data.draw(fitting(SCHEMA, SCHEMA, {"text": ("words",)})))
