"""Guesses are what followed the longest earlier occurrence of the latest tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelstack.inference.speculation.lookup import MAX_CHAIN, MAX_MATCH, MIN_MATCH, PromptLookup


def by_comparison(text: list[int], n_tokens: int) -> tuple[list[int], int] | None:
    """Return the guess after comparing the end of a text with every place in it."""
    found, n_best = 0, MIN_MATCH - 1
    for place in range(len(text) - 1, 0, -1):
        n = 0
        while n < min(MAX_MATCH, place) and text[place - 1 - n] == text[-1 - n]:
            n += 1
        if n > n_best:
            found, n_best = place, n
    if not found:
        return None
    whole = list(text)
    for step in range(n_tokens):
        whole.append(whole[found + step])
    return whole[len(text) :], n_best


@given(st.lists(st.integers(0, 2), max_size=MAX_CHAIN), st.integers(1, 40), st.integers(0, 40))
def test_guesses_equal_those_of_a_plain_comparison(text: list[int], n_tokens: int, n_first: int) -> None:
    lookup = PromptLookup(text[:n_first])
    lookup.extend(text[n_first:])
    assert len(lookup) == len(text)
    assert lookup.find(n_tokens) == by_comparison(text, n_tokens)


def test_a_repetition_is_followed_beyond_the_end_of_the_text() -> None:
    assert PromptLookup([9, 1, 2, 3, 1, 2, 3, 1]).find(7) == ([2, 3, 1, 2, 3, 1, 2], 4)


def test_only_the_latest_of_many_occurrences_are_compared() -> None:
    many = [7, 1, 2, 50] + [1, 2, 0] * MAX_CHAIN + [7, 1, 2]
    assert PromptLookup(many).find(1) == ([0], 2)
    assert PromptLookup(many[3:-3] + many[:4] + many[-3:]).find(1) == ([50], 3)


def test_a_text_without_repetition_and_an_empty_one_give_no_guess() -> None:
    assert PromptLookup(range(100)).find(4) is None
    assert PromptLookup().find(4) is None
    assert PromptLookup([1, 2, 1, 2]).find(0) is None
