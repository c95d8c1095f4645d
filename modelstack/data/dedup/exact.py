"""Exact deduplication: the key of a document is a 64-bit hash of its text.

Two different texts collide with probability 2^-64 (BLAKE2b): for a billion documents, once in about forty corpora,
at the cost of one document. Later stages are those of near-duplicates (pairs, clusters, copies) with one bucket.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel

from modelstack.data.dedup.key_files import KeyWriter, blocks
from modelstack.data.dedup.simplify import simplify


class ExactConfig(BaseModel, frozen=True, extra="forbid"):
    """Documents with equal text."""

    kind: Literal["exact"] = "exact"
    simplified: bool = False
    """Whether to ignore case, digits, punctuation, accents and white space."""

    @property
    def settings(self) -> str:
        """Configuration as JSON; only key files with equal settings are comparable."""
        return self.model_dump_json()


def key_of_text(text: str) -> int:
    """Return the first 64 bits of a text's BLAKE2b, little-endian."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def write_exact_keys(texts: Iterable[str], out: Path, config: ExactConfig) -> int:
    """Write the sorted keys and the lengths of a shard's documents to a file; return the number of documents.

    The position of a document is its index in `texts`. The file is written atomically.
    """
    with KeyWriter(out, config.settings, 1, with_lengths=True) as writer:
        for block in blocks(texts):
            keys = [key_of_text(simplify(text) if config.simplified else text) for text in block]
            writer.add(np.array(keys, np.uint64)[:, None], writer.n_documents + np.arange(len(block)))
            writer.count(len(block), [len(text) for text in block])
        return writer.n_documents
