"""Storage of chats: a conversation is a session in the journal's file, with its folder in the session's id."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentkit.errors import CheckpointError
from agentkit.messages import ModelMessage
from agentkit.persistence.sqlite_database import SQLiteDatabase
from agentkit.persistence.sqlite_session import SQLiteSession, latest_session


@dataclass
class ChatStorage:
    """The stored part of a chat."""

    database: SQLiteDatabase
    session: SQLiteSession
    n_stored: int = 0
    version: str = ""

    @classmethod
    def begin(cls, file: Path) -> ChatStorage:
        """Return the storage of a new conversation in the current folder; nothing is written yet."""
        database = SQLiteDatabase(file)
        return cls(database, SQLiteSession(database, _prefix() + secrets.token_hex(8)))

    async def resume(self) -> tuple[ModelMessage, ...]:
        """Continue the last conversation of the current folder and return its messages.

        Raises:
            CheckpointError: There is none, or the file cannot be read.
        """
        found = await latest_session(self.database, _prefix())
        if found is None:
            raise CheckpointError(f"no chat was stored in {str(Path.cwd())!r}; begin one without --continue.")
        self.session = SQLiteSession(self.database, found)
        history = await self.session.load()
        self.n_stored, self.version = len(history.messages), history.version
        return history.messages

    async def store(self, messages: Sequence[ModelMessage]) -> None:
        """Store the messages of a conversation that are not stored yet.

        Raises:
            CheckpointError: Another chat has continued the conversation, or the file cannot be written.
        """
        if new := messages[self.n_stored :]:
            self.version = await self.session.append(new, self.version)
            self.n_stored = len(messages)

    def reset(self) -> None:
        """Start a new conversation; the earlier one stays in the file."""
        self.session = SQLiteSession(self.database, _prefix() + secrets.token_hex(8))
        self.n_stored, self.version = 0, ""


def _prefix() -> str:
    return f"chat {json.dumps(str(Path.cwd()))} "  # quoted: no folder's prefix begins another one's
