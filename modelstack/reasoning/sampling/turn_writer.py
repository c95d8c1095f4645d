"""Writes one turn of a policy token by token, as serving does: drawn among legal tokens, or forced.

A token is *chosen* if the policy had a choice. A forced token (the only continuation of a grammar) has
probability 1 for any weights, so it has no gradient. Forced tokens are also excluded from lengths and means.
Otherwise each decision in a call, with its forced braces and quotes, would weigh less than a word of prose. If
the token budget requires the grammar to close (`Grammar.closing`), a drawn token may be replaced by one that
still fits; the replacement does not count as chosen, as it was not drawn from a recorded distribution.

This module does not import torch.

Letters: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.errors import UserError
from modelstack.inference.engine import SamplingParams
from modelstack.inference.grammar import Grammar
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.inference.sampling import Sampler
from modelstack.reasoning.sampling.sampled import Sampled
from modelstack.tokenizer.vocabulary import Vocabulary

MASKS_KEPT = 256
"""Maximum number of cached masks, shared by tokens with equal masks; each takes at most a byte per vocabulary
entry."""


@dataclass(slots=True)
class Written:
    """Tokens after the prompt so far, with their properties."""

    ids: list[int] = field(default_factory=list[int])
    log_probs: list[float] = field(default_factory=list[float])
    is_chosen: list[bool] = field(default_factory=list[bool])
    legal: list[LegalTokens | None] = field(default_factory=list[LegalTokens | None])

    def choose(self, token: int, log_prob: float, legal: LegalTokens) -> None:
        """Append a token that the policy drew."""
        self.ids.append(token)
        self.log_probs.append(log_prob)
        self.is_chosen.append(True)
        self.legal.append(legal)

    def give(self, ids: Sequence[int]) -> None:
        """Append forced tokens, or tokens that the policy did not write."""
        self.ids.extend(ids)
        self.log_probs.extend([0.0] * len(ids))
        self.is_chosen.extend([False] * len(ids))
        self.legal.extend([None] * len(ids))

    def drop_last(self) -> None:
        """Remove the last token."""
        for column in (self.ids, self.log_probs, self.is_chosen, self.legal):
            column.pop()

    def sampled(self, *, is_truncated: bool, outcome: Any = None) -> Sampled:
        """Return the tokens in the form that training reads."""
        return Sampled(
            tuple(self.ids), tuple(self.log_probs), is_truncated, tuple(self.is_chosen), tuple(self.legal), outcome
        )


class Draws:
    """Token sampling of one row: random stream, temperature, and the legal tokens without a grammar."""

    def __init__(self, vocabulary: Vocabulary, end_ids: frozenset[int], temperature: float, seed: int) -> None:
        """Start a random stream.

        Args:
            vocabulary: Vocabulary of the model; padded rows of the head beyond it are never drawn.
            end_ids: Tokens that end a turn.
            temperature: Divisor of the logits. 0: the most probable token; if a grammar allows both a call and
                an answer, the most probable token of the more probable of the two.
            seed: Seed of the random stream.

        Raises:
            UserError: The temperature is negative.
        """
        if temperature < 0:
            raise UserError(f"temperature is {temperature}; it must be 0 (greedy) or above")
        self.end_ids, self.n_vocab = end_ids, len(vocabulary)
        self.text_tokens = LegalTokens.all_except(vocabulary.special_ids - end_ids, self.n_vocab)
        """Tokens that are legal without a grammar; as in serving, a policy cannot open a turn of another role."""
        self._temperature = temperature
        self._sampler = Sampler(self.n_vocab, SamplingParams(temperature=temperature), np.random.default_rng(seed))

    def draw(
        self, logits_V: NDArray[np.float32], legal: LegalTokens, grammar: Grammar | None = None
    ) -> tuple[int, float]:
        """Return a token and its log-probability among the legal tokens, at the temperature."""
        logits_V = logits_V[: self.n_vocab]
        decision = grammar.decision if grammar is not None and self._temperature == 0 else None
        token = self._sampler.draw(logits_V, legal, decision).token
        return token, log_share(token, logits_V, legal, self._temperature or 1.0)


def log_share(token: int, logits_V: NDArray[np.float32], legal: LegalTokens, temperature: float) -> float:
    """Return the log-probability of a token in the softmax over the legal tokens."""
    if legal.count == 1:
        return 0.0
    values = logits_V[legal.to_ids()] / np.float32(temperature)
    top = values.max()
    log_sum = float(top) + float(np.log(np.exp(values - top).sum(dtype=np.float64)))
    return min(0.0, float(logits_V[token] / np.float32(temperature)) - log_sum)


class TurnWriter:
    """Writer of one turn, which appends to the tokens written so far."""

    def __init__(self, written: Written, draws: Draws, grammar: Grammar | None, max_tokens: int) -> None:
        """Start a turn of at most `max_tokens` tokens, which must be at least 1."""
        self._written, self._draws, self._grammar = written, draws, grammar
        self._start, self._end = len(written.ids), len(written.ids) + max_tokens
        self.is_over = False
        self.is_cut = False
        """Whether the token limit ended the turn, or made the grammar close it."""
        self.ended_by: int | None = None
        """End token that was drawn; None: the grammar was complete, or the limit was reached."""

    @property
    def content_ids(self) -> list[int]:
        """Token ids of the turn, without its end token."""
        return self._written.ids[self._start : len(self._written.ids) - (self.ended_by is not None)]

    def step(self, logits_V: NDArray[np.float32]) -> list[int]:
        """Write the next token and any forced tokens after it; return them."""
        forced = self._forced()
        if forced or self.is_over:
            return forced
        token = self._drawn(logits_V)
        return [token, *([] if self.is_over else self._forced())]

    @property
    def _n_left(self) -> int:
        return self._end - len(self._written.ids)

    def _forced(self) -> list[int]:
        grammar = self._grammar
        block: list[int] = []
        if grammar is not None and not grammar.finished:
            block = grammar.forced()[: self._n_left]
            for token in block:
                grammar.advance(token)
            self._written.give(block)
        self._settle()
        return block

    def _drawn(self, logits_V: NDArray[np.float32]) -> int:
        grammar, draws = self._grammar, self._draws
        if grammar is None:
            legal = draws.text_tokens
            token, log_prob = draws.draw(logits_V, legal)
            return self._take(token, log_prob, legal)
        must_close = grammar.closing_reserve >= self._n_left
        legal: LegalTokens | None = self._legal(grammar, must_close)
        token, log_prob = draws.draw(logits_V, legal, None if must_close else grammar)
        if not must_close and self._overruns(grammar, token):
            must_close = True
            token, _ = draws.draw(logits_V, self._legal(grammar, must_close))
            legal = None  # it was not drawn from a single set
        if token not in draws.end_ids:
            grammar.advance(token)
        self.is_cut |= must_close
        return self._take(token, log_prob, legal)

    def _overruns(self, grammar: Grammar, token: int) -> bool:
        """Return whether the shortest completion after a token exceeds the limit."""
        if token in self._draws.end_ids:
            return False
        grammar.advance(token)
        is_over = grammar.closing_reserve > self._n_left - 1
        grammar.rollback(1)
        return is_over

    def _take(self, token: int, log_prob: float, legal: LegalTokens | None) -> int:
        if legal is None or legal.count == 1:
            self._written.give([token])
        else:
            self._written.choose(token, log_prob, legal)
        if token in self._draws.end_ids:
            self.is_over, self.ended_by = True, token
        self._settle()
        return token

    def _legal(self, grammar: Grammar, is_closing: bool) -> LegalTokens:
        mask = grammar.closing() if is_closing else grammar.mask()
        return _unpacked(mask.tobytes(), self._draws.n_vocab)

    def _settle(self) -> None:
        if self.is_over or (self._grammar is not None and self._grammar.finished):
            self.is_over = True
        elif self._n_left <= 0:
            self.is_over = self.is_cut = True


@lru_cache(maxsize=MASKS_KEPT)
def _unpacked(mask: bytes, n_vocab: int) -> LegalTokens:
    """Return a mask as a set of legal tokens; cached, as masks repeat within words and strings."""
    return LegalTokens.from_mask(np.frombuffer(mask, dtype=np.uint32), n_vocab)
