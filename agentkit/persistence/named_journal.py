"""Journals by name: the path of a SQLite file, or the URL of a PostgreSQL database."""

from __future__ import annotations

from pathlib import Path

from agentkit.persistence.sql_checkpointer import SQLCheckpointer


def is_postgres(name: str | Path) -> bool:
    """Return whether a name is the URL of a PostgreSQL database."""
    return isinstance(name, str) and name.startswith(("postgresql://", "postgres://"))


def named_journal(name: str | Path) -> SQLCheckpointer:
    """Return the checkpointer of a name; nothing is opened yet.

    Raises:
        UserError: the name is no file, or the URL cannot be used.
    """
    if is_postgres(name):
        from agentkit.persistence.postgres_checkpointer import PostgresCheckpointer

        return PostgresCheckpointer(str(name))
    from agentkit.persistence.sqlite_checkpointer import SQLiteCheckpointer

    return SQLiteCheckpointer(name)
