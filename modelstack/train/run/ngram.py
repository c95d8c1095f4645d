"""n-gram models of bytes or tokens, interpolated modified Kneser-Ney: what counting alone reaches.

Chen and Goodman 1999 ("An empirical study of smoothing techniques for language modeling", equations 22 to 26):

    p_k(w | h) = max(c(hw) - D(c(hw)), 0) / c(h) + g(h) p_{k-1}(w | h'),  h' being h without its first symbol

with raw counts at the highest order, below it the number of different symbols that were seen before hw, and three
discounts D for counts of 1, 2, and 3 or more, from how many n-grams were seen 1 to 4 times. g(h) is what the
discounts took from c(h), so probabilities add up to 1; under order 1 lies the uniform distribution. An unseen
context says nothing and leaves the word to the next shorter one.

A document begins behind boundary symbols, so its start is predicted from starts, and no n-gram lies across two
documents. An n-gram is one 64-bit number, and a model is sorted arrays of these: fitting is sorting.

Letters: n order, k order of a table, w predicted symbol, h context.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelstack.errors import UserError

KEY_BITS = 64
FALLBACK_DISCOUNT = 0.5
"""Where there are too few different n-grams to estimate one, as with single bytes."""

Symbols = NDArray[np.integer]
Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """The n-grams of one order, and their contexts."""

    grams: Keys
    """Sorted."""
    discounted: NDArray[np.float64]
    """(c(hw) - D) / c(h) of each."""
    contexts: Keys
    """Sorted."""
    left_over: NDArray[np.float64]
    """g(h) of each."""


@dataclass(frozen=True, slots=True, eq=False)
class NgramModel:
    """A fitted model."""

    order: int
    n_symbols: int
    _tables: tuple[_Table, ...]
    """Of order 1 to n."""

    @property
    def n_grams(self) -> tuple[int, ...]:
        """Return how many different n-grams were seen, by order."""
        return tuple(len(table.grams) for table in self._tables)

    def log2_probabilities(self, document: Symbols) -> NDArray[np.float64]:
        """Return log2 p of each symbol of a document, given those before it.

        Raises:
            UserError: A symbol is not one of `n_symbols`.
        """
        keys = _keys([document], self.n_symbols, self.order)
        bits = self.n_symbols.bit_length()
        p = np.full(len(keys), 1 / self.n_symbols)
        for k, table in enumerate(self._tables, 1):
            grams = keys & _mask(k * bits)
            at, seen = _found(table.contexts, grams >> np.uint64(bits))
            p[seen] *= table.left_over[at[seen]]
            at, seen = _found(table.grams, grams)
            p[seen] += table.discounted[at[seen]]
        return np.log2(p)


def fit(documents: Iterable[Symbols], n_symbols: int, order: int) -> NgramModel:
    """Fit a model.

    Args:
        documents: Symbols from 0 to `n_symbols` - 1.
        n_symbols: 256 for bytes, V for tokens.
        order: n: a symbol is predicted from the n - 1 before it.

    Raises:
        UserError: The order is too high for the number of symbols, a symbol is none, or there is none at all.
    """
    bits = n_symbols.bit_length()
    if not 1 <= order <= KEY_BITS // bits:
        raise UserError(f"order {order} with {n_symbols} symbols; from 1 to {KEY_BITS // bits} is possible")
    keys = _keys(list(documents), n_symbols, order)
    if not len(keys):
        raise UserError("an n-gram model has nothing to count: the documents hold no symbol")
    tables: list[_Table] = []
    for k in range(order, 0, -1):
        keys.sort()
        grams, counts = _run_lengths(keys)
        tables.append(_table(grams, counts, bits))
        # Each different n-gram is one symbol before the n-gram without its first: its count one order below.
        keys = grams & _mask((k - 1) * bits)
    return NgramModel(order, n_symbols, tuple(reversed(tables)))


def discounts_of(counts: NDArray[np.int64]) -> tuple[float, float, float]:
    """Return the discounts for counts of 1, 2, and 3 or more (Chen and Goodman's equation 26)."""
    n1, n2, n3, n4 = (int((counts == c).sum()) for c in (1, 2, 3, 4))
    if not n1 or not n2:
        return FALLBACK_DISCOUNT, FALLBACK_DISCOUNT, FALLBACK_DISCOUNT
    Y = n1 / (n1 + 2 * n2)
    if not n3 or not n4:
        return Y, Y, Y  # Kneser and Ney's single one
    found = (1 - 2 * Y * n2 / n1, 2 - 3 * Y * n3 / n2, 3 - 4 * Y * n4 / n3)
    # Few n-grams can give a discount below 0 or above the count.
    return found if all(0 < d <= c for c, d in enumerate(found, 1)) else (Y, Y, Y)


def _table(grams: Keys, counts: NDArray[np.int64], bits: int) -> _Table:
    discounts = np.array([0.0, *discounts_of(counts)])[np.minimum(counts, 3)]
    contexts, lengths = _run_lengths(grams >> np.uint64(bits))
    starts = np.cumsum(lengths) - lengths
    totals = np.add.reduceat(counts, starts)
    left_over = np.add.reduceat(discounts, starts) / totals
    return _Table(grams, (counts - discounts) / np.repeat(totals, lengths), contexts, left_over)


def _keys(documents: Sequence[Symbols], n_symbols: int, order: int) -> Keys:
    """Return each symbol with the n - 1 before it as one number, the symbol in the lowest bits."""
    bits = n_symbols.bit_length()
    lengths = [len(document) + order - 1 for document in documents]
    symbols = np.zeros(sum(lengths), np.uint64)
    """0 is the boundary, so symbols count from 1."""
    end = 0
    for document, length in zip(documents, lengths, strict=True):
        end += length
        if len(document):
            low, high = document.min(), document.max()
            if low < 0 or high >= n_symbols:
                raise UserError(f"symbol {low if low < 0 else high} is not from 0 to {n_symbols - 1}")
            symbols[end - len(document) : end] = document
            symbols[end - len(document) : end] += np.uint64(1)
    keys = symbols.copy()
    for distance in range(1, order):
        keys[distance:] |= symbols[:-distance] << np.uint64(bits * distance)
    return keys[symbols > 0]


def _run_lengths(ordered: Keys) -> tuple[Keys, NDArray[np.int64]]:
    """Return the different values of a sorted array, and how often each occurs."""
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return ordered[starts], np.diff(starts, append=len(ordered)).astype(np.int64)


def _found(ordered: Keys, wanted: Keys) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return where values stand in a sorted array, and whether they do."""
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return at, ordered[at] == wanted


def _mask(n_bits: int) -> np.uint64:
    return np.uint64((1 << n_bits) - 1)
