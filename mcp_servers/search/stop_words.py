"""English words that say nothing about a subject, left out of a question when it is searched by some of its words.

Nearly all passages contain them: FTS5 would rank the whole index for "how do I resume a run".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mcp_servers.search.queries import Query

# fmt: off
STOP_WORDS = frozenset([
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "been",
    "before", "but", "by", "can", "could", "did", "do", "does", "for", "from", "had", "has", "have", "how",
    "i", "if", "in", "into", "is", "it", "its", "me", "my", "no", "not", "of", "on", "or", "our", "should",
    "so", "some", "such", "than", "that", "the", "their", "them", "then", "there", "these", "they", "this",
    "those", "to", "up", "was", "we", "were", "what", "when", "where", "which", "while", "who", "why",
    "will", "with", "would", "you", "your",
])
# fmt: on
_MARKS = ".,;:!?()[]'\""


def without_stop_words(query: Query) -> Query:
    """Return the query without stop words; as it is if nothing else would be left."""
    kept = _others(query.wanted)
    return replace(query, wanted=kept) if kept else query


def _others(terms: Sequence[str]) -> tuple[str, ...]:
    return tuple(term for term in terms if term.strip(_MARKS).lower() not in STOP_WORDS)
