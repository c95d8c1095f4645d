"""Vectors of passages in the index: their tables, their model, and what happens to them when a file changes.

An index in which only words are searched has empty tables. A vector belongs to a window of a passage. Its `code`
has one bit per number and stands in a table of its own, which is small enough to be held in memory. A vector's id
is never used again: a process that holds the code of a removed vector misses its row, and gets no other one. A
changed file keeps the vectors of the passages that did not change.

numpy is not needed here: servers without embeddings write the same index.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Sequence
from typing import Literal

from mcp_servers.failures import StartError
from mcp_servers.search.facts import fact, set_fact

OtherEmbedder = Literal["refuse", "rebuild"]
"""Treatment of an index that has vectors of another embedding model."""

SCHEMA = (
    "CREATE TABLE vectors(id INTEGER PRIMARY KEY AUTOINCREMENT, passage_id INTEGER NOT NULL, "
    "part INTEGER NOT NULL, line INTEGER NOT NULL, value BLOB NOT NULL)",
    "CREATE UNIQUE INDEX vectors_of_passage ON vectors(passage_id, part)",
    "CREATE TABLE codes(id INTEGER PRIMARY KEY, code BLOB NOT NULL)",
)
TABLES = ("vectors", "codes")
EMBEDDER, WIDTH, MADE, N_REMOVED = "embedder", "embedding_width", "vectors_made", "vectors_removed"
"""Facts: name of the model, numbers in a vector, identity of the tables' content, vectors removed since."""
PassageKey = tuple[str, str]
"""Heading and text of a passage: equal ones have equal vectors."""


def use_embedder(connection: sqlite3.Connection, name: str, width: int, other: OtherEmbedder) -> None:
    """Record the model of the vectors; in a transaction.

    Raises:
        StartError: The index has vectors of another model, and `other` is "refuse".
    """
    known, known_width = fact(connection, EMBEDDER), fact(connection, WIDTH)
    if (known, known_width) == (name, str(width)):
        return
    if known and other == "refuse":
        raise StartError(
            f"the index has vectors of the embedding model {known!r} ({known_width} numbers), not of {name!r} "
            f"({width}): they cannot be compared. Use that model, another index, or rebuild the embeddings."
        )
    for table in TABLES:
        connection.execute(f"DELETE FROM {table}")
    set_fact(connection, EMBEDDER, name)
    set_fact(connection, WIDTH, str(width))
    set_fact(connection, MADE, uuid.uuid4().hex)
    set_fact(connection, N_REMOVED, "0")


def embedded_passages(connection: sqlite3.Connection, path: str) -> dict[PassageKey, list[int]]:
    """Return the passages of a file that have vectors, by their content."""
    found = dict[PassageKey, list[int]]()
    if not fact(connection, EMBEDDER):
        return found
    rows = connection.execute(
        "SELECT heading, body, passages.id FROM files JOIN passages ON passages.file_id = files.id "
        "JOIN words ON words.rowid = passages.id "
        "WHERE files.path = ? AND EXISTS (SELECT 1 FROM vectors WHERE passage_id = passages.id)",
        (path,),
    )
    for heading, body, passage_id in rows:
        found.setdefault((heading, body), []).append(passage_id)
    return found


def move_vectors(connection: sqlite3.Connection, old_id: int, new_id: int) -> None:
    """Give the vectors of a passage to the one that replaces it; the ids of the vectors stay."""
    connection.execute("UPDATE vectors SET passage_id = ? WHERE passage_id = ?", (new_id, old_id))


def remove_vectors(connection: sqlite3.Connection, passage_ids: Sequence[int]) -> None:
    """Remove the vectors of some passages."""
    n_removed = 0
    for passage_id in passage_ids:
        of_passage = "SELECT id FROM vectors WHERE passage_id = ?"
        connection.execute(f"DELETE FROM codes WHERE id IN ({of_passage})", (passage_id,))
        n_removed += connection.execute("DELETE FROM vectors WHERE passage_id = ?", (passage_id,)).rowcount
    if n_removed:
        set_fact(connection, N_REMOVED, str(int(fact(connection, N_REMOVED) or 0) + n_removed))
