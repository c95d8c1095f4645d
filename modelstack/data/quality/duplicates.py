"""Measures of repetition within a text: lines, paragraphs, word runs.

The measures are Gopher's (Rae et al. 2021, arXiv 2112.11446, table A1) as implemented for FineWeb (datatrove
0.10.1). Here, words of a run are joined by blanks. datatrove joins runs of five and more words without a
separator, so "an other" repeats "another" there. Shares are over all characters of the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import mul

_WITH_A_BLANK = (1).__add__


def count_again(parts: Iterable[str]) -> tuple[int, int]:
    """Return the number of parts that occurred before, and their characters."""
    seen: set[str] = set()
    n_parts = n_characters = 0
    for part in parts:
        if part in seen:
            n_parts += 1
            n_characters += len(part)
        else:
            seen.add(part)
    return n_parts, n_characters


def characters_of_top_run(words: Sequence[str], n: int) -> int:
    """Return length times frequency of the most frequent run of `n` words, blanks included.

    Among equally frequent runs the first one counts. With fewer than `n` words the result is 0.
    """
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    if not counts:
        return 0
    run, count = max(counts.items(), key=lambda item: item[1])
    return (sum(map(len, run)) + n - 1) * count


def bound_of_top_run(word_counts: Counter[str]) -> int:
    """Return `b` such that no run of `n` words has a length times frequency above `n * b`.

    A run occurs at most as often as each of its words. Its characters are thus at most the sum, over its words, of
    the word's length plus a blank, times the word's frequency.
    """
    return max(map(mul, map(_WITH_A_BLANK, map(len, word_counts)), word_counts.values()), default=0)


class RepeatedRuns:
    """Repeated word runs of a text.

    If a longer run is repeated, so are its first `n` words. The positions found for `n` words therefore suffice
    for `n` and for all longer runs.
    """

    def __init__(self, words: Sequence[str], n: int) -> None:
        """Find runs of `n` words that occur more than once."""
        self._joined = joined = " ".join(words)
        self._starts = starts = list(accumulate(map(_WITH_A_BLANK, map(len, words)), initial=0))
        runs = [joined[start : end - 1] for start, end in zip(starts, starts[n:], strict=False)]
        counts = Counter(runs)
        self._places = [] if len(counts) == len(runs) else [i for i, run in enumerate(runs) if counts[run] > 1]
        self._n = n

    def characters_again(self, n: int) -> int:
        """Return the characters, without blanks, in runs of `n` words that occurred before.

        The text is scanned from the left; after a repeated run the scan continues behind it, otherwise at the next
        word. `n` must be at least the number of words passed to the constructor.
        """
        joined, starts = self._joined, self._starts
        last = len(starts) - 1 - n
        seen: set[str] = set()
        n_characters = next_place = 0
        for i in self._places:
            if next_place <= i <= last:
                run = joined[starts[i] : starts[i + n] - 1]
                if run in seen:
                    n_characters += len(run) - n + 1
                    next_place = i + n
                else:
                    seen.add(run)
        return n_characters

    def bound(self) -> int:
        """Return an upper bound of `characters_again` for any `n`.

        Everything counted lies in repeated runs; the bound is the number of characters, with blanks, that they
        cover.
        """
        starts = self._starts
        covered = end = 0
        for i in self._places:
            covered += starts[i + self._n] - max(starts[i], end)
            end = starts[i + self._n]
        return covered
