"""All priors for the tokens of a reply after the choice of its tool."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import LogitBias
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.tokenizer.vocabulary import Vocabulary
from modelstack.toolcalls.convention import ToolSpec
from modelstack.toolcalls.prior.another_call import AnotherCallBias, Endings
from modelstack.toolcalls.prior.copying import CopyBias, CopyTable
from modelstack.toolcalls.prior.lexical import DecisionPrior
from modelstack.toolcalls.prior.optional_keys import KeyTable, OptionalKeyBias


class ReplyTables:
    """Tables of a vocabulary for any request, each built when a prior first needs it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Store the vocabulary."""
        self._vocabulary = vocabulary

    @cached_property
    def endings(self) -> Endings:
        """Tokens that decide about another call."""
        return Endings(self._vocabulary)

    @cached_property
    def copies(self) -> CopyTable:
        """Tokens by their bytes."""
        return CopyTable(self._vocabulary)

    @cached_property
    def keys(self) -> KeyTable:
        """Tokens that decide about another optional parameter."""
        return KeyTable(self._vocabulary)


class ReplyBias:
    """Applies several biases in sequence; an `engine.LogitBias`."""

    def __init__(self, biases: Sequence[LogitBias]) -> None:
        """Store the biases in order."""
        self._biases = tuple(biases)

    @classmethod
    def of(
        cls, prior: DecisionPrior | None, request: str | None, tools: Sequence[ToolSpec], tables: ReplyTables
    ) -> ReplyBias | None:
        """Return the biases of a prior for a request; None without any, or without a request.

        The request is the result of `lexical.open_request`.
        """
        if prior is None or request is None:
            return None
        biases: list[LogitBias] = []
        if prior.another_call is not None:
            biases.append(AnotherCallBias(prior.another_call, request, tools, tables.endings))
        if prior.copy_text_bias or prior.copy_number_bias:
            biases.append(CopyBias(prior.copy_text_bias, prior.copy_number_bias, request, tables.copies))
        if prior.optional_key is not None:
            biases.append(OptionalKeyBias(prior.optional_key, request, tools, tables.keys))
        return cls(biases) if biases else None

    def __call__(
        self, written: Sequence[int], legal: LegalTokens, logits_V: NDArray[np.float32]
    ) -> NDArray[np.float32] | None:
        """Return the logits with all biases applied; None if no bias applies."""
        found: NDArray[np.float32] | None = None
        for bias in self._biases:
            moved = bias(written, legal, logits_V if found is None else found)
            found = found if moved is None else moved
        return found
