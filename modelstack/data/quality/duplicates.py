"""How much of a text says again what it has said: lines, paragraphs, runs of words.

The measures of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1) as FineWeb reads them (datatrove 0.10.1).
Words are joined by blanks here; datatrove joins them by nothing for the runs of five and more, so there "an
other" repeats "another". The shares are over all characters of the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import mul

_WITH_A_BLANK = (1).__add__


def count_again(parts: Iterable[str]) -> tuple[int, int]:
    """Return how many parts were there before, and their characters."""
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
    """Return the length of the most frequent run of `n` words, blanks included, times how often it occurs.

    Of runs that are equally frequent the first counts. Fewer than `n` words have none: 0.
    """
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    if not counts:
        return 0
    run, count = max(counts.items(), key=lambda item: item[1])
    return (sum(map(len, run)) + n - 1) * count


def bound_of_top_run(word_counts: Counter[str]) -> int:
    """Return `b`: no run of `n` words has a length times a frequency of more than `n * b`.

    A run occurs at most as often as each of its words, so its characters are at most the sum over its words of
    their length, and a blank, times their frequency.
    """
    return max(map(mul, map(_WITH_A_BLANK, map(len, word_counts)), word_counts.values()), default=0)


class RepeatedRuns:
    """The runs of a text's words that occur more than once.

    Where a long run is repeated, so is the run of `n` words that it begins with: what `n` words find is all that
    has to be looked at for `n` and for more.
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
        """Return the characters, without blanks, of runs of `n` words that were there before.

        The text is walked from the left; after a repeated run the walk goes on behind it, else at the next word.
        `n` is at least the number that repeated runs were found for.
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
        """Return a number that `characters_again` does not exceed for any `n`.

        All that any walk counts lies in repeated runs: these are the characters, with blanks, that they cover.
        """
        starts = self._starts
        covered = end = 0
        for i in self._places:
            covered += starts[i + self._n] - max(starts[i], end)
            end = starts[i + self._n]
        return covered
