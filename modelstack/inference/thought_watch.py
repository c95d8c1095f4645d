"""Watch of a thought: finds the closing mark token by token, and reports the tokens that can no longer change.

A mark of several tokens is searched for in bytes, as a model may tokenise it differently from the tokenizer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from modelstack.tokenizer.vocabulary import Vocabulary


class ThoughtWatch:
    """Reads a thought while it is written, and detects its end."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        mark: bytes,
        n_most: int,
        on_tokens: Callable[[list[int]], None] | None,
    ) -> None:
        """Search for `mark` in bytes; if it is empty, only the number of tokens counts."""
        self._token_bytes = vocabulary.token_bytes
        self.mark, self._n_most, self._on_tokens = mark, n_most, on_tokens
        self._ids: list[int] = []
        self._written = bytearray()
        self._starts: list[int] = []
        """Offset of each token's first byte."""
        self._n_told = 0
        self._mark_at: int | None = None

    def __call__(self, block: list[int]) -> None:
        """Take tokens; report those that no mark can take back."""
        searched = max(0, len(self._written) - len(self.mark) + 1)
        self._ids += block
        for token in block:
            self._starts.append(len(self._written))
            self._written += self._token_bytes[token]
        if self.mark and self._mark_at is None:
            at = self._written.find(self.mark, searched)
            self._mark_at = None if at < 0 else at
        if self._mark_at is None:
            self.settle(min(self._n_tokens_before(len(self._written) - self._begun()), self._n_most))

    @property
    def is_closed(self) -> bool:
        """Whether the mark was written."""
        return self._mark_at is not None

    @property
    def has_stopped(self) -> bool:
        """Whether the thought is over: at the mark, or at the budget unless a mark has begun."""
        return self.is_closed or (len(self._starts) >= self._n_most and not self._begun())

    def n_before_mark(self, ids: Sequence[int]) -> int:
        """Return the number of tokens in the thought: those with a byte before the mark."""
        return len(ids) if self._mark_at is None else self._n_tokens_before(self._mark_at)

    def settle(self, n_tokens: int) -> None:
        """Report all tokens up to this number that were not reported yet."""
        if self._on_tokens is not None and n_tokens > self._n_told:
            self._on_tokens(self._ids[self._n_told : n_tokens])
        self._n_told = max(self._n_told, n_tokens)

    def _n_tokens_before(self, place: int) -> int:
        return bisect_left(self._starts, place)

    def _begun(self) -> int:
        """Return the number of bytes at the end that may be the beginning of the mark."""
        longest = min(len(self.mark) - 1, len(self._written))
        return next((n for n in range(longest, 0, -1) if self._written.endswith(self.mark[:n])), 0)
