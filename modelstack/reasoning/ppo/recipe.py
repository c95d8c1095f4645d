"""What PPO is made of: prompts, a judge, a critic, and how a batch of replies is learnt from.

Values that are not told otherwise are InstructGPT's (2203.02155, appendix C): no discount, lambda 0.95, clip 0.2,
KL coefficient 0.02, a batch of 512 replies that is gone through once in 8 minibatches.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, Self

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
    """Tasks, in the form of `reasoning.tasks.task`; for a reward model `gold` is null."""

    verifier: VerifierChoice | None = None
    """What judges all of them in place of a reward model."""


class PpoSampling(BaseModel, frozen=True, extra="forbid"):
    """A batch of replies: what is sampled between two looks at the policy."""

    prompts: int = Field(default=512, ge=1)
    group: int = Field(default=1, ge=1)
    """Replies to a prompt; they are not compared with each other, as the critic says what to expect."""
    max_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    truncation_penalty: float = Field(default=0.0, ge=0)
    """Subtracted from the reward of a reply that was cut off: a reward model has never seen one without an end."""

    @property
    def n_replies(self) -> int:
        """Return the replies of a batch."""
        return self.prompts * self.group


class KlReward(BaseModel, frozen=True, extra="forbid"):
    """What each token pays for being likelier than the reference has it."""

    coefficient: float = Field(default=0.02, ge=0)
    """In units of the reward."""
    control: KlControl | None = None
    """Moves the coefficient after each batch; None: it stays."""


class ExamplesMix(BaseModel, frozen=True, extra="forbid"):
    """Examples that are imitated beside the rewards (PPO-ptx, see `mix`)."""

    data: SftData
    coefficient: float = Field(default=1.0, gt=0)
    """Of the mean loss of a token, beside the policy's mean over tokens. InstructGPT's gamma is 27.8."""
    rows: int = Field(default=64, gt=0)
    """Of a step."""

    @model_validator(mode="after")
    def _is_for_training(self) -> Self:
        if self.data.validation:
            raise ValueError("mix.data.validation would not be measured: leave it out")
        return self


class CriticRecipe(CriticConfig):
    """PPO's critic: a value model of its own."""

    start: Literal["reward", "policy"] | None = None
    """Whose weights it begins with. None: the reward model's where there is one, as InstructGPT's and Tulu 3's do;
    the policy's get a head that says 0."""
    lr: float = Field(default=5e-5, gt=0)


class PpoOptimizer(TuningOptimizer):
    """AdamW at a rate for adapters of small models; all weights want about a tenth of it."""

    lr: float = Field(default=5e-5, gt=0)


class PpoRecipe(TuningRecipe, frozen=True, extra="forbid"):
    """PPO; `rows` are the replies of a minibatch, `epochs` count the prompts, `steps` the optimizer's steps."""

    data: PpoData
    reward: str | None = None
    """Folder of a stage that `modelstack reward` made, with the policy's vocabulary."""
    sampling: PpoSampling = PpoSampling()
    passes: int = Field(default=1, ge=1)
    """How often a batch of replies is gone through."""
    policy: dict[str, Any] = {}
    """Numbers of PPO's clip in place of its own: `surrogate.epsilon_low`, `surrogate.epsilon_high`,
    `surrogate.delta`."""
    critic: CriticRecipe = CriticRecipe()
    kl: KlReward = KlReward()
    mix: ExamplesMix | None = None
    gamma: float = Field(default=1.0, gt=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    rows: int = Field(default=64, gt=0)
    micro_batches: int = Field(default=8, gt=0)
    optimizer: PpoOptimizer = PpoOptimizer()
    probes_every: int = Field(default=50, ge=1)
    """Batches between two checks that a verifier does not pay for known hacks; the run stops where it does."""
    max_validation: int = Field(default=100, gt=0)
    """Held-back tasks that are answered greedily, before and after."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.reward is None) == (self.data.verifier is None):
            raise ValueError(
                "replies are judged by one of two: give reward, the folder of a reward model's stage, or "
                "data.verifier"
            )
        if self.sampling.n_replies % self.rows:
            raise ValueError(
                f"sampling.prompts times sampling.group is {self.sampling.n_replies} replies, no multiple of "
                f"rows = {self.rows}: a batch is cut into whole minibatches"
            )
        if "kl" in self.policy:
            raise ValueError("policy.kl is not read: here the KL is in the reward, set kl.coefficient")
        configured("ppo", self.policy)
        if self.critic.start == "reward" and self.reward is None:
            raise ValueError("critic.start = 'reward' and there is no reward model: set it to 'policy'")
        if self.mix is not None and self.mix.rows % self.micro_batches:
            raise ValueError(
                f"mix.rows = {self.mix.rows} is no multiple of micro_batches = {self.micro_batches}: each pass "
                f"has as many"
            )
        return self

    @property
    def policy_config(self) -> PolicyConfig:
        """Return PPO with the recipe's numbers."""
        return configured("ppo", self.policy)

    @property
    def steps_per_batch(self) -> int:
        """Return how many steps are taken on one batch of replies."""
        return self.passes * self.sampling.n_replies // self.rows

    def n_steps(self, n_tasks: int) -> int:
        """Return how many steps the run has; it may end within a batch where `steps` says so."""
        n_batches = max(1, math.ceil(self.epochs * n_tasks / self.sampling.prompts))
        return self.steps or self.steps_per_batch * n_batches


_FREE = ("base", "name", "weights", "reward", "max_validation", "checkpoints", "guard", "faults", "probes_every")
FREE = {("weights",), *(("recipe", name) for name in _FREE)}
"""What may change between a stop and going on; see `sft.recipe`. The reward model is known by its fingerprint."""


class PpoResolved(TuningResolved, frozen=True):
    """A recipe with nothing open; a run is held to it."""

    recipe: PpoRecipe
    policy: PolicyConfig
    """The loss of the policy, all of it."""
    reward: Origin | None
    """The reward model's stage; None: a verifier judges."""
    mix_sha256: tuple[str, ...] = ()
    """Of the files that are mixed in."""

    @property
    def parents(self) -> tuple[Origin, ...]:
        """The policy as it was, and the reward model where there is one."""
        return super().parents if self.reward is None else (self.parent, self.reward)

    @property
    def portable(self) -> dict[str, Any]:
        """The recipe with names for paths."""
        content = super().portable
        if self.recipe.mix is not None:
            for file in content["mix"]["data"]["training"]:
                file["path"] = Path(file["path"]).name
        return content | {"reward": None if self.recipe.reward is None else Path(self.recipe.reward).name}
