"""The `Grammar` protocol of the decode loop: the legal tokens, and the forced ones.

The protocol is beside the loop that uses it; its implementations, and the grammar of tool calls, are in
`modelstack.toolcalls`. Forced tokens ("jump-ahead") follow llguidance's fast-forward tokens: they are the
canonical tokenisation of bytes that have only one continuation.

Letters: V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TokenMask = NDArray[np.uint32]
"""Bit mask of legal tokens: bit i % 32 of word i // 32 is token i; ceil(V / 32) words."""


class GrammarError(Exception):
    """The grammar was driven outside its language, or exceeded a limit of its engine."""


class Grammar(Protocol):
    """The state of one constrained generation. Not thread-safe; one per generation."""

    @property
    def finished(self) -> bool:
        """Whether only an end token may follow."""
        ...

    @property
    def accepting(self) -> bool:
        """Whether the text so far is complete, so that an end token is legal."""
        ...

    @property
    def choosing(self) -> bool:
        """Whether the next token takes part in choosing a tool or an alternative to a call."""
        ...

    @property
    def decision(self) -> TokenMask | None:
        """Tokens that begin a call, where the reply may be a call or an answer; None elsewhere."""
        ...

    @property
    def stand_in(self) -> tuple[TokenMask, int] | None:
        """Illegal tokens that mean a call, and the legal token that begins one; None after the start of a reply.

        A model that would begin a call in another form means a call: the decode loop adds the mass of those tokens
        to the legal one.
        """
        ...

    @property
    def closing_reserve(self) -> int:
        """Upper bound on the number of tokens of a shortest completion from the current state."""
        ...

    def mask(self) -> TokenMask:
        """Return the legal tokens, including end tokens if `accepting`; valid until the next call."""
        ...

    def closing(self) -> TokenMask:
        """Return the legal tokens that lead to a short completion; not empty unless `mask()` is.

        The decode loop switches to this mask when the token budget approaches `closing_reserve`, so that a reply
        ends complete and is not cut off.
        """
        ...

    def forced(self) -> list[int]:
        """Return the tokens that must come next, without advancing; empty if there is a choice."""
        ...

    def n_legal(self, ids: Sequence[int]) -> int:
        """Return the number of leading tokens that could be taken one after the other, without advancing.

        A guess for drafts: `advance` may still refuse a token, never the other way round.
        """
        ...

    def advance(self, token_id: int) -> None:
        """Take one token.

        Raises:
            GrammarError: the token is not legal here.
        """
        ...

    def rollback(self, n_tokens: int) -> None:
        """Undo the last `n_tokens` calls of `advance`."""
        ...
