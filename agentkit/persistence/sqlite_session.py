"""Conversations in the SQLite file of the runs; common beginnings are stored once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from agentkit.messages import ModelMessage
from agentkit.persistence import message_chain
from agentkit.persistence.session import MAIN, Session, SessionHistory, check_fork, gone_on
from agentkit.persistence.sqlite_database import SQLiteDatabase


class SQLiteSession(Session):
    """A conversation in a file, which processes may share."""

    def __init__(self, database: SQLiteDatabase | str | Path, id: str, *, branch: str = MAIN) -> None:
        """Set the file and the conversation; `checkpointer.database` shares the file of a `SQLiteCheckpointer`.

        Raises:
            UserError: the path names a database in memory.
        """
        self._database = database if isinstance(database, SQLiteDatabase) else SQLiteDatabase(database)
        self._id = id
        self._branch = branch

    @property
    def id(self) -> str:
        """The name given at construction."""
        return self._id

    async def load(self) -> SessionHistory:
        """Return the conversation."""
        return await self._database.read(self._load)

    async def append(self, messages: Sequence[ModelMessage], version: str) -> str:
        """Add the messages of a run."""
        return await self._database.write(partial(self._append, messages, version))

    async def delete(self) -> None:
        """Delete all branches; messages that a run in the file shares stay until the run is deleted."""
        await self._database.write(self._delete, is_short=False)

    @property
    def branch(self) -> str:
        """The branch's name."""
        return self._branch

    async def fork(self, branch: str, *, n_messages: int | None = None) -> Session:
        """Create a branch."""
        await self._database.write(partial(self._fork, branch, n_messages))
        return SQLiteSession(self._database, self._id, branch=branch)

    async def branches(self) -> Sequence[str]:
        """Return the branches' names."""
        return await self._database.read(self._branches)

    def _load(self, connection: sqlite3.Connection) -> SessionHistory:
        tip = self._tip(connection)
        whose = f"session {self._id!r}, branch {self._branch!r}"
        return SessionHistory(message_chain.read(connection, tip, whose=whose), _version(tip))

    def _append(self, messages: Sequence[ModelMessage], version: str, connection: sqlite3.Connection) -> str:
        tip = self._tip(connection)
        if _version(tip) != version:
            raise gone_on(self)
        tip = message_chain.add(connection, tip, messages)
        self._move(self._branch, tip, connection)
        return _version(tip)

    def _fork(self, branch: str, n_messages: int | None, connection: sqlite3.Connection) -> None:
        tips = message_chain.tips(connection, self._tip(connection))
        check_fork(self, branch, n_messages, len(tips) - 1, taken=branch in self._branches(connection))
        self._move(branch, tips[-1 if n_messages is None else n_messages], connection)

    def _branches(self, connection: sqlite3.Connection) -> list[str]:
        rows = connection.execute(
            "SELECT branch FROM branches WHERE session_id = ?1 UNION SELECT ?2 ORDER BY branch", (self._id, MAIN)
        )
        return [name for (name,) in rows]

    def _delete(self, connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM branches WHERE session_id = ?", (self._id,))
        message_chain.forget_unused(connection)

    def _tip(self, connection: sqlite3.Connection) -> bytes | None:
        row = connection.execute(
            "SELECT tip FROM branches WHERE session_id = ? AND branch = ?", (self._id, self._branch)
        ).fetchone()
        return None if row is None else row[0]

    def _move(self, branch: str, tip: bytes | None, connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO branches(session_id, branch, tip, updated_at) VALUES (?, ?, ?, ?)",
            (self._id, branch, tip, time.time()),
        )


async def latest_session(database: SQLiteDatabase, prefix: str) -> str | None:
    """Return the id of the session that changed last among those whose id begins with `prefix`; None without one.

    Raises:
        CheckpointError: the file cannot be read.
    """

    def find(connection: sqlite3.Connection) -> str | None:
        row = connection.execute(
            "SELECT session_id FROM branches WHERE substr(session_id, 1, length(?1)) = ?1 "
            "ORDER BY updated_at DESC LIMIT 1",
            (prefix,),
        ).fetchone()
        return None if row is None else row[0]

    return await database.read(find)


def _version(tip: bytes | None) -> str:
    return "" if tip is None else tip.hex()
