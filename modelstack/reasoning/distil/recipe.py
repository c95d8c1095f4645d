"""Recipe of a distillation: a student, a teacher, prompts with replies, and the share of sampled replies.

On-policy, as in GKD (Agarwal et al., 2306.13649): a share lambda of the passes uses replies sampled from the
current student, so that it learns in contexts that it produces itself. Off-policy: passes use the examples' own
replies. The teacher can then be evaluated once, with the k most likely tokens of each position stored, and
unloaded.
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
    """Files of examples in the format of `data.examples`."""

    row_tokens: int = Field(default=1024, ge=16)
    """Maximum tokens of an example, at most the models' context; longer ones are left out and counted."""
    abstain: bool = True
    """Whether conversations with tools tell the model that it may abstain."""

    @property
    def render(self) -> RenderOptions:
        """Options of rendering, with equal weights of all targets."""
        return RenderOptions(abstain=self.abstain, weights=RoleWeights.equal())


class OnPolicy(BaseModel, frozen=True, extra="forbid"):
    """Plan of sampling replies from the student, instead of using the examples' last replies."""

    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the passes with sampled replies: GKD's lambda, 0.5 in TRL."""
    max_tokens: int = Field(default=128, ge=1)
    """Maximum tokens of a reply."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature of the student."""


class DistilOptimizer(TuningOptimizer):
    """AdamW with a rate for adapters; training all weights needs about a tenth of it."""

    lr: float = Field(default=5e-4, gt=0)


class DistilRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """Recipe of a distillation; `base` is the student, `rows` counts the examples of a step."""

    free: ClassVar[frozenset[str]] = TuningRecipe.free | {"teacher", "teacher_weights"}
    teacher: str
    """A GGUF file, a checkpoint folder, or the folder of a stage, with the student's tokenizer."""
    teacher_weights: str | None = None
    """Base weights of a teacher that is a stage with an adapter; None: the path recorded by its run."""
    teacher_precision: Precision = "bf16"
    """Number type of the teacher's computation."""
    data: DistilData
    loss: Loss = DistillationConfig()
    """Divergence between teacher and student."""
    on_policy: OnPolicy | None = None
    """Plan of sampled replies; None: all passes use the examples' own replies."""
    top_k: int | None = Field(default=None, ge=1)
    """Number of the teacher's most likely tokens to store, with the mass of the rest, before it is unloaded.

    None: the teacher stays in memory and computes whole distributions at each pass.
    """
    rows: int = Field(default=16, gt=0)
    optimizer: DistilOptimizer = DistilOptimizer()
    max_validation: int = Field(default=200, gt=0)
    """Maximum number of held-back examples for measurements before and after."""

    @model_validator(mode="after")
    def _check_teacher(self) -> Self:
        if self.top_k is not None and self.on_policy is not None:
            raise ValueError(
                "top_k stores the teacher's output for given replies, on_policy samples new ones: remove one"
            )
        if self.loss.name == "classic" and (self.top_k is not None or self.on_policy is not None):
            raise ValueError(
                "loss.name = 'classic' needs given replies and whole distributions: with on_policy or top_k use "
                "'generalised_jsd'"
            )
        return self


class DistilResolved(TuningResolved[DistilRecipe], frozen=True):
    """Recipe with every default and hash filled in."""

    places: ClassVar[frozenset[str]] = TuningResolved.places | {"teacher_weights"}
    teacher: Origin
    teacher_sha256: str
    """Hash of the teacher's weights, or of the base of its adapter."""
    teacher_weights: str
    """Path of these weights when the run began."""

    @property
    def parents(self) -> tuple[Origin, ...]:
        """The initial student and the teacher."""
        return (self.parent, self.teacher)

    @property
    def portable(self) -> dict[str, Any]:
        """The recipe with file names instead of paths."""
        content = super().portable
        for key in ("teacher", "teacher_weights"):
            content[key] = None if content[key] is None else Path(content[key]).name
        return content
