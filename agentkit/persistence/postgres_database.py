"""A PostgreSQL database with runs and sessions: connections, transactions, and errors by name.

Processes on several machines write at the same time. The order of writes to one run is that of its locked row;
messages are deleted while no other transaction stores any, because it could refer to one that is about to go.
Leases and times follow the database's clock, so the clocks of the machines need not agree. All settings hold for
one transaction, so no connection carries any over.

A transaction that a stopped process left open is ended by the database after `_IDLE_S`, before the lease of the
process ends (`LEASE_S`): what it had locked would otherwise keep others from claiming its run.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from agentkit.errors import CheckpointError, UserError
from agentkit.persistence import postgres_format, sql_files
from agentkit.persistence.sql_database import (
    INSERT_EVENT,
    EventRow,
    JournalDatabase,
    Rows,
    Transaction,
    Work,
)
from mcp_servers.distribution import install_command

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from psycopg import Connection, Error
    from psycopg_pool import ConnectionPool

T = TypeVar("T")

DEFAULT_SCHEMA = "agentkit"
CONNECTIONS = 8
"""Connections of a process at most; PostgreSQL allows a hundred in all by default."""
WAIT_S = 10.0
"""Seconds to wait for a connection: long enough for a database that restarts."""
_LOCK_S = 30
"""Seconds to wait for another transaction; our own take milliseconds."""
_IDLE_S = 30
"""Seconds after which the database ends a transaction whose process sends nothing; half a lease."""
_CONNECTION = {
    "application_name": "agentkit",
    "client_encoding": "utf8",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
"""Settings that the DSN may change: a machine that vanished is noticed within half a minute."""
_NOW = "extract(epoch FROM clock_timestamp())::float8"
_DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
)
_IS_UNUSED = """
    NOT EXISTS (SELECT 1 FROM messages AS later WHERE later.parent = messages.id)
    AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.tip = messages.id)
    AND NOT EXISTS (SELECT 1 FROM branches WHERE branches.tip = messages.id)
"""


class PostgresTransaction:
    """Connection within a transaction."""

    FOR_UPDATE: ClassVar[str] = " FOR UPDATE"
    HAS_METADATA: ClassVar[str] = "metadata @> ?1::jsonb"
    RUN_IDS: ClassVar[str] = "jsonb_array_elements_text(?1::jsonb) AS wanted(value)"

    def __init__(self, connection: Connection[tuple[Any, ...]], schema: str, now: float) -> None:
        """Use a connection whose transaction began at `now`."""
        self._connection = connection
        self._schema = schema
        self._now = now

    def execute(self, statement: str, parameters: Sequence[Any] = (), /) -> Rows:
        """Execute a statement."""
        return self._connection.execute(_numbered(statement), parameters)

    def executemany(self, statement: str, parameters: Iterable[Sequence[Any]], /) -> None:
        """Execute a statement once for each row of parameters, all in one exchange with the server."""
        self._connection.cursor().executemany(_numbered(statement), parameters)

    def insert_events(self, rows: Sequence[EventRow], /) -> bool:
        """Insert events of one run; none if the number of the first is taken, which must not be an error here."""
        if self.execute(f"{INSERT_EVENT} ON CONFLICT DO NOTHING", rows[0]).rowcount != 1:
            return False
        if len(rows) > 1:
            self.executemany(INSERT_EVENT, rows[1:])
        return True

    def now(self) -> float:
        """Return the time by the database's clock at which the transaction began, or had its turn."""
        return self._now

    def take_turn(self, name: str) -> None:
        """Wait until no other transaction has the turn of this name."""
        lock = f"SELECT pg_advisory_xact_lock(hashtextextended($1, 0)), {_NOW}".encode()
        row = self._connection.execute(lock, (f"agentkit {self._schema} {name}",)).fetchone()
        assert row is not None  # a SELECT without FROM
        self._now = row[1]


class PostgresDatabase(JournalDatabase):
    """A database that several journals and sessions of a process share; opened on first use."""

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = DEFAULT_SCHEMA,
        max_connections: int = CONNECTIONS,
        wait_s: float = WAIT_S,
    ) -> None:
        """Set the database; nothing is connected yet.

        Args:
            dsn: Address, as libpq takes it: `postgresql://USER@HOST/DATABASE`. A password is better kept in the
                variable PGPASSWORD or the file ~/.pgpass, which no list of processes shows.
            schema: Schema of the tables; the first use creates it. Each schema is a journal of its own.
            max_connections: Connections of this process at most.
            wait_s: Seconds to wait for a connection.

        Raises:
            UserError: psycopg is not installed, the DSN has another form, or another value is not allowed.
        """
        try:
            import psycopg_pool  # noqa: F401  # pyright: ignore[reportUnusedImport]
            from psycopg import Error
            from psycopg.conninfo import conninfo_to_dict, make_conninfo
        except ImportError as error:
            needed = error.name or "psycopg"
            raise UserError(f"a journal in PostgreSQL needs {needed}: {install_command('postgres')}") from error
        from anyio.lowlevel import RunVar

        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema):
            raise UserError(f"schema={schema!r}: write a name of small letters, digits and `_`.")
        if max_connections < 1:
            raise UserError(f"max_connections={max_connections}: a journal needs at least 1 connection.")
        try:
            given = conninfo_to_dict(dsn)
        except Error:  # its text repeats parts of the DSN, which may have a password
            raise UserError("the DSN cannot be read; write postgresql://USER@HOST/DATABASE.") from None
        self._conninfo = make_conninfo("", **{**_CONNECTION, **given})
        self._password = str(given.get("password") or "")
        self._schema, self._max_connections, self._wait_s = schema, max_connections, wait_s
        self.name = _shown(given) + ("" if schema == DEFAULT_SCHEMA else f", schema {schema}")
        self._threads: RunVar[CapacityLimiter] = RunVar(f"threads of {self.name}")
        """Limits the threads of each event loop to the connections, and keeps tools from taking all threads."""
        self._lock = threading.Lock()
        self._pool: ConnectionPool[Connection[tuple[Any, ...]]] | None = None
        self._of_parent: list[object] = []
        """Pools of the process that forked this one: closing them would end that process's connections."""
        self._pid = 0
        self._not_before = 0.0
        """Time before which no lease is renewed, because the database did not answer."""

    async def write(
        self, work: Work[T], *, durable: bool = False, is_short: bool = True, drops_messages: bool = False
    ) -> T:
        """Run `work` in one transaction that writes, in a worker thread.

        Raises:
            CheckpointError: the database cannot be used. If the connection broke at the end of the transaction,
                the data may be stored nevertheless.
        """
        lock = "pg_advisory_xact_lock" if drops_messages else "pg_advisory_xact_lock_shared"
        turn = f"SELECT {lock}(hashtextextended('agentkit {self._schema} messages', 0)), {_NOW}"
        return await self._in_thread(work, self._begin(f"{_DURABLE}; {turn}" if durable else turn))

    async def read(self, work: Work[T], *, is_short: bool = False) -> T:
        """Run `work`, which only reads, in one transaction, in a worker thread.

        Raises:
            CheckpointError: the database cannot be used.
        """
        return await self._in_thread(work, self._begin(f"SELECT {_NOW}", "REPEATABLE READ READ ONLY"))

    async def delete(self, work: Work[int]) -> int:
        """Run `work`, which deletes rows, and delete unused messages in a second transaction.

        Finding them takes longest, and others may write meanwhile. If the process ends before the second
        transaction, the next deletion finds them.

        Raises:
            CheckpointError: the database cannot be used.
        """
        n_deleted = await self.write(work)
        if n_deleted and (unused := await self.read(_unused)):
            await self.write(partial(_forget, unused), drops_messages=True)
        return n_deleted

    def write_if_open(self, work: Work[object]) -> None:
        """Run `work` in one transaction, from any thread; do nothing if the database does not answer."""
        if self._pool is None or self._pid != os.getpid() or time.monotonic() < self._not_before:
            return
        try:
            self._run(work, self._begin(f"SELECT {_NOW}"))
        except CheckpointError:  # the other leases would each wait as long
            self._not_before = time.monotonic() + self._wait_s

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        with self._lock:
            if self._pool is not None and self._pid == os.getpid():
                self._pool.close()
            self._pool = None

    async def _in_thread(self, work: Work[T], begin: str) -> T:
        from anyio import CapacityLimiter
        from anyio.to_thread import run_sync

        try:
            threads = self._threads.get()
        except LookupError:
            self._threads.set(threads := CapacityLimiter(self._max_connections))
        return await run_sync(partial(self._run, work, begin), limiter=threads)

    def _run(self, work: Work[T], begin: str) -> T:
        from psycopg import Error

        try:
            with self._transaction(begin) as transaction:
                return work(transaction)
        except Error as error:
            raise self._unusable(error) from error

    def _begin(self, last: str, level: str = "READ COMMITTED READ WRITE") -> str:
        """Return statements that begin a transaction, in one exchange; the last one returns the time."""
        return (
            f'BEGIN ISOLATION LEVEL {level}; SET LOCAL search_path TO "{self._schema}"; '
            f"SET LOCAL lock_timeout = '{_LOCK_S}s'; "
            f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_S}s'; {last}"
        )

    @contextmanager
    def _transaction(self, begin: str) -> Generator[Transaction]:
        pool = self._opened()
        connection, now = self._begun(pool, begin)
        try:
            yield PostgresTransaction(connection, self._schema, now)
            connection.execute("COMMIT", prepare=False)
        finally:
            _give_back(pool, connection)

    def _begun(
        self, pool: ConnectionPool[Connection[tuple[Any, ...]]], begin: str, *, is_first: bool = True
    ) -> tuple[Connection[tuple[Any, ...]], float]:
        """Return a connection within a transaction, and the time.

        A connection that broke while it was not used is replaced once: the database may have restarted.
        """
        connection = pool.getconn(self._wait_s)
        try:
            results = connection.execute(begin.encode(), prepare=False)
            while results.nextset():
                pass
            row = results.fetchone()
            assert row is not None  # the last statement is a SELECT without FROM
            return connection, row[-1]
        except BaseException:
            is_stale = is_first and connection.broken
            _give_back(pool, connection)
            if not is_stale:
                raise
        pool.drain()
        return self._begun(pool, begin, is_first=False)

    def _opened(self) -> ConnectionPool[Connection[tuple[Any, ...]]]:
        with self._lock:
            if self._pool is None or self._pid != os.getpid():
                from psycopg import Connection, RawCursor
                from psycopg_pool import ConnectionPool

                with Connection.connect(self._conninfo, autocommit=True) as connection:
                    postgres_format.bring_up(connection, self._schema, self.name)
                if self._pool is not None:
                    self._of_parent.append(self._pool)
                self._pool = ConnectionPool(
                    self._conninfo,
                    kwargs={"autocommit": True, "cursor_factory": RawCursor},
                    configure=_configure,
                    min_size=0,
                    max_size=self._max_connections,
                    reconnect_timeout=self._wait_s,
                    open=True,
                )
                self._pid = os.getpid()
            return self._pool

    def _unusable(self, error: Error) -> CheckpointError:
        reason = self._reason(error).strip().partition("\n")[0].rstrip(".")
        if self._password:
            reason = reason.replace(self._password, "***")
        return CheckpointError(
            f"journal {self.name!r} cannot be used: {reason}. What was stored before is still in it; check that "
            f"the database runs, and that this account may use the schema {self._schema!r}."
        )

    def _reason(self, error: Error) -> str:
        from psycopg import Connection, Error
        from psycopg_pool import PoolTimeout

        if not isinstance(error, PoolTimeout):
            return str(error)
        try:  # the pool does not say why it has no connection
            Connection.connect(self._conninfo).close()
        except Error as refused:
            return str(refused)
        return f"none of {self._max_connections} connections was free or could be opened within {self._wait_s:g} s"


def _configure(connection: Connection[tuple[Any, ...]]) -> None:
    from psycopg.types.string import TextLoader

    connection.adapters.register_loader("jsonb", TextLoader)  # metadata is parsed as in SQLite


def _give_back(pool: ConnectionPool[Connection[tuple[Any, ...]]], connection: Connection[tuple[Any, ...]]) -> None:
    """Return a connection to its pool, without the transaction that failed in it."""
    from psycopg import Error

    try:
        connection.rollback()  # nothing after COMMIT
    except Error:
        connection.close()
    pool.putconn(connection)


@cache
def _numbered(statement: str) -> bytes:
    """Return a statement with PostgreSQL's placeholders (`$1`) instead of `?`, which are numbered, and `?1`."""
    n = 0

    def number(found: re.Match[str]) -> str:
        nonlocal n
        n += 1
        return f"${found[1] or n}"

    return re.sub(r"\?(\d*)", number, statement).encode()


def _unused(transaction: Transaction) -> list[bytes]:
    """Return the ids of messages that nothing refers to: the ends of conversations that were deleted."""
    return [found for (found,) in transaction.execute(f"SELECT id FROM messages WHERE {_IS_UNUSED}")]


def _forget(unused: Sequence[bytes], transaction: Transaction) -> None:
    """Delete messages, if nothing refers to them now, and those before them that nothing refers to then."""
    while unused:
        rows = transaction.execute(
            f"DELETE FROM messages WHERE id = ANY(?) AND {_IS_UNUSED} RETURNING parent", (list(unused),)
        )
        unused = list({parent for (parent,) in rows if parent is not None})
    sql_files.forget_unused(transaction)


def _shown(given: dict[str, Any]) -> str:
    """Return database, host and port of a DSN, as libpq completes it from the environment."""
    user = given.get("user") or os.environ.get("PGUSER") or ""
    database = given.get("dbname") or os.environ.get("PGDATABASE") or user or "the user's database"
    host = given.get("host") or given.get("hostaddr") or os.environ.get("PGHOST") or "localhost"
    return f"{database} at {host}:{given.get('port') or os.environ.get('PGPORT') or 5432}"
