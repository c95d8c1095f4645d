"""The legal tokens of a position, in the form that is cheapest to apply to logits.

Letters: V vocabulary size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.grammar import TokenMask

MASKS_KEPT = 128
"""Number of unpacked masks that are kept; each takes at most a byte per vocabulary entry."""
SPARSE_SHARE = 4
"""Divisor of the share of nonzero words below which a mask is unpacked word by word."""


@dataclass(frozen=True, slots=True, eq=False)
class LegalTokens:
    """A token mask in its cheapest form: a list of legal ids if short, else flags of the illegal ones."""

    count: int
    ids: NDArray[np.intp] | None = None
    illegal_V: NDArray[np.bool_] | None = None

    @classmethod
    def from_mask(cls, mask: TokenMask, n_vocab: int) -> LegalTokens:
        """Unpack a bit mask over `n_vocab` tokens."""
        words = np.flatnonzero(mask)
        if words.size * SPARSE_SHARE < mask.size:
            bits = np.unpackbits(mask[words].view(np.uint8), bitorder="little").reshape(-1, 32)
            rows, columns = bits.nonzero()
            return cls.from_ids(words[rows] * 32 + columns)
        return cls.from_flags(np.unpackbits(mask.view(np.uint8), bitorder="little", count=n_vocab).view(np.bool_))

    @classmethod
    def from_ids(cls, ids: NDArray[np.intp]) -> LegalTokens:
        """Build from the ascending ids of the legal tokens."""
        return cls(count=ids.size, ids=ids)

    @classmethod
    def from_flags(cls, legal_V: NDArray[np.bool_]) -> LegalTokens:
        """Build from a flag per token, true for legal ones."""
        return cls(count=int(np.count_nonzero(legal_V)), illegal_V=~legal_V)

    @classmethod
    def all_except(cls, forbidden: frozenset[int], n_vocab: int) -> LegalTokens:
        """Build from the illegal tokens; all others are legal."""
        legal = np.ones(n_vocab, dtype=np.bool_)
        legal[list(forbidden)] = False
        return cls.from_flags(legal)

    def has(self, token: int) -> bool:
        """Return whether a token is legal."""
        if self.illegal_V is not None:
            return not self.illegal_V[token]
        assert self.ids is not None
        return bool((self.ids == token).any())

    def among(self, ids: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the legal ids among some ascending ids."""
        if self.illegal_V is not None:
            return ids[~self.illegal_V[ids]]
        assert self.ids is not None
        return np.intersect1d(self.ids, ids, assume_unique=True)

    def to_ids(self) -> NDArray[np.intp]:
        """Return the legal ids in ascending order."""
        if self.illegal_V is not None:
            return np.flatnonzero(~self.illegal_V)
        assert self.ids is not None
        return self.ids


@lru_cache(maxsize=MASKS_KEPT)
def unpacked(mask: bytes, n_vocab: int) -> LegalTokens:
    """Return the legal tokens of a mask's bytes; cached, as masks repeat within words and strings."""
    return LegalTokens.from_mask(np.frombuffer(mask, dtype=np.uint32), n_vocab)
