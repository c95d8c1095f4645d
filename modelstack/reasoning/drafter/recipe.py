"""Recipe of a drafter: a module on a frozen model, trained to predict what the model itself would write."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from modelstack.posttrain.recipe import TuningOptimizer, TuningRecipe
from modelstack.reasoning.distil.recipe import DistilData, OnPolicy


class DrafterLoss(BaseModel, frozen=True, extra="forbid"):
    """Loss of a drafter: cross-entropy to the model's distribution, and distance to its state.

    EAGLE-2 is `steps = 1`, `tokens = 0.1`, `states = 1.0`.
    """

    steps: int = Field(default=3, ge=1, le=8)
    """Tokens that are predicted by recursion, each from the module's own state before it (training-time test)."""
    decay: float = Field(default=0.8, gt=0, le=1)
    """Weight of a step relative to the step before: 0.8 in EAGLE-3, 0.6 in FastMTP."""
    tokens: float = Field(default=1.0, ge=0)
    """Coefficient of the cross-entropy between the model's distribution and the module's."""
    states: float = Field(default=0.0, ge=0)
    """Coefficient of the smooth L1 distance between the model's state and the module's."""


class DrafterRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """Recipe of a drafter; `base` is the model, which stays as it is."""

    train: Literal["full"] = "full"
    """All weights of the module are trained."""
    lora: None = None
    data: DistilData
    """Conversations of the kind that the model will write."""
    on_policy: OnPolicy | None = None
    """Plan of sampled replies; None: the examples' own replies are predicted."""
    draft_tokens: int | None = Field(default=8192, ge=16)
    """Size of the draft vocabulary, the most frequent targets of the examples; None: all tokens of the model."""
    loss: DrafterLoss = DrafterLoss()
    rows: int = Field(default=16, gt=0)
    optimizer: TuningOptimizer = TuningOptimizer(lr=5e-4, betas=(0.9, 0.95))
    max_norm: float = Field(default=0.5, gt=0)
    """Maximum gradient norm; larger gradients are scaled down."""
    max_validation: int = Field(default=100, gt=0)
    """Maximum number of held-back examples for measurements before and after."""
