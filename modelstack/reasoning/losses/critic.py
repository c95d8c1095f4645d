"""PPO's critic loss: a squared error, clipped like the policy (Schulman et al., 1707.06347; baselines, PPO2).

Letters: B completions, T tokens.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from modelstack.reasoning.losses.rollouts import PolicyLoss, StepTotals


class CriticConfig(BaseModel):
    """Settings of the critic loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip: float = Field(default=0.2, gt=0)
    """Largest change of a value that still reduces its error, in units of reward; 0.2 as in InstructGPT."""
    coefficient: float = Field(default=0.1, gt=0)
    """Weight of the loss: 0.1 to 0.5 if policy and critic share a body; otherwise it only scales the learning
    rate.
    """


def critic_loss(
    values_BT: Tensor,
    old_values_BT: Tensor,
    returns_BT: Tensor,
    mask_BT: Tensor,
    config: CriticConfig | None = None,
    totals: StepTotals | None = None,
) -> PolicyLoss:
    """Return c / 2 max((V - R)^2, (clip(V, V_old - e, V_old + e) - R)^2) as a mean over tokens.

    Args:
        values_BT: Current predictions of the critic, with gradient.
        old_values_BT: Predictions when the completions were sampled.
        returns_BT: Targets from `generalised_advantages`.
        mask_BT: bool; True for tokens that count.
        config: Settings; None: the defaults.
        totals: Totals of the optimizer step; None: this batch is the whole step.
    """
    config = config or CriticConfig()
    mask_BT = mask_BT.bool()
    values_BT, old_BT, returns_BT = (
        x_BT.where(mask_BT, 0) for x_BT in (values_BT, old_values_BT.detach(), returns_BT.detach())
    )
    clipped_BT = torch.minimum(torch.maximum(values_BT, old_BT - config.clip), old_BT + config.clip)
    error_BT, clipped_error_BT = (values_BT - returns_BT).square(), (clipped_BT - returns_BT).square()
    n_here = mask_BT.sum().clamp(min=1)
    loss = 0.5 * config.coefficient * torch.maximum(error_BT, clipped_error_BT).sum()
    metrics = {
        "critic/clip_ratio": (clipped_error_BT > error_BT).float().sum() / n_here,
        "critic/error": error_BT.detach().sum() / n_here,
        "critic/explained_variance": _explained_variance(values_BT.detach(), returns_BT, mask_BT),
    }
    return PolicyLoss(loss / (n_here if totals is None else totals.n_tokens), metrics)


def _explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return 1 - Var(R - V) / Var(R): 1 for a perfect critic, 0 for one that always predicts the mean."""
    returns, errors = returns_BT[mask_BT], (returns_BT - values_BT)[mask_BT]
    return 1 - errors.var(correction=0) / returns.var(correction=0)
