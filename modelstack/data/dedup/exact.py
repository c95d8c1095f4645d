"""Documents with the same text: a hash of 64 bits of it is the key.

Two texts share one by chance with probability 2^-64 (BLAKE2b), in a billion documents once in some forty corpora,
and what is lost then is a document. What follows is as for near-duplicates: pairs, clusters, copies; one bucket.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel

from modelstack.data.dedup.blocks import blocks
from modelstack.data.dedup.key_files import KeyWriter
from modelstack.data.dedup.simplify import simplify


class ExactConfig(BaseModel, frozen=True, extra="forbid"):
    """Documents with the same text."""

    kind: Literal["exact"] = "exact"
    simplified: bool = False
    """Whether case, digits, punctuation, accents and white space are ignored."""

    @property
    def settings(self) -> str:
        """What two files of keys must share to be compared."""
        return self.model_dump_json()


def key_of_text(text: str) -> int:
    """Return 64 bits of a text's BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def write_exact_keys(texts: Iterable[str], out: Path, config: ExactConfig) -> int:
    """Write the keys of a shard's documents to a file, sorted, and their lengths; return how many there are.

    A document's position is its place in `texts`. The file appears whole or not at all.
    """
    with KeyWriter(out, config.settings, 1, with_lengths=True) as writer:
        for block in blocks(texts):
            keys = [key_of_text(simplify(text) if config.simplified else text) for text in block]
            writer.add(np.array(keys, np.uint64)[:, None], writer.n_documents + np.arange(len(block)))
            writer.count(len(block), [len(text) for text in block])
        return writer.n_documents
