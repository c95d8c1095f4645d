"""Replies to a prompt as a batch: labels, advantages, and log-probabilities at the rollout.

Letters: G replies to a prompt, T tokens of a row, P labelled positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.reasoning.losses.advantages import advantages_of, informative_groups
from modelstack.reasoning.losses.policy_config import AdvantageEstimator
from modelstack.reasoning.sampling.sampled import Asked, Sampled, completion_of
from modelstack.reasoning.tasks.task import PolicyTask
from modelstack.reasoning.verifiers.canaries import GuardedReward
from modelstack.reasoning.verifiers.rewards import Reward
from modelstack.tokenizer.chat import ChatEncoder


@dataclass(frozen=True, slots=True, eq=False)
class RolloutBatch(Batch):
    """Replies to one prompt; labels are tokens that the policy chose, at the positions that predict them."""

    advantages_G: Tensor = field(kw_only=True)
    sampler_log_probs_GT: Tensor = field(kw_only=True)
    """Log-probabilities by the sampler; 0 at positions without label."""
    old_log_probs_GT: Tensor | None = field(kw_only=True, default=None)
    """Log-probabilities by the trainer with the weights that sampled; None: not needed for a single step."""
    ref_log_probs_GT: Tensor | None = field(kw_only=True, default=None)
    """Log-probabilities by the trainer with the reference's weights; None: no reference."""
    n_shared: int = field(kw_only=True)
    """Number of leading tokens that all rows share, before the first labelled position."""
    legal_P: tuple[LegalTokens | None, ...] | None = field(kw_only=True)
    """Tokens that a grammar allowed at each labelled position, row by row; None: all tokens everywhere."""
    task: PolicyTask = field(kw_only=True)
    replies: tuple[str, ...] = field(kw_only=True)
    rewards: tuple[Reward, ...] = field(kw_only=True)
    is_truncated: tuple[bool, ...] = field(kw_only=True)
    n_tries: int = field(kw_only=True)
    """Number of prompts that were sampled to get this one, itself included."""
    tried_rewards: tuple[float, ...] = field(kw_only=True)
    """Rewards of the replies to all of these prompts, including those of replaced groups."""

    def to(self, device: torch.device) -> RolloutBatch:
        """Return the batch unchanged; its tensors are moved to the device one by one on use."""
        return self

    @property
    def reward_values(self) -> list[float]:
        """Rewards of the replies that can be judged."""
        return [reward.value for reward in self.rewards if reward.value is not None]

    @property
    def is_informative(self) -> bool:
        """Whether the replies have different rewards."""
        return bool(informative_groups(reward_values_of(self.rewards))[0])


def judged_batch(
    asked: Asked,
    sampled: Sequence[Sampled],
    encoder: ChatEncoder,
    reward: GuardedReward,
    estimator: AdvantageEstimator,
    *,
    mask_truncated: bool,
    n_tries: int,
    tried_rewards: tuple[float, ...],
) -> RolloutBatch:
    """Return the replies to a prompt with their rewards and advantages.

    Args:
        asked: The prompt.
        sampled: Replies to it.
        encoder: Encoder that parses replies.
        reward: Judge of the replies.
        estimator: Computes advantages from rewards.
        mask_truncated: Whether truncated replies have no labels.
        n_tries: Number of prompts that were sampled to get this one, itself included.
        tried_rewards: Rewards of the replies to the earlier prompts.
    """
    completions = [completion_of(each, encoder) for each in sampled]
    rewards = reward.score_batch([(asked.task.item, each) for each in completions])
    rows = [_Row(asked.prompt_ids, each, mask_truncated and each.is_truncated) for each in sampled]
    T = max(len(row) for row in rows)
    return RolloutBatch(
        torch.stack([row.ids(T) for row in rows]),
        torch.stack([row.labels(T) for row in rows]),
        torch.zeros((len(rows), T), dtype=torch.int64),
        0,
        advantages_G=advantages_of(reward_values_of(rewards), estimator)[0],
        sampler_log_probs_GT=torch.stack([row.log_probs(T) for row in rows]),
        n_shared=len(asked.prompt_ids) - 1,
        legal_P=_legal(rows),
        task=asked.task,
        replies=tuple(each.text for each in completions),
        rewards=tuple(rewards),
        is_truncated=tuple(each.is_truncated for each in sampled),
        n_tries=n_tries,
        tried_rewards=(*tried_rewards, *(each.value for each in rewards if each.value is not None)),
    )


def reward_values_of(rewards: Sequence[Reward]) -> Tensor:
    """Return the rewards of a prompt's replies, [1, G]; NaN for replies that cannot be judged."""
    return torch.tensor([[reward.value if reward.value is not None else torch.nan for reward in rewards]])


class _Row:
    """Prompt with one reply as a row of a batch: all tokens except the last, each of which predicts the next."""

    def __init__(self, prompt_ids: tuple[int, ...], sampled: Sampled, is_left_out: bool) -> None:
        self._sampled, self._prompt = sampled, prompt_ids
        n = len(sampled.ids)
        self._learnt = [False] * n if is_left_out else list(sampled.is_chosen or (True,) * n)

    def __len__(self) -> int:
        return len(self._prompt) - 1 + len(self._sampled.ids)

    def ids(self, n_tokens: int) -> Tensor:
        whole = (*self._prompt, *self._sampled.ids)[:-1]
        return torch.tensor([*whole, *(0,) * (n_tokens - len(whole))])

    def labels(self, n_tokens: int) -> Tensor:
        return self._at_places(self._sampled.ids, n_tokens, IGNORED)

    def log_probs(self, n_tokens: int) -> Tensor:
        return self._at_places(self._sampled.log_probs, n_tokens, 0.0)

    def legal(self) -> list[LegalTokens | None]:
        sets = self._sampled.legal or (None,) * len(self._learnt)
        return [legal for legal, is_learnt in zip(sets, self._learnt, strict=True) if is_learnt]

    def _at_places(self, values: Sequence[float], n_tokens: int, nothing: float) -> Tensor:
        learnt = [value if yes else nothing for value, yes in zip(values, self._learnt, strict=True)]
        before = len(self._prompt) - 1
        return torch.tensor([*(nothing,) * before, *learnt, *(nothing,) * (n_tokens - len(self))])


def _legal(rows: Sequence[_Row]) -> tuple[LegalTokens | None, ...] | None:
    found = tuple(legal for row in rows for legal in row.legal())
    return None if all(legal is None for legal in found) else found
