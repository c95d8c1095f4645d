"""Long conversations: the protocol, and a keeper in memory for tests.

A session is a conversation that goes on over many runs; its branches share what they have in common. It is written
at a run's end and at once, so a run that is killed leaves it as it was. Two runs that go on from the same place do
not both get in: the second one's `append` is refused, and may go into a branch of its own.
`agentkit.testing.check_session` holds an implementation to this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from agentkit.errors import CheckpointError
from agentkit.messages import ModelMessage

MAIN = "main"


@dataclass(frozen=True, slots=True)
class SessionHistory:
    """A conversation as it stands."""

    messages: tuple[ModelMessage, ...]
    version: str
    """Changes with every `append`; names the place that one goes on from."""


class Session(ABC):
    """One branch of a kept conversation."""

    @property
    @abstractmethod
    def id(self) -> str:
        """The conversation's name."""

    @property
    @abstractmethod
    def branch(self) -> str:
        """The branch's name; every conversation begins with "main"."""

    @abstractmethod
    async def load(self) -> SessionHistory:
        """Return the conversation; empty if nothing was said.

        Raises:
            CheckpointError: it is damaged.
        """

    @abstractmethod
    async def append(self, messages: Sequence[ModelMessage], version: str) -> str:
        """Add what a run said after `version`; return the new version.

        Raises:
            CheckpointError: the conversation has gone on since, or it cannot be written.
        """

    @abstractmethod
    async def fork(self, branch: str, *, n_messages: int | None = None) -> Session:
        """Begin a branch after the first `n_messages`, all if None, and return it.

        Raises:
            CheckpointError: there is such a branch, or there are not so many messages.
        """

    @abstractmethod
    async def branches(self) -> Sequence[str]:
        """Return the names of the conversation's branches, in alphabetical order."""


class InMemorySession(Session):
    """Keeps a conversation as long as the process lives."""

    def __init__(self, id: str = "session") -> None:
        """Begin a conversation."""
        self._id = id
        self._branch = MAIN
        self._kept: dict[str, tuple[ModelMessage, ...]] = {MAIN: ()}

    @property
    def id(self) -> str:
        """The name given at construction."""
        return self._id

    @property
    def branch(self) -> str:
        """The branch's name."""
        return self._branch

    async def load(self) -> SessionHistory:
        """Return the conversation."""
        messages = self._kept[self._branch]
        return SessionHistory(messages, str(len(messages)))

    async def append(self, messages: Sequence[ModelMessage], version: str) -> str:
        """Add what a run said."""
        known = self._kept[self._branch]
        if version != str(len(known)):
            raise gone_on(self)
        self._kept[self._branch] = (*known, *messages)
        return str(len(self._kept[self._branch]))

    async def fork(self, branch: str, *, n_messages: int | None = None) -> Session:
        """Begin a branch."""
        messages = self._kept[self._branch]
        check_fork(self, branch, n_messages, len(messages), taken=branch in self._kept)
        self._kept[branch] = messages[:n_messages]
        forked = InMemorySession(self._id)
        forked._branch, forked._kept = branch, self._kept
        return forked

    async def branches(self) -> Sequence[str]:
        """Return the branches' names."""
        return sorted(self._kept)


def gone_on(session: Session) -> CheckpointError:
    """Return the error for a conversation that another run has added to."""
    return CheckpointError(
        f"session {session.id!r}, branch {session.branch!r}, has gone on since this run began. What it said is in "
        f"this error's `messages`; keep it in a branch of its own (`session.fork`), or run again."
    )


def check_fork(session: Session, branch: str, n_messages: int | None, n_known: int, *, taken: bool) -> None:
    """Refuse a branch that cannot be begun.

    Raises:
        CheckpointError: its name is taken, or it would begin behind the last message.
    """
    if taken:
        raise CheckpointError(f"session {session.id!r} has a branch {branch!r} already; choose another name.")
    if n_messages is not None and not 0 <= n_messages <= n_known:
        raise CheckpointError(
            f"n_messages={n_messages}: branch {session.branch!r} of session {session.id!r} has {n_known} messages."
        )
