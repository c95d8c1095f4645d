"""The format of the SQLite file: its tables, whose file it is, and how one of an earlier version is brought up.

Version 2 keeps the calls that were started with their run, so that a response and the start of its call are one
row; version 1 had a table `calls`, in which a call without an answer was one that had been started. A program that
knows only version 1 and has the file open while it is brought up can start no call any more: its table is gone.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from agentkit.errors import CheckpointError

FORMAT_VERSION = 2
_APPLICATION_ID = 0x41474B4A
""""AGKJ": tells our files from other programs' databases."""

_ANSWERS = """
CREATE TABLE answers( -- of calls, until the head has them
    run_id TEXT NOT NULL REFERENCES runs(run_id) ON DELETE CASCADE,
    tool_call_id TEXT NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (run_id, tool_call_id)
) WITHOUT ROWID
"""
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
    started TEXT -- JSON, ids of calls; of one that is not in answers, nothing is known of its end. NULL: none
)
""",
    _ANSWERS,
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


def checked_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the file's version, 0 if it is empty.

    Raises:
        CheckpointError: it is another program's, or of a later version.
    """
    # In one statement, so on one state of the file: another process may be making it just now.
    application, version, n_tables = connection.execute(
        "SELECT (SELECT application_id FROM pragma_application_id), "
        "(SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_master)"
    ).fetchone()
    if application not in (0, _APPLICATION_ID) or (application == 0 and n_tables):
        raise CheckpointError(f"{str(path)!r} is another program's database; name another file.")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"journal {str(path)!r} has format {version}; this version of agentkit reads up to {FORMAT_VERSION}. "
            f"Use the version that wrote it."
        )
    return version


def bring_up(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of an empty file, or bring those of an earlier version up, in one transaction.

    Raises:
        CheckpointError: as `checked_version`.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = checked_version(connection, path)  # another process may have been faster
        if version < FORMAT_VERSION:
            for statement in _TABLES if version == 0 else _FROM_VERSION_1:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={FORMAT_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
