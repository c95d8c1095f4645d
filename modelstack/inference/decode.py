"""The decode loop: alternates forced blocks and masked samples until the reply ends.

A plain function over small parts (evaluate, sampler, grammar), so that it can be tested without a model. Tokens
wait in `pending` until the next logits are needed. A sampled token and the forced block after it are evaluated in
one call, and the last token of a reply is never evaluated here: the next turn, which needs an evaluation anyway,
makes its KV entry. The implementation of `Evaluate` records the content of the cache, not this loop.

The change to `Grammar.closing` is never too late: a token after which the shortest completion would exceed the
budget is undone and drawn again from the closing tokens.

Letters: V vocabulary size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import ChoiceBias, ChoicePoint, FinishReason, Generation, LogitBias
from modelstack.inference.grammar import Grammar, TokenMask
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.inference.sampling import Drawn, Sampler

MAX_REPLY_BATCH = 32
"""Maximum number of tokens of a forced block evaluated at once. Up to this size, logits with llama.cpp's flash
attention equal those of single tokens bit for bit. From 64 on it uses other kernels, and logits differ by up to
0.9 (measured with SmolLM2-135M in Q4_1; `LlamaCppEngine.batch_invariant` tells whether any size matters)."""


class Evaluate(Protocol):
    """Appends tokens to the conversation's cache and returns the logits after the last one."""

    def __call__(self, ids: Sequence[int], *, want_logits: bool) -> NDArray[np.float32] | None:
        """Return V logits, valid until the next call; None unless `want_logits`."""
        ...


@dataclass(frozen=True, slots=True)
class DecodeParts:
    """The parameters of a decode besides the prompt."""

    evaluate: Evaluate
    sampler: Sampler
    text_tokens: LegalTokens
    """Tokens that may be sampled without a grammar."""
    end_ids: frozenset[int]
    n_vocab: int
    n_batch: int
    """Number of tokens evaluated between two checks of `cancelled`."""
    n_cut: int = 0
    """Number of uncached prompt tokens that are evaluated first, in separate batches."""
    grammar: Grammar | None = None
    jump_ahead: bool = True
    choice_bias: ChoiceBias | None = None
    logit_bias: LogitBias | None = None
    on_tokens: Callable[[list[int]], None] | None = None
    cancelled: Callable[[], bool] | None = None


def decode(prompt_rest: Sequence[int], max_tokens: int, parts: DecodeParts) -> Generation:
    """Evaluate the uncached rest of a prompt (at least one token) and continue it by at most `max_tokens`.

    Raises:
        EngineError: the evaluation failed, or the grammar is at a dead end.
        GrammarError: the grammar refused a token that its own mask allowed.
    """
    return _Decoder(prompt_rest, max_tokens, parts).run()


class _Decoder:
    """The state of a `decode` call."""

    def __init__(self, prompt_rest: Sequence[int], max_tokens: int, parts: DecodeParts) -> None:
        self.parts = parts
        self.max_tokens = max_tokens
        self.pending = list(prompt_rest)
        self.n_prompt_left = len(self.pending)
        self.out = Generation()
        self.is_cut = False
        """Whether the reply ended because of its token limit although it could have continued."""
        self.started = perf_counter()

    def run(self) -> Generation:
        self.out.finish_reason = self._loop()
        stats = self.out.stats
        stats.decode_s = perf_counter() - self.started - stats.prefill_s
        return self.out

    def _loop(self) -> FinishReason:
        grammar = self.parts.grammar
        while True:
            if grammar is not None and grammar.finished:
                return "end"
            if self.remaining <= 0:
                return "length"
            if self._is_cancelled():
                return "cancelled"
            if block := self._forced_block():
                self._append_forced(block)
                continue
            logits = self._evaluate_pending()
            if logits is None:
                return "cancelled"
            if not self._append_sampled(logits):
                return "length" if self.is_cut else "end"

    @property
    def remaining(self) -> int:
        return self.max_tokens - len(self.out.ids)

    def _is_cancelled(self) -> bool:
        return self.parts.cancelled is not None and self.parts.cancelled()

    def _forced_block(self) -> list[int]:
        grammar = self.parts.grammar
        if grammar is None or not self.parts.jump_ahead:
            return []
        start = perf_counter()
        block = grammar.forced()[: self.remaining]
        for token in block:
            grammar.advance(token)
        self.out.stats.mask_s += perf_counter() - start
        return block

    def _append_forced(self, block: list[int]) -> None:
        n = len(block)
        out = self.out
        out.forced += [True] * n
        out.logprobs += [math.nan] * n
        out.masked_logprobs += [0.0] * n
        out.legal_counts += [1] * n
        out.stats.forced_tokens += n
        self._emit(block)

    def _evaluate_pending(self) -> NDArray[np.float32] | None:
        """Evaluate the pending tokens in batches and return the last logits.

        None if cancelled between two batches.
        """
        start = perf_counter()
        logits: NDArray[np.float32] | None = None
        batches = self._batches()
        for number, ids in enumerate(batches):
            if number and self._is_cancelled():
                return None
            was_prompt = self.n_prompt_left > 0
            logits = self.parts.evaluate(ids, want_logits=number == len(batches) - 1)
            self._account(len(ids), was_prompt, perf_counter() - start)
            start = perf_counter()
        self.pending.clear()
        return logits

    def _batches(self) -> list[list[int]]:
        """Return the pending tokens in batches: large ones for the prompt, small ones for the reply.

        They are never mixed. A reply is therefore computed by the same kernels whether its tokens come singly or
        as a forced block, and jump-ahead does not change the sampled tokens.
        """
        prompt, reply = self.pending[: self.n_prompt_left], self.pending[self.n_prompt_left :]
        first, rest = prompt[: self.parts.n_cut], prompt[self.parts.n_cut :]
        n_batch = self.parts.n_batch
        return [*_cut(first, n_batch), *_cut(rest, n_batch), *_cut(reply, min(n_batch, MAX_REPLY_BATCH))]

    def _account(self, n_tokens: int, was_prompt: bool, seconds: float) -> None:
        stats = self.out.stats
        n_prompt = min(n_tokens, self.n_prompt_left)
        self.n_prompt_left -= n_prompt
        stats.prefilled_tokens += n_prompt
        if was_prompt:
            stats.prefill_s += seconds
        else:
            stats.forward_calls += 1

    def _append_sampled(self, logits: NDArray[np.float32]) -> bool:
        """Draw and append a token; return False if it is an end token."""
        grammar = self.parts.grammar
        if grammar is None:
            drawn, choice = self._draw(logits, self.parts.text_tokens), None
        else:
            drawn, choice = self._draw_under(grammar, logits)
        if drawn.token in self.parts.end_ids:
            return False
        out = self.out
        if choice is not None:
            out.choices.append(choice)
        out.forced.append(False)
        out.logprobs.append(drawn.logprob)
        out.masked_logprobs.append(drawn.masked_logprob)
        out.legal_counts.append(drawn.n_legal)
        out.stats.sampled_tokens += 1
        self._emit([drawn.token])
        return True

    def _draw_under(self, grammar: Grammar, logits: NDArray[np.float32]) -> tuple[Drawn, ChoicePoint | None]:
        """Draw a legal token and advance the grammar over it, unless it ends the reply."""
        start = perf_counter()
        choosing = grammar.choosing
        closing = grammar.closing_reserve >= self.remaining
        legal = self._legal(grammar.closing() if closing else grammar.mask())
        self.out.stats.mask_s += perf_counter() - start
        biased = self._biased(self._meant(logits, None if closing else grammar.stand_in), legal, choosing)
        choice = self.parts.sampler.choice_point(biased, legal, len(self.out.ids)) if choosing else None
        drawn = self.parts.sampler.draw(biased, legal, None if closing else grammar.decision)
        if closing and not self.out.closed_early and self._is_steered(grammar, biased, legal):
            self.out.closed_at = len(self.out.ids)
        if drawn.token in self.parts.end_ids:
            self.is_cut = closing and self._could_go_on(grammar)
            return drawn, choice

        start = perf_counter()
        grammar.advance(drawn.token)
        if not closing and grammar.closing_reserve > self.remaining - 1:
            grammar.rollback(1)
            legal = self._legal(grammar.closing())
            wanted, drawn = drawn.token, self._draw(biased, legal)
            if not self.out.closed_early and drawn.token != wanted:
                self.out.closed_at = len(self.out.ids)
            if drawn.token in self.parts.end_ids:
                self.is_cut = self._could_go_on(grammar)
            else:
                grammar.advance(drawn.token)
        self.out.stats.mask_s += perf_counter() - start
        if biased is not logits:
            drawn = self.parts.sampler.judged(drawn.token, logits, legal)
        return drawn, choice

    def _is_steered(self, grammar: Grammar, logits: NDArray[np.float32], closing: LegalTokens) -> bool:
        """Whether the most likely legal token is not among the closing tokens."""
        ids = self._legal(grammar.mask()).to_ids()
        return bool(ids.size) and ids[logits[ids].argmax()] not in closing.to_ids()

    def _could_go_on(self, grammar: Grammar) -> bool:
        """Return whether more than an end is legal: a text may continue, a complete JSON value may not."""
        return self._legal(grammar.mask()).count > len(self.parts.end_ids)

    def _meant(self, logits: NDArray[np.float32], stand_in: tuple[TokenMask, int] | None) -> NDArray[np.float32]:
        """Return the logits with the mass of tokens that mean a call moved to the token that begins one."""
        meant = None if stand_in is None else LegalTokens.from_mask(stand_in[0], self.parts.n_vocab).to_ids()
        if stand_in is None or meant is None or not meant.size:
            return logits
        moved = logits.copy()
        moved[stand_in[1]] = np.logaddexp.reduce(logits[[stand_in[1], *meant]].astype(np.float64))
        return moved

    def _biased(self, logits: NDArray[np.float32], legal: LegalTokens, choosing: bool) -> NDArray[np.float32]:
        """Return the logits with the biases of priors; a copy if any bias applies."""
        if legal.count < 2:
            return logits
        if not choosing:
            moved = None if self.parts.logit_bias is None else self.parts.logit_bias(self.out.ids, legal, logits)
            return logits if moved is None else moved
        if self.parts.choice_bias is None:
            return logits
        ids = legal.to_ids()
        added = self.parts.choice_bias(self.out.ids, ids)
        if added is None:
            return logits
        biased = logits.copy()
        biased[ids] += added
        return biased

    def _draw(self, logits: NDArray[np.float32], legal: LegalTokens) -> Drawn:
        return self.parts.sampler.draw(logits, legal)

    def _legal(self, mask: TokenMask) -> LegalTokens:
        return LegalTokens.from_mask(mask, self.parts.n_vocab)

    def _emit(self, block: list[int]) -> None:
        if not self.out.ids:
            self.out.stats.first_token_s = perf_counter() - self.started
        self.out.ids += block
        self.pending += block
        if self.parts.on_tokens is not None:
            self.parts.on_tokens(block)


def _cut(ids: list[int], size: int) -> list[list[int]]:
    return [ids[first : first + size] for first in range(0, len(ids), size)]
