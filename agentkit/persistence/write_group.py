"""Writes of several runs in one transaction, each of which succeeds or fails by itself.

A commit costs as much as the statements of several writes, and neighbouring rows share its pages. Runs that one
event loop performs at the same time are ready to write at the same time, so none waits for long.
"""

from __future__ import annotations

import math
import sqlite3
from typing import Any

from anyio import CancelScope, Event, current_effective_deadline, get_cancelled_exc_class

from agentkit.persistence.sql_database import Transaction, Work

MOST_WRITES = 100
"""Writes of a group; they hold the event loop for some milliseconds."""
Outcome = tuple[Any] | BaseException
"""Result of a write, or its error."""


class WriteGroup:
    """Writes that are done together."""

    def __init__(self) -> None:
        """Start empty."""
        self._works: list[Work[Any]] = []
        self._outcomes: list[Outcome] = []
        self._failure: BaseException | None = None
        self._done = Event()

    @property
    def is_full(self) -> bool:
        """Whether no further write may join."""
        return len(self._works) >= MOST_WRITES

    def add(self, work: Work[Any]) -> int:
        """Add a write; return its place."""
        self._works.append(work)
        return len(self._works) - 1

    def work(self, transaction: Transaction) -> None:
        """Do all writes: without a savepoint each as long as none fails, which is faster.

        Raises:
            sqlite3.DatabaseError: the file cannot be used; nothing is written.
        """
        if len(self._works) == 1:
            self._outcomes = [(self._works[0](transaction),)]
            return
        transaction.execute("SAVEPOINT all_writes")
        try:
            self._outcomes = [(work(transaction),) for work in self._works]
        except sqlite3.DatabaseError:  # may have ended the transaction
            raise
        except BaseException:
            transaction.execute("ROLLBACK TO all_writes")
            self._outcomes = [_outcome(work, transaction) for work in self._works]
        transaction.execute("RELEASE all_writes")

    def close(self, failure: BaseException | None) -> None:
        """Wake those who wait: the transaction has ended, with an error or without."""
        self._failure = failure
        self._done.set()

    async def wait(self) -> None:
        """Wait until the transaction has ended, in a cancelled scope too.

        A scope that shields from cancellation would cost more than the wait, and few tasks are cancelled here.
        """
        try:
            await self._done.wait()
        except get_cancelled_exc_class():
            with CancelScope(shield=True):
                await self._done.wait()
            if current_effective_deadline() != -math.inf:
                raise  # by asyncio's `Task.cancel`, which nothing repeats

    def result(self, place: int) -> Any:
        """Return the result of a write, or raise its error."""
        if self._failure is not None:
            raise self._failure
        outcome = self._outcomes[place]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome[0]


def _outcome(work: Work[Any], transaction: Transaction) -> Outcome:
    """Do a write; undo it, and nothing else, if it fails."""
    transaction.execute("SAVEPOINT one_write")
    try:
        found = (work(transaction),)
    except sqlite3.DatabaseError:
        raise
    except BaseException as error:
        transaction.execute("ROLLBACK TO one_write")
        transaction.execute("RELEASE one_write")
        return error
    transaction.execute("RELEASE one_write")
    return found
