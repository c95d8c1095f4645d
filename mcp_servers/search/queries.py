"""The query language: words, "quoted phrases", -excluded. No query is a syntax error.

A query reaches FTS5 as quoted strings joined by operators from this module, so FTS5's own syntax (`AND`, `NEAR`,
`*`, `^`, `column:`) is not available: https://sqlite.org/fts5.html#full_text_query_syntax, "FTS5 Strings".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from mcp_servers.failures import ToolFailure
from mcp_servers.search.identifiers import taken_apart
from mcp_servers.search.visible import visible

MAX_QUERY_CHARS = 1_000
# A model may paste a paragraph; FTS5's time grows with the words, and many words have no passage in common.
MAX_WORDS = 32

_TERM = re.compile(r'-?"[^"]*"|\S+')
_PRINTED_QUOTES = str.maketrans("\u201c\u201d\u201e", '"""')


@dataclass(frozen=True)
class Query:
    """Terms to find and to exclude; each is a word or a phrase."""

    wanted: tuple[str, ...]
    excluded: tuple[str, ...]
    n_left_out: int
    """Number of terms dropped beyond the first 32 wanted and 32 excluded ones."""
    text: str = field(default="", compare=False)
    """The query as written, without quotation marks and excluded terms: what an embedding model reads."""


def parse_query(text: str) -> Query:
    """Parse a query; a term without a letter or digit is dropped.

    Raises:
        ToolFailure: No term to find is left.
    """
    wanted: list[str] = []
    read: list[str] = []
    excluded: list[str] = []
    for term in _TERM.findall(visible(text).translate(_PRINTED_QUOTES)):
        is_excluded = term.startswith("-") and not term.startswith("--")  # --verbose is a word
        words = " ".join(term.removeprefix("-" if is_excluded else "").replace('"', " ").split())
        if any(character.isalnum() for character in words):
            (excluded if is_excluded else wanted).append(words)
        if not is_excluded:
            read.append(words)
    wanted, excluded = list(dict.fromkeys(wanted)), list(dict.fromkeys(excluded))
    if not wanted:
        raise ToolFailure(
            f"The query {text[:100]!r} has no word to find. Write the words that the text would have."
        )
    n_left_out = max(0, len(wanted) - MAX_WORDS) + max(0, len(excluded) - MAX_WORDS)
    return Query(tuple(wanted[:MAX_WORDS]), tuple(excluded[:MAX_WORDS]), n_left_out, " ".join(filter(None, read)))


def matching_all(query: Query) -> str:
    """Return the FTS5 expression for passages that contain every term."""
    return _without(query, " AND ".join(map(_any_form, query.wanted)))


def matching_any(query: Query) -> str:
    """Return the FTS5 expression for passages that contain at least one term."""
    return _without(query, " OR ".join(map(_any_form, query.wanted)))


def excluding(query: Query) -> str:
    """Return the FTS5 expression for passages that contain an excluded term; there must be one."""
    return " OR ".join(map(_any_form, query.excluded))


def plain_words(query: Query) -> list[str]:
    """Return the wanted words one by one, in lower case and split, to choose the lines to show."""
    return list(dict.fromkeys(word.casefold() for term in query.wanted for word in _words(taken_apart(term))))


def _without(query: Query, expression: str) -> str:
    if not query.excluded:
        return expression
    return f"({expression}) NOT ({excluding(query)})"


def _any_form(term: str) -> str:
    """Return a term as written, or with its names split; each form is a phrase to FTS5."""
    forms = dict.fromkeys((term, taken_apart(term)))
    return f"({' OR '.join(_string(form) for form in forms)})"


def _string(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _words(text: str) -> Iterable[str]:
    return (word for word in re.split(r"[\W_]+", text) if word)
