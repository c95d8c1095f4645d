"""Databases that store journals, as the SQL of runs, events and conversations needs them.

The statements are written once, in the SQL that SQLite and PostgreSQL share, with SQLite's placeholders (`?` in
order, or `?1`). The few differences are members of the transaction. A transaction that writes is alone in SQLite.
In PostgreSQL many write at the same time, so a statement that must not be overtaken locks its row (`FOR_UPDATE`),
and a transaction whose order matters waits for its turn (`take_turn`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

T = TypeVar("T")

IS_UNENDED = "part_of IS NULL AND status IN ('running', 'needs_approval', 'needs_results')"
"""Condition of runs that have not ended, word for word that of their index."""
INSERT_EVENT = "INSERT INTO events(run_id, number, time, body) VALUES (?, ?, ?, ?)"
EventRow = tuple[str, int, float, str]
"""Run, number, time in seconds since 1970, and JSON of an event."""


class Rows(Protocol):
    """Result of a statement."""

    @property
    def rowcount(self) -> int:
        """Number of rows that the statement changed."""
        ...

    def fetchone(self) -> Any:
        """Return the next row; None without one."""
        ...

    def fetchall(self) -> list[Any]:
        """Return all further rows."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Yield all further rows."""
        ...


class Transaction(Protocol):
    """Connection within a transaction."""

    FOR_UPDATE: ClassVar[str]
    """End of a SELECT whose row stays as it is until the transaction ends."""
    HAS_METADATA: ClassVar[str]
    """Condition of runs whose metadata contains the JSON object `?1`."""
    RUN_IDS: ClassVar[str]
    """Table `wanted` with the column `value`, from the JSON list `?1`."""

    def execute(self, statement: str, parameters: Sequence[Any] = (), /) -> Rows:
        """Execute a statement."""
        ...

    def executemany(self, statement: str, parameters: Iterable[Sequence[Any]], /) -> object:
        """Execute a statement once for each row of parameters."""
        ...

    def insert_events(self, rows: Sequence[EventRow], /) -> bool:
        """Insert events of one run, at least one; none if the number of the first is taken.

        The numbers are consecutive, and the run's row is locked or new, so no later number is taken either.

        Returns:
            Whether they are inserted.
        """
        ...

    def now(self) -> float:
        """Return the time by the clock that all processes share, in seconds since 1970."""
        ...

    def take_turn(self, name: str) -> None:
        """Wait until no other transaction has the turn of this name, and keep it until the transaction ends."""
        ...


Work = Callable[[Transaction], T]
"""Statements of a transaction, and their result; performed again if they were undone."""


class JournalDatabase(ABC):
    """A database that the journals and sessions of a process share; opened on first use."""

    name: str
    """Name for messages, without a password."""
    groups_writes: bool = False
    """Whether short writes may wait for the event loop's next turn, and be one transaction."""

    @abstractmethod
    async def write(
        self, work: Work[T], *, durable: bool = False, is_short: bool = True, drops_messages: bool = False
    ) -> T:
        """Run `work` in one transaction that writes.

        Args:
            work: Receives the transaction.
            durable: Wait until the disk has the data.
            is_short: The work takes less than a millisecond, so a database without a network may do it at once.
            drops_messages: The work deletes messages that nothing refers to, so no other transaction may store
                messages meanwhile.

        Raises:
            CheckpointError: the database cannot be used.
        """

    @abstractmethod
    async def read(self, work: Work[T], *, is_short: bool = False) -> T:
        """Run `work`, which only reads, in one transaction that sees one state of the database.

        Raises:
            CheckpointError: the database cannot be used.
        """

    @abstractmethod
    async def delete(self, work: Work[int]) -> int:
        """Run `work`, which deletes rows and returns their number, and delete the messages that nothing has now.

        Raises:
            CheckpointError: the database cannot be used.
        """

    @abstractmethod
    def write_if_open(self, work: Work[object]) -> None:
        """Run `work` in one transaction, from any thread; do nothing if the database is not open or not usable."""

    @abstractmethod
    def close(self) -> None:
        """Close the database; the next use opens it again."""
