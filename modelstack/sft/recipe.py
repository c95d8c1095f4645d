"""What a fine-tuning is made of: base, examples, adapter or all weights, how long, and how it is judged."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from modelstack.architecture.losses import TokenLoss
from modelstack.posttrain.recipe import TuningFiles, TuningRecipe, TuningResolved
from modelstack.sft.augment import NOTHING, AugmentConfig
from modelstack.sft.rendering import RenderOptions


class SftData(TuningFiles, frozen=True, extra="forbid"):
    """Examples, and how they become batches."""

    row_tokens: int = Field(default=1024, ge=16)
    """Of a row; examples longer than it, or than the base's context, are left out and counted."""
    layout: Literal["packed", "padded"] = "packed"
    """Several examples in a row that do not see each other, or one in a row as long as a pass's longest."""
    render: RenderOptions = RenderOptions()
    augment: AugmentConfig = AugmentConfig()
    """Of training examples; held-back ones stay as they are."""
    variants: int | None = Field(default=None, ge=1)
    """Of each example, augmented in different ways, that epochs take turns with; all are made before the first
    step. None: one for each epoch, at most 4."""


class SftEvaluation(BaseModel, frozen=True, extra="forbid"):
    """What is asked of held-back examples."""

    every: int = Field(default=50, gt=0)
    """Steps between measurements of the loss; before the first and after the last step it is always measured."""
    max_examples: int = Field(default=500, gt=0)
    """Whose loss is measured."""
    exact_replies: int = Field(default=0, ge=0)
    """Examples that are decoded by llama.cpp before and after, each a second or so; 0: none."""
    threads: int | None = Field(default=None, gt=0)
    """Of llama.cpp; none: it measures how many are fastest."""


class SftRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """A supervised fine-tuning; `rows` times `data.row_tokens` are a step's places at most."""

    data: SftData
    minutes: float | None = Field(default=None, gt=0)
    """Training takes at most so long: the schedule moves on with the clock where that is ahead of the steps, and
    ends with it. Such a run depends on the machine's speed and cannot be repeated bit for bit."""
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
"""By default: a thousand examples take a second each time."""
_FREE = ("base", "name", "weights", "evaluation", "checkpoints", "guard", "faults", "minutes")
FREE = {("weights",), *(("recipe", name) for name in _FREE)}
"""What may change between a stop and going on: the base is known by its hash, the rest moves no weight."""


class SftResolved(TuningResolved, frozen=True):
    """A recipe with nothing open; a run is held to it."""

    recipe: SftRecipe
