"""Advantages by token from a critic: generalised advantage estimation (Schulman et al., 1506.02438).

Tokens that the policy did not choose, such as a tool's output in the middle of a completion, are no steps of its
episode: value and advantage pass through them from the next chosen token to the one before, as in verl.

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
    """Without gradient, 0 where the mask is False."""

    advantages_BT: Tensor
    returns_BT: Tensor
    """What the critic should say."""


@torch.no_grad()
def token_rewards(
    rewards_B: Tensor,
    old_log_probs_BT: Tensor,
    ref_log_probs_BT: Tensor,
    mask_BT: Tensor,
    beta: float,
    estimator: KlEstimator = "k1",
) -> Tensor:
    """Return -beta KL of each token, and the completion's reward at its last, [B, T] (InstructGPT, 2203.02155).

    Args:
        rewards_B: Of completions.
        old_log_probs_BT: Of the policy that sampled.
        ref_log_probs_BT: Of the reference.
        mask_BT: bool. A row without a True loses its reward.
        beta: InstructGPT's 0.02, Tulu 3's 0.05.
        estimator: k1 is the unbiased one; its gradient plays no part in a reward.
    """
    mask_BT = mask_BT.bool()
    kl_BT = kl_estimate(old_log_probs_BT, ref_log_probs_BT, estimator)
    is_last_BT = mask_BT & (mask_BT.flip(-1).cumsum(-1).flip(-1) == 1)
    return (-beta * kl_BT + rewards_B[:, None] * is_last_BT).where(mask_BT, 0)


@torch.no_grad()
def generalised_advantages(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> Estimates:
    """Return A_t = delta_t + gamma lambda A_(t+1) with delta_t = r_t + gamma V_(t+1) - V_t, and A + V.

    Args:
        rewards_BT: Of tokens, e.g. of `token_rewards`.
        values_BT: What the critic says before each token.
        mask_BT: bool.
        gamma: 1 for language, as InstructGPT has it.
        lam: 0 trusts the critic alone, 1 the rewards alone.
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
    """Return values with mean 0 and variance 1 over the mask, 0 elsewhere.

    Args:
        values_BT: E.g. advantages; rewards are whitened with their mean kept.
        mask_BT: bool.
        keep_mean: Leave the mean as it was.
    """
    mask_BT = mask_BT.bool()
    n = mask_BT.sum().clamp(min=1)
    mean = values_BT.where(mask_BT, 0).sum() / n
    centred_BT = (values_BT - mean).where(mask_BT, 0)
    white_BT = centred_BT * torch.rsqrt(centred_BT.square().sum() / (n - 1).clamp(min=1) + _VARIANCE_EPSILON)
    return (white_BT + mean).where(mask_BT, 0) if keep_mean else white_BT
