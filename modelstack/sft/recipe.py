"""Recipe of a supervised fine-tuning: examples, how they become batches, and what is measured."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from modelstack.architecture.losses import TokenLoss
from modelstack.posttrain.recipe import TuningFiles, TuningRecipe
from modelstack.sft.augment import NOTHING, AugmentConfig
from modelstack.sft.rendering import RenderOptions


class SftData(TuningFiles, frozen=True, extra="forbid"):
    """Examples, and how they become batches."""

    row_tokens: int = Field(default=1024, ge=16)
    """Tokens of a row; longer examples, also than the base's context, are left out and counted."""
    layout: Literal["packed", "padded"] = "packed"
    """packed: several examples share a row without seeing each other. padded: one example a row."""
    render: RenderOptions = RenderOptions()
    augment: AugmentConfig = AugmentConfig()
    """Changes of training examples; held-back examples stay as they are."""
    variants: int | None = Field(default=None, ge=1)
    """Differently augmented copies of each example, one after the other in successive epochs; all are made before
    the first step. None: one for each epoch, at most `MOST_VARIANTS`."""


class SftEvaluation(BaseModel, frozen=True, extra="forbid"):
    """Measurements on held-back examples."""

    every: int = Field(default=50, gt=0)
    """Steps between measurements of the loss; it is always measured before the first and after the last step."""
    max_examples: int = Field(default=500, gt=0)
    """Maximum number of examples whose loss is measured."""
    exact_replies: int = Field(default=0, ge=0)
    """Number of examples decoded by llama.cpp before and after, each about a second; 0: none."""
    threads: int | None = Field(default=None, gt=0)
    """Threads of llama.cpp; None: the fastest number, measured."""


class SftRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """A supervised fine-tuning; a step has at most `rows` times `data.row_tokens` places."""

    free: ClassVar[frozenset[str]] = TuningRecipe.free | {"evaluation"}
    data: SftData
    loss: TokenLoss = "cross_entropy"
    evaluation: SftEvaluation = SftEvaluation()

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.evaluation.exact_replies and not self.data.validation:
            raise ValueError("evaluation.exact_replies needs data.validation, files of held-back examples")
        return self

    @property
    def n_variants(self) -> int:
        """Variants of each example."""
        if self.data.augment == NOTHING:
            return 1
        return self.data.variants or (1 if self.steps else min(MOST_VARIANTS, math.ceil(self.epochs)))


MOST_VARIANTS = 4
"""Default limit: rendering a thousand examples takes a second for each variant."""
