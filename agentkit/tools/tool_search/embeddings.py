"""Embeddings of tools, kept on disk by the hash of their text and the name of the embedding model.

A second start reads them back in milliseconds. The file is a cache: a damaged one costs time and no result, and
rows of another model are never read.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from agentkit.tools.tool_search.searched_text import N_VIEWS, SearchedText

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelstack.inference.minilm import TextEmbedder

logger = logging.getLogger(__name__)

MAX_ROWS = 50_000
"""Tools in the file; the oldest make room. 50,000 tools of width 384 take 115 MB."""
BUSY_TIMEOUT_S = 5.0
"""Seconds to wait for another process that writes to the file."""
_MAX_VARIABLES = 500
"""Keys in one query; SQLite allows 999 in its oldest supported versions."""
_BATCH = 256
"""Tools that are embedded before their rows are stored, so that an interrupted start is not lost."""
_SCHEMA = "CREATE TABLE IF NOT EXISTS tools (embedder TEXT, key TEXT, vectors BLOB, PRIMARY KEY (embedder, key))"


def tool_vectors(texts: Sequence[SearchedText], embedder: TextEmbedder, cache: Path | None) -> NDArray[np.float32]:
    """Return the vectors of the views of each tool, [N, N_VIEWS, width]; each of them has length 1.

    Blocks while the embedding model works.
    """
    import numpy as np

    keys = [hashlib.sha256("\0".join(text.views).encode("utf-8", "replace")).hexdigest() for text in texts]
    known = {} if cache is None else _read(cache, embedder, keys)
    missing = list({key: text for key, text in zip(keys, texts, strict=True) if key not in known}.items())
    if missing:
        logger.info("embedding %d of %d tools with %s", len(missing), len(texts), embedder.name)
    for begin in range(0, len(missing), _BATCH):
        batch = missing[begin : begin + _BATCH]
        vectors = embedder.embed([view for _, text in batch for view in text.views])
        shaped = np.asarray(vectors, np.float16).reshape(len(batch), N_VIEWS, embedder.width)
        rows = {key: shaped[index] for index, (key, _) in enumerate(batch)}
        known.update(rows)
        if cache is not None:
            _write(cache, embedder, rows)
    found = np.zeros((len(texts), N_VIEWS, embedder.width), np.float32)
    for index, key in enumerate(keys):
        found[index] = known[key]
    return found / np.maximum(np.linalg.norm(found, axis=2, keepdims=True), 1e-6)


def _read(cache: Path, embedder: TextEmbedder, keys: Sequence[str]) -> dict[str, NDArray[np.float16]]:
    """Return the usable rows of the file."""
    import numpy as np

    if not cache.is_file():
        return {}
    found: dict[str, NDArray[np.float16]] = {}
    n_bytes = N_VIEWS * embedder.width * np.dtype(np.float16).itemsize
    try:
        with closing(sqlite3.connect(cache, timeout=BUSY_TIMEOUT_S)) as database:
            for begin in range(0, len(keys), _MAX_VARIABLES):
                some = keys[begin : begin + _MAX_VARIABLES]
                places = ",".join("?" * len(some))
                query = f"SELECT key, vectors FROM tools WHERE embedder = ? AND key IN ({places})"
                for key, blob in database.execute(query, (embedder.name, *some)):
                    if not isinstance(blob, bytes) or len(blob) != n_bytes:
                        continue
                    vectors = np.frombuffer(blob, np.float16).reshape(N_VIEWS, embedder.width)
                    if np.isfinite(vectors).all():
                        found[key] = vectors
    except sqlite3.Error as error:
        logger.warning("the embeddings in %s cannot be read (%s); tools are embedded again.", cache, error)
        return {}
    return found


def _write(cache: Path, embedder: TextEmbedder, rows: dict[str, NDArray[np.float16]]) -> None:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(cache, timeout=BUSY_TIMEOUT_S)) as database, database:
            database.execute(_SCHEMA)
            values = [(embedder.name, key, vectors.tobytes()) for key, vectors in rows.items()]
            database.executemany("INSERT OR REPLACE INTO tools VALUES (?, ?, ?)", values)
            newest = "SELECT rowid FROM tools ORDER BY rowid DESC LIMIT ?"
            database.execute(f"DELETE FROM tools WHERE rowid NOT IN ({newest})", (MAX_ROWS,))
    except (sqlite3.Error, OSError) as error:
        logger.warning(
            "embeddings of tools cannot be stored in %s (%s); delete it if it is damaged.", cache, error
        )
