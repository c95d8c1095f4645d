"""datatrove's MinHash numbers (0.10, hash sha1, 64 bits), for corpora that have to agree with FineWeb's.

A run of words is the first 64 bits of its SHA-1, little-endian; hash functions are (a x + b) modulo 2^61 - 1 with
numpy's RandomState. The product is not taken modulo the prime but wraps at 2^64 first, as there: so the family is
not the universal one that it looks like, and numbers agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1

import numpy as np

PRIME = np.uint64((1 << 61) - 1)
_BLOCK = 512
"""Runs at once: with 112 functions their hashes take 459 kB."""


def sha1_shingles(words: Sequence[str], n_words: int) -> np.ndarray:
    """Return the hash of each run of words, uint64."""
    runs = map(" ".join, zip(*(words[i:] for i in range(n_words)), strict=False))
    digests = b"".join([sha1(run.encode("utf-8", "surrogatepass")).digest()[:8] for run in runs])
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def coefficients(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors and the summands of `n` hash functions."""
    drawn = np.random.RandomState(seed)
    return (
        drawn.randint(1, int(PRIME), dtype=np.uint64, size=n),
        drawn.randint(0, int(PRIME), dtype=np.uint64, size=n),
    )


def least_hashes(shingles: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the least value of each hash function over the runs."""
    least = np.full(len(a), PRIME)
    for i in range(0, len(shingles), _BLOCK):
        values = a[:, None] * shingles[i : i + _BLOCK]
        values += b[:, None]
        # Modulo 2^61 - 1 without a division: 2^61 is 1 there, and what is left is below twice the prime.
        upper = values >> np.uint64(61)
        values &= PRIME
        values += upper
        np.minimum(values, values - PRIME, out=values)  # below the prime, the difference wraps and is larger
        np.minimum(least, values.min(axis=1), out=least)
    return least
