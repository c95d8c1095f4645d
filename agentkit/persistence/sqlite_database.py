"""A SQLite file with runs and sessions, or with memories: opening, transactions, waiting off the event loop.

WAL with `synchronous=NORMAL`: a commit survives a crash of the process, and costs 0.1 ms because it does not wait
for the disk. A commit that must also survive a power failure uses FULL, in a worker thread. Waiting for another
process's lock happens in a worker thread too. Only the owner can read a new file: it contains tool results.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from agentkit.errors import AgentRunError, CheckpointError, UserError
from agentkit.persistence import message_chain
from agentkit.persistence.sql_database import INSERT_EVENT, EventRow, JournalDatabase, Transaction, Work
from agentkit.persistence.sqlite_format import FORMAT, bring_up

if TYPE_CHECKING:
    from agentkit.persistence.write_group import WriteGroup

T = TypeVar("T")

_RETRY_S = 0.01
_TURN_S = 0.002
"""Seconds to wait for another thread of this process, whose work takes a tenth of that.

In a worker thread, work would hold the file in turn, and keep that of all others out of the event loop's thread.
"""
_LOG_PAGES = 4000
"""Pages of the log, 16 MB, after which it is copied into the file, which waits for the disk.

SQLite's default is 1000. The runs in progress write the same pages again and again, and each is copied once.
"""
_WAIT_MS = 30_000
"""Milliseconds to wait for another process's lock; our own writes take a fraction of a millisecond."""
_TOGETHER = 8
"""Events that one statement inserts at most; most writes have fewer."""


@cache
def _insert_events(n: int) -> str:
    return INSERT_EVENT + ", (?, ?, ?, ?)" * (n - 1)


class SQLiteTransaction(sqlite3.Connection):
    """Connection to a file; a transaction that writes is alone, so nothing has to be locked."""

    FOR_UPDATE: ClassVar[str] = ""
    # Keys and values of the filter are bound, never spliced in (LangGraph CVE-2025-67644).
    # A merge patch (RFC 7396) with values that are there changes nothing; twice as fast as `json_each`.
    HAS_METADATA: ClassVar[str] = "json_patch(runs.metadata, ?1) = json(runs.metadata)"
    RUN_IDS: ClassVar[str] = "json_each(?1) AS wanted"

    def insert_events(self, rows: Sequence[EventRow], /) -> bool:
        """Insert events of one run; none if the number of the first is taken."""
        first = rows[:_TOGETHER]
        values = list(chain.from_iterable(first))
        try:
            self.execute(_insert_events(len(first)), values)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_UNIQUE:
                raise
            return False  # SQLite has undone the whole statement
        if len(rows) > _TOGETHER:
            self.executemany(INSERT_EVENT, rows[_TOGETHER:])
        return True

    def now(self) -> float:
        """Return the time by this machine's clock: all processes that use the file are on it."""
        return time.time()

    def take_turn(self, name: str) -> None:
        """Return at once: the transaction is alone."""


class SQLiteDatabase(JournalDatabase):
    """A file that several journals and sessions of a process share; opened on first use."""

    def __init__(self, path: str | Path) -> None:
        """Set the path.

        Raises:
            UserError: the path names a database in memory.
        """
        if str(path) in ("", ":memory:"):
            raise UserError(f"path={str(path)!r} is no file; use InMemoryCheckpointer to keep runs in memory.")
        self.path = Path(path).expanduser()
        self.name = str(self.path)
        self._lock = threading.Lock()
        self._connection: SQLiteTransaction | None = None
        self._pid = 0
        self._groups: dict[int, WriteGroup] = {}
        """Writes that wait for their transaction, by the thread whose event loop they belong to."""

    async def write(
        self, work: Work[T], *, durable: bool = False, is_short: bool = True, drops_messages: bool = False
    ) -> T:
        """Run `work` in one transaction that writes.

        Short work runs at once if nothing else holds the file; other work runs in a worker thread.

        Raises:
            CheckpointError: the file cannot be used.
        """
        if is_short and not durable:
            if self.groups_writes:
                return await self._write_in_group(work)
            if (found := self._at_once(work, "BEGIN IMMEDIATE")) is not None:
                return found[0]
        return await self._write_in_thread(work, durable)

    async def _write_in_thread(self, work: Work[T], durable: bool) -> T:
        from anyio.to_thread import run_sync

        return await run_sync(partial(self._write_waiting, work, durable))

    async def _write_in_group(self, work: Work[T]) -> T:
        """Run `work` with what else this event loop writes until its next turn.

        A cancelled task gets its result first, as that of work at once: it must know what is stored.
        """
        from anyio.lowlevel import cancel_shielded_checkpoint

        from agentkit.persistence.write_group import WriteGroup

        thread = threading.get_ident()  # has one event loop
        group = self._groups.get(thread)
        if group is None or group.is_full:
            group = self._groups[thread] = WriteGroup()
        place = group.add(work)
        if place > 0:
            await group.wait()
            return group.result(place)
        try:
            await cancel_shielded_checkpoint()
        finally:  # the others wait, even if asyncio cancels this task
            if self._groups.get(thread) is group:
                del self._groups[thread]
            await self._write_all(group)
        return group.result(place)

    async def _write_all(self, group: WriteGroup) -> None:
        from anyio import CancelScope

        failure: BaseException | None = None
        try:
            if self._at_once(group.work, "BEGIN IMMEDIATE") is None:
                with CancelScope(shield=True):
                    await self._write_in_thread(group.work, durable=False)
        except BaseException as error:
            failure = error
        group.close(failure)

    async def read(self, work: Work[T], *, is_short: bool = False) -> T:
        """Run `work`, which only reads, in one transaction; no writer has to wait for it.

        Short work runs at once if nothing else holds the file; other work runs in a worker thread.

        Raises:
            CheckpointError: the file cannot be used.
        """
        if is_short and (found := self._at_once(work, "BEGIN")) is not None:
            return found[0]
        from anyio.to_thread import run_sync

        return await run_sync(partial(self._read, work))

    async def delete(self, work: Work[int]) -> int:
        """Run `work`, which deletes rows, and delete unused messages in the same transaction.

        Raises:
            CheckpointError: the file cannot be used.
        """

        def with_messages(transaction: Transaction) -> int:
            if n_deleted := work(transaction):
                message_chain.forget_unused(transaction)
            return n_deleted

        return await self.write(with_messages, is_short=False)

    def _at_once(self, work: Work[T], begin: str) -> tuple[T] | None:
        """Return the result of work that runs in this thread; None if the file is not open, or is held."""
        if not self._is_open or not self._lock.acquire(timeout=_TURN_S):
            return None
        try:
            return (self._transaction(work, wait_ms=0, begin=begin),)
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise self._unusable(error) from error
            return None
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error
        finally:
            self._lock.release()

    def write_if_open(self, work: Work[object]) -> None:
        """Run `work` in one transaction, from any thread; do nothing if the file is not open or not usable."""
        with self._lock:
            if self._is_open:
                with suppress(sqlite3.DatabaseError, CheckpointError):
                    self._transaction(work, wait_ms=_WAIT_MS)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _read(self, work: Work[T]) -> T:
        with self._lock:
            try:
                return self._transaction(work, wait_ms=_WAIT_MS, begin="BEGIN")
            except sqlite3.DatabaseError as error:
                raise self._unusable(error) from error

    def _write_waiting(self, work: Work[T], durable: bool) -> T:
        with self._lock:
            try:
                if not durable:
                    return self._transaction(work, wait_ms=_WAIT_MS)
                connection = self._open()
                connection.execute("PRAGMA synchronous=FULL")
                try:
                    return self._transaction(work, wait_ms=_WAIT_MS)
                finally:
                    connection.execute("PRAGMA synchronous=NORMAL")
            except sqlite3.DatabaseError as error:
                raise self._unusable(error) from error

    def _transaction(self, work: Work[T], wait_ms: int, begin: str = "BEGIN IMMEDIATE") -> T:
        connection = self._open()
        if wait_ms:
            connection.execute(f"PRAGMA busy_timeout={wait_ms}")
        try:
            connection.execute(begin)
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result
        finally:
            if wait_ms:
                connection.execute("PRAGMA busy_timeout=0")

    @property
    def _is_open(self) -> bool:
        """True if this process opened the file: a forked child must not use its parent's connection."""
        return self._connection is not None and self._pid == os.getpid()

    def _open(self) -> SQLiteTransaction:
        if self._connection is None or not self._is_open:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            except OSError as error:
                raise self._failure(f"cannot be opened: {error.strerror}.") from error
            connection = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, factory=SQLiteTransaction
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection, self._pid = connection, os.getpid()
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA busy_timeout={_WAIT_MS}")
        is_current = self._is_current(connection)
        _keep_a_log(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")  # the default of some builds only: overwrites deleted text
        if not is_current:
            self._bring_up(connection)
        connection.execute("PRAGMA busy_timeout=0")

    def _is_current(self, connection: sqlite3.Connection) -> bool:
        """Return whether the file has the tables of this version.

        Raises:
            CheckpointError: the file belongs to another program, or has a later version.
        """
        return FORMAT.version_of(connection, self.path) == FORMAT.version

    def _bring_up(self, connection: sqlite3.Connection) -> None:
        """Create the tables of an empty file, or migrate those of an earlier version, in one transaction."""
        bring_up(connection, self.path)

    def _failure(self, what: str) -> AgentRunError:
        """Return the error for a file that cannot be used."""
        return CheckpointError(f"journal {str(self.path)!r} {what}")

    def _unusable(self, error: sqlite3.DatabaseError) -> AgentRunError:
        return self._failure(
            f"cannot be used: {error}. What was stored before is still in it; check the disk's space and the "
            f"file's permissions, or name another file."
        )


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL; retries, because SQLite reports "locked" at once if others switch concurrently."""
    deadline = time.monotonic() + _WAIT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)  # a file is opened in a worker thread
        else:
            return


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
