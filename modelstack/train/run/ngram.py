"""n-gram models of bytes or tokens, with interpolated modified Kneser-Ney smoothing, as baselines.

Chen and Goodman 1999 ("An empirical study of smoothing techniques for language modeling", equations 22 to 26):

  p_k(w | h) = max(c(hw) - D(c(hw)), 0) / c(h) + g(h) p_{k-1}(w | h'),  h' being h without its first symbol

At the highest order, c are raw counts; below it, the number of distinct symbols seen before hw. There are three
discounts D, for counts of 1, 2, and 3 or more, computed from the numbers of n-grams seen 1 to 4 times. g(h) is the
part of c(h) that the discounts removed, so probabilities add up to 1. Below order 1 is the uniform distribution.
For an unseen context, the next shorter one is used.

A document begins after boundary symbols, so its start is predicted from other starts, and no n-gram crosses two
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
"""Discount used if there are too few distinct n-grams to estimate one, as with single bytes."""

Symbols = NDArray[np.integer]
Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """The n-grams of one order, and their contexts."""

    grams: Keys
    """N-grams, sorted."""
    discounted: NDArray[np.float64]
    """(c(hw) - D) / c(h) of each n-gram."""
    contexts: Keys
    """Contexts, sorted."""
    left_over: NDArray[np.float64]
    """g(h) of each context."""


@dataclass(frozen=True, slots=True, eq=False)
class NgramModel:
    """A fitted model."""

    order: int
    n_symbols: int
    _tables: tuple[_Table, ...]
    """Tables of order 1 to n."""

    @property
    def n_grams(self) -> tuple[int, ...]:
        """Number of distinct n-grams in the training text, by order."""
        return tuple(len(table.grams) for table in self._tables)

    def log2_probabilities(self, document: Symbols) -> NDArray[np.float64]:
        """Return log2 p of each symbol of a document, given the symbols before it.

        Raises:
            UserError: A symbol is outside 0 .. `n_symbols` - 1.
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
        order: n: a symbol is predicted from the n - 1 symbols before it.

    Raises:
        UserError: The order is too high for the number of symbols, a symbol is out of range, or there are no
            symbols.
    """
    bits = n_symbols.bit_length()
    if not 1 <= order <= KEY_BITS // bits:
        raise UserError(
            f"order {order} is invalid for {n_symbols} symbols; it must be from 1 to {KEY_BITS // bits}"
        )
    keys = _keys(list(documents), n_symbols, order)
    if not len(keys):
        raise UserError("an n-gram model needs at least one symbol, but the documents are empty")
    tables: list[_Table] = []
    for k in range(order, 0, -1):
        keys.sort()
        grams, counts = _run_lengths(keys)
        tables.append(_table(grams, counts, bits))
        # Each distinct n-gram counts once for the n-gram without its first symbol, one order below.
        keys = grams & _mask((k - 1) * bits)
    return NgramModel(order, n_symbols, tuple(reversed(tables)))


def discounts_of(counts: NDArray[np.int64]) -> tuple[float, float, float]:
    """Return the discounts for counts of 1, 2, and 3 or more (Chen and Goodman's equation 26)."""
    n1, n2, n3, n4 = (int((counts == c).sum()) for c in (1, 2, 3, 4))
    if not n1 or not n2:
        return FALLBACK_DISCOUNT, FALLBACK_DISCOUNT, FALLBACK_DISCOUNT
    Y = n1 / (n1 + 2 * n2)
    if not n3 or not n4:
        return Y, Y, Y  # the single discount of Kneser and Ney
    found = (1 - 2 * Y * n2 / n1, 2 - 3 * Y * n3 / n2, 3 - 4 * Y * n4 / n3)
    # With few n-grams a discount may be below 0 or above the count.
    return found if all(0 < d <= c for c, d in enumerate(found, 1)) else (Y, Y, Y)


def _table(grams: Keys, counts: NDArray[np.int64], bits: int) -> _Table:
    discounts = np.array([0.0, *discounts_of(counts)])[np.minimum(counts, 3)]
    contexts, lengths = _run_lengths(grams >> np.uint64(bits))
    starts = np.cumsum(lengths) - lengths
    totals = np.add.reduceat(counts, starts)
    left_over = np.add.reduceat(discounts, starts) / totals
    return _Table(grams, (counts - discounts) / np.repeat(totals, lengths), contexts, left_over)


def _keys(documents: Sequence[Symbols], n_symbols: int, order: int) -> Keys:
    """Return each symbol with the n - 1 symbols before it as one number, the symbol in the lowest bits."""
    bits = n_symbols.bit_length()
    lengths = [len(document) + order - 1 for document in documents]
    symbols = np.zeros(sum(lengths), np.uint64)
    """Symbols plus 1; 0 is the boundary."""
    end = 0
    for document, length in zip(documents, lengths, strict=True):
        end += length
        if len(document):
            low, high = document.min(), document.max()
            if low < 0 or high >= n_symbols:
                raise UserError(f"symbol {low if low < 0 else high} is outside 0 to {n_symbols - 1}")
            symbols[end - len(document) : end] = document
            symbols[end - len(document) : end] += np.uint64(1)
    keys = symbols.copy()
    for distance in range(1, order):
        keys[distance:] |= symbols[:-distance] << np.uint64(bits * distance)
    return keys[symbols > 0]


def _run_lengths(ordered: Keys) -> tuple[Keys, NDArray[np.int64]]:
    """Return the distinct values of a sorted array, and the number of times each occurs."""
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return ordered[starts], np.diff(starts, append=len(ordered)).astype(np.int64)


def _found(ordered: Keys, wanted: Keys) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the positions of values in a sorted array, and whether they are present."""
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return at, ordered[at] == wanted


def _mask(n_bits: int) -> np.uint64:
    return np.uint64((1 << n_bits) - 1)
