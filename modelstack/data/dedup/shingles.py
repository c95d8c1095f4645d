"""Hashes of all runs of n words of a text, without a Python step per word.

A run of words joined by single spaces is a run of bytes. Its hash is a polynomial over the bytes modulo 2^64,
which two prefix sums give for any run: (S[end] - S[start]) / r^start, where S[i] is the sum of t[byte_j] r^j for j
< i. r is odd and thus invertible. t holds a random odd number per byte value, so every byte affects the hash. A
bijective finaliser (splitmix64's, Steele et al. 2014) spreads the sum over all bits. Two given runs collide with
probability near 2^-64. An attacker who knows r and t can construct collisions, with no more effect than by
publishing a copy.

Letters: N runs of words, B bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np

PIECE_BYTES = 1 << 16
"""Bytes of text hashed at once: the sums stay in the cache, and memory is bounded for long texts."""
_SPACE, _NEXT_TEXT = 0x20, 0x0A


def shingle_hashes(text: str, n_words: int) -> Iterator[np.ndarray]:
    """Yield the hashes of the word runs of a text in order, in parts: arrays of uint64.

    Args:
        text: Words separated by single spaces, without spaces around; fewer than `n_words` words have no hash.
        n_words: Words per run.
    """
    return (hashes_N for hashes_N, _ in hashes_of_texts([text], n_words))


def hashes_of_texts(texts: Iterable[str], n_words: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the hashes of the word runs of many texts in order, in parts, each with the indices of its texts.

    Short texts are hashed together, because a numpy step costs as much for one word as for a hundred.
    """
    first = n_bytes = 0
    waiting: list[bytes] = []
    for text in texts:
        waiting.append(text.encode("utf-8", "surrogatepass"))
        n_bytes += len(waiting[-1]) + 1
        if n_bytes >= PIECE_BYTES:
            yield from _hashes_of_joined(b"\n".join(waiting), n_words, first)
            first += len(waiting)
            waiting, n_bytes = [], 0
    if waiting:
        yield from _hashes_of_joined(b"\n".join(waiting), n_words, first)


def _hashes_of_joined(joined: bytes, n_words: int, first: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    data_B = np.frombuffer(joined, np.uint8)
    separators = np.flatnonzero((data_B == _SPACE) | (data_B == _NEXT_TEXT))
    starts = np.concatenate(([0], separators + 1))
    ends = np.concatenate((separators, [len(data_B)]))
    n = len(starts) - n_words + 1
    if n <= 0:
        return
    texts_of_words = np.concatenate(([first], first + np.cumsum(data_B[separators] == _NEXT_TEXT)))
    starts_N, ends_N, texts_N = starts[:n], ends[n_words - 1 :], texts_of_words[:n]
    # A run must end in the text where it starts; an empty text has no word.
    is_run = (texts_N == texts_of_words[n_words - 1 :]) & (ends_N > starts_N)
    if not is_run.all():
        starts_N, ends_N, texts_N = starts_N[is_run], ends_N[is_run], texts_N[is_run]
    i = 0
    while i < len(starts_N):
        begin = starts_N[i]
        # All runs that end within the piece; a run longer than the piece is processed alone.
        stop = max(i + 1, int(np.searchsorted(ends_N, begin + PIECE_BYTES, "right")))
        piece_B = data_B[begin : ends_N[stop - 1]]
        yield _hashes_of_piece(piece_B, starts_N[i:stop] - begin, ends_N[i:stop] - begin), texts_N[i:stop]
        i = stop


def _hashes_of_piece(data_B: np.ndarray, starts_N: np.ndarray, ends_N: np.ndarray) -> np.ndarray:
    powers, inverses = _powers(len(data_B))
    terms_B = _byte_values()[data_B]
    terms_B *= powers[: len(data_B)]
    sums = np.empty(len(data_B) + 1, np.uint64)
    sums[0] = 0
    np.cumsum(terms_B, out=sums[1:])
    hashes_N = sums[ends_N]
    hashes_N -= sums[starts_N]
    hashes_N *= inverses[starts_N]
    return mixed(hashes_N)


def mixed(x: np.ndarray) -> np.ndarray:
    """Spread each 64-bit number of an array over all its bits, in place: splitmix64's bijection."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def constants(name: str, n: int) -> np.ndarray:
    """Return `n` 64-bit numbers derived from a name with SHAKE-256, identical on every machine."""
    return np.frombuffer(hashlib.shake_256(name.encode()).digest(8 * n), "<u8").astype(np.uint64)


@cache
def _byte_values() -> np.ndarray:
    return constants("modelstack dedup bytes", 256) | np.uint64(1)


def _powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    return _cached_powers() if n <= PIECE_BYTES else _computed_powers(n)


@cache
def _cached_powers() -> tuple[np.ndarray, np.ndarray]:
    return _computed_powers(PIECE_BYTES)


def _computed_powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    # r is 5 modulo 8: its powers have the longest cycle possible modulo 2^64, 2^62.
    r = int(constants("modelstack dedup base", 1)[0]) & ~7 | 5
    powers, inverses = (np.full(n, base, np.uint64) for base in (r, pow(r, -1, 1 << 64)))
    powers[0] = inverses[0] = 1
    return np.multiply.accumulate(powers), np.multiply.accumulate(inverses)
