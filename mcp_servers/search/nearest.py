"""Nearest vectors in two steps: Hamming distances of one-bit codes in memory, then exact products of the best.

The sign of each number keeps the order of vectors well enough to choose candidates (Charikar, "Similarity
estimation techniques from rounding algorithms", 2002; Yamada et al., https://arxiv.org/abs/2106.00882). 100,000
codes are 5 MB and are compared in about a millisecond. The candidates' vectors are read from the index, with one
byte per number: their length is 1, so each is scaled to its largest number and the scale need not be stored. A
compiled extension (sqlite-vec) is not needed, and many builds of Python cannot load one.

Letters: N vectors in the index, W words of 64 bits of a code, C candidates, D width.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mcp_servers.failures import ToolFailure
from mcp_servers.search.facts import fact
from mcp_servers.search.vector_table import MADE, N_REMOVED

if TYPE_CHECKING:
    from modelstack.inference.minilm import TextEmbedder

MIN_CANDIDATES = 600
CANDIDATES_PER_HIT = 8
"""Exactly compared vectors for each wanted one. Measured with 100,000 vectors by `evals.speed.retrieval`."""
MAX_STALE_SHARE = 0.1
"""Share of removed vectors beyond which the codes are read anew."""
WORD_BITS = 64
NO_DISTANCE = 0xFFFF
LARGEST = 127


@dataclass(frozen=True, slots=True)
class Near:
    """A passage near a query."""

    passage_id: int
    line: int
    """Offset of the nearest window's first line from that of the passage."""
    similarity: float
    """Cosine of the vectors, from -1 to 1."""


@dataclass(frozen=True, slots=True)
class _Codes:
    """Codes of an index at one moment; the arrays are never changed."""

    made: str = ""
    n_removed: int = 0
    """Count of removed vectors when the codes were read."""
    ids_N: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Ascending."""
    words_WN: NDArray[np.uint64] = field(default_factory=lambda: np.empty((0, 0), np.uint64))


@dataclass(frozen=True, slots=True)
class _Compared:
    nearest: list[Near]
    n_present: int


def embedded(embedder: TextEmbedder, texts: list[str]) -> NDArray[np.float32]:
    """Return the vectors of some texts [N, D], checked.

    Raises:
        ToolFailure: The model failed, or its result is not one finite vector for each text.
    """
    try:
        vectors_ND = np.asarray(embedder.embed(texts), np.float32)
    except Exception as error:  # the boundary to an application's own model
        raise ToolFailure(f"the embedding model {embedder.name!r} failed: {error}") from error
    if vectors_ND.shape != (len(texts), embedder.width) or not np.isfinite(vectors_ND).all():
        raise ToolFailure(
            f"the embedding model {embedder.name!r} returned an array of the shape {vectors_ND.shape} for "
            f"{len(texts)} texts; it must be finite and have the shape ({len(texts)}, {embedder.width})"
        )
    return vectors_ND


def stored_forms(vectors_ND: NDArray[np.float32]) -> list[tuple[bytes, bytes]]:
    """Return code and value of each vector, as they are stored."""
    largest_N1 = np.maximum(np.abs(vectors_ND).max(axis=1, keepdims=True), np.float32(1e-12))
    values_ND = np.rint(vectors_ND / largest_N1 * LARGEST).astype(np.int8)
    codes_NB = _packed(vectors_ND)
    return [(code.tobytes(), value.tobytes()) for code, value in zip(codes_NB, values_ND, strict=True)]


class VectorSearch:
    """Nearest passages of one index; holds the codes between searches. Safe to call from threads."""

    def __init__(self, width: int) -> None:
        """Search vectors of `width` numbers."""
        self._width = width
        self._lock = threading.Lock()
        self._codes = _Codes()

    def nearest(
        self,
        connection: sqlite3.Connection,
        query_D: NDArray[np.float32],
        count: int,
        allowed: NDArray[np.int64] | None = None,
    ) -> list[Near]:
        """Return the `count` passages nearest to a query, nearest first; a passage counts by its nearest window.

        Args:
            connection: A connection that reads the index.
            query_D: Vector of length 1.
            count: Number of passages.
            allowed: Ids of the vectors to compare, ascending; None: all.

        Raises:
            ToolFailure: A stored vector has a wrong length; the index is damaged.
        """
        n_candidates = max(MIN_CANDIDATES, CANDIDATES_PER_HIT * count)
        codes = self._current(connection)
        chosen_C = _candidates(codes, query_D, n_candidates, allowed)
        found = self._compared(connection, query_D, chosen_C, count)
        if found.n_present < len(chosen_C) / 2:  # mostly removed vectors: others were not considered
            codes = self._current(connection, anew=True)
            chosen_C = _candidates(codes, query_D, n_candidates, allowed)
            found = self._compared(connection, query_D, chosen_C, count)
        return found.nearest

    def _current(self, connection: sqlite3.Connection, *, anew: bool = False) -> _Codes:
        """Return the codes of the state that the connection sees, and perhaps some removed or later ones."""
        made, n_removed = fact(connection, MADE), int(fact(connection, N_REMOVED) or 0)
        with self._lock:
            known = self._codes
            n_stale = n_removed - known.n_removed
            if anew or made != known.made or n_stale > MAX_STALE_SHARE * len(known.ids_N):
                known = _Codes(made, n_removed, words_WN=np.empty((self._n_words, 0), np.uint64))
            last = int(known.ids_N[-1]) if len(known.ids_N) else 0
            rows = connection.execute("SELECT id, code FROM codes WHERE id > ? ORDER BY id", (last,)).fetchall()
            if rows:
                ids_N = np.concatenate([known.ids_N, np.fromiter((row[0] for row in rows), np.int64, len(rows))])
                words_WN = np.concatenate([known.words_WN, self._words([row[1] for row in rows])], axis=1)
                known = _Codes(made, known.n_removed, ids_N, words_WN)
            self._codes = known
            return known

    @property
    def _n_words(self) -> int:
        return -(-self._width // WORD_BITS)

    def _words(self, codes: list[object]) -> NDArray[np.uint64]:
        """Return the columns of some codes [W, n]."""
        n_bytes = self._n_words * WORD_BITS // 8
        data = b"".join(code for code in codes if isinstance(code, bytes) and len(code) == n_bytes)
        if len(data) != n_bytes * len(codes):
            raise _damaged()
        return np.ascontiguousarray(np.frombuffer(data, "<u8").reshape(len(codes), self._n_words).T)

    def _compared(
        self, connection: sqlite3.Connection, query_D: NDArray[np.float32], ids_C: NDArray[np.int64], count: int
    ) -> _Compared:
        """Return the nearest passages among some vectors, and how many of these are in the index."""
        rows = connection.execute(
            "SELECT passage_id, line, vectors.value FROM json_each(?) AS wanted "
            "CROSS JOIN vectors ON vectors.id = wanted.value",
            (json.dumps(ids_C.tolist()),),
        ).fetchall()
        values = [value for _, _, value in rows]
        if any(not isinstance(value, bytes) or len(value) != self._width for value in values):
            raise _damaged()
        values_CD = np.frombuffer(b"".join(values), np.int8).reshape(len(rows), self._width).astype(np.float32)
        lengths_C = np.maximum(np.sqrt(np.einsum("cd,cd->c", values_CD, values_CD)), 1.0)
        similarities_C = values_CD @ query_D / lengths_C
        best = dict[int, Near]()
        for row in np.argsort(-similarities_C, kind="stable").tolist():
            passage_id, line, _ = rows[row]
            if passage_id not in best:
                best[passage_id] = Near(passage_id, line, float(similarities_C[row]))
            if len(best) == count:
                break
        return _Compared(list(best.values()), len(rows))


def _candidates(
    codes: _Codes, query_D: NDArray[np.float32], count: int, allowed: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Return the ids of the vectors whose codes differ least from the query's."""
    if not len(codes.ids_N):
        return codes.ids_N
    query_W = _packed(query_D[None]).view("<u8")[0]
    distances_N = np.zeros(len(codes.ids_N), np.uint16)
    for words_N, word in zip(codes.words_WN, query_W, strict=True):
        distances_N += np.bitwise_count(words_N ^ word)
    if allowed is not None:
        distances_N[~np.isin(codes.ids_N, allowed, assume_unique=True)] = NO_DISTANCE
    if count < len(distances_N):
        chosen = np.argpartition(distances_N, count)[:count]
    else:
        chosen = np.arange(len(distances_N))
    return codes.ids_N[chosen[distances_N[chosen] != NO_DISTANCE]]


def _packed(vectors_ND: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the signs as bits, padded to whole words."""
    padding = -vectors_ND.shape[1] % WORD_BITS
    bits = np.pad(vectors_ND > 0, ((0, 0), (0, padding)))
    return np.packbits(bits, axis=1)


def _damaged() -> ToolFailure:
    return ToolFailure("The index holds vectors of a wrong length: it is damaged. Tell the user to delete it.")
