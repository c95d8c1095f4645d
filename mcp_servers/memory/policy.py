"""What a name and a text may be, when two names are the same, how a search is asked: pure rules, no I/O, no MCP.

Everything kept is Unicode NFC, so that a name typed on one system is found on another. Two names are the same if
they differ in case or in composed and decomposed letters only (Unicode 3.13, canonical caseless matching). The
caps here are also CHECK constraints of the schema, so they hold for whoever writes to the file.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from mcp_servers.failures import ToolFailure
from mcp_servers.hidden import escaped, visible

MAX_NAME_CHARS = 200
MAX_LABEL_CHARS = 100
"""A kind of entity or the name of a relation."""
MAX_TEXT_CHARS = 2_000
"""One observation: about 500 tokens, so that a page of an answer holds several."""
MAX_OBSERVATIONS = 500
"""Of one entity: its search document, at most 4 MB, is indexed anew with each of them."""
MAX_RELATIONS = 10_000
"""Of one entity, both directions: deleting it copies them to the history within one call's time."""
MAX_ITEMS = 100
"""Members of each list in one call."""
MAX_TEXTS = 500
"""Observations in one call, over all its entities: 4 MB at most, as one HTTP request."""
MAX_QUERY_CHARS = 1_000
MAX_QUERY_WORDS = 32
MAX_SHORT_CHARS = 100

# Orthographic in Persian, Indic scripts and emoji, where `visible` keeps them.
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True)
class Limits:
    """Caps of the store and of one call."""

    max_store_bytes: int = 64 * 1024 * 1024
    """The file, history included; a call that would exceed it changes nothing."""
    delete_reserve_bytes: int = 4 * 1024 * 1024
    """What a deletion may use beyond that: it writes history before it frees anything."""
    max_answer_bytes: int = 32 * 1024
    """Names and texts in one answer: about 8,000 tokens, a small model's context."""
    max_entity_bytes: int = 4 * 1024
    """Of that, what `read_graph` shows of one entity; `open_nodes` shows all."""
    max_matches: int = 20
    """Entities on one page of a search."""
    timeout_s: float = 5.0
    """Time for the work of one call, and again for waiting until another process has written."""
    heap_bytes: int = 128 * 1024 * 1024
    """SQLite's memory (PRAGMA hard_heap_limit); the child's address space is limited as well."""


def clean_name(text: str, what: str = "name", max_chars: int = MAX_NAME_CHARS) -> str:
    """Return a name, kind or relation in NFC, with single spaces.

    Raises:
        ToolFailure: It is empty, too long, or has a control character.
    """
    cleaned = " ".join(unicodedata.normalize("NFC", text).split())
    _check(cleaned, what, max_chars, "Use a short name, and put the rest into an observation.")
    return cleaned


def clean_label(text: str, what: str) -> str:
    """Return a kind or relation; as `clean_name`."""
    return clean_name(text, what, MAX_LABEL_CHARS)


def clean_text(text: str) -> str:
    r"""Return an observation in NFC without space around it; line ends become \n.

    Raises:
        ToolFailure: It is empty, too long, or has a control character other than tab and line feed.
    """
    cleaned = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    _check(cleaned, "observation", MAX_TEXT_CHARS, "Split it into several short observations.")
    return cleaned


def check_texts(count: int) -> None:
    """Refuse a call with too many observations.

    Raises:
        ToolFailure: There are more than `MAX_TEXTS`.
    """
    if count > MAX_TEXTS:
        raise ToolFailure(f"The call has {count} observations; at most {MAX_TEXTS}. Make several calls.")


def name_key(name: str) -> str:
    """Return what equal names have in common."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def shown(text: str) -> str:
    """Return `text` on one line: line feeds, bidi marks and other invisible characters as escapes."""
    is_plain = visible(text) == text
    if is_plain and text.isprintable():
        return text
    return "".join(
        char if (char.isprintable() or char in _JOINERS) and (is_plain or visible(char)) else escaped(char)
        for char in text
    )


def short(text: str) -> str:
    """Return as much of `text`, as shown, as it takes to recognise it."""
    one_line = shown(text)
    return one_line if len(one_line) <= MAX_SHORT_CHARS else f"{one_line[: MAX_SHORT_CHARS - 3]}..."


def search_words(query: str) -> list[str]:
    """Split a query into words; what has no letter or digit is dropped.

    Raises:
        ToolFailure: There is no word, or there are too many.
    """
    if len(query) > MAX_QUERY_CHARS:
        raise ToolFailure(f"The query has {len(query)} characters; at most {MAX_QUERY_CHARS}. Use a few words.")
    plain = "".join(" " if unicodedata.category(char) == "Cc" else char for char in query)
    words = [word for word in plain.split() if any(char.isalnum() for char in word)]
    if not words:
        raise ToolFailure(
            f"The query {short(query)!r} has no word. Use a few words, or read_graph for everything."
        )
    if len(words) > MAX_QUERY_WORDS:
        raise ToolFailure(f"The query has {len(words)} words; at most {MAX_QUERY_WORDS}. Use the rarest ones.")
    return words


def match_expression(words: list[str], *, every: bool) -> str:
    """Return an FTS5 expression for all words, or for any; the last one matches as a prefix, too.

    Each word is an FTS5 string: in quotes nothing is an operator, a column or a star
    (https://sqlite.org/fts5.html#fts5_strings), so no query is a syntax error.
    """
    quoted = ['"' + word.replace('"', '""') + '"' for word in words]
    return (" AND " if every else " OR ").join(quoted) + " *"


def size_of(*texts: str) -> int:
    """Return what texts, as shown, count against an answer: UTF-8 bytes, and a little for the line around them."""
    return sum(len(shown(text).encode("utf-8", "replace")) + 8 for text in texts)


def _check(cleaned: str, what: str, max_chars: int, advice: str) -> None:
    if not cleaned:
        raise ToolFailure(f"The {what} is empty. Write it out.")
    if len(cleaned) > max_chars:
        raise ToolFailure(
            f"The {what} {short(cleaned)!r} has {len(cleaned)} characters; at most {max_chars}. {advice}"
        )
    control = next((char for char in cleaned if unicodedata.category(char) == "Cc" and char not in "\n\t"), None)
    if control is not None:
        raise ToolFailure(f"The {what} has the control character U+{ord(control):04X}. Use plain text.")
