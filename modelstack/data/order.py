"""Data order as a seeded permutation, not a shuffle buffer.

`position -> document` is a Feistel network over P numbers, iterated until the result is below N (cycle walking).
It permutes any size, a resume seeks in O(1), and one integer is the whole state. A Feistel network is a
permutation for any round function (Luby and Rackoff 1988; cycle walking: Black and Rogaway 2002). Marin adopted it
after a linear congruential permutation shuffled badly (retrospective of their 32B run).

Letters: N documents, P = 2^ceil(log2 N).
"""

from __future__ import annotations

import hashlib

from modelstack.errors import UserError

N_ROUNDS = 10
"""Number of rounds, as in FF1 of NIST SP 800-38G for small domains; 4 suffice for large ones."""
_WORD = (1 << 64) - 1


class Order:
    """The order of `n` documents in one epoch of one seed."""

    def __init__(self, n: int, seed: int, epoch: int = 0, stream: str = "") -> None:
        """Derive the round keys; `stream` separates orders of equal seed and epoch, such as sources of a mixture.

        Raises:
            UserError: `n` is below 1.
        """
        if n < 1:
            raise UserError(f"an order of {n} documents; at least 1 is needed")
        self._n = n
        n_bits = (n - 1).bit_length()
        self._low_bits = (n_bits + 1) // 2
        self._low_mask = (1 << self._low_bits) - 1
        self._high_mask = (1 << (n_bits - self._low_bits)) - 1
        self._keys = _round_keys(f"{seed} {epoch} {stream}")

    def __len__(self) -> int:
        return self._n

    def document(self, position: int) -> int:
        """Return the document at a position.

        Raises:
            UserError: The position is outside the epoch.
        """
        if not 0 <= position < self._n:
            raise UserError(f"position {position} of an epoch of {self._n} documents; they are 0 to {self._n - 1}")
        document = self._permuted(position)
        # P < 2 N, so this takes fewer than two steps on average; it ends, as the cycle contains `position`.
        while document >= self._n:
            document = self._permuted(document)
        return document

    def _permuted(self, number: int) -> int:
        high, low = number >> self._low_bits, number & self._low_mask
        for key_of_high, key_of_low in zip(self._keys[::2], self._keys[1::2], strict=True):
            high ^= _mixed(low ^ key_of_high) & self._high_mask
            low ^= _mixed(high ^ key_of_low) & self._low_mask
        return high << self._low_bits | low


def _round_keys(text: str) -> tuple[int, ...]:
    """Return a key for each round, identical in every process and on every machine."""
    digest = hashlib.shake_128(text.encode()).digest(8 * N_ROUNDS)
    return tuple(int.from_bytes(digest[i : i + 8], "little") for i in range(0, len(digest), 8))


def _mixed(word: int) -> int:
    """Return 64 bits that each depend on all bits of `word`: the finaliser of SplitMix64 (Steele et al. 2014)."""
    word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ word >> 27) * 0x94D049BB133111EB) & _WORD
    return word ^ word >> 31
