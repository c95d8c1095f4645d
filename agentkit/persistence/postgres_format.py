"""Format of a journal in PostgreSQL: the tables of its schema, and the version that wrote them.

The tables are those of `agentkit.persistence.sqlite_format`, in a schema of their own beside an application's
tables. PostgreSQL looks up the messages that nothing refers to, so `tip` and `parent` have indexes.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from agentkit.errors import CheckpointError
from agentkit.persistence.sql_database import IS_UNENDED
from mcp_servers.distribution import NAME

if TYPE_CHECKING:
    from psycopg import Connection

FORMAT_VERSION = 1

_TABLES = f"""
CREATE TABLE messages(
    id BYTEA PRIMARY KEY, -- hash of parent and body
    parent BYTEA,
    body TEXT NOT NULL
);
CREATE INDEX messages_by_parent ON messages(parent) WHERE parent IS NOT NULL;
CREATE TABLE runs(
    run_id TEXT PRIMARY KEY, agent_name TEXT,
    status TEXT NOT NULL,
    tip BYTEA, -- the last message
    head TEXT NOT NULL, -- the state without its messages
    generation INTEGER NOT NULL, -- of the claim; a write must name it
    metadata JSONB NOT NULL,
    created_at DOUBLE PRECISION NOT NULL, -- seconds since 1970, as all times
    updated_at DOUBLE PRECISION NOT NULL,
    started TEXT, -- JSON, ids of calls that were started
    part_of TEXT REFERENCES runs(run_id) ON DELETE CASCADE, -- the outer run of an inner one
    call_id TEXT, -- the call of that run
    owner TEXT, -- JSON, the process that holds the run
    lease_until DOUBLE PRECISION -- another process may claim the run later
);
CREATE INDEX runs_by_tip ON runs(tip) WHERE tip IS NOT NULL;
CREATE INDEX runs_by_metadata ON runs USING gin (metadata jsonb_path_ops);
CREATE INDEX inner_runs ON runs(part_of) WHERE part_of IS NOT NULL;
CREATE INDEX unended_runs ON runs(updated_at) WHERE {IS_UNENDED};
CREATE TABLE answers(
    run_id TEXT REFERENCES runs(run_id) ON DELETE CASCADE,
    tool_call_id TEXT,
    answer TEXT NOT NULL,
    PRIMARY KEY (run_id, tool_call_id)
);
CREATE TABLE events(
    run_id TEXT REFERENCES runs(run_id) ON DELETE CASCADE,
    number BIGINT, -- from 1, without gaps
    time DOUBLE PRECISION NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run_id, number)
);
CREATE TABLE files( -- of messages and events
    sha256 TEXT PRIMARY KEY,
    data BYTEA NOT NULL
);
CREATE TABLE message_files(
    message_id BYTEA REFERENCES messages(id) ON DELETE CASCADE,
    sha256 TEXT REFERENCES files(sha256),
    PRIMARY KEY (message_id, sha256)
);
CREATE INDEX messages_of_file ON message_files(sha256);
CREATE TABLE run_files( -- of events
    run_id TEXT REFERENCES runs(run_id) ON DELETE CASCADE,
    sha256 TEXT REFERENCES files(sha256),
    PRIMARY KEY (run_id, sha256)
);
CREATE INDEX runs_of_file ON run_files(sha256);
CREATE TABLE branches(
    session_id TEXT,
    branch TEXT,
    tip BYTEA,
    updated_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (session_id, branch)
);
CREATE INDEX branches_by_tip ON branches(tip) WHERE tip IS NOT NULL;
CREATE TABLE journal_format(version INTEGER NOT NULL, written_by TEXT NOT NULL)
"""

_TABLE_OF = "SELECT 1 FROM pg_tables WHERE schemaname = %s"


def bring_up(connection: Connection[tuple[Any, ...]], schema: str, journal: str) -> None:
    """Create the tables of a schema without any.

    Args:
        connection: Connection without a transaction.
        schema: Name of the schema; letters, digits and `_`.
        journal: Name of the journal for messages.

    Raises:
        CheckpointError: the schema belongs to another program, or its journal has another version.
    """
    if _is_current(connection, schema, journal):
        return
    with connection.transaction():
        # Of several processes that begin, one creates the tables, and the others find them.
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"agentkit {schema} format",))
        if _is_current(connection, schema, journal):
            return
        # Not before the lock: another process may create the tables between the two looks at them.
        if _found(connection, f"{_TABLE_OF} LIMIT 1", schema):
            raise CheckpointError(
                f"journal {journal!r}: the schema {schema!r} has tables of another program; name another schema."
            )
        # CREATE SCHEMA IF NOT EXISTS needs the right to create one even if it exists.
        if not _found(connection, "SELECT 1 FROM pg_namespace WHERE nspname = %s", schema):
            connection.execute(f'CREATE SCHEMA "{schema}"'.encode())
        connection.execute(f'SET LOCAL search_path TO "{schema}"'.encode())
        connection.execute(_TABLES.encode())
        connection.execute("INSERT INTO journal_format VALUES (%s, %s)", (FORMAT_VERSION, _this_version()))


def _is_current(connection: Connection[tuple[Any, ...]], schema: str, journal: str) -> bool:
    """Return whether the tables are there.

    Raises:
        CheckpointError: they are another version's.
    """
    if not _found(connection, f"{_TABLE_OF} AND tablename = 'journal_format'", schema):
        return False
    row = connection.execute(f'SELECT version, written_by FROM "{schema}".journal_format'.encode()).fetchone()
    found, written_by = row or (None, "an unknown version")
    if found != FORMAT_VERSION:
        raise CheckpointError(
            f"journal {journal!r} has format {found}, written by {written_by}; this version of agentkit reads "
            f"format {FORMAT_VERSION}. Use the version that wrote it, or name another schema."
        )
    return True


def _found(connection: Connection[tuple[Any, ...]], query: str, schema: str) -> bool:
    return connection.execute(query.encode(), (schema,)).fetchone() is not None


def _this_version() -> str:
    try:
        return f"{NAME} {version(NAME)}"
    except PackageNotFoundError:  # not installed, for example a copied folder
        return NAME
