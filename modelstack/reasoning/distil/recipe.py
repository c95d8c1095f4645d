"""Recipe of a distillation: a student, a teacher, prompts with replies, and the share of sampled replies.

On-policy, as GKD (Agarwal et al., 2306.13649): a share lambda of the passes is on replies that the current student
samples, so it learns at places that it reaches by itself. Off-policy: on the examples' own replies. A teacher can
then be evaluated once and released, with the k likeliest tokens of each place kept.
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
    """Examples in the form of `data.examples`."""

    row_tokens: int = Field(default=1024, ge=16)
    """Maximum tokens of an example; longer ones, also than a model's context, are left out and counted."""
    abstain: bool = True
    """Whether conversations with tools say that the model may abstain."""

    @property
    def render(self) -> RenderOptions:
        """Options of rendering, with equal weights of all targets."""
        return RenderOptions(abstain=self.abstain, weights=RoleWeights.equal())


class OnPolicy(BaseModel, frozen=True, extra="forbid"):
    """Replies that the student samples, in place of the examples' last targets."""

    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the passes: GKD's lambda, 0.5 in TRL's GKD."""
    max_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=1.0, gt=0)


class DistilOptimizer(TuningOptimizer):
    """AdamW at a rate for adapters; training all weights needs about a tenth of it."""

    lr: float = Field(default=5e-4, gt=0)


class DistilRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """A distillation; `base` is the student, `rows` counts the examples of a step."""

    free: ClassVar[frozenset[str]] = TuningRecipe.free | {"teacher", "teacher_weights"}
    teacher: str
    """A GGUF file, a checkpoint folder, or the folder of a stage, with the student's tokenizer."""
    teacher_weights: str | None = None
    """Base weights of a teacher that is a stage with an adapter; None: the path recorded by its run."""
    teacher_precision: Precision = "bf16"
    data: DistilData
    loss: Loss = DistillationConfig()
    on_policy: OnPolicy | None = None
    """None: all passes are on the examples' own replies."""
    top_k: int | None = Field(default=None, ge=1)
    """Number of the teacher's likeliest tokens to keep, with the mass of the rest, before it is released; None:
    its whole distributions, computed at each pass."""
    rows: int = Field(default=16, gt=0)
    optimizer: DistilOptimizer = DistilOptimizer()
    max_validation: int = Field(default=200, gt=0)
    """Maximum number of held-back examples, measured before and after."""

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


class DistilResolved(TuningResolved[DistilRecipe], frozen=True):
    """A recipe with every default and hash filled in."""

    places: ClassVar[frozenset[str]] = TuningResolved.places | {"teacher_weights"}
    teacher: Origin
    teacher_sha256: str
    """Hash of the teacher's weights, or of its adapter's base."""
    teacher_weights: str
    """Path of these weights when the run began."""

    @property
    def parents(self) -> tuple[Origin, ...]:
        """The initial student, and the teacher."""
        return (self.parent, self.teacher)

    @property
    def portable(self) -> dict[str, Any]:
        """The recipe with file names in place of paths."""
        content = super().portable
        for key in ("teacher", "teacher_weights"):
            content[key] = None if content[key] is None else Path(content[key]).name
        return content
