"""Speculative decoding of an engine's replies: drafts, their lengths, and what was learnt from them.

Draft tokens are evaluated with the last token of a reply. The reply then draws from the logits after each of them
as it would without drafts, and a draft token is accepted if it is the one that was drawn. A reply therefore has
the same distribution as without drafts, and the same tokens for the same seed, except where logits depend on the
number of tokens of a step (there `LlamaCppEngine` drafts nothing for a
request with a seed). Grammar, random stream and budget never take a step that must be undone. No rule of
verification accepts more tokens of a draft that was not sampled, such as one of prompt lookup: a token is accepted
with the probability that the model gives it.

Source: Leviathan, Kalman, Matias, arXiv 2211.17192; verification by drawing as in llama.cpp's `common_sampler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np

from modelstack.inference.engine import EngineError
from modelstack.inference.reply import Reply
from modelstack.inference.sequences import common_prefix_length
from modelstack.inference.speculation.draft_lengths import (
    COST_MEMORY,
    MAX_DRAFT,
    AcceptanceRates,
    StepCosts,
    draft_lengths,
)
from modelstack.inference.speculation.lookup import MAX_MATCH, PromptLookup

PAUSE = 31
"""Number of steps without guesses of a costly drafter after one that did not pay."""
FORGETTING = 0.9
"""Factor on the time that guesses are thought to take, at each pause: so that they are measured again."""
DrafterName = Literal["lookup", "mtp"]
"""Sources of drafts: `lookup` finds them in the prompt and the reply so far, `mtp` asks the model's module for
multi-token prediction."""


class Guess(NamedTuple):
    """Tokens that may come next."""

    ids: list[int]
    n_matched: int = 0
    """Evidence for the first one, such as the number of equal tokens before it."""


class Drafter(Protocol):
    """A source of guesses."""

    @property
    def is_costly(self) -> bool:
        """Whether its guesses take about as long as a step, so that unused ones are worth saving."""
        ...

    @property
    def rates(self) -> AcceptanceRates:
        """Acceptance rates of its guesses, by `Guess.n_matched` and the place in the guess."""
        ...

    def guess(self, each: DraftedReply, n_tokens: int) -> Guess | None:
        """Return at most `n_tokens` tokens that may follow a reply; None if there is no guess."""
        ...


@dataclass(slots=True)
class DraftedReply:
    """A reply that is written with drafts."""

    read_ids: Sequence[int]
    """Text that drafts are found in besides the reply."""
    reply: Reply
    stream: object
    """The reply's tokens in the evaluation."""
    guess: Guess | None = None
    """Tokens that were expected after the reply so far, drafted or not."""
    followed: Guess | None = None
    """Earlier guess that was not drafted, whose tokens are compared as they are written."""
    n_followed: int = 0
    """Number of its tokens that were right so far."""
    text: PromptLookup = field(default_factory=PromptLookup)
    """Index of the text so far, for `LookupDrafter`."""


class LookupDrafter:
    """Guesses from the text itself; a `Drafter`."""

    is_costly = False

    def __init__(self) -> None:
        """Start without knowledge of acceptance rates: n tokens that match are believed with n / (n + 1)."""
        n = np.arange(MAX_MATCH + 1, dtype=np.float64)
        self.rates = AcceptanceRates(n, n + 1)

    def guess(self, each: DraftedReply, n_tokens: int) -> Guess | None:
        """Return what followed the latest tokens where they occurred before."""
        written = each.reply.out.ids
        if not len(each.text):
            each.text.extend(each.read_ids)
        each.text.extend(written[len(each.text) - len(each.read_ids) :])
        found = each.text.find(n_tokens)
        return None if found is None else Guess(*found)


def lookup_drafter(name: DrafterName | None) -> LookupDrafter | None:
    """Return the drafter of a name for an engine that has no other.

    Raises:
        EngineError: there is no such drafter, or the engine does not have it.
    """
    if name is None:
        return None
    if name not in get_args(DrafterName):
        raise EngineError(f"drafter {name!r} is not known; known are {', '.join(get_args(DrafterName))}")
    if name != "lookup":
        raise EngineError(f"drafter {name!r} is for the torch engine; this one has lookup")
    return LookupDrafter()


class Speculation:
    """Drafts for the replies of one engine."""

    def __init__(self, drafter: Drafter) -> None:
        """Start without knowledge of costs."""
        self.costs = StepCosts()
        self._drafter = drafter
        self._drafting_s = 0.0
        """Seconds in which the drafter guesses for a step, averaged."""
        self._n_pauses = 0
        """Number of steps before the drafter is asked again."""
        self._longest = 0
        """Length of the longest guess so far."""
        self._has_paused = True
        """Whether the drafter was not asked in the step before: it then catches up, which takes longer."""

    def draft(self, replies: Sequence[DraftedReply], max_tokens: int) -> list[list[int]]:
        """Return the draft of each reply that takes part in the next step; empty for those without.

        Args:
            replies: The replies, whose guesses are replaced.
            max_tokens: Maximum number of tokens of the step.
        """
        if self._n_pauses:
            self._n_pauses -= 1
            return [[] for _ in replies]
        started = perf_counter()
        for each in replies:
            each.guess = self._legal_guess(each)
        if not self._has_paused:
            self._drafting_s += (perf_counter() - started - self._drafting_s) / COST_MEMORY
        self._has_paused = False
        guesses = [each.guess or Guess([]) for each in replies]
        if not any(guess.ids for guess in guesses):
            return [[] for _ in replies]
        chances = [self._drafter.rates.probabilities(guess.n_matched, len(guess.ids)) for guess in guesses]
        lengths = draft_lengths(chances, self.costs, max_tokens - len(replies), self._drafting_s)
        longest = max(len(guess.ids) for guess in guesses)
        self._longest = max(self._longest, longest)
        # Shorter guesses, at the end of a reply, tell nothing about the next replies.
        if not any(lengths) and self._drafter.is_costly and longest == self._longest:
            self._n_pauses, self._has_paused = PAUSE, True
            self._drafting_s *= FORGETTING
        return [guess.ids[:n] for guess, n in zip(guesses, lengths, strict=True)]

    def learn(self, drafted: DraftedReply, written: Sequence[int], n_drafted: int) -> None:
        """Compare a guess with what was written.

        A guess that was not drafted is compared with the tokens of later steps, too: so the acceptance rates of
        all its places are known without the cost of drafts. Meanwhile other guesses tell about their first token.
        """
        self._compare_followed(drafted, written)
        guess, drafted.guess = drafted.guess, None
        if guess is None:
            return
        n_tried = max(1, n_drafted)
        n_right = common_prefix_length(guess.ids[:n_tried], list(written))
        if not n_drafted and n_right and len(guess.ids) > 1 and drafted.followed is None:
            drafted.followed, drafted.n_followed = guess, n_right
        else:
            self._drafter.rates.add(guess.n_matched, n_right, n_tried)

    def _compare_followed(self, drafted: DraftedReply, written: Sequence[int]) -> None:
        """Compare the followed guess with the tokens of a step; it ends with its first wrong token."""
        guess = drafted.followed
        if guess is None:
            return
        expected = guess.ids[drafted.n_followed :]
        n_right = common_prefix_length(expected, list(written))
        drafted.n_followed += n_right
        if n_right == min(len(expected), len(written)) and n_right < len(expected):
            return  # the rest is not known yet
        self._drafter.rates.add(guess.n_matched, drafted.n_followed, len(guess.ids))
        drafted.followed = None

    def _legal_guess(self, each: DraftedReply) -> Guess | None:
        found = self._drafter.guess(each, MAX_DRAFT)
        ids = [] if found is None else each.reply.legal_beginning(found.ids)
        return Guess(ids, found.n_matched) if found is not None and ids else None
