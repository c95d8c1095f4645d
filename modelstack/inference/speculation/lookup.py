"""Guesses from the text itself: what followed the last occurrence of the latest tokens (prompt lookup).

Replies of agents repeat their prompts: a call repeats the names and brackets of earlier calls, an answer the
values of a tool's result. Occurrences are found as in LZ77: a table leads from the last tokens to their latest
earlier occurrence, and a chain from there to older ones. The occurrence with the longest match is used, the latest
of equal ones.

Source: prompt lookup decoding (Saxena 2023), the n-gram drafters of vLLM and llama.cpp; hash chains of RFC 1951.
"""

from __future__ import annotations

from collections.abc import Iterable

MIN_MATCH = 2
"""Number of equal tokens without which nothing is guessed."""
MAX_MATCH = 16
"""Number of equal tokens beyond which no longer match is looked for."""
MAX_CHAIN = 32
"""Number of occurrences that are compared."""


class PromptLookup:
    """The tokens of a prompt and its reply, with an index of their occurrences."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        """Index some tokens."""
        self._tokens: list[int] = []
        self._latest: dict[tuple[int, int], int] = {}
        """Place behind the latest occurrence of two tokens."""
        self._older: list[int] = [0, 0]
        """Place behind the occurrence before that of the two tokens that end at a place; 0: there is none."""
        self.extend(tokens)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens."""
        known, latest, older = self._tokens, self._latest, self._older
        for token in tokens:
            known.append(token)
            if len(known) >= MIN_MATCH:
                pair = (known[-2], token)
                older.append(latest.get(pair, 0))
                latest[pair] = len(known)

    def find(self, n_tokens: int) -> tuple[list[int], int] | None:
        """Return at most `n_tokens` tokens that may come next, and the length of the match before them.

        None if the latest tokens never occurred before. A guess that reaches the end of the text goes on with its
        own tokens, so a repetition is followed.
        """
        known = self._tokens
        if len(known) < MIN_MATCH or n_tokens < 1:
            return None
        place, best, n_best = self._older[len(known)], 0, 0
        for _ in range(MAX_CHAIN):
            if not place:
                break
            n = self._n_equal(place)
            if n > n_best:
                best, n_best = place, n
                if n == MAX_MATCH:
                    break
            place = self._older[place]
        if not best:
            return None
        ids = known[best : best + n_tokens]
        period = len(known) - best
        while len(ids) < n_tokens:
            ids.append(ids[len(ids) - period])
        return ids, n_best

    def _n_equal(self, place: int) -> int:
        """Return the number of tokens before a place that equal the latest ones, at most `MAX_MATCH`."""
        known = self._tokens
        n, most = MIN_MATCH, min(MAX_MATCH, place)
        while n < most and known[place - n - 1] == known[-n - 1]:
            n += 1
        return n
