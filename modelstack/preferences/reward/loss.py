"""Loss of a reward model on pairs: Bradley-Terry, with an optional margin and a cost that centres rewards at 0.

The loss is -log sigmoid(r_chosen - r_rejected - margin): Ouyang et al., 2203.02155; the margin, which grows with
the clarity of the preference, is from Llama 2, 2307.09288 section 3.2.2. Only differences of rewards are learnt,
so a small cost of (r_chosen + r_rejected)^2 fixes the zero point (Eisenstein et al., 2312.09244).

Letters: B pairs.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from modelstack.preferences.pairs import PreferenceLoss, logistic_loss


class RewardModelConfig(BaseModel):
    """Configuration of the loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    centre_coefficient: float = Field(default=0.0, ge=0)
    """Coefficient of the mean of (r_chosen + r_rejected)^2; 0.01 is usual."""


def reward_model_loss(
    chosen_B: Tensor, rejected_B: Tensor, config: RewardModelConfig | None = None, margins_B: Tensor | None = None
) -> PreferenceLoss:
    """Return the loss, a mean over the pairs.

    Args:
        chosen_B: Rewards of the chosen completions, with gradient.
        rejected_B: Rewards of the rejected completions, with gradient.
        config: Configuration; None: the defaults.
        margins_B: Required lead of each chosen completion; None: 0.
    """
    config = config or RewardModelConfig()
    lead = chosen_B - rejected_B
    loss = logistic_loss(lead if margins_B is None else lead - margins_B).mean()
    if config.centre_coefficient:
        loss = loss + config.centre_coefficient * (chosen_B + rejected_B).square().mean()
    metrics = {
        "rewards/chosen": chosen_B,
        "rewards/rejected": rejected_B,
        "rewards/margins": lead,
        "rewards/accuracies": (lead > 0).float(),
    }
    return PreferenceLoss(loss, {name: value.detach().mean() for name, value in metrics.items()})
