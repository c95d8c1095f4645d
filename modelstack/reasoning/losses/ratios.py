"""Ratio of a completion's probability under the policy and under the sampling policy, per token or sequence.

With x = log p - log p_old of a token, and N tokens in a completion:

| level | log ratio | used by |
|---|---|---|
| token | x | PPO, GRPO, DAPO |
| sequence_mean | sum x / N, [B, 1] | GSPO |
| sequence_sum | sum x, [B, 1] | RLOO |

Letters: B completions, T tokens.
"""

from __future__ import annotations

from torch import Tensor

from modelstack.reasoning.losses.policy_config import RatioLevel


def level_log_ratio(log_ratio_BT: Tensor, mask_BT: Tensor, level: RatioLevel) -> Tensor:
    """Return log-ratios at the given level, [B, T] or [B, 1].

    Args:
        log_ratio_BT: Log-ratios of tokens, 0 where the mask is False.
        mask_BT: bool; True for tokens that count.
        level: Name of a row in the table above.
    """
    if level == "token":
        return log_ratio_BT
    sum_B1 = log_ratio_BT.sum(-1, keepdim=True)
    if level == "sequence_sum":
        return sum_B1
    return sum_B1 / mask_BT.sum(-1, keepdim=True).clamp(min=1)
