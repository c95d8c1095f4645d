"""Runs in a PostgreSQL database, for processes on several machines."""

from __future__ import annotations

from agentkit.persistence.postgres_database import DEFAULT_SCHEMA, PostgresDatabase
from agentkit.persistence.postgres_session import PostgresSession
from agentkit.persistence.session import Session
from agentkit.persistence.sql_checkpointer import SQLCheckpointer


class PostgresCheckpointer(SQLCheckpointer):
    """Stores runs in PostgreSQL, which processes on several machines may share.

    A process holds a run by a lease in the run's row, renewed by the database's clock. The lease of a killed
    process ends at once for processes on its machine, and after a minute for others. A lost connection does not
    end it. Every write names the claim by which its process holds the run, so a former holder cannot write.
    """

    def __init__(self, database: PostgresDatabase | str, *, schema: str = DEFAULT_SCHEMA) -> None:
        """Set the database; the first use creates the tables.

        Args:
            database: A database, or its DSN: `postgresql://USER@HOST/DATABASE`.
            schema: Schema of the tables, if the database is given by its DSN.

        Raises:
            UserError: psycopg is not installed, or a value is not allowed; see `PostgresDatabase`.
        """
        self.database = (
            database if isinstance(database, PostgresDatabase) else PostgresDatabase(database, schema=schema)
        )
        super().__init__(self.database)

    def session(self, id: str) -> Session:
        """Return the conversation with an id, in the same database."""
        return PostgresSession(self.database, id)
