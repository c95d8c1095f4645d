"""What a sampler is asked, and the replies it gives: the border between rollouts and training.

Any engine can sample: the model in training itself (`group_sampler`), llama.cpp with quantised weights, under a
grammar, in turns with tools. Whatever it does to the distribution that tokens are drawn from stands in `Sampled`,
so that the training pass can do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from modelstack.inference.legal_tokens import LegalTokens
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.deeds import Episode
from modelstack.reasoning.verifiers.rewards import Completion
from modelstack.tokenizer.chat import ChatEncoder


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt to be answered."""

    task: PolicyTask
    prompt_ids: tuple[int, ...]
    seed: int
    """The same weights, prompt and seed give the same replies."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One reply."""

    ids: tuple[int, ...]
    """With the token that ended it, if one did. Of an episode in turns: all that follows the prompt."""
    log_probs: tuple[float, ...]
    """Of each, at the sampling temperature and among the tokens that were legal; 0 where the policy chose none."""
    is_truncated: bool
    """Whether it was cut off at the limit."""
    is_chosen: tuple[bool, ...] | None = None
    """False for tokens that tools or templates wrote: they are read, and not learnt. None: all were chosen."""
    legal: tuple[LegalTokens | None, ...] | None = None
    """What a grammar allowed in each one's place; None: everything."""
    outcome: Any = None
    """What a verifier reads beside the text, as the world that an episode left behind."""


class Sampler(Protocol):
    """Samples from the policy as its weights are now."""

    def sample(self, asked: Sequence[Asked], n_replies: int) -> list[list[Sampled]]:
        """Return the replies to each prompt, in order.

        Raises:
            UserError: A prompt and its reply are longer than the model's context.
        """
        ...


def completion_of(sampled: Sampled, encoder: ChatEncoder) -> Completion:
    """Return a reply as verifiers read it: without the token that ended it.

    Of an episode, the text is the policy's last turn and the ids are those that it chose: what tools wrote is no
    answer and has no length.
    """
    if isinstance(sampled.outcome, Episode):
        own = zip(sampled.ids, sampled.is_chosen or (True,) * len(sampled.ids), strict=True)
        chosen = tuple(token for token, is_chosen in own if is_chosen)
        return Completion(sampled.outcome.reply, chosen, sampled.is_truncated, sampled.outcome)
    ids = [token for token in sampled.ids if token not in encoder.end_ids]
    return Completion(encoder.vocabulary.decode(ids), sampled.ids, sampled.is_truncated, sampled.outcome)
