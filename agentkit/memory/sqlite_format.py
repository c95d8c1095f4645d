"""Format of a SQLite file of memories: its tables, its application id, and how a file is recognised.

`scope` is a hash of the user that the full-text index holds as one word, so that a search reads only the entries
of one user. The vectors of a file come from one embedder, whose name is stored: distances between vectors of two
embedders have no meaning.
"""

from __future__ import annotations

import sqlite3
from hashlib import sha256
from pathlib import Path

from agentkit.basics.sqlite_version import SqliteFormat
from agentkit.memory.store import MemoryStoreError

FORMAT = SqliteFormat("memory file", application_id=0x41474B4D, version=1, error=MemoryStoreError)
"""The application id is "AGKM" in ASCII."""

_TABLES = (
    """
CREATE TABLE memories(
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    user TEXT NOT NULL, -- empty: the shared scope
    text TEXT NOT NULL,
    text_key BLOB NOT NULL, -- hash of the text without case and spacing
    kind TEXT NOT NULL,
    created REAL NOT NULL, -- seconds since 1970
    run_id TEXT,
    tainted INTEGER NOT NULL CHECK (tainted IN (0, 1)),
    origin TEXT NOT NULL,
    recalled REAL, -- seconds since 1970; NULL: never
    UNIQUE (user, text_key)
)
""",
    "CREATE INDEX memories_by_time ON memories(user, created, tainted)",
    "CREATE INDEX memories_by_age ON memories(created)",
    """
CREATE VIRTUAL TABLE memory_words USING fts5(
    text, scope, tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'"
)
""",
    """
CREATE TABLE vectors(
    number INTEGER PRIMARY KEY REFERENCES memories(number) ON DELETE CASCADE,
    vector BLOB NOT NULL -- float32, little-endian, of length 1
)
""",
    """
CREATE TABLE embedder( -- of all vectors; at most one row
    only INTEGER PRIMARY KEY CHECK (only = 1),
    name TEXT NOT NULL,
    width INTEGER NOT NULL
)
""",
)


def text_key(text: str) -> bytes:
    """Return a key that is equal for texts that differ only in case and spacing."""
    return sha256(" ".join(text.casefold().split()).encode()).digest()[:16]


def scope_word(user: str) -> str:
    """Return the word by which the full-text index finds the memories of a user."""
    return "u" + sha256(user.encode()).hexdigest()[:31]


def create_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables of an empty file in one transaction.

    Raises:
        MemoryStoreError: see `SqliteFormat.version_of`.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        if FORMAT.version_of(connection, path) == 0:  # another process may have created them
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={FORMAT.application_id}")
            connection.execute(f"PRAGMA user_version={FORMAT.version}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
