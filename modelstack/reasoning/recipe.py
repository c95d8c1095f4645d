"""What a reinforcement learning with verifiable rewards is made of."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from modelstack.reasoning.policy_config import ALGORITHMS, AlgorithmName, PolicyConfig
from modelstack.reasoning.policy_tasks import VerifierName
from modelstack.reasoning.rollout_loader import SamplingPlan
from modelstack.reasoning.sampler_correction import SamplerCorrection
from modelstack.sft.tuning import TuningFiles, TuningOptimizer, TuningRecipe, TuningResolved


class PolicyData(TuningFiles, frozen=True, extra="forbid"):
    """Tasks, in the form of `reasoning.policy_tasks`."""

    verifier: VerifierName
    """What judges all of them."""


class PolicyOptimizer(TuningOptimizer):
    """AdamW at a rate for adapters of small models; all weights want about a tenth of it."""

    lr: float = Field(default=5e-5, gt=0)


class PolicyRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """A training by rewards; `rows` are prompts of a step, each a pass of `sampling.group` replies."""

    data: PolicyData
    sampling: SamplingPlan = SamplingPlan()
    algorithm: AlgorithmName = "dapo"
    policy: PolicyConfig | None = None
    """In place of the algorithm's own values."""
    correction: SamplerCorrection | None = None
    """For replies that another engine than the trainer samples, or the same with other weights; none: none."""
    watch_kl: bool = True
    """Whether the distance from the start is measured at each step also where the loss has no KL term; it takes a
    forward pass."""
    optimizer: PolicyOptimizer = PolicyOptimizer()
    probes_every: int = Field(default=50, ge=1)
    """Passes between two checks that the verifier does not pay for known hacks; the run stops where it does."""
    max_validation: int = Field(default=100, gt=0)
    """Held-back tasks that are answered greedily, before and after."""

    @model_validator(mode="after")
    def _fits_rollouts(self) -> Self:
        if self.micro_batches != self.rows:
            raise ValueError(
                f"rows = {self.rows}, micro_batches = {self.micro_batches}: each prompt is a pass of its own, so "
                f"give both the same number"
            )
        if self.algorithm == "ppo":
            raise ValueError("algorithm = 'ppo' needs a critic, which this command has none of: take another")
        return self

    @property
    def policy_config(self) -> PolicyConfig:
        """Return the loss, its constant divisor the sampler's limit."""
        config = self.policy or ALGORITHMS[self.algorithm]
        return config.model_copy(update={"max_completion_tokens": self.sampling.max_tokens})


_FREE = ("base", "name", "weights", "max_validation", "checkpoints", "guard", "faults", "probes_every")
FREE = {("weights",), *(("recipe", name) for name in _FREE)}
"""What may change between a stop and going on; see `sft.recipe`."""


class PolicyResolved(TuningResolved, frozen=True):
    """A recipe with nothing open; a run is held to it."""

    recipe: PolicyRecipe
