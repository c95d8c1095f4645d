"""Conversations in the SQLite file of the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from agentkit.persistence.session import MAIN, SessionHistory
from agentkit.persistence.sql_database import Transaction
from agentkit.persistence.sql_session import SQLSession, version_of
from agentkit.persistence.sqlite_database import SQLiteDatabase


class SQLiteSession(SQLSession):
    """A conversation in a file, which processes may share."""

    def __init__(self, database: SQLiteDatabase | str | Path, id: str, *, branch: str = MAIN) -> None:
        """Set the file and the conversation; `checkpointer.database` shares the file of a `SQLiteCheckpointer`.

        Raises:
            UserError: the path names a database in memory.
        """
        self._file = database if isinstance(database, SQLiteDatabase) else SQLiteDatabase(database)
        super().__init__(self._file, id, branch)

    async def load(self) -> SessionHistory:
        """Return the conversation."""
        if await self._database.read(self._tip, is_short=True) is None:  # a new one needs no worker thread
            return SessionHistory((), version_of(None))
        return await super().load()

    def _of_branch(self, branch: str) -> Self:
        return type(self)(self._file, self._id, branch=branch)


async def latest_session(database: SQLiteDatabase, prefix: str) -> str | None:
    """Return the id of the session that changed last among those whose id begins with `prefix`; None without one.

    Raises:
        CheckpointError: the file cannot be read.
    """

    def find(transaction: Transaction) -> str | None:
        row = transaction.execute(
            "SELECT session_id FROM branches WHERE substr(session_id, 1, length(?1)) = ?1 "
            "ORDER BY updated_at DESC LIMIT 1",
            (prefix,),
        ).fetchone()
        return None if row is None else row[0]

    return await database.read(find)
