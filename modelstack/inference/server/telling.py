"""Pieces of a reply while it is written, with the tokens of each piece if they are asked for.

With tokens, a piece ends where a token ends: its tokens join to its text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from modelstack.inference.server.call_pieces import CallPieces
from modelstack.inference.server.turns import CallPiece, Piece, TextPiece, TokenLogprob
from modelstack.inference.server.visible_tokens import VisibleTokens
from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.conventions import Convention

Tell = Callable[[Piece], None]


class Telling:
    """Turns the text of one reply into the pieces that a protocol streams."""

    def __init__(
        self,
        tell: Tell,
        tokens: VisibleTokens | None,
        convention: Convention | None = None,
        tools: Sequence[ToolSpec] = (),
    ) -> None:
        """Start before the reply.

        Args:
            tell: Receives the pieces.
            tokens: Tokens of the reply, which the engine reports before their text; None: they are not asked for.
            convention: How calls are written; None: all text is words.
            tools: Tools that may be called.
        """
        self._tell = tell
        self._tokens = tokens
        self._calls = None if convention is None else CallPieces(convention, tools, self._tell_call)
        self._words = ""
        self._n_told = 0
        """Number of characters of the words that were told."""
        self._n_heard = 0
        """Number of characters of words and calls."""
        self._has_calls = False
        self._n_tokens = 0
        """Number of tokens that were told."""

    def hear(self, text: str, is_call: bool) -> None:
        """Process the next text of the words, or of the calls after them."""
        self._n_heard += len(text)
        if is_call:
            assert self._calls is not None
            self._has_calls = True
            self._tell_rest()
            self._calls.hear(text)
            return
        self._words += text
        if self._tokens is None:
            self._tell_rest()
            return
        first = self._tokens.first
        end, tokens = self._tokens.take(first + self._n_heard)
        if end - first > self._n_told or tokens:
            self._tell_words(end - first, tokens)

    def finish(
        self, words: str, tokens: Sequence[TokenLogprob] = (), calls: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Tell what was held back of a finished reply; nothing if its calls were heard.

        Args:
            words: All of its words.
            tokens: All tokens of the words.
            calls: Name and JSON arguments of its calls.
        """
        if self._has_calls:
            return
        if len(words) > self._n_told:
            self._words = words
            self._tell_words(len(words), tuple(tokens[self._n_tokens :]))
        for index, (name, arguments) in enumerate(calls):
            self._tell(CallPiece(index, arguments, name))

    def _tell_rest(self) -> None:
        if len(self._words) > self._n_told:
            self._tell_words(len(self._words), ())

    def _tell_words(self, end: int, tokens: tuple[TokenLogprob, ...]) -> None:
        text, self._n_told = self._words[self._n_told : end], end
        self._n_tokens += len(tokens)
        self._tell(TextPiece(text, tokens))

    def _tell_call(self, piece: CallPiece) -> None:
        if self._tokens is not None:
            _, tokens = self._tokens.take(self._tokens.first + self._n_heard)
            piece = replace(piece, logprobs=tokens)
        self._tell(piece)
