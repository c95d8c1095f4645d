"""MinHash values of datatrove (0.10, hash sha1, 64 bits), for corpora that must agree with FineWeb.

A word run is represented by the first 64 bits of its SHA-1, little-endian. Hash functions are (a x + b) modulo
2^61 - 1 with coefficients from numpy's RandomState. As in datatrove, the product wraps at 2^64 before the modulus,
so the family is not universal; it is kept because the values must agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1

import numpy as np

PRIME = np.uint64((1 << 61) - 1)
_BLOCK = 512
"""Runs processed at once: with 112 functions their hashes take 459 kB."""


def sha1_shingles(words: Sequence[str], n_words: int) -> np.ndarray:
    """Return the hash of each word run, uint64."""
    runs = map(" ".join, zip(*(words[i:] for i in range(n_words)), strict=False))
    digests = b"".join([sha1(run.encode("utf-8", "surrogatepass")).digest()[:8] for run in runs])
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def coefficients(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors and summands of `n` hash functions."""
    drawn = np.random.RandomState(seed)
    return (
        drawn.randint(1, int(PRIME), dtype=np.uint64, size=n),
        drawn.randint(0, int(PRIME), dtype=np.uint64, size=n),
    )


def least_hashes(shingles: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the minimum of each hash function over the runs."""
    least = np.full(len(a), PRIME)
    for i in range(0, len(shingles), _BLOCK):
        values = a[:, None] * shingles[i : i + _BLOCK]
        values += b[:, None]
        # Modulo 2^61 - 1 without division: 2^61 is congruent to 1, and the result is below twice the prime.
        upper = values >> np.uint64(61)
        values &= PRIME
        values += upper
        np.minimum(
            values, values - PRIME, out=values
        )  # a value below the prime wraps in the difference and becomes larger
        np.minimum(least, values.min(axis=1), out=least)
    return least
