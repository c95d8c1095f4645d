"""Recipe of a supervised fine-tuning: examples, batches and measurements."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from modelstack.architecture.losses import TokenLoss
from modelstack.posttrain.recipe import TuningFiles, TuningRecipe
from modelstack.sft.augment import NOTHING, AugmentConfig
from modelstack.sft.rendering import RenderOptions
from modelstack.stability.guard import GuardConfig


class SftData(TuningFiles, frozen=True, extra="forbid"):
    """Files of examples, and how batches are made of them."""

    row_tokens: int = Field(default=1024, ge=16)
    """Maximum tokens of a row, at most the base's context; longer examples are left out and counted."""
    layout: Literal["packed", "padded"] = "packed"
    """Packed: several examples share a row without attending to each other. Padded: one example a row."""
    render: RenderOptions = RenderOptions()
    augment: AugmentConfig = AugmentConfig()
    """Changes of training examples; held-back examples stay unchanged."""
    variants: int | None = Field(default=None, ge=1)
    """Number of differently augmented copies of each example; successive epochs use successive copies.

    All copies are made before the first step. None: one for each epoch, at most `MOST_VARIANTS`.
    """


class SftEvaluation(BaseModel, frozen=True, extra="forbid"):
    """Measurements on held-back examples."""

    every: int = Field(default=50, gt=0)
    """Steps between measurements of the loss, which is also measured before the first and after the last step."""
    max_examples: int = Field(default=500, gt=0)
    """Maximum number of held-back examples for the loss."""
    exact_replies: int = Field(default=0, ge=0)
    """Number of examples decoded by llama.cpp before and after, each about a second; 0 disables it."""
    threads: int | None = Field(default=None, gt=0)
    """Number of llama.cpp's threads; None: the fastest number, found by measurement."""


class SftGuard(GuardConfig, frozen=True, extra="forbid"):
    """Guard for examples of several kinds.

    When most kinds are learnt, losses lie near 0, and a batch with a rare kind has many times the usual loss and
    gradient norm. Such batches are what is left to learn, and clipping bounds their updates.
    """

    min_loss_rise_absolute: float = Field(default=3.0, ge=0)
    min_norm_rise: float = Field(default=30.0, ge=1)


class SftRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """Recipe of a supervised fine-tuning; a step has at most `rows` times `data.row_tokens` tokens."""

    free: ClassVar[frozenset[str]] = TuningRecipe.free | {"evaluation"}
    data: SftData
    loss: TokenLoss = "cross_entropy"
    """Loss of a token: -log p, or `dft`: -p log p with the factor p held constant."""
    evaluation: SftEvaluation = SftEvaluation()
    guard: SftGuard = SftGuard()

    @model_validator(mode="after")
    def _check_evaluation(self) -> Self:
        if self.evaluation.exact_replies and not self.data.validation:
            raise ValueError("evaluation.exact_replies needs data.validation, files of held-back examples")
        return self

    @property
    def n_variants(self) -> int:
        """Number of variants of each example."""
        if self.data.augment == NOTHING:
            return 1
        return self.data.variants or (1 if self.steps else min(MOST_VARIANTS, math.ceil(self.epochs)))


MOST_VARIANTS = 4
"""Default limit of variants: rendering a thousand examples takes a second for each variant."""
