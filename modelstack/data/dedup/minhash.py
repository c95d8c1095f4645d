"""MinHash signatures of texts, and the keys by which near-duplicates meet (locality-sensitive hashing).

The share of equal numbers in two signatures estimates the Jaccard similarity s of the texts' sets of word runs
(Broder 1997). A signature is cut into buckets; documents that agree on all numbers of one bucket are a pair, which
happens with probability 1 - (1 - s^hashes)^buckets. Defaults are FineWeb's (Penedo et al. 2024, arXiv 2406.17557,
section 3.4): runs of 5 words, 14 buckets of 8, half of the pairs at s = 0.70 and 92 % at 0.8. RefinedWeb's are
450 buckets of 20 (arXiv 2306.01116, appendix G).

The hash functions of the family "pairwise" are h_k(x) = high(x) + a_k low(x) modulo 2^32 over 64-bit hashes x, one
multiplication of 32 bits each. With x uniform, h_k is uniform, so that every element of a union is equally likely
to be the least: the estimate has no bias. h_k - h_l = (a_k - a_l) low(x) is uniform over the multiples of the
largest power of two in a_k - a_l, which is at most 2^16 as the a_k differ modulo 2^17: any two functions are
independent but for their low 16 bits, and the estimate's variance is s(1-s)/n as for independent ones. It is the
default since it is six times as fast from text to signature as datatrove's family here, with the same error
(`python -m evals.speed.minhash`). One-permutation hashing with optimal densification (Shrivastava 2017) was tried:
in numpy it takes a sort, 0.13 ms a document of 1,300 runs against 0.11, and on documents of 20 runs, where most
bins are copies, its deviation is 15 % larger. "datatrove" gives datatrove's numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator

from modelstack.data.dedup.blocks import blocks
from modelstack.data.dedup.datatrove_hashes import coefficients, least_hashes, sha1_shingles
from modelstack.data.dedup.key_files import KeyWriter
from modelstack.data.dedup.shingles import constants, hashes_of_texts, mixed
from modelstack.data.dedup.simplify import simplify, words_apart

_CACHED_HASHES = 1 << 17
"""32-bit numbers worked on at once: half a megabyte, the second-level cache of a core."""
_MAX_HASHES = 1 << 14
_TOP = np.uint32(0xFFFFFFFF)


class MinHashConfig(BaseModel, frozen=True, extra="forbid"):
    """Near-duplicates by MinHash; defaults of FineWeb (arXiv 2406.17557, section 3.4)."""

    kind: Literal["minhash"] = "minhash"
    n_words: int = Field(default=5, ge=1)
    """Of a run; a document with fewer has no signature and is left to exact deduplication."""
    n_buckets: int = Field(default=14, ge=1)
    n_hashes: int = Field(default=8, ge=1)
    """Of a bucket."""
    simplified: bool = True
    """Whether case, digits, punctuation and accents are ignored."""
    seed: int = 1
    family: Literal["pairwise", "datatrove"] = "pairwise"
    """Of hash functions; see the module."""

    @model_validator(mode="after")
    def _bounded(self) -> MinHashConfig:
        if self.n_buckets * self.n_hashes > _MAX_HASHES:
            raise ValueError(f"n_buckets x n_hashes may be at most {_MAX_HASHES:,}")
        return self

    def p_pair(self, similarity: float) -> float:
        """Return the probability that two documents of a Jaccard similarity become a pair."""
        return 1 - (1 - similarity**self.n_hashes) ** self.n_buckets

    @property
    def settings(self) -> str:
        """What two files of keys must share to be compared."""
        return self.model_dump_json()


class MinHash:
    """Signatures with one configuration."""

    def __init__(self, config: MinHashConfig, split_words: Callable[[str], list[str]] = str.split) -> None:
        """Derive the hash functions; `split_words` is of the family "datatrove", which has spaCy's words there."""
        self.config = config
        self._split_words = split_words
        self._n = config.n_buckets * config.n_hashes
        if config.family == "datatrove":
            self._a, self._b = coefficients(config.seed, self._n)
        else:
            self._a = _multipliers(config.seed, self._n)
            self._rows = np.empty(max(_CACHED_HASHES, 64 * self._n), np.uint32)

    def prepared(self, text: str) -> str:
        """Return the text that is hashed."""
        return simplify(text) if self.config.simplified else words_apart(text)

    def signature(self, prepared: str) -> np.ndarray | None:
        """Return the signature of a prepared text, (buckets x hashes,); None where it has too few words."""
        found, _ = self.signatures([prepared])
        return found[0] if len(found) else None

    def signatures(self, prepared: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the signatures of those prepared texts that have enough words, and their places.

        Shapes (n, buckets x hashes) and (n,). Many texts in one call are faster than many calls.
        """
        n_words = self.config.n_words
        if self.config.family == "datatrove":
            shingles = [sha1_shingles(self._split_words(text), n_words) for text in prepared]
            places = [place for place, runs in enumerate(shingles) if len(runs)]
            least = [least_hashes(shingles[place], self._a, self._b) for place in places]
            return np.array(least, np.uint64).reshape(-1, self._n), np.array(places, np.int64)
        # A mark may have been a word by itself and left two spaces.
        texts = (words_apart(text) if "  " in text else text for text in prepared)
        found = np.full((len(prepared), self._n), _TOP)
        has_runs = np.zeros(len(prepared), bool)
        for hashes, owners in hashes_of_texts(texts, n_words):
            self._lower(found, hashes, owners)
            has_runs[owners] = True
        return found[has_runs], np.flatnonzero(has_runs)

    def keys(self, signatures: np.ndarray) -> np.ndarray:
        """Return a 64-bit key for each bucket of signatures (n, buckets x hashes): (n, buckets).

        Different numbers share a key with probability 2^-64 a pair of documents.
        """
        parts = signatures.reshape(len(signatures), self.config.n_buckets, self.config.n_hashes)
        keys = np.zeros(parts.shape[:2], np.uint64)
        for i in range(self.config.n_hashes):
            keys += parts[:, :, i]
            keys += np.uint64(0x9E3779B97F4A7C15)  # or a bucket of zeros would have a key of zero
            mixed(keys)
        return keys

    def _lower(self, found: np.ndarray, hashes: np.ndarray, owners: np.ndarray) -> None:
        low, high = hashes.astype(np.uint32), (hashes >> np.uint64(32)).astype(np.uint32)
        step = len(self._rows) // self._n
        for i in range(0, len(hashes), step):
            part = low[i : i + step]
            rows = self._rows[: self._n * len(part)].reshape(self._n, len(part))
            np.multiply(self._a[:, None], part, out=rows)
            np.add(rows, high[i : i + step], out=rows)
            first, last = owners[i], owners[min(i + step, len(owners)) - 1]
            if first == last:
                found[first] = np.minimum(found[first], rows.min(axis=1))
                continue
            begins = np.flatnonzero(np.diff(owners[i : i + step], prepend=-1))
            texts = owners[i + begins]
            found[texts] = np.minimum(found[texts], np.minimum.reduceat(rows, begins, axis=1).T)


def write_signatures(
    texts: Iterable[str],
    out: Path,
    config: MinHashConfig,
    *,
    split_words: Callable[[str], list[str]] = str.split,
) -> int:
    """Write the keys of a shard's documents to a file, sorted, and their lengths; return how many there are.

    A document's position is its place in `texts`. The file appears whole or not at all.
    """
    minhash = MinHash(config, split_words)
    with KeyWriter(out, config.settings, config.n_buckets, with_lengths=True) as writer:
        for block in blocks(texts):
            signatures, places = minhash.signatures([minhash.prepared(text) for text in block])
            writer.add(minhash.keys(signatures), writer.n_documents + places)
            writer.count(len(block), [len(text) for text in block])
        return writer.n_documents


def _multipliers(seed: int, n: int) -> np.ndarray:
    """Return `n` 32-bit numbers that differ modulo 2^17; the first of 2n + 64 draws that do."""
    drawn = (constants(f"modelstack dedup minhash {seed}", 2 * n + 64) >> np.uint64(32)).astype(np.uint32)
    _, first = np.unique(drawn & np.uint32((1 << 17) - 1), return_index=True)
    return drawn[np.sort(first)[:n]]
