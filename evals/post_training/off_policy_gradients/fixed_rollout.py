"""A fixed rollout, and the gradient of each algorithm on it.

Two prompts with four replies of 1 to 6 tokens. Since the rollout, the policy has changed by 0.5 nats per token,
and the sampler's log-probabilities differ from the trainer's by 0.05 (standard deviations). Gradients are with
respect to the policy's log-probabilities of the tokens, in fp64: the change that an algorithm asks for at each
token.

Letters: P prompts, G replies of each, T tokens; rows are the P * G replies, prompt by prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modelstack.reasoning.losses.advantages import advantages_of
from modelstack.reasoning.losses.gae import generalised_advantages, token_rewards, whiten
from modelstack.reasoning.losses.kl import kl_penalised_rewards
from modelstack.reasoning.losses.policy import policy_loss
from modelstack.reasoning.losses.policy_config import PolicyConfig
from modelstack.reasoning.losses.rollouts import Rollouts, StepTotals

P, G, T = 2, 4, 6
LENGTHS = (6, 2, 4, 1, 3, 6, 5, 2)
REWARDS = (1.0, 0.0, 0.4, 0.0, 0.2, 1.0, 0.0, 0.7)
MAX_COMPLETION_TOKENS = 8
"""Maximum tokens of the sampler."""
MOVED, SAMPLER_GAP, FROM_REFERENCE = 0.5, 0.05, 0.2
"""Standard deviations of differences of log-probabilities, in nats."""


@dataclass(frozen=True, slots=True)
class FixedRollout:
    """Replies with log-probabilities and values of their tokens."""

    new_BT: Tensor
    """Log-probabilities under the current policy."""
    old_BT: Tensor
    """Log-probabilities under the sampling policy, computed by the trainer."""
    sampler_BT: Tensor
    """Log-probabilities under the sampling policy, computed by the sampler."""
    ref_BT: Tensor
    values_BT: Tensor
    """Values that a critic predicts before each token; used by PPO."""
    mask_BT: Tensor
    rewards_PG: Tensor


def fixed_rollout() -> FixedRollout:
    """Return the rollout; it is the same in every call."""
    generator = torch.Generator().manual_seed(20)

    def normal(deviation: float) -> Tensor:
        return deviation * torch.randn(P * G, T, generator=generator, dtype=torch.float64)

    old_BT = -normal(1.0).abs() - 0.1
    return FixedRollout(
        new_BT=(old_BT + normal(MOVED)).clamp(max=-0.01),
        old_BT=old_BT,
        sampler_BT=(old_BT + normal(SAMPLER_GAP)).clamp(max=-0.01),
        ref_BT=(old_BT + normal(FROM_REFERENCE)).clamp(max=-0.01),
        values_BT=0.5 + normal(0.2),
        mask_BT=torch.arange(T) < torch.tensor(LENGTHS)[:, None],
        rewards_PG=torch.tensor(REWARDS, dtype=torch.float64).view(P, G),
    )


def algorithm_gradient(rollout: FixedRollout, config: PolicyConfig, *, on_policy: bool = False) -> Tensor:
    """Return the gradient of an algorithm's loss with respect to `new_BT`, [B, T].

    Args:
        rollout: The rollout; each prompt's replies form a micro-batch, as in training.
        config: The algorithm.
        on_policy: Whether the current and the sampler's policy are replaced by the old policy.
    """
    old_BT = rollout.old_BT
    new_BT = (old_BT if on_policy else rollout.new_BT).clone().requires_grad_()
    denominator_BT = rollout.sampler_BT if config.old_policy == "sampler" and not on_policy else old_BT
    advantages = rollout_advantages(rollout, config)
    config = config.model_copy(update={"max_completion_tokens": MAX_COMPLETION_TOKENS})
    totals = StepTotals(n_tokens=float(rollout.mask_BT.sum()), n_sequences=P * G)
    loss = new_BT.new_zeros(())
    for first in range(0, P * G, G):
        rows = slice(first, first + G)
        part = Rollouts(
            new_BT[rows], rollout.mask_BT[rows], advantages[rows], denominator_BT[rows], rollout.ref_BT[rows]
        )
        loss = loss + policy_loss(part, config, totals).loss
    (gradient_BT,) = torch.autograd.grad(loss, new_BT)
    return gradient_BT


def rollout_advantages(rollout: FixedRollout, config: PolicyConfig) -> Tensor:
    """Return the advantages of the replies [B], or of their tokens [B, T] if a critic computes them."""
    rewards_B = rollout.rewards_PG.flatten()
    old_BT, ref_BT, mask_BT = rollout.old_BT, rollout.ref_BT, rollout.mask_BT
    if config.advantage == "critic":
        paid_BT = token_rewards(rewards_B, old_BT, ref_BT, mask_BT, config.kl.coefficient)
        return whiten(generalised_advantages(paid_BT, rollout.values_BT, mask_BT).advantages_BT, mask_BT)
    if config.has_kl_reward:
        rewards_B = kl_penalised_rewards(rewards_B, old_BT, ref_BT, mask_BT, config.kl.coefficient)
    return advantages_of(rewards_B.view(P, G), config.advantage).flatten()
