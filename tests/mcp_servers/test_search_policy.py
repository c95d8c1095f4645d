"""The search server's rules as pure functions, fuzzed, and its queries against FTS5 itself."""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_servers.failures import ToolFailure
from mcp_servers.search.finding import MATCH_BEGINS, MATCH_ENDS, excerpt, snippet
from mcp_servers.search.identifiers import parts_in, taken_apart
from mcp_servers.search.index import SCHEMA
from mcp_servers.search.passages import MAX_HEADING_CHARS, passages_of
from mcp_servers.search.policy import (
    EXCLUDED,
    HIDDEN,
    UNNAMEABLE,
    Form,
    Limits,
    Selection,
    kind_of_name,
    own_files,
    parse_kind,
)
from mcp_servers.search.queries import MAX_WORDS, matching_all, matching_any, parse_query
from mcp_servers.search.visible import visible

SYNTAX = [
    "AND",
    "OR",
    "NOT",
    "NEAR(",
    "NEAR",
    "(",
    ")",
    '"',
    "'",
    "*",
    "^",
    "+",
    "-",
    ":",
    "body:",
    "{",
    "}",
    ",",
    "\0",
]
QUERIES = st.lists(st.one_of(st.sampled_from(SYNTAX), st.text(max_size=8), st.just("word")), max_size=12).map(
    " ".join
)
LINES = st.lists(
    st.sampled_from(["", "# A", "## B", "text", "  indented", "```", "x" * 50, "class Name:"]), max_size=60
)


@pytest.fixture(scope="module")
def words() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in SCHEMA:
            connection.execute(statement)
        yield connection


def holds(connection: sqlite3.Connection, text: str, query: str) -> bool:
    """Return whether the query finds a passage with the text."""
    connection.execute("DELETE FROM words")
    connection.execute("INSERT INTO words VALUES ('', '', ?, ?)", (visible(text), parts_in(visible(text))))
    match = matching_all(parse_query(query))
    return connection.execute("SELECT count(*) FROM words WHERE words MATCH ?", (match,)).fetchone()[0] == 1


@settings(max_examples=500, deadline=None)
@given(QUERIES)
@example('" OR 1')
@example("a* NEAR(b c, 5) body:d ^e {path}:f")
@example('-"')
@example("\ud800 a")
def test_no_query_is_an_error_to_fts5(words: sqlite3.Connection, text: str) -> None:
    try:
        query = parse_query(text)
    except ToolFailure as failure:
        assert "no word to find" in str(failure)
        return
    for expression in (matching_all(query), matching_any(query)):
        assert words.execute("SELECT count(*) FROM words WHERE words MATCH ?", (expression,)).fetchone()


@given(st.text(st.characters(categories=["Ll", "Nd"], max_codepoint=0x24F), min_size=1, max_size=12))
def test_every_word_of_a_text_finds_it(words: sqlite3.Connection, word: str) -> None:
    assert holds(words, f"before {word} after", word)


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        ("def getUserName():", "getUserName", True),
        ("def getUserName():", "getusername", True),
        ("def getUserName():", "user name", True),
        ("def getUserName():", "UserName", True),
        ("def getUserName():", "get_user_name", True),
        ("def get_user_name():", "getUserName", True),
        ("def get_user_name():", "get_user_name", True),
        ("def get_user_name():", "user", True),
        ("get the user; a name", "get_user_name", False),
        ("class HTTPServerError", "http server error", True),
        ("class HTTPServerError", "HTTPServer", True),
        ("sha256Sum", "sha256 sum", True),
        ("M\u00fcller and caf\u00e9", "muller cafe", True),
        ("Muller", "M\u00dcLLER", True),
        ("e\u0301t\u00e9", "ete", True),
        ("\u5168\u6587\u691c\u7d22\u30a8\u30f3\u30b8\u30f3", "\u691c\u7d22", True),
        ("\u5168\u6587\u691c\u7d22", "\u7d22\u691c", False),
        ("\ub370\uc774\ud130\ubca0\uc774\uc2a4\ub97c", "\ub370\uc774\ud130\ubca0\uc774\uc2a4", True),
        ("the quick brown fox", '"quick brown"', True),
        ("the brown quick fox", '"quick brown"', False),
        ("the brown quick fox", "quick brown", True),
        ("the quick fox", "quick -fox", False),
        ("the quick fox", "quick -cat", True),
        ("the quick fox", 'quick -"quick fox"', False),
        ("the fox is quick", 'quick -"quick fox"', True),
        ("run with --verbose", "--verbose", True),
        ("a well-known fact", "well-known", True),
        ("a well and a known fact", "well-known", False),
        ("wo\u200brd by word", '"word by"', True),
        ("to be OR NOT to be", "be OR to NOT", True),
        ("nothing", "be OR nothing", False),
        ("quoted words", "\u201cquoted words\u201d", True),
    ],
)
def test_what_a_query_finds(words: sqlite3.Connection, text: str, query: str, expected: bool) -> None:
    assert holds(words, text, query) is expected


def test_words_beyond_the_cap_are_counted() -> None:
    query = parse_query(" ".join(f"w{n}" for n in range(MAX_WORDS + 5)))
    assert (len(query.wanted), query.n_left_out) == (MAX_WORDS, 5)


@pytest.mark.parametrize("text", ["", " ", "-", "--", '""', '-"a"', "-a -b", "*", "!?", "\u200b", "\U000e0061"])
def test_a_query_without_a_word_is_answered_with_what_to_write(text: str) -> None:
    with pytest.raises(ToolFailure, match="no word to find"):
        parse_query(text)


@given(st.text(max_size=60))
def test_visible_text_holds_nothing_hidden_and_stays_so(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    for char in shown:
        assert char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp")
        assert not 0xE0000 <= ord(char) <= 0xE0FFF and char not in "\u200b\u202e\u2066\ufeff"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("dos\r\nlines\r\n", "dos\nlines\n"),
        ("a\x1b[31mred\x00b\x85c", "a [31mred b c"),
        ("bidi \u202egnp.exe\u202c", "bidi gnp.exe"),
        ("".join(chr(0xE0000 + ord(char)) for char in "do it"), ""),
        ("ig\u200cno\u200dre", "ignore"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("\U0001f469\u200d\U0001f4bb \u2764\ufe0f", "\U0001f469\u200d\U0001f4bb \u2764\ufe0f"),
        ("\u2764\ufe0f\ufe01\ufe02\u200d\u200c\u200d\u2764", "\u2764\ufe0f\u2764"),
        ("\u4e2d\u200d", "\u4e2d"),
    ],
)
def test_what_is_shown_of_hidden_characters(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("word", "apart"),
    [
        ("getUserName", "get User Name"),
        ("HTTPServer", "HTTP Server"),
        ("snake_case", "snake_case"),
        ("utf8Decode", "utf8 Decode"),
        ("ALLCAPS", "ALLCAPS"),
        ("a.getB(cD)", "a.get B(c D)"),
        ("aB" * 40, "aB" * 40),
        ("\u4e2d\u6587abc", "\u4e2d \u6587 abc"),
    ],
)
def test_how_names_are_taken_apart(word: str, apart: str) -> None:
    assert taken_apart(word) == apart


@given(LINES, st.sampled_from(["text", "code", "markdown", "html"]), st.integers(1, 20), st.integers(10, 200))
def test_passages_hold_every_line_once_and_in_order(
    lines: list[str], form: Form, max_lines: int, max_chars: int
) -> None:
    passages = list(passages_of(lines, form, max_lines=max_lines, max_chars=max_chars))
    held = dict[int, str]()
    for passage in passages:
        if passage.first_line == passage.last_line:  # a long line is several passages
            held[passage.first_line] = held.get(passage.first_line, "") + passage.text
        else:
            assert passage.text.count("\n") == passage.last_line - passage.first_line
            held |= dict(enumerate(passage.text.split("\n"), passage.first_line))
        assert passage.last_line - passage.first_line < max_lines
        assert len(passage.text) <= max_chars
    assert {number: line for number, line in held.items() if line.strip()} == {
        number: line for number, line in enumerate(lines, 1) if line.strip()
    }
    assert [passage.first_line for passage in passages] == sorted(passage.first_line for passage in passages)


def found_headings(text: str, form: Form) -> list[tuple[int, str]]:
    return [
        (passage.first_line, passage.heading)
        for passage in passages_of(text.split("\n"), form, max_lines=40, max_chars=4_000)
    ]


def test_a_markdown_heading_begins_a_passage_and_names_it() -> None:
    text = "intro\n# One\n\n## Two ##\ntext\n```\n# no heading\n```\n####### no\n#no\n# C#\nlast"
    assert found_headings(text, "markdown") == [(1, ""), (2, "One > Two"), (11, "C#")]


@pytest.mark.parametrize("line", ["# " * 100_000 + "x", "#" * 100_000, "# " + "a > " * 100_000])
def test_a_hostile_heading_keeps_its_cap(line: str) -> None:
    assert {len(heading) <= MAX_HEADING_CHARS for _, heading in found_headings(line, "markdown")} == {True}


def test_code_is_cut_before_an_outer_line_and_headed_by_what_it_defines() -> None:
    body = "\n".join("    x = 1" if n % 10 else "" for n in range(30))
    text = f"class Big:\n{body}\n\nasync def small():\n    pass\n" + "    y = 2\n" * 30
    assert found_headings(text, "code") == [(1, "Big"), (33, "small")]


@pytest.mark.parametrize(
    "line",
    [
        "pub(crate) fn wanted<T>()",
        "export default class wanted extends Other {",
        "func (s *Server) wanted(",
        "type wanted struct {",
        "    public static final class wanted",
        "enum class wanted : int {",
        "impl wanted for Other {",
        "async def wanted(",
        "CREATE TABLE wanted (",
    ],
)
def test_definitions_of_several_languages_are_headings(line: str) -> None:
    assert found_headings(line, "code") == [(1, "wanted")]


def test_prose_in_code_is_no_definition() -> None:
    prose = "The class of numbers\n    class that is used\n# def is a word\nthe type of x\nstatic function here"
    assert found_headings(prose, "code") == [(1, "here")]


@given(st.text(max_size=300), st.integers(10, 50))
def test_an_excerpt_shows_the_match_and_keeps_its_cap(text: str, max_chars: int) -> None:
    clean = visible(text).replace("\n", " ")
    line = excerpt(f"{clean}{MATCH_BEGINS}hit{MATCH_ENDS}{clean}", ["hit"], max_chars)
    assert "hit" in line and MATCH_BEGINS not in line and MATCH_ENDS not in line
    assert len(line) <= max_chars + len("...  ...")


def test_a_snippet_prefers_lines_with_more_of_the_words_and_keeps_their_numbers() -> None:
    marked = "none\n\x02a\x03\n\x02a\x03 and \x02b\x03\nnone\n\x02b\x03 \x02a\x03\nlast"
    lines = snippet(marked, 10, ["a", "b"], Limits(snippet_lines=2))
    assert [(line.number, line.text) for line in lines] == [(12, "a and b"), (14, "b a")]


def test_a_snippet_of_a_match_in_a_name_shows_the_line_with_the_name() -> None:
    lines = snippet("first\nx = getUserName()\nlast", 1, ["user", "name"], Limits())
    assert [line.number for line in lines] == [2, 3]


@pytest.mark.parametrize(
    ("path", "is_folder", "reason"),
    [
        ("a.py", False, ""),
        (".env", False, HIDDEN),
        (".git", True, HIDDEN),
        ("node_modules", True, HIDDEN),
        ("node_modules", False, ""),
        ("build", True, EXCLUDED),
        ("lib/Build", True, EXCLUDED),
        ("docs/old", True, EXCLUDED),
        ("docs/older", True, ""),
        ("a.png", False, EXCLUDED),
        ("docs/a.txt", False, ""),
        ("docs/deep/a.txt", False, ""),
        ("a.txt", False, EXCLUDED),
        ("bad\udcff.py", False, UNNAMEABLE),
        ("line\nfeed.py", False, UNNAMEABLE),
        ("x" * 200 + ".py", False, UNNAMEABLE),
    ],
)
def test_which_entries_are_indexed(path: str, is_folder: bool, reason: str) -> None:
    selection = Selection(include=["*.py", "docs", "node_modules"], exclude=["build", "docs/old/", "*.png"])
    parts = tuple(path.split("/"))
    assert selection.reason_to_skip(parts, is_folder=is_folder, max_path_bytes=100) == reason


@pytest.mark.parametrize(
    ("index", "first"),
    [
        ("/a/b/i.db", ("i.db",)),
        ("/a/b/c/i.db", ("c", "i.db")),
        ("/a/i.db", None),
        ("/a/bb/i.db", None),
        ("/a/b/..x/i.db", ("..x", "i.db")),
    ],
)
def test_which_files_are_the_indexs_own(index: str, first: tuple[str, ...] | None) -> None:
    own = own_files("/a/b", index)
    assert len(own) == (4 if first else 0)
    assert first is None or {first, (*first[:-1], "i.db-wal")} <= own


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.PY", "py"), ("a.tar.gz", "gz"), ("Makefile", ""), ("a.", ""), ("x." + "y" * 40, ""), ("a.b c", "b c")],
)
def test_the_kind_of_a_file_is_its_extension(name: str, kind: str) -> None:
    assert kind_of_name(name) == kind


@pytest.mark.parametrize("text", ["md", ".md", "*.md", " MD "])
def test_a_kind_is_understood_however_it_is_written(text: str) -> None:
    assert parse_kind(text) == "md"
