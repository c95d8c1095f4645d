"""Tables of a store, and the check that a file has exactly these.

`history` is the audit trail: a row with the full content of every addition or deletion, in plain columns that a
person can read with any SQLite tool. Triggers keep it append-only for other programs, too. Deleting an entity
deletes its observations and relations (ON DELETE CASCADE) in the same transaction.

A hostile file could carry triggers or views that run with the server's statements. So the schema must equal the
one below text by text; any difference is refused (https://sqlite.org/security.html, "untrusted SQLite database
files").
"""

from __future__ import annotations

import sqlite3
from functools import lru_cache

from mcp_servers.failures import ToolFailure
from mcp_servers.memory.policy import MAX_LABEL_CHARS, MAX_NAME_CHARS, MAX_TEXT_CHARS, shown

APPLICATION_ID = 0x41474D4D
"""Bytes 68 to 71 of the file, "AGMM": distinguishes stores from other programs' databases."""
FORMAT_VERSION = 1

SCHEMA = f"""
CREATE TABLE entities(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND {MAX_NAME_CHARS}),
    name_key TEXT NOT NULL UNIQUE, -- NFC and without case
    kind TEXT NOT NULL CHECK (length(kind) BETWEEN 1 AND {MAX_LABEL_CHARS})
) STRICT;
CREATE TABLE observations(
    id INTEGER PRIMARY KEY,
    entity INTEGER NOT NULL REFERENCES entities(id) ON DELETE CASCADE,
    text TEXT NOT NULL CHECK (length(text) BETWEEN 1 AND {MAX_TEXT_CHARS}),
    UNIQUE (entity, text)
) STRICT;
CREATE TABLE relations(
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL REFERENCES entities(id) ON DELETE CASCADE,
    relation TEXT NOT NULL CHECK (length(relation) BETWEEN 1 AND {MAX_LABEL_CHARS}),
    relation_key TEXT NOT NULL,
    target INTEGER NOT NULL REFERENCES entities(id) ON DELETE CASCADE,
    UNIQUE (source, relation_key, target)
) STRICT;
CREATE INDEX relations_by_target ON relations(target);
CREATE TABLE history(
    id INTEGER PRIMARY KEY,
    call INTEGER NOT NULL, -- the same for all rows of one call
    at TEXT NOT NULL, -- UTC, ISO 8601
    tool TEXT NOT NULL,
    change TEXT NOT NULL CHECK (change IN ('added', 'deleted')),
    what TEXT NOT NULL CHECK (what IN ('entity', 'observation', 'relation')),
    name TEXT NOT NULL, -- of the entity; of a relation where it starts
    name_key TEXT NOT NULL,
    content TEXT NOT NULL, -- kind, text, or name of the relation
    target TEXT NOT NULL, -- where a relation ends, else empty
    target_key TEXT NOT NULL
) STRICT;
CREATE INDEX history_by_name ON history(name_key);
CREATE INDEX history_by_target ON history(target_key);
CREATE TRIGGER history_is_not_updated BEFORE UPDATE ON history
BEGIN SELECT RAISE(ABORT, 'history is append-only'); END;
CREATE TRIGGER history_is_not_deleted BEFORE DELETE ON history
BEGIN SELECT RAISE(ABORT, 'history is append-only'); END;
CREATE VIRTUAL TABLE search USING fts5(
    name, kind, observations, tokenize="unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'"
);
"""
"""`search` has one document per entity (rowid = entities.id), so a query may combine words of two observations."""

Object = tuple[str, str, str, str | None]


def create_schema(connection: sqlite3.Connection) -> None:
    """Create the tables of a new file."""
    connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def check_schema(connection: sqlite3.Connection) -> None:
    """Refuse a file whose schema differs from this one.

    Raises:
        ToolFailure: An object is missing, changed or added.
    """
    differing = _objects(connection) ^ _expected_objects()
    if differing:
        names = ", ".join(sorted({shown(name)[:50] for _, name, _, _ in differing})[:5])
        raise ToolFailure(
            f"The store has been changed by another program and is not used. It differs in: {names}."
        )


@lru_cache
def _expected_objects() -> frozenset[Object]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        create_schema(connection)
        return _objects(connection)
    finally:
        connection.close()


def _objects(connection: sqlite3.Connection) -> frozenset[Object]:
    return frozenset(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))
