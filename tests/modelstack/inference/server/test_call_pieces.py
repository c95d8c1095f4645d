"""Calls while they are written, in every convention and for every cut of their text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelstack.inference.server.call_pieces import CallPieces
from modelstack.inference.server.turns import CallPiece
from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.conventions import CONVENTIONS, JSON_LIST

TOOLS = (
    ToolSpec("look", "", {"type": "object", "properties": {"text": {"type": "string"}, "n": {"type": "integer"}}}),
    ToolSpec("now", "", {"type": "object", "properties": {}}),
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12)
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("look"), st.fixed_dictionaries({"text": TEXTS, "n": st.integers(-99, 99)})),
        st.tuples(st.just("now"), st.just(dict[str, object]())),
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("name", CONVENTIONS)
@given(calls=CALLS, data=st.data())
def test_pieces_join_to_the_calls(
    name: str, calls: list[tuple[str, dict[str, object]]], data: st.DataObject
) -> None:
    convention = CONVENTIONS[name]
    text = convention.render_calls(calls, TOOLS)
    pieces: list[CallPiece] = []
    heard = CallPieces(convention, TOOLS, pieces.append)
    at = 0
    while at < len(text):
        n = data.draw(st.integers(1, len(text) - at))
        heard.hear(text[at : at + n])
        at += n
    found: list[tuple[str, str]] = []
    for piece in pieces:
        if piece.name is not None:
            assert piece.index == len(found)
            found.append((piece.name, ""))
        found[piece.index] = (found[piece.index][0], found[piece.index][1] + piece.arguments)
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


def test_long_arguments_are_told_before_they_are_complete() -> None:
    pieces: list[CallPiece] = []
    heard = CallPieces(JSON_LIST, TOOLS, pieces.append)
    heard.hear('[{"name":"look","arguments":{"text":"a long')
    assert [(piece.name, piece.arguments) for piece in pieces] == [("look", ""), (None, '{"text":"a long')]
