"""A reply as a state machine: it says when logits are needed, and draws the next tokens from them.

`advance` appends blocks that the grammar forces until logits are needed or the reply has ended; `take` draws the
next token from logits. Evaluation is left to the caller, which knows how many of the reply's tokens the cache
holds: the loop over one conversation (`decode`) and the batching engine drive the same machine. A sampled token
and the forced block after it are therefore evaluated in one call, and the last token of a reply never is.

The change to `Grammar.closing` is never too late: a token after which the shortest completion would exceed the
budget is undone and drawn again from the closing tokens.

Letters: V vocabulary size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from modelstack.inference.engine import (
    ChoiceBias,
    ChoicePoint,
    FinishReason,
    GenerateRequest,
    Generation,
    LogitBias,
)
from modelstack.inference.grammar import Grammar, GrammarError, TokenMask
from modelstack.inference.legal_tokens import LegalTokens, unpacked
from modelstack.inference.sampling import Drawn, Sampler, most_probable
from modelstack.tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class DrawnToken:
    """A token that a reply drew; the end token included."""

    token: int
    logits_V: NDArray[np.float32]
    """Logits of the model, valid during the call."""
    legal: LegalTokens | None
    """Tokens that it was drawn among; None: it replaced a token after which the reply could not have been closed
    within its budget."""
    is_closing: bool
    """Whether the budget allowed only tokens that close the reply."""


@dataclass(frozen=True, slots=True)
class ReplyParts:
    """The parameters of a reply."""

    sampler: Sampler
    text_tokens: LegalTokens
    """Tokens that may be sampled without a grammar."""
    end_ids: frozenset[int]
    n_vocab: int
    grammar: Grammar | None = None
    jump_ahead: bool = True
    choice_bias: ChoiceBias | None = None
    logit_bias: LogitBias | None = None
    n_top_logprobs: int = 0
    on_progress: Callable[[Generation], None] | None = None
    on_tokens: Callable[[list[int]], None] | None = None
    on_drawn: Callable[[DrawnToken], None] | None = None
    cancelled: Callable[[], bool] | None = None
    follows_stand_ins: bool = True
    """Whether the mass of tokens that stand for a call counts for it (`Grammar.stand_in`). A policy in training
    draws from the masked distribution as it is."""


class ReplyMaker:
    """Makes the replies of one engine, with what they share: vocabulary, random streams, legal tokens of text."""

    def __init__(self, vocabulary: Vocabulary, rng: np.random.Generator) -> None:
        """Start without replies; `rng` draws the seeds of requests that name none."""
        self._vocabulary, self._rng = vocabulary, rng
        self._text_tokens: dict[frozenset[int], LegalTokens] = {}

    def make(
        self,
        request: GenerateRequest,
        max_tokens: int,
        on_tokens: Callable[[list[int]], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Reply:
        """Return the reply to a request, with a random stream of its own.

        Raises:
            EngineError: a sampling parameter is outside its range.
        """
        n_vocab, sampling = len(self._vocabulary), request.sampling
        seed = sampling.seed if sampling.seed is not None else int(self._rng.integers(2**63))
        end_ids = request.end_ids if request.end_ids is not None else frozenset(self._vocabulary.end_ids)
        if end_ids not in self._text_tokens:
            forbidden = self._vocabulary.special_ids - end_ids
            self._text_tokens[end_ids] = LegalTokens.all_except(forbidden, n_vocab)
        parts = ReplyParts(
            sampler=Sampler(n_vocab, sampling, np.random.default_rng(seed)),
            text_tokens=self._text_tokens[end_ids],
            end_ids=end_ids,
            n_vocab=n_vocab,
            grammar=request.grammar,
            jump_ahead=request.jump_ahead,
            choice_bias=request.choice_bias,
            logit_bias=request.logit_bias,
            n_top_logprobs=request.n_top_logprobs,
            on_progress=request.on_progress,
            on_tokens=on_tokens,
            cancelled=cancelled,
        )
        return Reply(max_tokens, parts)


@dataclass(frozen=True, slots=True)
class _Found:
    """A drawn token, and how it was found."""

    drawn: Drawn
    legal: LegalTokens | None
    choice: ChoicePoint | None = None
    is_closing: bool = False
    is_cut: bool = False
    """Whether it ends the reply because of the token limit, although the reply could have continued."""


class Reply:
    """The state of a reply while it is written."""

    def __init__(self, max_tokens: int, parts: ReplyParts) -> None:
        """Start a reply of at most `max_tokens` tokens."""
        self.parts = parts
        self.out = Generation()
        self.finish_reason: FinishReason | None = None
        """Reason for the end; None while the reply goes on."""
        self._max_tokens = max_tokens
        self._started = perf_counter()

    @property
    def remaining(self) -> int:
        """Number of tokens that may still be appended."""
        return self._max_tokens - len(self.out.ids)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._started

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller wants the reply to stop."""
        return self.parts.cancelled is not None and self.parts.cancelled()

    def advance(self) -> bool:
        """Append forced blocks; return whether logits after the last token are needed, False at the end.

        Raises:
            GrammarError: the grammar refused a token that its own mask allowed.
        """
        while self.finish_reason is None:
            if self.parts.grammar is not None and self.parts.grammar.finished:
                self.finish("end")
            elif self.remaining <= 0:
                self.finish("length")
            elif self.is_cancelled:
                self.finish("cancelled")
            elif block := self._forced_block():
                self._append_forced(block)
            else:
                return True
        return False

    def take(self, logits_V: NDArray[np.float32]) -> None:
        """Draw the next token from the logits after the last one, and append it; an end token ends the reply.

        Raises:
            EngineError: the logits are not finite, or the grammar is at a dead end.
            GrammarError: the grammar refused a token that its own mask allowed.
        """
        if self.parts.grammar is None:
            legal = self.parts.text_tokens
            found = _Found(self._draw(logits_V, legal), legal)
        else:
            found = self._draw_under(self.parts.grammar, logits_V)
        drawn, out = found.drawn, self.out
        if self.parts.on_drawn is not None:
            self.parts.on_drawn(DrawnToken(drawn.token, logits_V, found.legal, found.is_closing))
        if drawn.token in self.parts.end_ids:
            self.finish("length" if found.is_cut else "end")
            return
        if found.choice is not None:
            out.choices.append(found.choice)
        out.forced.append(False)
        out.logprobs.append(drawn.logprob)
        out.masked_logprobs.append(drawn.masked_logprob)
        out.legal_counts.append(drawn.n_legal)
        if self.parts.n_top_logprobs:
            out.top_logprobs.append(most_probable(logits_V, self.parts.n_top_logprobs, drawn.log_sum))
        out.stats.sampled_tokens += 1
        self._emit([drawn.token])

    def legal_beginning(self, ids: Sequence[int]) -> list[int]:
        """Return the leading tokens of a draft that may be drawn next, without changing the reply.

        Where the grammar refuses the next one, the tokens that it forces there follow. A draft ends before an end
        token and within the budget.
        """
        grammar, end_ids = self.parts.grammar, self.parts.end_ids
        n = min(len(ids), self.remaining - 1)
        n = next((i for i, token in enumerate(ids[:n]) if token in end_ids), n)
        if n < 1:
            return []
        if grammar is None:
            legal = self.parts.text_tokens
            return list(itertools.takewhile(legal.has, ids[:n]))
        start = perf_counter()
        found = self._legal_under(grammar, ids[:n])
        self.out.stats.mask_s += perf_counter() - start
        return found

    def finish(self, reason: FinishReason) -> None:
        """End the reply."""
        self.finish_reason = self.out.finish_reason = reason
        self.out.stats.decode_s = self.elapsed_s - self.out.stats.prefill_s

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
        if self.parts.n_top_logprobs:
            out.top_logprobs += [()] * n
        out.stats.forced_tokens += n
        self._emit(block)

    def _legal_under(self, grammar: Grammar, ids: Sequence[int]) -> list[int]:
        """Return the leading tokens that a grammar accepts, and what it forces instead of the next one."""
        n_legal = grammar.n_legal(ids)
        found = list(ids[:n_legal])
        # A rollback loses the grammar's plan for closing the reply, so none happens where there may be one.
        is_closing = grammar.closing_reserve + len(ids) >= self.remaining
        if n_legal == len(ids) or not self.parts.jump_ahead or is_closing:
            return found
        n_taken = 0
        try:
            for token in found:
                grammar.advance(token)
                n_taken += 1
            forced = [] if grammar.finished else grammar.forced()
        except GrammarError:
            return found[:n_taken]
        finally:
            grammar.rollback(n_taken)
        return found + forced[: len(ids) - n_legal]

    def _draw_under(self, grammar: Grammar, logits: NDArray[np.float32]) -> _Found:
        """Draw a legal token and advance the grammar over it, unless it ends the reply."""
        start = perf_counter()
        choosing = grammar.choosing
        closing = grammar.closing_reserve >= self.remaining
        legal = self._legal(grammar.closing() if closing else grammar.mask())
        self.out.stats.mask_s += perf_counter() - start
        stand_in = grammar.stand_in if self.parts.follows_stand_ins and not closing else None
        biased = self._biased(self._meant(logits, stand_in), legal, choosing)
        choice = self.parts.sampler.choice_point(biased, legal, len(self.out.ids)) if choosing else None
        drawn = self.parts.sampler.draw(biased, legal, None if closing else grammar.decision)
        if closing and not self.out.closed_early and self._is_steered(grammar, biased, legal):
            self.out.closed_at = len(self.out.ids)
        if drawn.token in self.parts.end_ids:
            return _Found(drawn, legal, choice, closing, is_cut=closing and self._could_go_on(grammar))

        is_cut, drawn_among = False, legal
        start = perf_counter()
        grammar.advance(drawn.token)
        if not closing and grammar.closing_reserve > self.remaining - 1:
            grammar.rollback(1)
            closing, drawn_among, legal = True, None, self._legal(grammar.closing())
            wanted, drawn = drawn.token, self._draw(biased, legal)
            if not self.out.closed_early and drawn.token != wanted:
                self.out.closed_at = len(self.out.ids)
            if drawn.token in self.parts.end_ids:
                is_cut = self._could_go_on(grammar)
            else:
                grammar.advance(drawn.token)
        self.out.stats.mask_s += perf_counter() - start
        if biased is not logits:
            drawn = self.parts.sampler.judged(drawn.token, logits, legal)
        return _Found(drawn, drawn_among, choice, closing, is_cut)

    def _is_steered(self, grammar: Grammar, logits: NDArray[np.float32], closing: LegalTokens) -> bool:
        """Whether the most likely legal token is not among the closing tokens."""
        ids = self._legal(grammar.mask()).to_ids()
        return bool(ids.size) and ids[logits[ids].argmax()] not in closing.to_ids()

    def _could_go_on(self, grammar: Grammar) -> bool:
        """Return whether more than an end is legal: a text may continue, a complete JSON value may not."""
        return self._legal(grammar.mask()).count > len(self.parts.end_ids)

    def _meant(self, logits: NDArray[np.float32], stand_in: tuple[TokenMask, int] | None) -> NDArray[np.float32]:
        """Return the logits with the mass of tokens that mean a call moved to the token that begins one."""
        meant = None if stand_in is None else self._legal(stand_in[0]).to_ids()
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
        return unpacked(mask.tobytes(), self.parts.n_vocab)

    def _emit(self, block: list[int]) -> None:
        if not self.out.ids:
            self.out.stats.first_token_s = self.elapsed_s
        self.out.ids += block
        if self.parts.on_progress is not None:
            self.parts.on_progress(self.out)
        if self.parts.on_tokens is not None:
            self.parts.on_tokens(block)
