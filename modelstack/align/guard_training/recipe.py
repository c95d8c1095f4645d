"""Recipe of a guard model."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from modelstack.posttrain.recipe import TuningFiles, TuningOptimizer, TuningRecipe


class GuardData(TuningFiles, frozen=True, extra="forbid"):
    """Files of guard rows, and how prompts are made of them."""

    row_tokens: int = Field(default=256, ge=16)
    """Maximum tokens of a conversation with its answer, without the policy; longer ones are left out, counted."""


class PolicyChanges(BaseModel, frozen=True, extra="forbid"):
    """Changes of the policy in training, so that the guard reads it instead of knowing it by heart."""

    share: float = Field(default=0.4, ge=0, le=1)
    """Share of the batches with a changed policy: categories left out, in another order."""
    max_dropped: int = Field(default=6, ge=1, le=12)
    """Maximum number of categories that a changed policy leaves out."""


class GuardRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """Recipe of a guard; `rows` counts pairs of conversations, and those of a micro-batch share a policy."""

    free: ClassVar[frozenset[str]] = TuningRecipe.free
    data: GuardData
    policies: PolicyChanges = PolicyChanges()
    verdict_weight: float = Field(default=0.3, ge=0)
    """Weight of the cross-entropy of the verdict's token."""
    pair_weight: float = Field(default=1.0, ge=0)
    """Weight of the loss of pairs, -log sigmoid of the difference of their log-odds of `unsafe`.

    It is blind to what all rows of a batch have in common, which the verdict's own loss moves back and forth.
    """
    category_weight: float = Field(default=0.3, ge=0)
    """Weight of the tokens after the verdict: categories and end."""
    rows: int = Field(default=32, gt=0)
    micro_batches: int = Field(default=2, gt=0)
    optimizer: TuningOptimizer = TuningOptimizer(lr=5e-4, betas=(0.9, 0.98))
    max_validation: int = Field(default=1000, gt=0)
    """Maximum number of held-back rows of each file for measurements before and after."""
