"""Batch of replies for PPO: tokens, log-probabilities, values, advantages and returns.

All values stay constant while the batch is learnt from. They are therefore computed once, with the weights that
sampled: log-probabilities of policy and reference, values, rewards by token, and from these the advantages.

Letters: N replies, T tokens of a row.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED
from modelstack.errors import UserError
from modelstack.preferences.log_probs import LabelLogProbs, label_log_probs
from modelstack.reasoning.losses.gae import generalised_advantages, token_rewards, whiten
from modelstack.reasoning.ppo.actor_critic import ActorCritic
from modelstack.reasoning.ppo.recipe import PpoRecipe
from modelstack.reasoning.rollouts.reference import Reference
from modelstack.reasoning.sampling.sampled import Asked, Sampled
from modelstack.reasoning.verifiers.rewards import Reward
from modelstack.train.evaluation import in_use


@dataclass(frozen=True, slots=True, eq=False)
class Experience:
    """Experience of N replies, on the CPU; replies that cannot be judged have no labels."""

    ids_NT: Tensor
    labels_NT: Tensor
    """Tokens that the policy chose, at the positions that predict them."""
    old_log_probs_NT: Tensor
    values_NT: Tensor
    """The critic's value before each token."""
    advantages_NT: Tensor
    """Advantages, whitened over the batch."""
    returns_NT: Tensor
    figures: Mapping[str, float]
    """Metrics of the batch."""

    def state_dict(self) -> dict[str, Any]:
        """Return all fields as plain data and tensors."""
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        return content | {"figures": dict(self.figures)}


def experience_of(
    replies: Sequence[tuple[Asked, Sampled]],
    rewards: Sequence[Reward],
    model: ActorCritic,
    reference: Reference,
    recipe: PpoRecipe,
    kl_coefficient: float,
) -> Experience:
    """Return the experience of replies that the policy has just sampled.

    Args:
        replies: Prompts and their replies.
        rewards: Reward of each reply.
        model: Policy that sampled, and critic; mode and random state are unchanged.
        reference: Reference weights of the KL penalty.
        recipe: Temperature, discount, and rows of a pass.
        kl_coefficient: Current coefficient of the KL penalty.

    Raises:
        UserError: No reply can be judged, or a reply was sampled with a grammar.
    """
    values = [reward.value for reward in rewards]
    if all(value is None for value in values):
        raise UserError("no reply of a batch can be judged: correct the gold of the tasks")
    if any(sampled.legal is not None for _, sampled in replies):
        raise UserError("PPO does not support grammars: sample without one, or train with `modelstack reinforce`")
    penalty, temperature = recipe.sampling.truncation_penalty, recipe.sampling.temperature
    rewards_N = torch.tensor(
        [
            math.nan if value is None else value - penalty * sampled.is_truncated
            for value, (_, sampled) in zip(values, replies, strict=True)
        ]
    )
    ids_NT, labels_NT = _rows(replies, [value is not None for value in values])
    mask_NT = labels_NT != IGNORED
    n_at_once = recipe.rows // recipe.micro_batches
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    device = model.policy.lm_head.weight.device
    with torch.no_grad(), in_use(model):
        for ids_BT, labels_BT in zip(ids_NT.split(n_at_once), labels_NT.split(n_at_once), strict=True):
            ids_BT, labels_BT = ids_BT.to(device), labels_BT.to(device)
            old_BT = policy_log_probs(model.policy, ids_BT, labels_BT, temperature).log_probs_BT
            with reference.in_place():
                ref_BT = policy_log_probs(model.policy, ids_BT, labels_BT, temperature).log_probs_BT
            parts.append((old_BT.cpu(), ref_BT.cpu(), model.critic(ids_BT).cpu()))
    old_NT, ref_NT, values_NT = (torch.cat(column) for column in zip(*parts, strict=True))
    paid_NT = token_rewards(rewards_N, old_NT, ref_NT, mask_NT, kl_coefficient)
    estimates = generalised_advantages(paid_NT, values_NT, mask_NT, gamma=recipe.gamma, lam=recipe.lam)
    return Experience(
        ids_NT,
        labels_NT,
        old_NT,
        values_NT.where(mask_NT, 0),
        whiten(estimates.advantages_BT, mask_NT),
        estimates.returns_BT,
        _figures(replies, rewards_N, old_NT - ref_NT, mask_NT, kl_coefficient),
    )


def policy_log_probs(
    policy: CausalLM, ids_BT: Tensor, labels_BT: Tensor, temperature: float, *, with_statistics: bool = False
) -> LabelLogProbs:
    """Return a policy's log-probabilities of labels at the sampler's temperature."""
    # Each row is one conversation followed by padding, so the causal mask is enough.
    hidden_BTD = policy(ids_BT, with_logits=False).hidden_BTD
    return label_log_probs(
        hidden_BTD, labels_BT, policy.logits, temperature=temperature, with_statistics=with_statistics
    )


def _rows(replies: Sequence[tuple[Asked, Sampled]], is_judged: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """Return token ids and labels, [N, T], padded at the end; padding has no label."""
    T = max(len(asked.prompt_ids) - 1 + len(sampled.ids) for asked, sampled in replies)
    ids_NT = torch.zeros((len(replies), T), dtype=torch.int64)
    labels_NT = torch.full((len(replies), T), IGNORED)
    for n, ((asked, sampled), judged) in enumerate(zip(replies, is_judged, strict=True)):
        whole = torch.tensor((*asked.prompt_ids, *sampled.ids))
        ids_NT[n, : len(whole) - 1] = whole[:-1]
        if judged:
            is_chosen = torch.tensor(sampled.is_chosen or (True,) * len(sampled.ids))
            first = len(asked.prompt_ids)
            labels_NT[n, first - 1 : len(whole) - 1] = whole[first:].where(is_chosen, IGNORED)
    return ids_NT, labels_NT


def _figures(
    replies: Sequence[tuple[Asked, Sampled]],
    rewards_N: Tensor,
    log_ratio_NT: Tensor,
    mask_NT: Tensor,
    kl_coefficient: float,
) -> dict[str, float]:
    known = rewards_N[~rewards_N.isnan()].tolist()
    kl_N = log_ratio_NT.where(mask_NT, 0).sum(-1)[~rewards_N.isnan()]
    return {
        "reward": statistics.fmean(known),
        "reward/deviation": statistics.pstdev(known),
        "kl": float(kl_N.sum() / mask_NT.sum()),
        "kl/reply": float(kl_N.mean()),
        "kl/coefficient": kl_coefficient,
        "completions/length": statistics.fmean(len(sampled.ids) for _, sampled in replies),
        "completions/truncated": statistics.fmean(sampled.is_truncated for _, sampled in replies),
        "completions/unscorable": 1 - len(known) / len(replies),
    }
