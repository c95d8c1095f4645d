"""What a preference training is made of: a tuning's recipe, preferences, and a method."""

from __future__ import annotations

from pydantic import Field

from modelstack.posttrain.recipe import TuningFiles, TuningOptimizer, TuningRecipe, TuningResolved
from modelstack.preferences.methods import Direct, Method
from modelstack.sft.rendering import RenderOptions


class PreferenceData(TuningFiles, frozen=True, extra="forbid"):
    """Preferences, in the forms of `preferences.examples`; files of pairs to measure on."""

    row_tokens: int = Field(default=1024, ge=16)
    """Preferences with a longer conversation, or longer than the base's context, are left out and counted."""
    skip_empty: bool = False
    """Whether lines with an empty reply, or the same one twice, are left out and counted instead of an error."""
    abstain: bool = True
    """Whether conversations with tools say that the model may abstain."""

    @property
    def render(self) -> RenderOptions:
        """Return how conversations become tokens."""
        return RenderOptions(abstain=self.abstain)


class PreferenceOptimizer(TuningOptimizer):
    """AdamW at a rate for adapters; all weights want about a tenth of it, large models a hundredth."""

    lr: float = Field(default=5e-5, gt=0)


class PreferenceRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """A training on preferences; `rows` are pairs, or single completions, of a step."""

    data: PreferenceData
    method: Method = Direct()
    rows: int = Field(default=16, gt=0)
    optimizer: PreferenceOptimizer = PreferenceOptimizer()
    max_validation: int = Field(default=500, gt=0)
    """Pairs that are measured on, before and after."""


_FREE = ("base", "name", "weights", "max_validation", "checkpoints", "guard", "faults")
FREE = {("weights",), *(("recipe", name) for name in _FREE)}
"""What may change between a stop and going on; see `sft.recipe`."""


class PreferenceResolved(TuningResolved, frozen=True):
    """A recipe with nothing open; a run is held to it."""

    recipe: PreferenceRecipe
