"""Speculative decoding of an engine's replies: drafts, their lengths, and what was learnt from them.

Draft tokens are evaluated with the last token of a reply. The reply then draws from the logits after each of them
as it would without drafts, and a draft token is accepted if it is the one that was drawn. A reply therefore has
the same distribution as without drafts, and the same tokens for the same seed, except where logits depend on the
number of tokens of a step. Grammar, random stream and budget never take a step that must be undone. No rule of
verification accepts more tokens of a draft that was not sampled, such as one of prompt lookup: a token is accepted
with the probability that the model gives it.

Source: Leviathan, Kalman, Matias, arXiv 2211.17192; verification by drawing as in llama.cpp's `common_sampler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from modelstack.inference.engine import EngineError
from modelstack.inference.reply import Reply
from modelstack.inference.sequences import common_prefix_length
from modelstack.inference.speculation.draft_lengths import MAX_DRAFT, AcceptanceRates, StepCosts, draft_lengths
from modelstack.inference.speculation.lookup import MAX_MATCH, Guess, PromptLookup

DrafterName = Literal["lookup"]
"""Sources of drafts: `lookup` finds them in the prompt and the reply so far."""


@dataclass(slots=True)
class DraftedReply:
    """A reply that is written with drafts."""

    read_ids: Sequence[int]
    """Text that drafts are found in besides the reply."""
    reply: Reply
    guess: Guess | None = None
    """Tokens that were expected after the reply so far, drafted or not."""
    _text: PromptLookup = field(default_factory=PromptLookup)

    def guess_next(self) -> None:
        """Set the guess after the reply so far."""
        written = self.reply.out.ids
        if not len(self._text):
            self._text.extend(self.read_ids)
        self._text.extend(written[len(self._text) - len(self.read_ids) :])
        found = self._text.guess(MAX_DRAFT)
        ids = [] if found is None else self.reply.legal_beginning(found.ids)
        self.guess = Guess(ids, found.n_matched) if found is not None and ids else None


class Speculation:
    """Drafts for the replies of one engine, from their own text."""

    def __init__(self, drafter: DrafterName) -> None:
        """Start without knowledge of costs and acceptance rates.

        Raises:
            EngineError: there is no such drafter.
        """
        if drafter not in get_args(DrafterName):
            raise EngineError(f"drafter {drafter!r} is not known; known are {', '.join(get_args(DrafterName))}")
        self.costs = StepCosts()
        self._rates = AcceptanceRates(MAX_MATCH)

    def draft(self, replies: Sequence[DraftedReply], max_tokens: int) -> list[list[int]]:
        """Return the draft of each reply that takes part in the next step; empty for those without.

        Args:
            replies: The replies, whose guesses are replaced.
            max_tokens: Maximum number of tokens of the step.
        """
        for each in replies:
            each.guess_next()
        guesses = [each.guess or Guess([], 0) for each in replies]
        if not any(guess.ids for guess in guesses):
            return [[] for _ in replies]
        chances = [self._rates.probabilities(guess.n_matched, len(guess.ids)) for guess in guesses]
        lengths = draft_lengths(chances, self.costs, max_tokens - len(replies))
        return [guess.ids[:n] for guess, n in zip(guesses, lengths, strict=True)]

    def learn(self, drafted: DraftedReply, written: Sequence[int], n_drafted: int) -> None:
        """Compare a guess with what was written, also if it was not drafted: then its first token is known."""
        if drafted.guess is None:
            return
        n_tried = max(1, n_drafted)
        n_right = common_prefix_length(drafted.guess.ids[:n_tried], list(written))
        self._rates.add(drafted.guess.n_matched, n_right, n_tried)
        drafted.guess = None
