"""Recipe of a preference training: preferences and a method."""

from __future__ import annotations

from pydantic import Field

from modelstack.posttrain.recipe import TuningFiles, TuningOptimizer, TuningRecipe
from modelstack.preferences.methods import Direct, Method
from modelstack.sft.rendering import RenderOptions


class PreferenceData(TuningFiles, frozen=True, extra="forbid"):
    """Preference files in the forms of `preferences.examples`; held-back files must hold pairs."""

    row_tokens: int = Field(default=1024, ge=16)
    """Maximum tokens of a conversation, at most the base's context; longer ones are left out and counted."""
    skip_empty: bool = False
    """Whether lines with an empty reply or equal replies are left out and counted; otherwise they are errors."""
    abstain: bool = True
    """Whether conversations with tools tell the model that it may abstain."""

    @property
    def render(self) -> RenderOptions:
        """Options of rendering conversations as tokens."""
        return RenderOptions(abstain=self.abstain)


class PreferenceOptimizer(TuningOptimizer):
    """AdamW with a rate for adapters; training all weights needs about a tenth of it, large models a hundredth."""

    lr: float = Field(default=5e-5, gt=0)


class PreferenceRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """Recipe of a training on preferences; `rows` counts the pairs, or single completions, of a step."""

    data: PreferenceData
    method: Method = Direct()
    """Loss and its settings."""
    rows: int = Field(default=16, gt=0)
    optimizer: PreferenceOptimizer = PreferenceOptimizer()
    max_validation: int = Field(default=500, gt=0)
    """Maximum number of held-back pairs of each file, for measurements before and after."""
