"""Format of the SQLite file: its tables, its application id, and the migrations from earlier versions.

Version 2 stores the started calls in the row of their run, so that a response and the start of its call are one
row. Version 1 had a table `calls`, in which a call without an answer was a started call. A program that knows only
version 1 and has the file open during the migration can start no more calls: its table is gone. Version 3 stores
inner runs as parts of their outer run, and names the process that holds a run. Version 4 stores events.
Version 5 stores files, and events in the order of their writes: a table ordered by run has a page to write for
each of many runs at once.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from agentkit.basics.sqlite_version import SqliteFormat
from agentkit.errors import CheckpointError
from agentkit.persistence.sql_database import IS_UNENDED

FORMAT = SqliteFormat("journal", application_id=0x41474B4A, version=5, error=CheckpointError)
"""The application id is "AGKJ" in ASCII."""

_ANSWERS = """
CREATE TABLE answers( -- of calls, until the head has them
    run_id TEXT NOT NULL REFERENCES runs(run_id) ON DELETE CASCADE,
    tool_call_id TEXT NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (run_id, tool_call_id)
) WITHOUT ROWID
"""
_EVENTS = """
CREATE TABLE events( -- of runs that are served
    run_id TEXT NOT NULL REFERENCES runs(run_id) ON DELETE CASCADE,
    number INTEGER NOT NULL, -- from 1, without gaps
    time REAL NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (run_id, number)
)
"""
_FILES = (
    """
CREATE TABLE files( -- of messages and events
    sha256 TEXT PRIMARY KEY,
    data BLOB NOT NULL
)
""",
    """
CREATE TABLE message_files(
    message_id BLOB NOT NULL REFERENCES messages(id) ON DELETE CASCADE,
    sha256 TEXT NOT NULL REFERENCES files(sha256),
    PRIMARY KEY (message_id, sha256)
) WITHOUT ROWID
""",
    "CREATE INDEX messages_of_file ON message_files(sha256)",
    """
CREATE TABLE run_files( -- of events
    run_id TEXT NOT NULL REFERENCES runs(run_id) ON DELETE CASCADE,
    sha256 TEXT NOT NULL REFERENCES files(sha256),
    PRIMARY KEY (run_id, sha256)
) WITHOUT ROWID
""",
    "CREATE INDEX runs_of_file ON run_files(sha256)",
)
_INNER_RUNS = "CREATE INDEX inner_runs ON runs(part_of) WHERE part_of IS NOT NULL"
_UNENDED = f"CREATE INDEX unended_runs ON runs(updated_at) WHERE {IS_UNENDED}"
_TABLES = (
    """
CREATE TABLE messages(
    id BLOB NOT NULL UNIQUE, -- hash of parent and body
    parent BLOB,
    body TEXT NOT NULL
)
""",
    """
CREATE TABLE runs(
    run_id TEXT PRIMARY KEY,
    agent_name TEXT,
    status TEXT NOT NULL,
    tip BLOB, -- the last message
    head TEXT NOT NULL, -- the state without its messages
    generation INTEGER NOT NULL, -- whoever writes must know it
    metadata TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    started TEXT, -- JSON, ids of calls; of one that is not in answers, nothing is known of its end. NULL: none
    part_of TEXT REFERENCES runs(run_id) ON DELETE CASCADE, -- the run that an inner run serves. NULL: not one
    call_id TEXT, -- the call of that run
    owner TEXT, -- JSON, the process that has the run. NULL: none
    lease_until REAL -- seconds since 1970; after that another process may take the run up
)
""",
    _INNER_RUNS,
    _UNENDED,
    _ANSWERS,
    _EVENTS,
    *_FILES,
    """
CREATE TABLE branches(
    session_id TEXT NOT NULL,
    branch TEXT NOT NULL,
    tip BLOB,
    updated_at REAL NOT NULL,
    PRIMARY KEY (session_id, branch)
) WITHOUT ROWID
""",
)
_FROM_VERSION_1 = (
    "ALTER TABLE runs ADD COLUMN started TEXT",
    "UPDATE runs SET started = (SELECT json_group_array(tool_call_id) FROM calls "
    "WHERE calls.run_id = runs.run_id AND answer IS NULL) "
    "WHERE run_id IN (SELECT run_id FROM calls WHERE answer IS NULL)",
    _ANSWERS,
    "INSERT INTO answers SELECT run_id, tool_call_id, answer FROM calls WHERE answer IS NOT NULL",
    "DROP TABLE calls",
)


_FROM_VERSION_2 = (
    "ALTER TABLE runs ADD COLUMN part_of TEXT REFERENCES runs(run_id) ON DELETE CASCADE",
    "ALTER TABLE runs ADD COLUMN call_id TEXT",
    "ALTER TABLE runs ADD COLUMN owner TEXT",
    "ALTER TABLE runs ADD COLUMN lease_until REAL",
    _INNER_RUNS,
)
_FROM_VERSION_3 = (_EVENTS, _UNENDED, *_FILES)
_FROM_VERSION_4 = (
    "ALTER TABLE events RENAME TO events_of_version_4",
    _EVENTS,
    "INSERT INTO events SELECT run_id, number, time, body FROM events_of_version_4",
    "DROP TABLE events_of_version_4",
    *_FILES,
)
_STEPS = {
    0: _TABLES,
    1: (*_FROM_VERSION_1, *_FROM_VERSION_2, *_FROM_VERSION_3),
    2: (*_FROM_VERSION_2, *_FROM_VERSION_3),
    3: _FROM_VERSION_3,
    4: _FROM_VERSION_4,
}
"""Migration statements, by the version of the file."""


def bring_up(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables of an empty file, or migrate those of an earlier version, in one transaction.

    Raises:
        CheckpointError: see `SqliteFormat.version_of`.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = FORMAT.version_of(connection, path)  # another process may have migrated the file already
        if version < FORMAT.version:
            for statement in _STEPS[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={FORMAT.application_id}")
            connection.execute(f"PRAGMA user_version={FORMAT.version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
