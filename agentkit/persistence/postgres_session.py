"""Conversations in the PostgreSQL database of the runs."""

from __future__ import annotations

from typing import Self

from agentkit.persistence.postgres_database import PostgresDatabase
from agentkit.persistence.session import MAIN
from agentkit.persistence.sql_session import SQLSession


class PostgresSession(SQLSession):
    """A conversation in PostgreSQL, which processes on several machines may share."""

    def __init__(self, database: PostgresDatabase | str, id: str, *, branch: str = MAIN) -> None:
        """Set the database and the conversation; `checkpointer.database` shares that of a `PostgresCheckpointer`.

        Raises:
            UserError: see `PostgresDatabase`.
        """
        self._postgres = database if isinstance(database, PostgresDatabase) else PostgresDatabase(database)
        super().__init__(self._postgres, id, branch)

    def _of_branch(self, branch: str) -> Self:
        return type(self)(self._postgres, self._id, branch=branch)
