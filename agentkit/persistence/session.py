"""Sessions: the protocol for long conversations, and an in-memory implementation for tests.

A session is a conversation over many runs; branches share their common beginning. It is written atomically at the
end of a run, so a killed run leaves it unchanged. If two runs continue from the same version, the second `append`
is refused; its messages may go into a new branch. `agentkit.testing.check_session` tests an implementation against
this contract.
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
    """Current content of a conversation."""

    messages: tuple[ModelMessage, ...]
    version: str
    """Version of the branch, changed by every `append`; the next `append` must name it."""


class Session(ABC):
    """A branch of a stored conversation."""

    @property
    @abstractmethod
    def id(self) -> str:
        """The conversation's name."""

    @abstractmethod
    async def load(self) -> SessionHistory:
        """Return the conversation; empty before the first `append`.

        Raises:
            CheckpointError: the conversation is damaged.
        """

    @abstractmethod
    async def append(self, messages: Sequence[ModelMessage], version: str) -> str:
        """Add the messages of a run that started from `version`; return the new version.

        Raises:
            CheckpointError: the conversation has changed since `version`, or it cannot be written.
        """

    @abstractmethod
    async def delete(self) -> None:
        """Delete the conversation with all its branches; a run that started earlier cannot append to it.

        Raises:
            CheckpointError: the conversation cannot be written.
        """

    @property
    @abstractmethod
    def branch(self) -> str:
        """The branch's name; every conversation begins with "main"."""

    @abstractmethod
    async def fork(self, branch: str, *, n_messages: int | None = None) -> Session:
        """Create a branch from the first `n_messages` (None: all), and return it.

        Raises:
            CheckpointError: the branch exists, or `n_messages` is out of range.
        """

    @abstractmethod
    async def branches(self) -> Sequence[str]:
        """Return the names of the conversation's branches, in alphabetical order."""


class InMemorySession(Session):
    """Stores a conversation in memory, for the lifetime of the process."""

    def __init__(self, id: str = "session") -> None:
        """Start an empty conversation."""
        self._id = id
        self._branch = MAIN
        self._kept: dict[str, tuple[ModelMessage, ...]] = {MAIN: ()}

    @property
    def id(self) -> str:
        """The name given at construction."""
        return self._id

    async def load(self) -> SessionHistory:
        """Return the conversation."""
        messages = self._messages
        return SessionHistory(messages, str(len(messages)))

    async def append(self, messages: Sequence[ModelMessage], version: str) -> str:
        """Add the messages of a run."""
        known = self._messages
        if version != str(len(known)):
            raise gone_on(self)
        self._kept[self._branch] = (*known, *messages)
        return str(len(self._messages))

    async def delete(self) -> None:
        """Delete all branches."""
        self._kept.clear()
        self._kept[MAIN] = ()

    @property
    def branch(self) -> str:
        """The branch's name."""
        return self._branch

    async def fork(self, branch: str, *, n_messages: int | None = None) -> Session:
        """Create a branch."""
        messages = self._messages
        check_fork(self, branch, n_messages, len(messages), taken=branch in self._kept)
        self._kept[branch] = messages[:n_messages]
        forked = InMemorySession(self._id)
        forked._branch, forked._kept = branch, self._kept
        return forked

    async def branches(self) -> Sequence[str]:
        """Return the branches' names."""
        return sorted(self._kept)

    @property
    def _messages(self) -> tuple[ModelMessage, ...]:
        return self._kept.get(self._branch, ())


def gone_on(session: Session) -> CheckpointError:
    """Return the error for a conversation to which another run has added messages."""
    return CheckpointError(
        f"session {session.id!r}, branch {session.branch!r}, has gone on since this run began. What it said is in "
        f"this error's `messages`; keep it in a branch of its own (`session.fork`), or run again."
    )


def check_fork(session: Session, branch: str, n_messages: int | None, n_known: int, *, taken: bool) -> None:
    """Reject a branch that cannot be created.

    Raises:
        CheckpointError: the name is taken, or `n_messages` is out of range.
    """
    if taken:
        raise CheckpointError(f"session {session.id!r} has a branch {branch!r} already; choose another name.")
    if n_messages is not None and not 0 <= n_messages <= n_known:
        raise CheckpointError(
            f"n_messages={n_messages}: branch {session.branch!r} of session {session.id!r} has {n_known} messages."
        )
