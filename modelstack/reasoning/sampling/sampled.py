"""Requests to a sampler and its replies: the interface between rollouts and training.

Any engine can sample: the model in training itself (`group_sampler`), llama.cpp with quantised weights, with a
grammar, or in turns with tools. `Sampled` records every change to the distribution, so that the training pass
can apply the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from modelstack.inference.legal_tokens import LegalTokens
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.deeds import Episode
from modelstack.reasoning.verifiers.rewards import Completion
from modelstack.tokenizer.chat import ChatEncoder

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Asked:
    """Prompt to sample replies for."""

    task: PolicyTask
    prompt_ids: tuple[int, ...]
    seed: int
    """Random seed; the same weights, prompt and seed give the same replies."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """Sampled reply with its log-probabilities."""

    ids: tuple[int, ...]
    """Token ids including the end token, if there is one. For an episode: all tokens after the prompt."""
    log_probs: tuple[float, ...]
    """Log-probability of each token at the sampling temperature, among the legal tokens; 0 for tokens not
    chosen.
    """
    is_truncated: bool
    """Whether the reply was cut off at the token limit."""
    is_chosen: tuple[bool, ...] | None = None
    """False for tokens written by tools or templates, which are read but not trained on. None: all were
    chosen.
    """
    legal: tuple[LegalTokens | None, ...] | None = None
    """Legal tokens at each position under a grammar; None: all tokens."""
    outcome: Any = None
    """Result that a verifier reads besides the text, such as the record of an episode."""


class Sampler(Protocol):
    """Sampler that uses the policy's current weights."""

    def sample(self, asked: Sequence[Asked], n_replies: int) -> list[list[Sampled]]:
        """Return the replies to each prompt, in order.

        Raises:
            UserError: A prompt and its reply exceed the model's context length.
        """
        ...


def completion_of(sampled: Sampled, encoder: ChatEncoder) -> Completion:
    """Return a reply in the form that verifiers read, without the end token.

    For an episode, the text is the policy's last turn and the ids are those that it chose. Text of tools is not
    part of the answer and does not count for its length.
    """
    if isinstance(sampled.outcome, Episode):
        own = zip(sampled.ids, sampled.is_chosen or (True,) * len(sampled.ids), strict=True)
        chosen = tuple(token for token, is_chosen in own if is_chosen)
        return Completion(sampled.outcome.reply, chosen, sampled.is_truncated, sampled.outcome)
    ids = [token for token in sampled.ids if token not in encoder.end_ids]
    return Completion(encoder.vocabulary.decode(ids), sampled.ids, sampled.is_truncated, sampled.outcome)


def parts(asked: Sequence[Part], *, one_by_one: bool) -> list[Sequence[Part]]:
    """Return prompts in the parts that are sampled together: all of them, or one by one."""
    return [[each] for each in asked] if one_by_one else [asked]


def row_seed(seed: int, row: int) -> int:
    """Return the seed of one row in a group, so that rows draw independently of each other."""
    return int.from_bytes(hashlib.sha256(f"{seed} {row}".encode()).digest()[:7], "big")
