"""Passages ranked by BM25 over any of a query's words: one of the rankings that hybrid search fuses.

A question is rarely contained in a passage with all its words, so any word counts. BM25 places the passages with
many rare words first.
"""

from __future__ import annotations

import sqlite3

from mcp_servers.search.finding import FROM_MATCHES, Place
from mcp_servers.search.queries import Query, matching_all, matching_any
from mcp_servers.search.stop_words import without_stop_words

DEPTH = 100
"""Passages of a ranking."""


def ranked_by_word(connection: sqlite3.Connection, query: Query, place: Place) -> list[tuple[int, float]]:
    """Return the best passages by their words, and the BM25 score of each, higher is better."""
    match = matching_any(without_stop_words(query))
    rows = connection.execute(
        f"SELECT words.rowid, -words.rank {FROM_MATCHES} ORDER BY words.rank LIMIT :count",
        {"match": match, "kind": place.kind, "path": place.path, "count": DEPTH},
    )
    return [(int(passage_id), float(score)) for passage_id, score in rows]


def has_all_words(connection: sqlite3.Connection, query: Query, place: Place) -> bool:
    """Return whether a passage has all words of the query."""
    asked = {"match": matching_all(query), "kind": place.kind, "path": place.path}
    return connection.execute(f"SELECT 1 {FROM_MATCHES} LIMIT 1", asked).fetchone() is not None
