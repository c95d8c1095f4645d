"""Token advantages from a critic: generalised advantage estimation (Schulman et al., 1506.02438).

Tokens that the policy did not choose, for example a tool's output inside a completion, are not steps of the
episode. Value and advantage pass through them unchanged, from the next chosen token to the previous one, as in
verl.

Letters: B completions, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modelstack.reasoning.losses.kl import kl_estimate
from modelstack.reasoning.losses.policy_config import KlEstimator

_VARIANCE_EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class Estimates:
    """Advantages and returns without gradient; 0 where the mask is False."""

    advantages_BT: Tensor
    returns_BT: Tensor
    """Targets for the critic."""


@torch.no_grad()
def token_rewards(
    rewards_B: Tensor,
    old_log_probs_BT: Tensor,
    ref_log_probs_BT: Tensor,
    mask_BT: Tensor,
    beta: float,
    estimator: KlEstimator = "k1",
) -> Tensor:
    """Return -beta KL per token, plus the completion's reward at its last token, [B, T].

    Source: InstructGPT, 2203.02155.

    Args:
        rewards_B: Rewards of completions.
        old_log_probs_BT: Log-probabilities under the policy that sampled.
        ref_log_probs_BT: Log-probabilities under the reference.
        mask_BT: bool. A row without a True value loses its reward.
        beta: KL coefficient; 0.02 in InstructGPT, 0.05 in Tulu 3.
        estimator: KL estimator. k1 is unbiased; the reward does not use its gradient.
    """
    mask_BT = mask_BT.bool()
    kl_BT = kl_estimate(old_log_probs_BT, ref_log_probs_BT, estimator)
    is_last_BT = mask_BT & (mask_BT.flip(-1).cumsum(-1).flip(-1) == 1)
    return (-beta * kl_BT + rewards_B[:, None] * is_last_BT).where(mask_BT, 0)


@torch.no_grad()
def generalised_advantages(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> Estimates:
    """Return A_t = delta_t + gamma lambda A_(t+1) with delta_t = r_t + gamma V_(t+1) - V_t, and returns A + V.

    Args:
        rewards_BT: Rewards of tokens, e.g. from `token_rewards`.
        values_BT: Critic's prediction before each token.
        mask_BT: bool; True for tokens that the policy chose.
        gamma: Discount; 1 for language, as in InstructGPT.
        lam: Lambda; 0 relies on the critic only, 1 on the rewards only.
    """
    mask_BT = mask_BT.bool()
    rewards_BT, values_BT = rewards_BT.where(mask_BT, 0), values_BT.where(mask_BT, 0)
    next_value_B = next_advantage_B = torch.zeros_like(values_BT[:, 0])
    columns: list[Tensor] = []
    for t in reversed(range(values_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        next_advantage_B = torch.where(mask_BT[:, t], delta_B + gamma * lam * next_advantage_B, next_advantage_B)
        next_value_B = torch.where(mask_BT[:, t], values_BT[:, t], next_value_B)
        columns.append(next_advantage_B)
    advantages_BT = torch.stack(columns[::-1], dim=-1).where(mask_BT, 0)
    return Estimates(advantages_BT, advantages_BT + values_BT)


def whiten(values_BT: Tensor, mask_BT: Tensor, *, keep_mean: bool = False) -> Tensor:
    """Return values with mean 0 and variance 1 over the mask; 0 where the mask is False.

    Args:
        values_BT: Values such as advantages. For rewards, keep the mean.
        mask_BT: bool; True for values that count.
        keep_mean: Whether to keep the original mean.
    """
    mask_BT = mask_BT.bool()
    n = mask_BT.sum().clamp(min=1)
    mean = values_BT.where(mask_BT, 0).sum() / n
    centred_BT = (values_BT - mean).where(mask_BT, 0)
    white_BT = centred_BT * torch.rsqrt(centred_BT.square().sum() / (n - 1).clamp(min=1) + _VARIANCE_EPSILON)
    return (white_BT + mean).where(mask_BT, 0) if keep_mean else white_BT
