"""Vectors of memories: one embedder per file, exact comparison with all memories of a user.

A user has at most some thousands of memories, so the exact comparison is a product of one matrix and one vector
(10,000 memories of width 384: about 15 MB). An approximate index would save milliseconds and lose matches.
Extensions of SQLite such as sqlite-vec compare exhaustively too, and a Python whose `sqlite3` was built without
loadable extensions cannot use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from agentkit.errors import UserError

if TYPE_CHECKING:
    from modelstack.inference.minilm import TextEmbedder

MIN_COSINE = 0.15
"""Minimum cosine of a match. With all-MiniLM-L6-v2, questions have 0.17 and more with facts that answer them
("When is my holiday?" with a flight in May), and up to 0.15 with others."""


async def embedded(embedder: TextEmbedder, texts: Sequence[str]) -> list[bytes]:
    """Return the vector of each text as little-endian float32, computed in a worker thread.

    Raises:
        UserError: the embedder returned another shape than [N, width], or numbers that are not finite.
    """
    from anyio.to_thread import run_sync

    return await run_sync(partial(_embedded, embedder, tuple(texts)))


def _embedded(embedder: TextEmbedder, texts: Sequence[str]) -> list[bytes]:
    import numpy as np

    vectors = np.asarray(embedder.embed(texts), dtype="<f4")
    if vectors.shape != (len(texts), embedder.width) or not np.isfinite(vectors).all():
        raise UserError(
            f"embedder {embedder.name!r} returned an array of shape {vectors.shape} for {len(texts)} texts; it "
            f"must return finite numbers of shape ({len(texts)}, {embedder.width})."
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return [row.tobytes() for row in unit]


def nearest(query: bytes, rows: Sequence[tuple[int, bytes]], limit: int) -> list[int]:
    """Return the numbers of the rows whose vectors are nearest to `query`, best first."""
    if not rows:
        return []
    import numpy as np

    one = np.frombuffer(query, dtype="<f4")
    all_rows = np.frombuffer(b"".join(vector for _, vector in rows), dtype="<f4").reshape(len(rows), len(one))
    cosines = all_rows @ one
    best = np.argsort(-cosines, kind="stable")[:limit]
    return [rows[index][0] for index in best if cosines[index] >= MIN_COSINE]
