"""Runs in a SQLite file."""

from __future__ import annotations

from pathlib import Path

from agentkit.persistence.session import Session
from agentkit.persistence.sql_checkpointer import SQLCheckpointer
from agentkit.persistence.sqlite_database import SQLiteDatabase
from agentkit.persistence.sqlite_session import SQLiteSession


class SQLiteCheckpointer(SQLCheckpointer):
    """Stores runs in a file, which processes may share."""

    def __init__(self, database: SQLiteDatabase | str | Path) -> None:
        """Set the file; the first use creates it.

        Raises:
            UserError: the path names a database in memory.
        """
        self.database = database if isinstance(database, SQLiteDatabase) else SQLiteDatabase(database)
        super().__init__(self.database)

    def session(self, id: str) -> Session:
        """Return the conversation with an id, in the same file."""
        return SQLiteSession(self.database, id)
