"""Recipe of a reward model: preference files and the loss."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from modelstack.posttrain.recipe import TuningOptimizer, TuningRecipe
from modelstack.preferences.recipe import PreferenceData
from modelstack.preferences.reward.loss import RewardModelConfig


class RewardOptimizer(TuningOptimizer):
    """AdamW with TRL's rate for reward models; large models need a tenth of it or less."""

    lr: float = Field(default=1e-4, gt=0)


class RewardRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """Recipe of a reward model; `rows` counts the pairs of a step."""

    free: ClassVar[frozenset[str]] = TuningRecipe.free | {"max_normalised"}
    data: PreferenceData
    loss: RewardModelConfig = RewardModelConfig()
    rows: int = Field(default=16, gt=0)
    optimizer: RewardOptimizer = RewardOptimizer()
    max_validation: int = Field(default=500, gt=0)
    """Maximum number of held-back pairs of each file, for measurements before and after."""
    max_normalised: int = Field(default=2000, gt=0)
    """Maximum number of training pairs, from the first on, whose chosen replies define reward 0 after training."""
