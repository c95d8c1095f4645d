"""Completions that another engine sampled: its probabilities are not quite the trainer's.

A quantised or differently ordered engine says mu where the trainer's own pass over the same weights says o; the
gradient is then off policy although nobody meant it. Tokens or completions are weighted by e^(o - mu), which is
capped ("truncated importance sampling", Yao et al., "Your efficient RL framework secretly brings you off-policy RL
training", 2025), or dropped where it is outside its bounds (TRL's default: by completion, above 3). All of it is
for tokens that are trained: constrained decoding must have its mask in both passes.

A token for which the engine gave no log-probability (NaN) has weight 1.

Letters: B completions, T tokens.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor


class SamplerCorrection(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "sequence_mask"
    """Whose ratio, and whether one outside is set to the bound or to 0."""
    low: float = Field(default=0.0, ge=0)
    high: float = Field(default=3.0, gt=0)
    """TRL's; open-instruct truncates tokens at 2."""

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
    """Return what tokens [B, T] or completions [B, 1] count, for `Rollouts.correction`.

    Args:
        old_log_probs_BT: What the trainer says of the tokens with the weights that sampled them.
        sampler_log_probs_BT: What the engine said; NaN where it said nothing.
        mask_BT: bool.
        config: None: by default.
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
    """Return 0 for bad completions that the policy has left, else 1, [B, 1].

    Bad: the advantage is negative. Left: the mean of log mu - log p over its tokens is above the threshold
    (DeepSeek-V3.2, 2512.02556 equation 9).
    """
    mask_BT = mask_BT.bool()
    left_BT = (sampler_log_probs_BT - log_probs_BT).where(mask_BT, 0).nan_to_num(nan=0.0)
    mean_B1 = left_BT.sum(-1, keepdim=True) / mask_BT.sum(-1, keepdim=True).clamp(min=1)
    return ((advantages_B[:, None] >= 0) | (mean_B1 <= threshold)).to(log_probs_BT)
