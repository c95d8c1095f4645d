"""Conversations as hash chains: each message is stored once, named by the hash of its body and its parent's hash.

This is the scheme of git's commits. Runs and branches with a common beginning share its rows, so a conversation of
a hundred runs is stored once and a branch costs nothing. A message that was changed in the file is detected on
read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from agentkit.errors import CheckpointError
from agentkit.file_references import Files, may_have_files, references_in, with_files, with_references
from agentkit.messages import ModelMessage
from agentkit.persistence import sql_files
from agentkit.persistence.sql_database import Transaction
from agentkit.persistence.stored_state import message_from_json, message_to_json

_ID_BYTES = 16
"""Length of an id in bytes; with 128 bits, chance collisions are negligible."""
_CHAIN = """
WITH RECURSIVE chain(id) AS (
    SELECT ? UNION SELECT parent FROM messages JOIN chain USING (id) WHERE parent IS NOT NULL
)
"""
"""Ids of a conversation's messages, in no order; a message that was made its own ancestor ends it."""
_IN_CHAIN = "id IN (SELECT id FROM chain)"
CHAIN_IDS = f"{_CHAIN.replace('?', '?1')} SELECT id FROM chain"
"""Query of the ids of the messages of a conversation whose last one is `?1`."""


def add(transaction: Transaction, tip: bytes | None, messages: Iterable[ModelMessage]) -> bytes | None:
    """Store messages after `tip`, unless they are stored already; return the new tip."""
    rows: list[tuple[bytes, bytes | None, str]] = []
    files_of: dict[bytes, Files] = {}
    for message in messages:
        files: Files = {}
        if may_have_files(message):
            (message,) = with_references([message], files)
        body = message_to_json(message).decode()
        parent, tip = tip, _id(tip, body)
        rows.append((tip, parent, body))
        if files:
            files_of[tip] = files
    if rows:
        insert = "INSERT INTO messages(id, parent, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        transaction.executemany(insert, rows)
    for message_id, files in files_of.items():
        sql_files.add_of_message(transaction, message_id, files)
    return tip


def read(transaction: Transaction, tip: bytes | None, *, whose: str) -> tuple[ModelMessage, ...]:
    """Return the conversation that ends with `tip`.

    Raises:
        CheckpointError: a message is missing, or it or one of its files was changed.
    """
    if tip is None:
        return ()
    last = tip
    rows = transaction.execute(f"{_CHAIN} SELECT id, parent, body FROM messages WHERE {_IN_CHAIN}", (tip,))
    stored = {message_id: (parent, body) for message_id, parent, body in rows}
    messages: list[ModelMessage] = []
    while tip is not None:
        if tip not in stored:
            raise CheckpointError(f"{whose}: a message before its last {len(messages)} is missing.")
        parent, body = stored[tip]
        if _id(parent, body) != tip:
            raise CheckpointError(f"{whose}: the message before its last {len(messages)} was changed.")
        messages.append(message_from_json(body, whose=whose))
        tip = parent
    messages.reverse()
    if not references_in(messages):
        return tuple(messages)
    return with_files(messages, sql_files.of_messages(transaction, CHAIN_IDS, last), whose=whose)


def tips(transaction: Transaction, tip: bytes | None) -> list[bytes | None]:
    """Return the ids of the chain up to `tip`: None for the empty conversation, then one id per message."""
    if tip is None:
        return [None]
    rows = transaction.execute(f"{_CHAIN} SELECT id, parent FROM messages WHERE {_IN_CHAIN}", (tip,))
    parents: dict[bytes | None, bytes | None] = dict(rows.fetchall())
    found: list[bytes | None] = []
    while tip is not None and tip not in found:
        found.append(tip)
        tip = parents.get(tip)
    return [None, *reversed(found)]


def forget_end(transaction: Transaction, tip: bytes | None) -> None:
    """Delete the messages at the end of a chain that no run, branch or other message refers to."""
    while tip is not None:
        parent = transaction.execute(
            """
            SELECT parent FROM messages WHERE id = ?1
                AND NOT EXISTS (SELECT 1 FROM runs WHERE tip = ?1)
                AND NOT EXISTS (SELECT 1 FROM branches WHERE tip = ?1)
                AND NOT EXISTS (SELECT 1 FROM messages WHERE parent = ?1)
            """,
            (tip,),
        ).fetchone()
        if parent is None:
            break
        transaction.execute("DELETE FROM messages WHERE id = ?", (tip,))
        (tip,) = parent
    sql_files.forget_unused(transaction)


def forget_unused(transaction: Transaction) -> None:
    """Delete the messages, and their files, that are not reachable from any run or branch."""
    transaction.execute(
        """
        WITH RECURSIVE used(id) AS (
            SELECT tip FROM runs WHERE tip IS NOT NULL
            UNION SELECT tip FROM branches WHERE tip IS NOT NULL
            UNION SELECT parent FROM messages JOIN used USING (id) WHERE parent IS NOT NULL
        )
        DELETE FROM messages WHERE id NOT IN (SELECT id FROM used)
        """
    )
    sql_files.forget_unused(transaction)


def _id(parent: bytes | None, body: str) -> bytes:
    return hashlib.sha256((parent or bytes(_ID_BYTES)) + body.encode()).digest()[:_ID_BYTES]
