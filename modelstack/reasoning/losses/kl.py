"""Estimates of the KL divergence between a policy and its reference, from sampled tokens.

With x = log p - log p_ref of a token sampled from p (Schulman, "Approximating KL divergence", 2020):

| name | value | as a value | its gradient, on average over samples |
|---|---|---|---|
| k1 | x | unbiased, noisy, either sign | 0, as probabilities sum to 1 |
| k2 | x^2 / 2 | biased, never negative | that of the KL |
| k3 | e^-x - 1 + x | unbiased, never negative | that of the reverse KL, KL(p_ref, p) |

Therefore k1 belongs in a reward, and k2 or k3 in a loss. Values are clamped as in verl, so that no single token
can make a loss infinite. A clamped token has no gradient: for k3 this begins at 2.6 nats below the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelstack.reasoning.losses.policy_config import KlEstimator

LARGEST_LOG_RATIO = 20.0
LARGEST_K3 = 10.0


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor, estimator: KlEstimator = "k3") -> Tensor:
    """Return the estimate per token in nats, in the shape of the inputs.

    Args:
        log_probs: Log-probabilities under the policy.
        ref_log_probs: Log-probabilities under the reference, without gradient.
        estimator: Name of a row in the table above.
    """
    x = (log_probs - ref_log_probs.detach()).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    if estimator == "k1":
        return x
    if estimator == "k2":
        return 0.5 * x.square()
    return (torch.expm1(-x) + x).clamp(-LARGEST_K3, LARGEST_K3)


@torch.no_grad()
def kl_penalised_rewards(
    rewards_B: Tensor, old_log_probs_BT: Tensor, ref_log_probs_BT: Tensor, mask_BT: Tensor, beta: float = 0.05
) -> Tensor:
    """Return rewards minus beta times the completion's k1, [B]; the KL penalty of RLOO and REINFORCE.

    Args:
        rewards_B: Rewards of completions; NaN stays NaN.
        old_log_probs_BT: Log-probabilities under the policy that sampled.
        ref_log_probs_BT: Log-probabilities under the reference.
        mask_BT: bool; True for tokens that count.
        beta: KL coefficient; TRL's default is 0.05.
    """
    k1_BT = (old_log_probs_BT - ref_log_probs_BT).where(mask_BT.bool(), 0)
    return rewards_B - beta * k1_BT.sum(-1)
