"""What a distillation is made of: a student to train, a teacher, prompts with replies, and who writes the replies.

On-policy, as GKD (Agarwal et al., 2306.13649): a share lambda of the passes is on replies that the student samples
as it is now, so it learns at the places that it comes to by itself. Off-policy: on the examples' own replies; a
teacher may then be asked once and let go, its k likeliest tokens of each place kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, Field, model_validator

from modelstack.posttrain.recipe import TuningFiles, TuningOptimizer, TuningRecipe, TuningResolved
from modelstack.posttrain.stages.record import Origin
from modelstack.reasoning.losses.distillation import ClassicDistillationConfig, DistillationConfig
from modelstack.reasoning.sampling.frozen_model import Precision
from modelstack.sft.rendering import RenderOptions, RoleWeights

Loss = Annotated[DistillationConfig | ClassicDistillationConfig, Field(discriminator="name")]


class DistilData(TuningFiles, frozen=True, extra="forbid"):
    """Examples, in the form of `sft.examples`."""

    row_tokens: int = Field(default=1024, ge=16)
    """Examples longer than it, or than a model's context, are left out and counted."""
    abstain: bool = True
    """Whether conversations with tools say that the model may abstain."""

    @property
    def render(self) -> RenderOptions:
        """Return how conversations become tokens; each target counts the same."""
        return RenderOptions(abstain=self.abstain, weights=RoleWeights.equal())


class OnPolicy(BaseModel, frozen=True, extra="forbid"):
    """Replies that the student samples itself, in place of the examples' last targets."""

    share: float = Field(default=1.0, gt=0, le=1)
    """Of the passes: GKD's lambda, 0.5 in TRL's GKD."""
    max_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=1.0, gt=0)


class DistilOptimizer(TuningOptimizer):
    """AdamW at a rate for adapters; all weights want about a tenth of it."""

    lr: float = Field(default=5e-4, gt=0)


class DistilRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """A distillation; `base` is the student, `rows` are examples of a step."""

    teacher: str
    """A GGUF file, a checkpoint folder, or the folder of a stage, with the student's tokenizer."""
    teacher_weights: str | None = None
    """Of a teacher that is a stage with an adapter: what it goes on; none: where its own run had it from."""
    teacher_precision: Precision = "bf16"
    data: DistilData
    loss: Loss = DistillationConfig()
    on_policy: OnPolicy | None = None
    """None: all passes are on the examples' own replies."""
    top_k: int | None = Field(default=None, ge=1)
    """Keep so many of a teacher's likeliest tokens and the mass of the rest, and let the teacher go; none: its
    whole distributions, made at each pass."""
    rows: int = Field(default=16, gt=0)
    optimizer: DistilOptimizer = DistilOptimizer()
    max_validation: int = Field(default=200, gt=0)
    """Held-back examples that are measured on, before and after."""

    @model_validator(mode="after")
    def _knows_its_teacher(self) -> Self:
        if self.top_k is not None and self.on_policy is not None:
            raise ValueError(
                "top_k keeps what a teacher says of given texts, and on_policy makes new ones: leave out one"
            )
        if self.loss.name == "classic" and (self.top_k is not None or self.on_policy is not None):
            raise ValueError(
                "loss.name = 'classic' is of labels that are right and of whole distributions: for on_policy or "
                "top_k take 'generalised_jsd'"
            )
        return self


_FREE = (
    "base",
    "name",
    "weights",
    "teacher",
    "teacher_weights",
    "max_validation",
    "checkpoints",
    "guard",
    "faults",
)
FREE = {("weights",), ("teacher_weights",), *(("recipe", name) for name in _FREE)}
"""What may change between a stop and going on; see `sft.recipe`. The teacher is known by its hash."""


class DistilResolved(TuningResolved, frozen=True):
    """A recipe with nothing open; a run is held to it."""

    places: ClassVar[frozenset[str]] = TuningResolved.places | {"teacher_weights"}
    recipe: DistilRecipe
    teacher: Origin
    teacher_sha256: str
    """Of the weights, or of what its adapter goes on."""
    teacher_weights: str
    """Where these lay when the run began."""

    @property
    def parents(self) -> tuple[Origin, ...]:
        """The student as it was, and the teacher."""
        return (self.parent, self.teacher)

    @property
    def portable(self) -> dict[str, Any]:
        """The recipe with names for paths."""
        content = super().portable
        for key in ("teacher", "teacher_weights"):
            content[key] = None if content[key] is None else Path(content[key]).name
        return content
