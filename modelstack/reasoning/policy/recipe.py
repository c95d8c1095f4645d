"""Recipe of reinforcement learning with verifiable rewards."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from modelstack.posttrain.recipe import TuningFiles, TuningOptimizer, TuningRecipe, TuningResolved
from modelstack.reasoning.episodes.worlds import EpisodeRecipe
from modelstack.reasoning.losses.algorithms import AlgorithmName, configured
from modelstack.reasoning.losses.policy_config import PolicyConfig
from modelstack.reasoning.losses.sampler_correction import SamplerCorrection
from modelstack.reasoning.policy.rollout_loader import RolloutPlan, SamplingPlan
from modelstack.reasoning.sampling.llama.served_policy import LlamaSampling
from modelstack.reasoning.tasks.verifier_choice import VerifierChoice
from modelstack.stability.guard import GuardConfig


class PolicyData(TuningFiles, frozen=True, extra="forbid"):
    """Files of tasks in the format of `reasoning.tasks.task`, and their verifier."""

    verifier: VerifierChoice
    """Verifier of all tasks: a name, or a table with a gate and penalties (`tasks.verifier_choice`)."""


class PolicyOptimizer(TuningOptimizer):
    """AdamW with a rate for adapters of small models; training all weights needs about a tenth of it."""

    lr: float = Field(default=5e-5, gt=0)


class PolicyGuard(GuardConfig, frozen=True, extra="forbid"):
    """Guard that relies on gradient norms.

    In the first step on a rollout the sampling policy is the trained one, so the surrogate is 0 except for
    differences in the lengths of replies. Its size therefore carries no information.
    """

    min_loss_rise_absolute: float = Field(default=10.0, ge=0)


class PolicyRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """Recipe of a training by rewards; `rows` counts the prompts of a step, each with `sampling.group` replies."""

    free: ClassVar[frozenset[str]] = TuningRecipe.free | {"probes_every"}
    data: PolicyData
    sampling: SamplingPlan = SamplingPlan()
    episodes: EpisodeRecipe | None = None
    """Episodes: conversations in which the policy's calls run and it reads their results; None: single replies."""
    rollout: RolloutPlan = RolloutPlan()
    algorithm: AlgorithmName = "dapo"
    """Name of the algorithm (`losses.algorithms`).

    It sets the advantages, the surrogate, the level of its ratio, the divisors and the form of the KL.
    """
    policy: dict[str, Any] = {}
    """Values that replace the algorithm's, for example `surrogate.epsilon_high` of a clip, `kl.coefficient`."""
    llama: LlamaSampling | None = None
    """Sampling by llama.cpp with the quantised weights that will be served; set `correction` too.

    None: the model in training samples.
    """
    pool: int | None = Field(default=None, ge=1)
    """Number of samplers, as actors of a Ray cluster with `threads` CPUs each; None: this process samples."""
    correction: SamplerCorrection | None = None
    """Correction for replies sampled by another engine, or with other weights; None: no correction."""
    watch_kl: bool = True
    """Whether the distance from the start is measured at each step even if the loss has no KL.

    It costs an additional forward pass.
    """
    optimizer: PolicyOptimizer = PolicyOptimizer()
    guard: PolicyGuard = PolicyGuard()
    probes_every: int = Field(default=50, ge=1)
    """Passes between two checks that the verifier does not reward known hacks; the run stops if it does."""
    max_validation: int = Field(default=100, gt=0)
    """Maximum number of held-back tasks, measured with greedy replies before and after."""

    @model_validator(mode="after")
    def _check_rollouts(self) -> Self:
        if self.micro_batches != self.rows:
            raise ValueError(
                f"rows = {self.rows}, micro_batches = {self.micro_batches}: each prompt is a separate pass, so "
                f"set both to the same number"
            )
        if (self.episodes is not None) != (self.data.verifier.name == "outcome"):
            there = "no episodes" if self.episodes is None else "episodes"
            raise ValueError(
                f"data.verifier = {self.data.verifier.name!r} and {there}: episodes need the verifier outcome, "
                f"which in turn needs episodes"
            )
        if self.pool is not None and self.episodes is not None:
            raise ValueError(f"pool = {self.pool} and episodes: episodes run in this process, leave pool out")
        if self.algorithm == "ppo":
            raise ValueError("algorithm = 'ppo' needs a critic: run `modelstack ppo` instead")
        config = self.policy_config
        if self.rollout.n_steps > 1 and not config.uses_ratio:
            raise ValueError(
                f"rollout.epochs = {self.rollout.epochs} and rollout.minibatches = {self.rollout.minibatches} "
                f"contradict algorithm = {self.algorithm!r}, which has no ratio and learns from a rollout once: "
                f"set both to 1, or choose an algorithm with a ratio, such as cispo"
            )
        if self.correction is not None and config.old_policy == "sampler":
            raise ValueError(
                f"correction contradicts algorithm = {self.algorithm!r}, whose ratio already refers to the "
                f"sampler's log-probabilities: leave the table correction out"
            )
        return self

    @property
    def policy_config(self) -> PolicyConfig:
        """The algorithm with the recipe's values; its constant divisor is the sampler's limit of tokens."""
        config = configured(self.algorithm, self.policy)
        return config.model_copy(update={"max_completion_tokens": self.max_tokens})

    @property
    def max_tokens(self) -> int:
        """Maximum tokens of a reply, or of an episode."""
        return self.sampling.max_tokens if self.episodes is None else self.episodes.max_tokens

    def n_steps(self, n_tasks: int) -> int:
        """Return the number of optimizer steps; `steps` may end the run within a rollout."""
        n_rollouts = max(1, math.ceil(self.epochs * n_tasks / (self.rows * self.rollout.minibatches)))
        return self.steps or self.rollout.n_steps * n_rollouts


class PolicyResolved(TuningResolved[PolicyRecipe], frozen=True):
    """Recipe with every default and hash filled in."""

    policy: PolicyConfig
    """The algorithm with all its values."""
