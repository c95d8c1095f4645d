"""Memories in a SQLite file that processes may share: full text (FTS5) and, with an embedder, vectors.

Every statement names the user, so no id of another user is ever found. A change is one transaction that waits for
the disk: a process that is killed leaves all of it or nothing. All work runs in worker threads.

Deleted text leaves the file: SQLite overwrites it (`secure_delete`), the full-text index is built anew so that no
segment keeps its words, and the log is copied into the file and truncated.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkit.errors import AgentRunError, UserError
from agentkit.memory.embedding import embedded, nearest
from agentkit.memory.ranking import fused, query_words, with_recency
from agentkit.memory.sqlite_format import FORMAT, create_tables, scope_word, text_key
from agentkit.memory.store import (
    MemoryMatch,
    MemoryRecord,
    MemoryStore,
    MemoryStoreError,
    checked_label,
    checked_user,
    clean_text,
)
from agentkit.persistence.sql_database import Transaction
from agentkit.persistence.sqlite_database import SQLiteDatabase

if TYPE_CHECKING:
    from modelstack.inference.minilm import TextEmbedder

DEFAULT_MAX_PER_USER = 10_000
"""Memories of one user, about 25 MB with vectors; an exact search of all takes some 20 ms."""
BATCH_SHARE = 0.05
"""Share of a bound, or of the retention, that is deleted at once, because a deletion builds the index anew."""
CANDIDATES = 100
"""Matches by words, and by meaning, that are fused into one ranking."""
EMBEDDED_TOGETHER = 64
"""Texts that an embedder receives at once."""
MAX_EMBEDDED_IN_SEARCH = 256
"""Memories without a vector, written without an embedder, that one search embeds; `reembed` embeds all."""
_COLUMNS = "id, user, text, kind, created, run_id, tainted, origin, recalled"
_OWN = "user = :user AND created >= :since AND (:tainted IS NULL OR tainted = :tainted)"
_LOG_WAIT_MS = 5_000
"""Milliseconds to wait for readers in other processes before the log is truncated."""


class SQLiteMemoryStore(MemoryStore):
    """Stores memories in a file."""

    def __init__(
        self,
        path: str | Path,
        *,
        embedder: TextEmbedder | None = None,
        retention: timedelta | None = None,
        max_per_user: int = DEFAULT_MAX_PER_USER,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Set the file, which is opened on first use.

        Args:
            path: File of the memories; created if it does not exist, readable only by its owner.
            embedder: Embedder for search by meaning; None searches words only.
            retention: Age after which a memory is no longer returned; None keeps it. Expired memories are deleted
                together by the next `add` after 1.05 times this age, or by `forget_expired`.
            max_per_user: Maximum memories of a user. Beyond it, tainted ones are deleted first, then those that
                were written or recalled the longest time ago.
            clock: Seconds since 1970.

        Raises:
            UserError: the path is not a file's, or an option has no usable value.
        """
        if str(path) in ("", ":memory:"):
            raise UserError(f"path={str(path)!r} is no file; memories are kept in a file, such as 'memory.db'.")
        if max_per_user < 1:
            raise UserError(f"max_per_user={max_per_user}: a user has at least one memory; give 1 or more.")
        if retention is not None and retention <= timedelta(0):
            raise UserError(f"retention={retention!r} must be longer than nothing; None keeps memories.")
        self._file = _MemoryFile(path)
        self._embedder = embedder
        self._retention_s = None if retention is None else retention.total_seconds()
        self._max_per_user = max_per_user
        self._clock = clock

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._file.close()

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
        """Store a memory and return it; see `MemoryStore.add`."""
        text, scope = clean_text(text), _scope(user)
        labels = (checked_label("kind", kind), None if run_id is None else checked_label("run_id", run_id))
        origin = checked_label("origin", origin)
        vector = None if self._embedder is None else (await embedded(self._embedder, [text]))[0]

        def store(transaction: Transaction) -> tuple[MemoryRecord, bool]:
            row = transaction.execute(
                "INSERT INTO memories(id, user, text, text_key, kind, created, run_id, tainted, origin)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(user, text_key)"
                # Known text: trusted if either writer was; its words and its vector are already stored.
                f" DO UPDATE SET tainted = min(tainted, excluded.tainted) RETURNING number, {_COLUMNS}",
                (
                    _new_id(),
                    scope,
                    text,
                    text_key(text),
                    labels[0],
                    self._clock(),
                    labels[1],
                    int(tainted),
                    origin,
                ),
            ).fetchone()
            number = row[0]
            if not transaction.execute("SELECT 1 FROM memory_words WHERE rowid = ?", (number,)).fetchone():
                transaction.execute(
                    "INSERT INTO memory_words(rowid, text, scope) VALUES (?, ?, ?)",
                    (number, text, scope_word(scope)),
                )
            if vector is not None:
                self._check_embedder(transaction)
                transaction.execute("INSERT OR IGNORE INTO vectors VALUES (?, ?)", (number, vector))
            outdated = [*self._expired(transaction), *self._evicted(transaction, scope, number)]
            return _record(row[1:]), _deleted(transaction, outdated) > 0

        record, has_deleted = await self._file.write(store, durable=True, is_short=False)
        if has_deleted:
            await self._file.truncate_log()
        return record

    async def get(self, user: str | None, id: str) -> MemoryRecord | None:
        """Return a memory of the user; see `MemoryStore.get`."""
        own = self._own(user)

        def find(transaction: Transaction) -> MemoryRecord | None:
            statement = f"SELECT {_COLUMNS} FROM memories WHERE id = :id AND {_OWN}"
            row = _execute(transaction, statement, {**own, "id": id}).fetchone()
            return None if row is None else _record(row)

        return await self._file.read(find)

    async def list(
        self, user: str | None, *, limit: int = 100, offset: int = 0, tainted: bool | None = None
    ) -> Sequence[MemoryRecord]:
        """Return the user's memories, newest first; see `MemoryStore.list`."""
        values = {**self._own(user, tainted), "limit": max(0, limit), "offset": max(0, offset)}

        def find(transaction: Transaction) -> list[MemoryRecord]:
            statement = (
                f"SELECT {_COLUMNS} FROM memories WHERE {_OWN}"
                " ORDER BY created DESC, number DESC LIMIT :limit OFFSET :offset"
            )
            return [_record(row) for row in _execute(transaction, statement, values)]

        return await self._file.read(find)

    async def search(
        self, user: str | None, query: str, *, limit: int = 10, tainted: bool | None = None
    ) -> Sequence[MemoryMatch]:
        """Return the user's memories that match a text; see `MemoryStore.search`.

        Raises:
            UserError: the vectors of the file are those of another embedder.
            MemoryStoreError: the file cannot be used.
        """
        own, words, vector = self._own(user, tainted), query_words(query), None
        if self._embedder is not None and query.strip():
            (vector,) = await embedded(self._embedder, [query])
        find = partial(self._matches, own, words, vector, limit)
        matches, has_missing = await self._file.read(find)
        if has_missing:
            await self._embed_missing(own["user"], MAX_EMBEDDED_IN_SEARCH)
            matches, _ = await self._file.read(find)
        return matches

    async def forget(self, user: str | None, id: str) -> bool:
        """Delete a memory of the user; its text is then no longer in the file. See `MemoryStore.forget`."""
        return await self._delete("user = ? AND id = ?", (_scope(user), id)) > 0

    async def forget_user(self, user: str | None) -> int:
        """Delete all memories of the user; their text is then no longer in the file."""
        return await self._delete("user = ?", (_scope(user),))

    async def forget_expired(self) -> int:
        """Delete the memories of all users that are older than the retention, and return their number.

        An expired memory is never returned; this removes its text from the file without waiting for an `add`.

        Raises:
            MemoryStoreError: the file cannot be used.
        """
        return await self._delete("created < ?", (self._since(),))

    async def mark_recalled(self, user: str | None, ids: Sequence[str]) -> None:
        """Note that a run has recalled memories of the user."""
        rows = [(self._clock(), _scope(user), each) for each in ids]

        def note(transaction: Transaction) -> None:
            transaction.executemany("UPDATE memories SET recalled = ? WHERE user = ? AND id = ?", rows)

        if rows:
            await self._file.write(note, is_short=False)

    async def reembed(self) -> int:
        """Compute the vectors of all memories again with this store's embedder, and return their number.

        Raises:
            UserError: the store has no embedder.
            MemoryStoreError: the file cannot be used.
        """
        embedder = self._embedder
        if embedder is None:
            raise UserError("this store has no embedder; give it one: SQLiteMemoryStore(path, embedder=...).")

        def clear(transaction: Transaction) -> None:
            transaction.execute("DELETE FROM vectors")
            transaction.execute(
                "INSERT OR REPLACE INTO embedder VALUES (1, ?, ?)", (embedder.name, embedder.width)
            )

        await self._file.write(clear, is_short=False)
        return await self._embed_missing(None, None)

    def _matches(
        self, own: dict[str, Any], words: Sequence[str], vector: bytes | None, limit: int, transaction: Transaction
    ) -> tuple[list[MemoryMatch], bool]:
        """Return the matches, and whether memories without a vector could not be compared."""
        rankings, has_missing = list[list[int]](), False
        if words:
            any_word = " OR ".join(f'"{word}"' for word in words)
            expression = f"scope : {scope_word(own['user'])} AND text : ({any_word})"
            statement = (  # CROSS: the index is read first; the other way round it is read for each memory
                "SELECT number FROM memory_words CROSS JOIN memories ON number = memory_words.rowid"
                f" WHERE memory_words MATCH :expression AND {_OWN}"
                " ORDER BY bm25(memory_words, 1.0, 0.0), number DESC LIMIT :candidates"
            )
            found = _execute(transaction, statement, {**own, "expression": expression, "candidates": CANDIDATES})
            rankings.append([number for (number,) in found])
        if vector is not None:
            self._check_embedder(transaction, note=False)
            statement = f"SELECT number, vector FROM memories LEFT JOIN vectors USING (number) WHERE {_OWN}"
            rows: list[tuple[int, bytes | None]] = _execute(transaction, statement, own).fetchall()
            known = [(number, stored) for number, stored in rows if stored is not None]
            has_missing = len(known) < len(rows)
            rankings.append(nearest(vector, known, CANDIDATES))
        relevance = fused(rankings)
        records = {number: _by_number(transaction, number) for number in relevance}
        created = {number: record.created for number, record in records.items()}
        ranked = list(with_recency(relevance, created, self._clock()).items())[: max(0, limit)]
        return [MemoryMatch(records[number], score) for number, score in ranked], has_missing

    async def _embed_missing(self, scope: str | None, limit: int | None) -> int:
        """Embed memories that have no vector, of one scope or of all, and return their number."""
        embedder, n_done = self._embedder, 0
        assert embedder is not None  # every caller has checked it
        while limit is None or n_done < limit:

            def missing(transaction: Transaction) -> list[tuple[int, str]]:
                return transaction.execute(
                    "SELECT number, text FROM memories WHERE (?1 IS NULL OR user = ?1)"
                    " AND number NOT IN (SELECT number FROM vectors) ORDER BY number DESC LIMIT ?2",
                    (scope, EMBEDDED_TOGETHER),
                ).fetchall()

            rows = await self._file.read(missing)
            if not rows:
                break
            vectors = await embedded(embedder, [text for _, text in rows])
            pairs = [(number, vector) for (number, _), vector in zip(rows, vectors, strict=True)]

            def store(transaction: Transaction, pairs: Sequence[tuple[int, bytes]] = pairs) -> None:
                self._check_embedder(transaction)
                transaction.executemany(  # a memory may have been forgotten meanwhile
                    "INSERT OR IGNORE INTO vectors SELECT ?1, ?2 WHERE ?1 IN (SELECT number FROM memories)", pairs
                )

            await self._file.write(store, is_short=False)
            n_done += len(rows)
        return n_done

    def _check_embedder(self, transaction: Transaction, *, note: bool = True) -> None:
        """Compare this store's embedder with that of the file; `note` stores its name if there is none.

        Raises:
            UserError: the file has vectors of another one.
        """
        embedder = self._embedder
        assert embedder is not None  # every caller has checked it
        row = transaction.execute("SELECT name, width FROM embedder").fetchone()
        if row is None:
            if note:
                transaction.execute("INSERT INTO embedder VALUES (1, ?, ?)", (embedder.name, embedder.width))
        elif row != (embedder.name, embedder.width):
            raise UserError(
                f"memory file {str(self.path)!r} has vectors of embedder {row[0]!r}, and the store was given "
                f"{embedder.name!r}. Give it {row[0]!r}, or replace the vectors: await store.reembed()."
            )

    def _own(self, user: str | None, tainted: bool | None = None) -> dict[str, Any]:
        wanted = None if tainted is None else int(tainted)
        return {"user": _scope(user), "since": self._since(), "tainted": wanted}

    def _since(self) -> float:
        """Return the time before which memories are expired, in seconds since 1970."""
        return float("-inf") if self._retention_s is None else self._clock() - self._retention_s

    def _expired(self, transaction: Transaction) -> list[int]:
        """Return the expired memories once the oldest is overdue; no method returns them meanwhile."""
        since = self._since()
        (oldest,) = transaction.execute("SELECT min(created) FROM memories").fetchone()
        if self._retention_s is None or oldest is None or oldest >= since - BATCH_SHARE * self._retention_s:
            return []
        rows = transaction.execute("SELECT number FROM memories WHERE created < ?", (since,))
        return [number for (number,) in rows]

    def _evicted(self, transaction: Transaction, scope: str, newest: int) -> list[int]:
        """Return the memories to delete when a user has too many; `newest` is not among them."""
        (n_own,) = transaction.execute("SELECT count(*) FROM memories WHERE user = ?", (scope,)).fetchone()
        if n_own <= self._max_per_user:
            return []
        n_extra = n_own - self._max_per_user + int(BATCH_SHARE * self._max_per_user)
        rows = transaction.execute(
            "SELECT number FROM memories WHERE user = ? AND number <> ?"
            " ORDER BY tainted DESC, coalesce(recalled, created), number LIMIT ?",
            (scope, newest, n_extra),
        )
        return [number for (number,) in rows]

    async def _delete(self, where: str, values: tuple[Any, ...]) -> int:
        def delete(transaction: Transaction) -> int:
            rows = transaction.execute(f"SELECT number FROM memories WHERE {where}", values)
            return _deleted(transaction, [number for (number,) in rows])

        if n_deleted := await self._file.write(delete, durable=True, is_short=False):
            await self._file.truncate_log()
        return n_deleted


class _MemoryFile(SQLiteDatabase):
    """The file with the tables of memories."""

    async def truncate_log(self) -> None:
        """Copy the log into the file and empty it, so that it keeps no deleted text.

        Raises:
            MemoryStoreError: another process keeps reading an earlier state.
        """
        from anyio.to_thread import run_sync

        await run_sync(self._truncate_log)

    def _truncate_log(self) -> None:
        with self._lock:
            connection = self._open()
            connection.execute(f"PRAGMA busy_timeout={_LOG_WAIT_MS}")
            try:
                (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.DatabaseError as error:
                raise self._unusable(error) from error
            finally:
                connection.execute("PRAGMA busy_timeout=0")
        if is_busy:
            raise self._failure(
                "has forgotten the memories, but another process reads an earlier state, so the log beside the "
                "file still has their text. End that reader, and forget again."
            )

    def _is_current(self, connection: sqlite3.Connection) -> bool:
        return FORMAT.version_of(connection, self.path) == FORMAT.version

    def _bring_up(self, connection: sqlite3.Connection) -> None:
        create_tables(connection, self.path)

    def _failure(self, what: str) -> AgentRunError:
        return MemoryStoreError(f"memory file {str(self.path)!r} {what}")


def _scope(user: str | None) -> str:
    return checked_user(user) or ""


def _new_id() -> str:
    return f"m{secrets.token_hex(6)}"


def _execute(transaction: Transaction, statement: str, values: dict[str, Any]) -> Any:
    # SQLite takes named values; the protocol that PostgreSQL shares knows sequences only.
    return transaction.execute(statement, values)  # pyright: ignore[reportArgumentType]


def _by_number(transaction: Transaction, number: int) -> MemoryRecord:
    return _record(transaction.execute(f"SELECT {_COLUMNS} FROM memories WHERE number = ?", (number,)).fetchone())


def _record(row: Sequence[Any]) -> MemoryRecord:
    id, user, text, kind, created, run_id, tainted, origin, recalled = row
    return MemoryRecord(id, user or None, text, kind, created, run_id, bool(tainted), origin, recalled)


def _deleted(transaction: Transaction, numbers: Sequence[int]) -> int:
    """Delete memories with their words and vectors, and return their number."""
    if not numbers:
        return 0
    rows = [(number,) for number in numbers]
    transaction.executemany("DELETE FROM memory_words WHERE rowid = ?", rows)
    transaction.executemany("DELETE FROM memories WHERE number = ?", rows)
    # A deletion adds an entry to the index, and leaves the words of the deleted text in earlier segments; merging
    # the segments ('optimize') keeps some of them.
    transaction.execute("INSERT INTO memory_words(memory_words) VALUES ('rebuild')")
    return len(numbers)
