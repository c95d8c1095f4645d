"""How far a policy is from its reference, estimated from the sampled tokens.

With x = log p - log p_ref of a token sampled from p (Schulman, "Approximating KL divergence", 2020):

| name | value | as a value | its gradient, on average over samples |
|---|---|---|---|
| k1 | x | unbiased, noisy, either sign | 0: it is that of a sum of probabilities |
| k2 | x^2 / 2 | biased, never negative | the KL's |
| k3 | e^-x - 1 + x | unbiased, never negative | that of the other KL, of p_ref to p |

So k1 belongs in a reward, k2 or k3 in a loss. Values are clamped as in verl, so that one token cannot make a loss
infinite. A clamped token has no gradient: for k3 one that is 2.6 nats below the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelstack.reasoning.losses.policy_config import KlEstimator

LARGEST_LOG_RATIO = 20.0
LARGEST_K3 = 10.0


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor, estimator: KlEstimator = "k3") -> Tensor:
    """Return the estimate of each token, in nats and in their shape.

    Args:
        log_probs: Of the policy.
        ref_log_probs: Of the reference, held constant.
        estimator: See above.
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
    """Return rewards less beta times the completion's k1, [B]: how RLOO and REINFORCE hold to a reference.

    Args:
        rewards_B: Of completions; NaN stays NaN.
        old_log_probs_BT: Of the policy that sampled.
        ref_log_probs_BT: Of the reference.
        mask_BT: bool.
        beta: TRL's 0.05.
    """
    k1_BT = (old_log_probs_BT - ref_log_probs_BT).where(mask_BT.bool(), 0)
    return rewards_B - beta * k1_BT.sum(-1)
