"""Writes one turn of a policy as serving does (`inference.reply`), and records how each token came about.

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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelstack.errors import UserError
from modelstack.inference.engine import SamplingParams
from modelstack.inference.grammar import Grammar
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.inference.reply import DrawnToken, Reply, ReplyParts
from modelstack.inference.sampling import Sampler
from modelstack.reasoning.sampling.sampled import Sampled
from modelstack.tokenizer.vocabulary import Vocabulary


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
        self.end_ids, self.n_vocab, self.temperature = end_ids, len(vocabulary), temperature
        self.text_tokens = LegalTokens.all_except(vocabulary.special_ids - end_ids, self.n_vocab)
        """Tokens that are legal without a grammar; as in serving, a policy cannot open a turn of another role."""
        self.sampler = Sampler(self.n_vocab, SamplingParams(temperature=temperature), np.random.default_rng(seed))


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
        self._written, self._draws, self._start = written, draws, len(written.ids)
        self._reply = Reply(
            max_tokens,
            ReplyParts(
                sampler=draws.sampler,
                text_tokens=draws.text_tokens,
                end_ids=draws.end_ids,
                n_vocab=draws.n_vocab,
                grammar=grammar,
                on_drawn=self._take,
                follows_stand_ins=False,
            ),
        )
        self._has_begun = self._is_closing = False
        self.ended_by: int | None = None
        """End token that was drawn; None: the grammar was complete, or the limit was reached."""

    @property
    def is_over(self) -> bool:
        """Whether the turn has ended."""
        return self._reply.finish_reason is not None

    @property
    def is_cut(self) -> bool:
        """Whether the token limit ended the turn, or made the grammar close it."""
        return self._is_closing or self._reply.finish_reason == "length"

    @property
    def content_ids(self) -> list[int]:
        """Token ids of the turn, without its end token."""
        return self._written.ids[self._start : len(self._written.ids) - (self.ended_by is not None)]

    def step(self, logits_V: NDArray[np.float32]) -> list[int]:
        """Write the next token and any forced tokens after it; return them.

        A beginning that the grammar forces is written alone: the logits after it are those of the next call.
        """
        n_before = len(self._written.ids)
        if self._has_begun or not self._forced():
            self._reply.take(logits_V[: self._draws.n_vocab])
            self._forced()
        self._has_begun = True
        return self._written.ids[n_before:]

    def _forced(self) -> bool:
        """Write what the grammar forces; return whether it forced tokens or ended the turn."""
        n_before = len(self._reply.out.ids)
        goes_on = self._reply.advance()
        forced = self._reply.out.ids[n_before:]
        self._written.give(forced)
        return bool(forced) or not goes_on

    def _take(self, drawn: DrawnToken) -> None:
        self._is_closing |= drawn.is_closing
        if drawn.legal is None or drawn.legal.count == 1:
            self._written.give([drawn.token])
        else:
            share = log_share(drawn.token, drawn.logits_V, drawn.legal, self._draws.temperature or 1.0)
            self._written.choose(drawn.token, share, drawn.legal)
        if drawn.token in self._draws.end_ids:
            self.ended_by = drawn.token
