"""Embedding of passages in the background: those without vectors, a few at a time, outside of any transaction.

Several processes may fill one index. Each begins at a random place, so that they share the work instead of doing
it twice. A killed process loses its last batch alone; the next pass of any process finds what is missing.
"""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_servers.failures import StartError, ToolFailure
from mcp_servers.search.facts import fact
from mcp_servers.search.index import Index
from mcp_servers.search.nearest import embedded, stored_forms
from mcp_servers.search.policy import Limits
from mcp_servers.search.refreshing import Refreshed, Report
from mcp_servers.search.vector_table import EMBEDDER, OtherEmbedder, use_embedder
from mcp_servers.search.windows import Window, windows_of

if TYPE_CHECKING:
    from modelstack.inference.minilm import TextEmbedder

BATCH_PASSAGES = 32
"""Passages embedded together: about a second on one core."""
MISSING = (
    "FROM passages WHERE first_line > 0 AND NOT EXISTS (SELECT 1 FROM vectors WHERE passage_id = passages.id)"
)


@dataclass(frozen=True)
class _Passage:
    id: int
    windows: list[Window]


class PassageEmbedder:
    """Gives the passages of one index their vectors."""

    def __init__(self, index: Index, embedder: TextEmbedder, other: OtherEmbedder, limits: Limits) -> None:
        """Claim the index for vectors of this model.

        Raises:
            StartError: The index has vectors of another model, and `other` is "refuse"; or it cannot be written.
        """
        self._index = index
        self._embedder = embedder
        self._limits = limits
        self._claim(other)

    def embed(self, report: Report) -> Refreshed:
        """Embed the passages that have no vectors; returns their number as files read.

        Raises:
            ToolFailure: The index cannot be used, or has vectors of another model by now.
            sqlite3.Error: The index cannot be written.
        """
        try:
            self._claim("refuse")  # the file may be new: its owner deleted it
        except StartError as error:
            raise ToolFailure(str(error)) from error
        with self._index.reading(float("inf")) as connection:
            (total,) = connection.execute(f"SELECT count(*) {MISSING}").fetchone()
            (newest,) = connection.execute("SELECT coalesce(max(id), 0) FROM passages").fetchone()
        start = random.randint(0, newest)
        n_done = 0
        for first, last in ((start, None), (0, start)):
            while passages := self._missing(first, last):
                report(min(n_done, total), total)
                self._put(passages)
                n_done += len(passages)
                first = passages[-1].id
        report(total, total)
        return Refreshed(n_done, 0)

    def _claim(self, other: OtherEmbedder) -> None:
        try:
            with self._index.writing() as connection:
                use_embedder(connection, self._embedder.name, self._embedder.width, other)
        except sqlite3.Error as error:
            raise StartError(f"the index cannot hold vectors: {error}.") from error

    def _missing(self, after: int, until: int | None) -> list[_Passage]:
        """Return the next passages without vectors; none if the index holds as many vectors as it may."""
        with self._index.reading(float("inf")) as connection:
            (n_vectors,) = connection.execute("SELECT coalesce(max(rowid), 0) FROM codes").fetchone()
            if n_vectors >= self._limits.max_vectors:  # ids may have gaps, so count only when it is close
                (n_vectors,) = connection.execute("SELECT count(*) FROM codes").fetchone()
            if n_vectors >= self._limits.max_vectors:
                return []
            rows = connection.execute(
                "SELECT passages.id, heading, body FROM words JOIN passages ON passages.id = words.rowid "
                f"WHERE words.rowid IN (SELECT id {MISSING} AND id > :after AND id <= :until "
                "ORDER BY id LIMIT :count) ORDER BY passages.id",
                {"after": after, "until": 1 << 62 if until is None else until, "count": BATCH_PASSAGES},
            ).fetchall()
        return [_Passage(passage_id, windows_of(heading, body)) for passage_id, heading, body in rows]

    def _put(self, passages: list[_Passage]) -> None:
        """Embed and store passages, but not those that were removed or embedded meanwhile."""
        texts = [window.text for passage in passages for window in passage.windows]
        forms = iter(stored_forms(embedded(self._embedder, texts)))
        with self._index.writing() as connection:
            if fact(connection, EMBEDDER) != self._embedder.name:
                raise ToolFailure("another process has rebuilt the embeddings with another model")
            for passage in passages:
                stored = [(window.line, *next(forms)) for window in passage.windows]
                is_wanted = connection.execute(f"SELECT 1 {MISSING} AND id = ?", (passage.id,)).fetchone()
                if is_wanted:
                    _insert(connection, passage.id, stored or [(0, *_nothing(self._embedder.width))])


def _insert(connection: sqlite3.Connection, passage_id: int, stored: list[tuple[int, bytes, bytes]]) -> None:
    for part, (line, code, value) in enumerate(stored):
        cursor = connection.execute(
            "INSERT INTO vectors(passage_id, part, line, value) VALUES (?, ?, ?, ?)",
            (passage_id, part, line, value),
        )
        connection.execute("INSERT INTO codes(id, code) VALUES (?, ?)", (cursor.lastrowid, code))


def _nothing(width: int) -> tuple[bytes, bytes]:
    """Return code and value of a passage without text, so that it is not embedded again and again."""
    import numpy as np

    return stored_forms(np.zeros((1, width), np.float32))[0]
