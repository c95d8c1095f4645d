"""Losses on single completions with a label, desirable or not: KTO, and APO-zero without pairs.

KTO (Ethayarajh et al., 2402.01306), with d = log p - log p_ref of a completion:

- a desirable completion costs lambda_D (1 - sigmoid(beta (d - z0)));
- an undesirable completion costs lambda_U (1 - sigmoid(beta (z0 - d))).

The baseline z0 estimates the divergence of the policy from the reference, on prompts with completions of other
prompts (see `units`). With one or two rows the estimate is noise: use at least 8 rows in a micro-batch. APO-zero
(2408.06266 equation 7) has z0 = 0.

Letters: B completions.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from modelstack.errors import UserError
from modelstack.preferences.pairs import PreferenceLoss


class UnpairedConfig(BaseModel):
    """Configuration of the loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["kto", "apo_zero_unpaired"] = "kto"
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull towards the reference."""
    desirable_weight: float = Field(default=1.0, ge=0)
    """Weight lambda_D of desirable completions.

    The KTO paper recommends lambda_D n_D / (lambda_U n_U) from 1 to 4/3, with the numbers n of rows of each kind.
    """
    undesirable_weight: float = Field(default=1.0, ge=0)
    """Weight lambda_U of undesirable completions."""


def kl_baseline(policy_B: Tensor, reference_B: Tensor) -> Tensor:
    """Return z0, a scalar without gradient: the mean of log p - log p_ref over mismatched completions, at least 0.

    Args:
        policy_B: Summed log-probabilities by the policy of each prompt's completion from another prompt.
        reference_B: Summed log-probabilities of the same by the frozen model.
    """
    return (policy_B - reference_B).detach().mean().clamp(min=0)


def unpaired_loss(
    policy_B: Tensor,
    reference_B: Tensor,
    is_desirable_B: Tensor,
    config: UnpairedConfig | None = None,
    z0: Tensor | None = None,
) -> PreferenceLoss:
    """Return the loss, a mean over all completions. Metrics of a label that the batch lacks are NaN.

    Args:
        policy_B: Summed log-probabilities, with gradient.
        reference_B: Summed log-probabilities of the frozen model.
        is_desirable_B: Whether each completion is desirable, bool.
        config: Configuration; None: KTO.
        z0: Baseline from `kl_baseline`, over all ranks; None for APO-zero.

    Raises:
        UserError: KTO without z0, or APO-zero with one.
    """
    config = config or UnpairedConfig()
    if (z0 is None) == (config.name == "kto"):
        fix = (
            "give kl_baseline(...) of mismatched completions" if z0 is None else "its baseline is 0: leave z0 out"
        )
        raise UserError(f"{config.name} {'without' if z0 is None else 'with'} z0; {fix}")
    is_desirable_B = is_desirable_B.bool()
    d = policy_B - reference_B.detach()
    shifted = config.beta * (d if z0 is None else d - z0.detach())
    weight = torch.where(
        is_desirable_B, d.new_tensor(config.desirable_weight), d.new_tensor(config.undesirable_weight)
    )
    loss = (weight * (1 - torch.sigmoid(torch.where(is_desirable_B, shifted, -shifted)))).mean()
    rewards = (config.beta * d).detach()
    metrics = {
        "kl": rewards.new_zeros(()) if z0 is None else z0.detach(),
        "rewards/chosen": rewards[is_desirable_B].mean(),
        "rewards/rejected": rewards[~is_desirable_B].mean(),
        "logps/chosen": policy_B.detach()[is_desirable_B].mean(),
        "logps/rejected": policy_B.detach()[~is_desirable_B].mean(),
    }
    return PreferenceLoss(
        loss, metrics | {"rewards/margins": metrics["rewards/chosen"] - metrics["rewards/rejected"]}
    )
