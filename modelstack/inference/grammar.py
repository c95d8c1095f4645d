"""What a decode loop asks of a grammar: which tokens are legal now, and which one must come.

The protocol stands beside the loop that uses it; the engines that fulfil it, and the grammar of tool calls, are
in `modelstack.toolcalls`. Forced tokens ("jump-ahead") follow llguidance's fast-forward tokens: they are the
canonical tokenisation of bytes that have only one continuation.

Letters: V vocabulary size.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TokenMask = NDArray[np.uint32]
"""Bit i of word i // 32 (little end first) is set when token i is legal; ceil(V / 32) words."""


class GrammarError(Exception):
    """The grammar was driven outside its language, or hit a limit of its engine."""


class Grammar(Protocol):
    """The state of one constrained generation. Not thread-safe; one per generation."""

    @property
    def finished(self) -> bool:
        """True when nothing but an end token may follow."""
        ...

    @property
    def accepting(self) -> bool:
        """True when the text so far is complete; an end token is legal."""
        ...

    @property
    def choosing(self) -> bool:
        """True while the next token takes part in choosing a tool (or an answer instead of one)."""
        ...

    @property
    def decision(self) -> TokenMask | None:
        """Where a reply may be a call or an answer: the tokens that begin a call. None anywhere else."""
        ...

    @property
    def stand_in(self) -> tuple[TokenMask, int] | None:
        """Illegal tokens that stand for a call, and the legal one that begins it; None but where a reply begins.

        A model that would begin a call in a form of its own means a call: the decode loop gives that token the
        mass of those.
        """
        ...

    @property
    def closing_reserve(self) -> int:
        """Upper bound on the tokens that a shortest completion needs, counted from the current state."""
        ...

    def mask(self) -> TokenMask:
        """Return the legal tokens, end tokens included when `accepting`; valid until the next call."""
        ...

    def closing(self) -> TokenMask:
        """Return those legal tokens that lead to a short completion; never empty while `mask()` is not.

        The decode loop changes over to it when the token budget nears `closing_reserve`, so that a reply ends
        complete instead of being cut.
        """
        ...

    def forced(self) -> list[int]:
        """Return the tokens that must come next, [] where there is a choice. Does not advance."""
        ...

    def advance(self, token_id: int) -> None:
        """Consume one token.

        Raises:
            GrammarError: the token is not legal here.
        """
        ...

    def rollback(self, n_tokens: int) -> None:
        """Undo the last `n_tokens` calls of `advance`."""
        ...
