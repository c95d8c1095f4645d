"""Rules for names, texts and search queries: pure functions without I/O or MCP.

All stored text is in Unicode NFC, so a name typed on one system is found on another. Two names are equal if they
differ only in case or in composed and decomposed letters (Unicode 3.13, canonical caseless matching). The limits
here are also CHECK constraints of the schema, so they bind every program that writes to the file.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from mcp_servers.failures import ToolFailure
from mcp_servers.hidden import escaped, visible

MAX_NAME_CHARS = 200
"""Maximum characters of an entity's name."""
MAX_LABEL_CHARS = 100
"""Maximum characters of an entity's kind or a relation's name."""
MAX_TEXT_CHARS = 2_000
"""Maximum characters of one observation: about 500 tokens, so that a page of an answer holds several."""
MAX_OBSERVATIONS = 500
"""Maximum observations of one entity: its search document, at most 4 MB, is re-indexed with each of them."""
MAX_RELATIONS = 10_000
"""Maximum relations of one entity, in both directions; bounds a deletion, which records each of them."""
MAX_ITEMS = 100
"""Maximum members of each list in one call."""
MAX_TEXTS = 500
"""Maximum observations in one call, over all its entities: 4 MB at most, as in one HTTP request."""
MAX_QUERY_CHARS = 1_000
"""Maximum characters of a search."""
MAX_QUERY_WORDS = 32
"""Maximum words of a search."""
MAX_SHORT_CHARS = 100

# Required by the orthography of Persian, Indic scripts and emoji; `visible` keeps them there.
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True)
class Limits:
    """Limits of the store and of one call."""

    max_store_bytes: int = 64 * 1024 * 1024
    """Size of the file, history included; a call that would exceed it changes nothing."""
    delete_reserve_bytes: int = 4 * 1024 * 1024
    """Additional size for deletions, which write history before they free space."""
    max_answer_bytes: int = 32 * 1024
    """Bytes of names and texts in one answer: about 8,000 tokens, a small model's context."""
    max_entity_bytes: int = 4 * 1024
    """Part of an answer that `read_graph` uses for one entity; `open_nodes` shows all of it."""
    max_matches: int = 20
    """Entities on one page of a search."""
    timeout_s: float = 5.0
    """Seconds for the work of one call, and again for waiting until another process has written."""
    heap_bytes: int = 128 * 1024 * 1024
    """SQLite's memory (PRAGMA hard_heap_limit); the child's address space is limited separately."""


def clean_name(text: str, what: str = "name", max_chars: int = MAX_NAME_CHARS) -> str:
    """Return a name, kind or relation in NFC, with single spaces.

    Raises:
        ToolFailure: It is empty, too long, or contains a control character.
    """
    cleaned = " ".join(unicodedata.normalize("NFC", text).split())
    _check(cleaned, what, max_chars, "Use a short name, and put the rest into an observation.")
    return cleaned


def clean_label(text: str, what: str) -> str:
    """Return a kind or relation, cleaned like a name."""
    return clean_name(text, what, MAX_LABEL_CHARS)


def clean_text(text: str) -> str:
    r"""Return an observation in NFC without surrounding space; line ends become \n.

    Raises:
        ToolFailure: It is empty, too long, or contains a control character other than tab and line feed.
    """
    cleaned = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    _check(cleaned, "observation", MAX_TEXT_CHARS, "Split it into several short observations.")
    return cleaned


def check_texts(count: int) -> None:
    """Refuse a call with too many observations.

    Raises:
        ToolFailure: `count` exceeds `MAX_TEXTS`.
    """
    if count > MAX_TEXTS:
        raise ToolFailure(f"The call has {count} observations; at most {MAX_TEXTS}. Make several calls.")


def name_key(name: str) -> str:
    """Return the comparison key of a name: equal for equal names."""
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
    """Return a recognisable beginning of `text`, as shown."""
    one_line = shown(text)
    return one_line if len(one_line) <= MAX_SHORT_CHARS else f"{one_line[: MAX_SHORT_CHARS - 3]}..."


def search_words(query: str) -> list[str]:
    """Split a query into words; parts without a letter or digit are dropped.

    Raises:
        ToolFailure: The query is too long, or has no words or too many.
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
    """Return an FTS5 expression for all words, or for any; the last word also matches as a prefix.

    Each word is an FTS5 string: quotes disable operators, columns and stars
    (https://sqlite.org/fts5.html#fts5_strings), so no query is a syntax error.
    """
    quoted = ['"' + word.replace('"', '""') + '"' for word in words]
    return (" AND " if every else " OR ").join(quoted) + " *"


def size_of(*texts: str) -> int:
    """Return the size of texts in an answer: UTF-8 bytes as shown, plus 8 for each line."""
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
