"""The rules of names, texts and searches as pure functions, fuzzed."""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_servers.failures import ToolFailure
from mcp_servers.memory.policy import (
    MAX_NAME_CHARS,
    MAX_QUERY_WORDS,
    MAX_TEXT_CHARS,
    clean_name,
    clean_text,
    match_expression,
    name_key,
    search_words,
    short,
    shown,
    size_of,
)
from mcp_servers.memory.schema import create_schema

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(TEXTS)
def test_a_cleaned_name_is_clean(name: str) -> None:
    try:
        cleaned = clean_name(name)
    except ToolFailure:
        return
    assert clean_name(cleaned) == cleaned and unicodedata.is_normalized("NFC", cleaned)
    assert 1 <= len(cleaned) <= MAX_NAME_CHARS
    assert not any(unicodedata.category(char) == "Cc" for char in cleaned) and "  " not in cleaned


@given(TEXTS)
def test_a_cleaned_text_is_clean(text: str) -> None:
    try:
        cleaned = clean_text(text)
    except ToolFailure:
        return
    assert clean_text(cleaned) == cleaned and unicodedata.is_normalized("NFC", cleaned)
    assert 1 <= len(cleaned) <= MAX_TEXT_CHARS and "\0" not in cleaned


@given(TEXTS)
def test_equal_names_have_one_key(name: str) -> None:
    keys = {name_key(unicodedata.normalize(form, name)) for form in ("NFC", "NFD")}
    assert len(keys) == 1
    assert unicodedata.is_normalized("NFC", keys.pop())


@given(st.text(st.characters(max_codepoint=0x24F, categories=["L", "N"]).filter(lambda c: c.upper().lower() == c)))
def test_case_makes_no_difference(name: str) -> None:
    assert name_key(name.upper()) == name_key(name)


@given(TEXTS)
def test_what_is_shown_is_one_line_without_hidden_characters(text: str) -> None:
    line = shown(text)
    assert len(line.splitlines()) <= 1
    assert all(char.isprintable() or char in "\u200c\u200d" for char in line)
    assert size_of(text) == len(line.encode()) + 8
    assert len(short(text)) <= 100


@pytest.fixture(scope="module")
def index() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    create_schema(connection)
    connection.execute("INSERT INTO search VALUES ('Anna', 'person', 'likes tea')")
    yield connection
    connection.close()


@given(query=TEXTS | st.text('"*^():{}-+ANDORTNE tea', max_size=30), every=st.booleans())
def test_no_query_is_a_syntax_error(index: sqlite3.Connection, query: str, every: bool) -> None:
    try:
        words = search_words(query)
    except ToolFailure:
        return
    assert 0 < len(words) <= MAX_QUERY_WORDS
    index.execute(
        "SELECT count(*) FROM search WHERE search MATCH ?", (match_expression(words, every=every),)
    ).fetchall()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("tea", 1),
        ("te", 1),
        ("anna tea", 1),
        ("TEA.", 1),
        ("tea anna x", 0),
        ("te anna", 0),
        ("name:anna", 0),
        ("NOT x", 0),
    ],
)
def test_all_words_are_looked_for_the_last_as_a_prefix(index: sqlite3.Connection, query: str, found: int) -> None:
    expression = match_expression(search_words(query), every=True)
    sql = "SELECT count(*) FROM search WHERE search MATCH ?"
    assert index.execute(sql, (expression,)).fetchone() == (found,)
