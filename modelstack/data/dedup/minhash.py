"""MinHash signatures of texts, and the keys by which near-duplicates meet (locality-sensitive hashing).

The share of equal values in two signatures estimates the Jaccard similarity s of the texts' sets of word runs
(Broder 1997). A signature is divided into buckets. Documents that agree on all values of one bucket form a pair,
which happens with probability 1 - (1 - s^hashes)^buckets. Defaults are FineWeb's (Penedo et al. 2024, arXiv
2406.17557, section 3.4): runs of 5 words, 14 buckets of 8, half of the pairs at s = 0.70 and 92 % at 0.8.
RefinedWeb uses 450 buckets of 20 (arXiv 2306.01116, appendix G).

Hash functions of the family "pairwise" are h_k(x) = high(x) + a_k low(x) modulo 2^32 over 64-bit hashes x, one
32-bit multiplication each. For uniform x, h_k is uniform, so every element of a union is equally likely to be the
minimum: the estimate is unbiased. h_k - h_l = (a_k - a_l) low(x) is uniform over the multiples of the largest
power of two in a_k - a_l, which is at most 2^16 because the a_k differ modulo 2^17. Any two functions are thus
independent except for their low 16 bits, and the variance of the estimate is s(1-s)/n as for independent
functions. The family is the default because it is six times as fast from text to signature as datatrove's family
here, with the same error (`python -m evals.speed.minhash`).

One-permutation hashing with optimal densification (Shrivastava 2017) was tried. In numpy it needs a sort and takes
0.13 ms per document of 1,300 runs instead of 0.11. On documents of 20 runs, where most bins are copies, its
deviation is 15 % larger. The family "datatrove" returns datatrove's values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator

from modelstack.data.dedup.datatrove_hashes import coefficients, least_hashes, sha1_shingles
from modelstack.data.dedup.key_files import KeyWriter, blocks
from modelstack.data.dedup.shingles import constants, hashes_of_texts, mixed
from modelstack.data.dedup.simplify import simplify, words_apart

_CACHED_HASHES = 1 << 17
"""32-bit values processed at once: half a megabyte, the second-level cache of a core."""
_MAX_HASHES = 1 << 14
_TOP = np.uint32(0xFFFFFFFF)


class MinHashConfig(BaseModel, frozen=True, extra="forbid"):
    """Near-duplicates by MinHash; defaults of FineWeb (arXiv 2406.17557, section 3.4)."""

    kind: Literal["minhash"] = "minhash"
    n_words: int = Field(default=5, ge=1)
    """Words per run. A document with fewer words has no signature and is left to exact deduplication."""
    n_buckets: int = Field(default=14, ge=1)
    """Buckets of a signature; documents that agree on one bucket form a pair."""
    n_hashes: int = Field(default=8, ge=1)
    """Hash functions per bucket."""
    simplified: bool = True
    """Whether to ignore case, digits, punctuation and accents."""
    seed: int = 1
    """Seed of the hash functions."""
    family: Literal["pairwise", "datatrove"] = "pairwise"
    """Family of hash functions; see the module."""

    @model_validator(mode="after")
    def _bounded(self) -> MinHashConfig:
        if self.n_buckets * self.n_hashes > _MAX_HASHES:
            raise ValueError(f"n_buckets x n_hashes may be at most {_MAX_HASHES:,}")
        return self

    def p_pair(self, similarity: float) -> float:
        """Return the probability that two documents of a given Jaccard similarity become a pair."""
        return 1 - (1 - similarity**self.n_hashes) ** self.n_buckets

    @property
    def settings(self) -> str:
        """Configuration as JSON; only key files with equal settings are comparable."""
        return self.model_dump_json()


class MinHash:
    """Signatures with one configuration."""

    def __init__(self, config: MinHashConfig, split_words: Callable[[str], list[str]] = str.split) -> None:
        """Derive the hash functions; `split_words` is for the family "datatrove" (spaCy's words in datatrove)."""
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
        """Return the signature of a prepared text, (buckets x hashes,); None if it has too few words."""
        found, _ = self.signatures([prepared])
        return found[0] if len(found) else None

    def signatures(self, prepared: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the signatures of the prepared texts with enough words, and the indices of these texts.

        Shapes (n, buckets x hashes) and (n,). One call with many texts is faster than many calls.
        """
        n_words = self.config.n_words
        if self.config.family == "datatrove":
            shingles = [sha1_shingles(self._split_words(text), n_words) for text in prepared]
            places = [place for place, runs in enumerate(shingles) if len(runs)]
            least = [least_hashes(shingles[place], self._a, self._b) for place in places]
            return np.array(least, np.uint64).reshape(-1, self._n), np.array(places, np.int64)
        # A punctuation mark that was a word by itself leaves two spaces.
        texts = (words_apart(text) if "  " in text else text for text in prepared)
        found = np.full((len(prepared), self._n), _TOP)
        has_runs = np.zeros(len(prepared), bool)
        for hashes, owners in hashes_of_texts(texts, n_words):
            self._lower(found, hashes, owners)
            has_runs[owners] = True
        return found[has_runs], np.flatnonzero(has_runs)

    def keys(self, signatures: np.ndarray) -> np.ndarray:
        """Return a 64-bit key for each bucket: signatures (n, buckets x hashes) to keys (n, buckets).

        Different buckets of values collide with probability 2^-64 per pair of documents.
        """
        parts = signatures.reshape(len(signatures), self.config.n_buckets, self.config.n_hashes)
        keys = np.zeros(parts.shape[:2], np.uint64)
        for i in range(self.config.n_hashes):
            keys += parts[:, :, i]
            keys += np.uint64(0x9E3779B97F4A7C15)  # so that a bucket of zeros does not get the key zero
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
    """Write the sorted keys and the lengths of a shard's documents to a file; return the number of documents.

    The position of a document is its index in `texts`. The file is written atomically.
    """
    minhash = MinHash(config, split_words)
    with KeyWriter(out, config.settings, config.n_buckets, with_lengths=True) as writer:
        for block in blocks(texts):
            signatures, places = minhash.signatures([minhash.prepared(text) for text in block])
            writer.add(minhash.keys(signatures), writer.n_documents + places)
            writer.count(len(block), [len(text) for text in block])
        return writer.n_documents


def _multipliers(seed: int, n: int) -> np.ndarray:
    """Return `n` 32-bit numbers that are distinct modulo 2^17: the first distinct ones among 2n + 64 draws."""
    drawn = (constants(f"modelstack dedup minhash {seed}", 2 * n + 64) >> np.uint64(32)).astype(np.uint32)
    _, first = np.unique(drawn & np.uint32((1 << 17) - 1), return_index=True)
    return drawn[np.sort(first)[:n]]
