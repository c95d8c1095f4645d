"""What the training of a reward model is made of: a tuning's recipe, pairs, and the loss on them."""

from __future__ import annotations

from pydantic import Field

from modelstack.posttrain.recipe import TuningOptimizer, TuningRecipe, TuningResolved
from modelstack.preferences.recipe import PreferenceData
from modelstack.preferences.reward.loss import RewardModelConfig


class RewardOptimizer(TuningOptimizer):
    """AdamW at TRL's rate for reward models; large models want a tenth of it or less."""

    lr: float = Field(default=1e-4, gt=0)


class RewardRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """A reward model from preferences; `rows` are pairs of a step."""

    data: PreferenceData
    loss: RewardModelConfig = RewardModelConfig()
    rows: int = Field(default=16, gt=0)
    optimizer: RewardOptimizer = RewardOptimizer()
    max_validation: int = Field(default=500, gt=0)
    """Pairs that are measured on, before and after."""
    max_normalised: int = Field(default=2000, gt=0)
    """Training pairs whose chosen replies have a mean reward of 0 in the end; of more, the first."""


_FREE = ("base", "name", "weights", "max_validation", "max_normalised", "checkpoints", "guard", "faults")
FREE = {("weights",), *(("recipe", name) for name in _FREE)}
"""What may change between a stop and going on; see `sft.recipe`."""


class RewardResolved(TuningResolved, frozen=True):
    """A recipe with nothing open; a run is held to it."""

    recipe: RewardRecipe
