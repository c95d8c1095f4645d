"""Memories of users over conversations: the record, and the protocol of a store.

A store is scoped: each method takes the user, and a memory of another user cannot be read, listed or forgotten,
even with its id. `user=None` is the shared scope of the application; a run with a user does not see it.

A memory keeps its taint: text that a run wrote after it had read untrusted content is marked for as long as it is
stored, and taints the run that recalls it. Text that is added twice is trusted if one of its writers was.
"""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from agentkit.basics.hidden import strip_data
from agentkit.basics.well_formed import well_formed
from agentkit.errors import AgentRunError, UserError

MAX_TEXT_CHARS = 2_000
"""Maximum characters of a memory, as of an observation of the MCP server `memory`: about 500 tokens."""
MAX_LABEL_CHARS = 100
"""Maximum characters of a kind, an origin or the id of a run."""
MAX_USER_CHARS = 200
"""Maximum characters of a user's name."""


class MemoryStoreError(AgentRunError):
    """A store of memories cannot be used: another program's file, damaged, full or locked."""


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """A memory as a store holds it."""

    id: str
    """Identifier within the store; random, and valid only together with the user."""
    user: str | None
    """User whose memory it is; None for the shared scope."""
    text: str
    kind: str
    """Kind of memory in the application's terms; "fact" by default."""
    created: float
    """Time of writing, in seconds since 1970."""
    run_id: str | None
    """Run that wrote it; None if the application did."""
    tainted: bool
    """True if the text may come from untrusted content."""
    origin: str
    """Writer: "tool remember", the name of a rule such as "rule explicit_statements", or "application"."""
    recalled: float | None
    """Time of the last recall by a run, in seconds since 1970; None if never, or if the store keeps no times."""


@dataclass(frozen=True, slots=True)
class MemoryMatch:
    """A memory that a search found."""

    record: MemoryRecord
    score: float
    """Relevance and recency, from 0 to 1; comparable within one search only."""


class MemoryStore(ABC):
    """Stores memories, each in the scope of one user."""

    @abstractmethod
    async def add(
        self,
        user: str | None,
        text: str,
        *,
        kind: str = "fact",
        run_id: str | None = None,
        tainted: bool = False,
        origin: str = "application",
    ) -> MemoryRecord:
        """Store a memory and return it; the same text in the same scope is stored once.

        Raises:
            UserError: the text is empty or too long, or another argument has no usable value.
            MemoryStoreError: the store cannot be used.
        """

    @abstractmethod
    async def get(self, user: str | None, id: str) -> MemoryRecord | None:
        """Return a memory of the user; None if the user has no memory with this id.

        Raises:
            MemoryStoreError: the store cannot be used.
        """

    @abstractmethod
    async def search(
        self, user: str | None, query: str, *, limit: int = 10, tainted: bool | None = None
    ) -> Sequence[MemoryMatch]:
        """Return the user's memories that match a text, best first.

        Args:
            user: User whose memories are searched.
            query: Any text; words of it are searched, and its meaning if the store has an embedder.
            limit: Maximum number of matches.
            tainted: Return only tainted memories (True) or only others (False).

        Raises:
            MemoryStoreError: the store cannot be used.
        """

    @abstractmethod
    async def list(
        self, user: str | None, *, limit: int = 100, offset: int = 0, tainted: bool | None = None
    ) -> Sequence[MemoryRecord]:
        """Return the user's memories, newest first.

        Raises:
            MemoryStoreError: the store cannot be used.
        """

    @abstractmethod
    async def forget(self, user: str | None, id: str) -> bool:
        """Delete a memory of the user; return False if the user has no memory with this id.

        Raises:
            MemoryStoreError: the store cannot be used.
        """

    async def forget_user(self, user: str | None) -> int:
        """Delete all memories of the user and return their number.

        Raises:
            MemoryStoreError: the store cannot be used.
        """
        n_deleted = 0
        while records := await self.list(user):
            deleted = [await self.forget(user, record.id) for record in records]
            n_deleted += sum(deleted)
            if not any(deleted):  # another process has deleted them
                break
        return n_deleted

    async def mark_recalled(  # noqa: B027 - a store may keep no times
        self, user: str | None, ids: Sequence[str]
    ) -> None:
        """Note that a run has recalled memories of the user.

        Raises:
            MemoryStoreError: the store cannot be used.
        """

    def close(self) -> None:  # noqa: B027 - a store may hold nothing open
        """Release files and processes; the next use opens them again."""


def clean_text(text: str) -> str:
    """Return the text of a memory as it is stored: NFC, without hidden characters and surrounding space.

    Raises:
        UserError: the text is empty or too long.
    """
    lines = well_formed(text).replace("\r\n", "\n").replace("\r", "\n")
    cleaned = unicodedata.normalize("NFC", strip_data(lines)[0]).strip()
    if not cleaned:
        raise UserError(f"text={text[:60]!r}: a memory has at least one visible character; write out the fact.")
    if len(cleaned) > MAX_TEXT_CHARS:
        raise UserError(
            f"text={cleaned[:60]!r}... has {len(cleaned)} characters; a memory has at most {MAX_TEXT_CHARS}. "
            f"Split it into several facts."
        )
    return cleaned


def checked_user(user: str | None) -> str | None:
    """Return the user.

    Raises:
        UserError: the name is empty or too long.
    """
    if user is None or (0 < len(user) <= MAX_USER_CHARS and well_formed(user) == user):
        return user
    raise UserError(
        f"user={user[:60]!r} has {len(user)} characters; a user's name has 1 to {MAX_USER_CHARS} characters of "
        f"valid Unicode. Give the user's id, or None for the shared scope."
    )


def checked_label(name: str, label: str) -> str:
    """Return a short text that describes a memory, such as its kind; `name` is that of the argument.

    Raises:
        UserError: it is empty, too long, or has hidden characters or line ends.
    """
    if 0 < len(label) <= MAX_LABEL_CHARS and label.isprintable() and strip_data(label)[1] == 0:
        return label
    raise UserError(
        f"{name}={label[:60]!r}: it is one line of 1 to {MAX_LABEL_CHARS} visible characters; shorten it."
    )
