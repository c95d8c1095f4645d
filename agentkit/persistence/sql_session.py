"""Conversations in the database of the runs; common beginnings are stored once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Self

from agentkit.messages import ModelMessage
from agentkit.persistence import message_chain
from agentkit.persistence.session import MAIN, Session, SessionHistory, check_fork, gone_on
from agentkit.persistence.sql_database import JournalDatabase, Transaction


class SQLSession(Session):
    """A conversation in a database, which processes may share."""

    def __init__(self, database: JournalDatabase, id: str, branch: str) -> None:
        """Set the database and the conversation."""
        self._database = database
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
        """Delete all branches; messages that a run in the database shares stay until the run is deleted."""
        await self._database.delete(self._delete)

    @property
    def branch(self) -> str:
        """The branch's name."""
        return self._branch

    async def fork(self, branch: str, *, n_messages: int | None = None) -> Session:
        """Create a branch."""
        await self._database.write(partial(self._fork, branch, n_messages))
        return self._of_branch(branch)

    async def branches(self) -> Sequence[str]:
        """Return the branches' names."""
        return await self._database.read(self._branches)

    @abstractmethod
    def _of_branch(self, branch: str) -> Self:
        """Return another branch of the conversation."""

    def _take_turn(self, transaction: Transaction) -> None:
        """Wait for other changes of the conversation, so that none misses what another one adds or deletes."""
        transaction.take_turn(f"session {self._id}")

    def _load(self, transaction: Transaction) -> SessionHistory:
        tip = self._tip(transaction)
        whose = f"session {self._id!r}, branch {self._branch!r}"
        return SessionHistory(message_chain.read(transaction, tip, whose=whose), version_of(tip))

    def _append(self, messages: Sequence[ModelMessage], version: str, transaction: Transaction) -> str:
        self._take_turn(transaction)
        tip = self._tip(transaction)
        if version_of(tip) != version:
            raise gone_on(self)
        tip = message_chain.add(transaction, tip, messages)
        self._move(self._branch, tip, transaction)
        return version_of(tip)

    def _fork(self, branch: str, n_messages: int | None, transaction: Transaction) -> None:
        self._take_turn(transaction)
        tips = message_chain.tips(transaction, self._tip(transaction))
        check_fork(self, branch, n_messages, len(tips) - 1, taken=branch in self._branches(transaction))
        self._move(branch, tips[-1 if n_messages is None else n_messages], transaction)

    def _branches(self, transaction: Transaction) -> list[str]:
        rows = transaction.execute("SELECT branch FROM branches WHERE session_id = ?", (self._id,))
        return sorted({MAIN, *(name for (name,) in rows)})

    def _delete(self, transaction: Transaction) -> int:
        self._take_turn(transaction)
        return transaction.execute("DELETE FROM branches WHERE session_id = ?", (self._id,)).rowcount

    def _tip(self, transaction: Transaction) -> bytes | None:
        row = transaction.execute(
            "SELECT tip FROM branches WHERE session_id = ? AND branch = ?", (self._id, self._branch)
        ).fetchone()
        return None if row is None else row[0]

    def _move(self, branch: str, tip: bytes | None, transaction: Transaction) -> None:
        transaction.execute(
            "INSERT INTO branches(session_id, branch, tip, updated_at) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (session_id, branch) DO UPDATE SET tip = excluded.tip, updated_at = excluded.updated_at",
            (self._id, branch, tip, transaction.now()),
        )


def version_of(tip: bytes | None) -> str:
    """Return the version of a conversation with this last message."""
    return "" if tip is None else tip.hex()
