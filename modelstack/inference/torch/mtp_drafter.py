"""Drafts of a model's module for multi-token prediction.

The module reads the model's state after a token and the token that follows, and predicts the one after that. After
every step it is given the states of the tokens that were accepted. To draft more than one token it reads its own
state and the token that it drafted, which is dropped from its cache afterwards. (llama.cpp's draft-mtp, FastMTP.)

A stream whose beginning was cached has no states for that part. The module then reads what follows, and its first
drafts are worse.

Letters: T tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from modelstack.architecture.cache import Cache, GrowingCache
from modelstack.architecture.decoder import CausalLM
from modelstack.inference.engine import EngineError
from modelstack.inference.speculation.draft_lengths import AcceptanceRates
from modelstack.inference.speculation.speculation import DraftedReply, Guess
from modelstack.inference.streams import Stream

MAX_AHEAD = 3
"""Maximum number of tokens that the module drafts, as in llama.cpp; it is trained to predict one."""
FIRST_RATE = 0.7
"""Acceptance rate before any was observed. DeepSeek-V3 reports .85 to .90 for the first token."""


@dataclass(slots=True)
class _Ahead:
    """State of the module for a stream."""

    cache: Cache
    start: int
    """Place of the first state."""
    states: list[Tensor] = field(default_factory=list[Tensor])
    """States that it was not given yet, [1, T, D] each."""

    @property
    def n_waiting(self) -> int:
        return sum(part.shape[1] for part in self.states)

    @property
    def end(self) -> int:
        """Place after the last state."""
        return self.start + self.cache.n_tokens + self.n_waiting

    def drop_refused(self, n_tokens: int) -> None:
        """Drop the states of draft tokens that were refused: those after the first `n_tokens` places."""
        surplus = self.end - n_tokens
        while surplus > 0 and self.states:
            last = self.states.pop()
            if last.shape[1] > surplus:
                self.states.append(last[:, :-surplus])
            surplus -= last.shape[1]


class MtpDrafter:
    """Guesses of a model's first module for multi-token prediction; a `Drafter`."""

    is_costly = True

    def __init__(self, model: CausalLM, n_vocab: int) -> None:
        """Draft for streams of a model.

        Args:
            model: The model.
            n_vocab: Number of the tokenizer's tokens; the model may have more.

        Raises:
            EngineError: The model has no such module.
        """
        if model.mtp is None:
            raise EngineError(
                "drafter 'mtp' needs a model with a module for multi-token prediction "
                "(num_nextn_predict_layers of its config is 0); use drafter 'lookup'"
            )
        self._model, self._n_vocab = model, n_vocab
        tried = np.full(MAX_AHEAD, 4.0)
        self.rates = AcceptanceRates(FIRST_RATE * tried, tried)
        self._ahead: dict[Stream, _Ahead] = {}

    def observe(self, stream: Stream, start: int, states: Tensor) -> None:
        """Take the model's states of a stream's tokens from place `start` on, [1, T, D], drafts included."""
        known = self._ahead.get(stream)
        if known is not None:
            known.drop_refused(start)
        if known is None or start != known.end:
            known = self._ahead[stream] = _Ahead(self._model.new_draft_cache(), start)
        known.states.append(states)

    def forget(self, stream: Stream) -> None:
        """Drop what is known of an ended stream."""
        self._ahead.pop(stream, None)

    @torch.no_grad()
    def guess(self, each: DraftedReply, n_tokens: int) -> Guess | None:
        """Return what the module predicts after the stream's last token, whose predecessor was evaluated."""
        stream = each.stream
        assert isinstance(stream, Stream)
        known = self._ahead.get(stream)
        if known is None or stream.table.n_tokens != len(stream.tokens) - 1:
            return None  # forced tokens are evaluated first
        known.drop_refused(stream.table.n_tokens)
        if not known.states:
            return None
        model, cache = self._model, known.cache
        state = torch.cat(known.states, dim=1)
        known.states.clear()
        first = known.start + cache.n_tokens + 1
        following: Sequence[int] = stream.tokens[first : first + state.shape[1]]
        ids: list[int] = []
        n_kept = cache.n_tokens + state.shape[1]
        for _ in range(min(n_tokens, MAX_AHEAD)):
            next_ids = torch.tensor([list(following)], device=state.device)
            logits, state = model.draft(state, next_ids, cache, start=known.start)
            ids.append(self._likeliest(logits[0, -1]))
            following = ids[-1:]
        _shorten(cache, n_kept)
        return Guess(ids)

    def _likeliest(self, logits: Tensor) -> int:
        return int(self._model.draft_ids(logits[: self._n_vocab].argmax()))


def _shorten(cache: Cache, n_tokens: int) -> None:
    """Drop the last tokens of a module's cache."""
    (layer,) = cache.layers
    surplus = cache.n_tokens - n_tokens
    assert isinstance(layer, GrowingCache)
    layer.length -= surplus
    cache.n_tokens = n_tokens
