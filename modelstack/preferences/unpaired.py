"""Single completions with a thumb up or down: KTO, and APO-zero without pairs.

KTO (Ethayarajh et al., 2402.01306): with d = log p - log p_ref of a completion, a desirable one costs
lambda_D (1 - sigmoid(beta (d - z0))), an undesirable one lambda_U (1 - sigmoid(beta (z0 - d))). z0 is how far the
policy has gone from the reference anyway, estimated on completions of other prompts: each prompt with the
completion of the one before it in its batch. On one or two rows that is noise: at least 8 in a micro-batch.
APO-zero (2408.06266 equation 7) has z0 = 0.

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
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["kto", "apo_zero_unpaired"] = "kto"
    beta: float = Field(default=0.1, gt=0)
    desirable_weight: float = Field(default=1.0, ge=0)
    """lambda_D. KTO's paper: lambda_D n_D / (lambda_U n_U) from 1 to 4/3, by the numbers of rows of each kind."""
    undesirable_weight: float = Field(default=1.0, ge=0)


def kl_baseline(policy_B: Tensor, reference_B: Tensor) -> Tensor:
    """Return z0: the mean over mismatched completions of log p - log p_ref, at least 0, without gradient.

    Args:
        policy_B: Summed log-probabilities of each prompt with another prompt's completion.
        reference_B: Of the frozen model.
    """
    return (policy_B - reference_B).detach().mean().clamp(min=0)


def unpaired_loss(
    policy_B: Tensor,
    reference_B: Tensor,
    is_desirable_B: Tensor,
    config: UnpairedConfig | None = None,
    z0: Tensor | None = None,
) -> PreferenceLoss:
    """Return the mean over all completions. Metrics of a kind that the batch lacks are NaN.

    Args:
        policy_B: Summed log-probabilities, with gradient.
        reference_B: Of the frozen model.
        is_desirable_B: bool.
        config: None: KTO.
        z0: Of `kl_baseline`, over all ranks; APO-zero has none.

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
