"""n-gram models: proper distributions, equal to a computation by the book, and no n-gram across documents."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from modelstack.errors import UserError
from modelstack.train.run.ngram import FALLBACK_DISCOUNT, discounts_of, fit


def toy(seed: int, n_documents: int = 12, n_symbols: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, n_symbols, rng.integers(0, 30)) for _ in range(n_documents)]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_of_the_next_symbol_add_up_to_1_in_every_context(order: int) -> None:
    model = fit(toy(0), 4, order)
    for length in range(4):
        for context in itertools.product(range(4), repeat=length):
            last = [model.log2_probabilities(np.array([*context, w]))[-1] for w in range(4)]
            assert sum(2.0**p for p in last) == pytest.approx(1.0, abs=1e-12)


def by_the_book(documents: list[np.ndarray], n_symbols: int, order: int, history: list[int], w: int) -> float:
    """Return Kneser-Ney's p(w | history) from dicts of counts, after the equations; -1 is the boundary."""
    counts: dict[int, Counter[tuple[int, ...]]] = {order: Counter()}
    for document in documents:
        padded = [-1] * (order - 1) + [int(symbol) for symbol in document]
        counts[order].update(tuple(padded[i : i + order]) for i in range(len(document)))
    for k in range(order - 1, 0, -1):
        counts[k] = Counter(gram[1:] for gram in counts[k + 1])

    def p(k: int, context: tuple[int, ...]) -> float:
        if k == 0:
            return 1 / n_symbols
        D = (0.0, *discounts_of(np.array(list(counts[k].values()))))
        total = sum(c for gram, c in counts[k].items() if gram[:-1] == context)
        lower = p(k - 1, context[1:])
        if not total:
            return lower
        own = counts[k][*context, w]
        taken = sum(D[min(c, 3)] for gram, c in counts[k].items() if gram[:-1] == context)
        return (own - D[min(own, 3)]) / total + taken / total * lower

    padded = [-1] * (order - 1) + history
    return p(order, tuple(padded[len(padded) - order + 1 :]))


@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_model_equals_the_equations(order: int) -> None:
    documents = toy(1)
    model = fit(documents, 4, order)
    text = [0, 3, 3, 1, 2, 0, 0, 1]
    expected = [math.log2(by_the_book(documents, 4, order, text[:i], w)) for i, w in enumerate(text)]
    assert model.log2_probabilities(np.array(text)) == pytest.approx(expected, abs=1e-12)


def test_a_value_computed_by_hand() -> None:
    # "a b", "a b", "a c" over a, b, c; order 2.
    model = fit([np.array([0, 1]), np.array([0, 1]), np.array([0, 2])], 3, 2)
    # Order 1: each of a, b, c was seen behind one symbol; no discount can be told, so 0.5:
    # (1 - 0.5) / 3 + 1.5 / 3 * 1/3 = 1/3 each.
    # Order 2: a begins 3 times, "a b" is there 2 times, "a c" once: n1 = n2 = n3 = 1, so Y = 1/3 discounts all.
    # b behind a: (2 - 1/3) / 3, and 2/9 are left over for order 1.
    assert 2 ** model.log2_probabilities(np.array([0, 1]))[1] == pytest.approx(5 / 9 + 2 / 9 / 3)
    # a at the beginning: (3 - 1/3) / 3, and 1/9 is left over.
    assert 2 ** model.log2_probabilities(np.array([0, 1]))[0] == pytest.approx(8 / 9 + 1 / 9 / 3)


def test_discounts_follow_the_counts_of_counts() -> None:
    counts = np.repeat([1, 2, 3, 4, 7], [40, 20, 12, 8, 3])
    Y = 40 / (40 + 2 * 20)
    assert discounts_of(counts) == pytest.approx((1 - 2 * Y * 20 / 40, 2 - 3 * Y * 12 / 20, 3 - 4 * Y * 8 / 12))
    assert discounts_of(np.repeat([1, 2], [4, 1])) == pytest.approx((4 / 6,) * 3)
    assert discounts_of(np.array([5, 6, 7])) == (FALLBACK_DISCOUNT,) * 3
    # A second discount of 2 - 3 Y 50 / 20 would be below 0.
    assert discounts_of(np.repeat([1, 2, 3, 4], [40, 20, 50, 8])) == pytest.approx((Y,) * 3)


def test_documents_do_not_reach_into_each_other() -> None:
    apart = fit([np.array([0, 1]), np.array([2, 3])], 4, 2)
    joined = fit([np.array([0, 1, 2, 3])], 4, 2)
    text = np.array([1, 2])
    assert joined.log2_probabilities(text)[1] > apart.log2_probabilities(text)[1]


def test_a_longer_context_helps_where_the_text_needs_it() -> None:
    documents = [np.array([0, 1, 2, 3, 1, 0] * 20)]  # behind 1 comes 2 or 0, by what was before it
    bits = [-fit(documents, 4, order).log2_probabilities(documents[0]).mean() for order in (1, 2, 3)]
    assert bits[0] > bits[1] > 2 * bits[2]


def test_empty_documents_are_no_trouble_and_no_text_is_told() -> None:
    model = fit([np.array([], np.int64), np.array([1])], 2, 3)
    assert model.log2_probabilities(np.array([], np.int64)).shape == (0,)
    with pytest.raises(UserError, match="at least one symbol"):
        fit([np.array([], np.int64)], 2, 3)


def test_orders_and_symbols_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="order 8 is invalid for 256 symbols; it must be from 1 to 7"):
        fit([np.array([1])], 256, 8)
    with pytest.raises(UserError, match="symbol 4 is outside 0 to 3"):
        fit([np.array([4])], 4, 2)
    with pytest.raises(UserError, match="symbol -1 is outside"):
        fit([np.array([-1])], 4, 2)
    assert fit([np.array([255, 0])], 256, 7).n_grams == (2,) * 7
