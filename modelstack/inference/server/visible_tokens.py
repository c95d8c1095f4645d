"""Log-probabilities of a reply's tokens, beside the text that a client sees.

A reply has more tokens than a client sees: the wrapper around a structured answer, a stop string. A token counts
if any of its characters is visible, and its bytes are cut to them. So the tokens of a text, or of a piece of a
stream, join to exactly that text. Tokens that write a character together belong to the piece that has it.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence

from modelstack.inference.engine import Generation
from modelstack.inference.server.turns import TokenLogprob

LEAST_LOGPROB = -9999.0
"""OpenAI's figure for a token that is very improbable; JSON has no infinity."""


class VisibleTokens:
    """Tokens of a generation while it is written, with their places in its text."""

    def __init__(self, token_bytes: Sequence[bytes], wrapper: str = "") -> None:
        """Start without tokens.

        Args:
            token_bytes: Bytes of each token of the vocabulary.
            wrapper: Beginning of the text that clients do not see, in replies that have it.
        """
        self._token_bytes = token_bytes
        self._wrapper = wrapper
        self._generation: Generation | None = None
        self._start()

    def read(self, generation: Generation) -> None:
        """Process the new tokens of a generation; another one begins anew."""
        if generation is not self._generation:
            self._generation = generation
            self._start()
        for token in generation.ids[len(self._spans) :]:
            start = len(self._text)
            self._text += str(self._decoder.decode(self._token_bytes[token]))
            n_pending = len(self._decoder.getstate()[0])
            self._spans.append((start, len(self._text) + (n_pending > 0)))
            self._n_pending.append(n_pending)

    @property
    def first(self) -> int:
        """Index of the first visible character of the generation's text."""
        return len(self._wrapper) if self._text.startswith(self._wrapper) else 0

    def take(self, end: int) -> tuple[int, tuple[TokenLogprob, ...]]:
        """Return the next tokens that end before the character `end`, and the index of the character after."""
        first = number = self._n_taken
        while number < len(self._spans) and self._spans[number][1] <= end:
            number += 1
            following = self._spans[number][0] if number < len(self._spans) else end
            if following >= self._spans[number - 1][1]:  # else both write one character
                self._n_taken = number
        if self._n_taken < len(self._spans):
            end = min(end, max(self.first, self._spans[self._n_taken][0]))
        return end, self._tokens(first, self._n_taken, None)

    def before(self, end: int | None, *, are_whole: bool = False) -> tuple[TokenLogprob, ...]:
        """Return all tokens with a visible character before `end`; None: up to the end of the generation.

        Args:
            end: Index of the first character that is not visible.
            are_whole: Whether a token that only begins before `end` is left out.
        """
        n = len(self._spans)
        if end is not None:
            n = sum(span[1] <= end or (not are_whole and span[0] < end) for span in self._spans)
        return self._tokens(0, n, end)

    def _start(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text: str = ""
        self._spans: list[tuple[int, int]] = []
        """First character of each token and the one after its last; one that is begun counts."""
        self._n_pending: list[int] = []
        """Bytes after each token that are no whole character yet."""
        self._n_taken = 0

    def _tokens(self, start: int, stop: int, end: int | None) -> tuple[TokenLogprob, ...]:
        """Return the tokens with these numbers, without those of the wrapper."""
        first = self.first
        return tuple(
            self._token(number, first, end)
            for number in range(start, stop)
            if not first or self._spans[number][1] > first
        )

    def _token(self, number: int, first: int, end: int | None) -> TokenLogprob:
        generation = self._generation
        assert generation is not None
        start, stop = self._spans[number]
        token, logprob = generation.ids[number], generation.logprobs[number]
        data = self._token_bytes[token]
        if end is not None and stop > end:
            n_pending = self._n_pending[number]
            n_hidden = len(self._text[end : stop - (n_pending > 0)].encode()) + n_pending
            data = data[: max(0, len(data) - n_hidden)]
        if start < first:
            data = data[len(self._text[start:first].encode()) :]
        best = generation.top_logprobs[number] if generation.top_logprobs else ()
        return TokenLogprob(
            data,
            _shown(logprob),
            max(start, first) - first,
            tuple((data if other == token else self._token_bytes[other], _shown(p)) for other, p in best),
        )


def _shown(logprob: float) -> float:
    """Return a log-probability for JSON; 0 for a token without an alternative."""
    return 0.0 if math.isnan(logprob) else max(logprob, LEAST_LOGPROB)
