"""Recipe of PPO: prompts, a judge, a critic, and the use of a batch of replies.

Unless noted, the defaults are those of InstructGPT (2203.02155, appendix C): no discount, lambda 0.95, clip 0.2,
KL coefficient 0.02, one pass over a batch of 512 replies in 8 minibatches.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from modelstack.posttrain.recipe import TuningFiles, TuningOptimizer, TuningRecipe, TuningResolved
from modelstack.posttrain.stages.record import Origin
from modelstack.reasoning.losses.algorithms import configured
from modelstack.reasoning.losses.critic import CriticConfig
from modelstack.reasoning.losses.kl_control import KlControl
from modelstack.reasoning.losses.policy_config import PolicyConfig
from modelstack.reasoning.tasks.verifier_choice import VerifierChoice
from modelstack.sft.recipe import SftData


class PpoData(TuningFiles, frozen=True, extra="forbid"):
    """Files of tasks in the format of `reasoning.tasks.task`; for a reward model `gold` is null."""

    verifier: VerifierChoice | None = None
    """Verifier of all tasks; None: a reward model judges."""


class PpoSampling(BaseModel, frozen=True, extra="forbid"):
    """Batch of replies that is sampled with the same weights."""

    prompts: int = Field(default=512, ge=1)
    """Prompts of a batch."""
    group: int = Field(default=1, ge=1)
    """Number of replies to a prompt; their baseline is the critic's value, not each other's reward."""
    max_tokens: int = Field(default=128, ge=1)
    """Maximum tokens of a reply."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature."""
    truncation_penalty: float = Field(default=0.0, ge=0)
    """Penalty on the reward of a truncated reply, which a reward model has not seen in training."""

    @property
    def n_replies(self) -> int:
        """Number of replies of a batch."""
        return self.prompts * self.group


class KlReward(BaseModel, frozen=True, extra="forbid"):
    """Penalty on each token that is more likely than under the reference."""

    coefficient: float = Field(default=0.02, ge=0)
    """Coefficient of the KL, in units of the reward."""
    control: KlControl | None = None
    """Controller that changes the coefficient after each batch; None: it stays constant."""


class ExamplesMix(BaseModel, frozen=True, extra="forbid"):
    """Supervised examples in addition to rewards: InstructGPT's PPO-ptx (2203.02155, section 3.5).

    Rewards do not cover most of a model's abilities, and a policy that follows only rewards loses some of them.
    The paper adds gamma E[log p] over pre-training texts. Here each pass has rows of fine-tuning examples.
    """

    data: SftData
    coefficient: float = Field(default=1.0, gt=0)
    """Coefficient of the mean loss per token, added to the policy's loss; InstructGPT's gamma is 27.8."""
    rows: int = Field(default=64, gt=0)
    """Rows of a step."""

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        if self.data.validation:
            raise ValueError("mix.data.validation is not measured in PPO: leave it out")
        return self


class CriticRecipe(CriticConfig):
    """Critic of PPO, a separate value model."""

    start: Literal["reward", "policy"] | None = None
    """Source of the initial weights. None: the reward model if there is one, as in InstructGPT and Tulu 3.

    With the policy's weights, the head initially outputs 0.
    """
    lr: float = Field(default=5e-5, gt=0)
    """Learning rate of the critic."""


class PpoOptimizer(TuningOptimizer):
    """AdamW with a rate for adapters of small models; training all weights needs about a tenth of it."""

    lr: float = Field(default=5e-5, gt=0)


class PpoRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """Recipe of PPO; `rows` counts the replies of a minibatch, `epochs` the prompts, `steps` optimizer steps."""

    free: ClassVar[frozenset[str]] = TuningRecipe.free | {"reward", "probes_every"}
    data: PpoData
    reward: str | None = None
    """Folder of a stage of `modelstack reward` with the policy's vocabulary."""
    sampling: PpoSampling = PpoSampling()
    passes: int = Field(default=1, ge=1)
    """Number of passes over a batch of replies."""
    policy: dict[str, Any] = {}
    """Values that replace PPO's: `surrogate.epsilon_low`, `surrogate.epsilon_high`, `surrogate.delta`."""
    critic: CriticRecipe = CriticRecipe()
    kl: KlReward = KlReward()
    mix: ExamplesMix | None = None
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount of later rewards; 1: none."""
    lam: float = Field(default=0.95, ge=0, le=1)
    """Lambda of the generalised advantage estimate."""
    rows: int = Field(default=64, gt=0)
    micro_batches: int = Field(default=8, gt=0)
    optimizer: PpoOptimizer = PpoOptimizer()
    probes_every: int = Field(default=50, ge=1)
    """Batches between two checks that a verifier does not reward known hacks; the run stops if it does."""
    max_validation: int = Field(default=100, gt=0)
    """Maximum number of held-back tasks, measured with greedy replies before and after."""

    @model_validator(mode="after")
    def _check_ppo(self) -> Self:
        if (self.reward is None) == (self.data.verifier is None):
            raise ValueError(
                "replies need exactly one judge: set reward, the folder of a reward model's stage, or "
                "data.verifier"
            )
        if self.sampling.n_replies % self.rows:
            raise ValueError(
                f"sampling.prompts times sampling.group is {self.sampling.n_replies} replies, not a multiple of "
                f"rows = {self.rows}: change one of them"
            )
        if "kl" in self.policy:
            raise ValueError("policy.kl is not supported: the KL of PPO is in the reward, set kl.coefficient")
        configured("ppo", self.policy)
        if self.critic.start == "reward" and self.reward is None:
            raise ValueError("critic.start = 'reward' needs a reward model: set reward, or start to 'policy'")
        if self.mix is not None and self.mix.rows % self.micro_batches:
            raise ValueError(
                f"mix.rows = {self.mix.rows} is not a multiple of micro_batches = {self.micro_batches}: change "
                f"one of them"
            )
        return self

    @property
    def policy_config(self) -> PolicyConfig:
        """PPO's loss with the recipe's values."""
        return configured("ppo", self.policy)

    @property
    def steps_per_batch(self) -> int:
        """Optimizer steps on one batch of replies."""
        return self.passes * self.sampling.n_replies // self.rows

    def n_steps(self, n_tasks: int) -> int:
        """Return the number of optimizer steps; `steps` may end the run within a batch."""
        n_batches = max(1, math.ceil(self.epochs * n_tasks / self.sampling.prompts))
        return self.steps or self.steps_per_batch * n_batches


class PpoResolved(TuningResolved[PpoRecipe], frozen=True):
    """Recipe with every default and hash filled in."""

    policy: PolicyConfig
    """Loss of the policy with all its values."""
    reward: Origin | None
    """Stage of the reward model; None: a verifier judges."""
    mix_sha256: tuple[str, ...] = ()
    """Hashes of the files of examples."""

    @property
    def parents(self) -> tuple[Origin, ...]:
        """The initial policy, and the reward model if there is one."""
        return super().parents if self.reward is None else (self.parent, self.reward)

    @property
    def portable(self) -> dict[str, Any]:
        """The recipe with file names instead of paths."""
        content = super().portable
        if self.recipe.mix is not None:
            for file in content["mix"]["data"]["training"]:
                file["path"] = Path(file["path"]).name
        return content | {"reward": None if self.recipe.reward is None else Path(self.recipe.reward).name}
