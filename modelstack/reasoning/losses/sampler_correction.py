"""Correction for completions sampled by another engine, whose probabilities differ slightly from the trainer's.

A quantised or differently ordered engine assigns a token log-probability mu, and the trainer assigns o with the
same weights, so the gradient is unintentionally off policy. Tokens or completions are weighted by e^(o - mu).
The weight is capped ("truncated importance sampling", Yao et al., "Your efficient RL framework secretly brings
you off-policy RL training", 2025), or set to 0 outside its bounds (TRL's default: per completion, above 3). This
applies to trained tokens only; with constrained decoding both passes must use the same mask.

A token without a log-probability from the engine (NaN) has weight 1.

Letters: B completions, T tokens.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor


class SamplerCorrection(BaseModel):
    """Settings of the correction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "sequence_mask"
    """Level of the ratio, and whether a ratio outside the bounds is set to the bound or to 0."""
    low: float = Field(default=0.0, ge=0)
    """Lower bound of the ratio."""
    high: float = Field(default=3.0, gt=0)
    """Upper bound of the ratio; TRL's default. open-instruct truncates tokens at 2."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


@torch.no_grad()
def sampler_weights(
    old_log_probs_BT: Tensor,
    sampler_log_probs_BT: Tensor,
    mask_BT: Tensor,
    config: SamplerCorrection | None = None,
) -> Tensor:
    """Return the weights of tokens [B, T] or completions [B, 1], for `Rollouts.correction`.

    Args:
        old_log_probs_BT: Trainer's log-probabilities with the weights that sampled.
        sampler_log_probs_BT: Engine's log-probabilities; NaN if it gave none.
        mask_BT: bool; True for tokens that count.
        config: Settings; None: the defaults.
    """
    config = config or SamplerCorrection()
    difference = (old_log_probs_BT - sampler_log_probs_BT).where(mask_BT.bool(), 0).nan_to_num(nan=0.0)
    if config.name.startswith("sequence"):
        difference = difference.sum(-1, keepdim=True)
    weights = difference.exp()
    if config.name.endswith("truncate"):
        return weights.clamp(config.low, config.high)
    return weights.where((weights >= config.low) & (weights <= config.high), 0.0)


@torch.no_grad()
def off_policy_mask(
    log_probs_BT: Tensor,
    sampler_log_probs_BT: Tensor,
    mask_BT: Tensor,
    advantages_B: Tensor,
    threshold: float,
) -> Tensor:
    """Return 0 for completions with a negative advantage that are far off policy, else 1, [B, 1].

    Far off policy: the mean of log mu - log p over the completion's tokens is above the threshold
    (DeepSeek-V3.2, 2512.02556 equation 9).
    """
    mask_BT = mask_BT.bool()
    left_BT = (sampler_log_probs_BT - log_probs_BT).where(mask_BT, 0).nan_to_num(nan=0.0)
    mean_B1 = left_BT.sum(-1, keepdim=True) / mask_BT.sum(-1, keepdim=True).clamp(min=1)
    return ((advantages_B[:, None] >= 0) | (mean_B1 <= threshold)).to(log_probs_BT)
