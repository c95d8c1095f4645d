"""Algorithms as data: a surrogate of the policy gradient, whose ratio it reads, how token losses are added up.

GRPO and its relatives differ in these three choices, in how rewards become advantages (`advantages`), and in
little else. So an algorithm here is a row of `ALGORITHMS`, and one of your own is another row.

| name | source |
|---|---|
| grpo | DeepSeekMath, 2402.03300, with its KL term; R1 (2501.12948) has the same |
| bnpo, dapo | token mean over the micro-batch; over the step, with a wider upper clip: DAPO, 2503.14476 |
| dr_grpo | a constant divisor, so that length does not matter; advantages without deviation: 2503.20783 |
| gspo, gspo_token | the ratio of whole sequences: GSPO, 2507.18071 sections 4.1 and 4.3 |
| cispo | every token keeps a gradient, its weight is capped: MiniMax-M1, 2506.13585 |
| sapo | a sigmoid instead of a clip: SAPO, 2511.20347 |
| vespo | a gamma weight of the sequence's ratio: VESPO, 2602.10693 |
| luspo | GSPO whose sequences count by their length: LUSPO, 2602.05261 |
| rloo | sequence ratio, not averaged over tokens; leave-one-out advantages: 2402.14740 |
| reinforce | no ratio at all, on policy; nanochat's |
| prime_rl | tokens that have moved too far are dropped: prime-rl's default loss, DPPO (2602.04879) |
| ppo | Schulman et al., 1707.06347; advantages by token from a critic (`gae`) |
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

RatioLevel = Literal["token", "sequence_mean", "sequence_token", "sequence_sum"]
Aggregation = Literal["sequence_mean", "token_mean", "batch_token_mean", "constant", "sequence_sum"]
KlEstimator = Literal["k1", "k2", "k3"]
AlgorithmName = Literal[
    "grpo",
    "bnpo",
    "dapo",
    "dr_grpo",
    "gspo",
    "gspo_token",
    "cispo",
    "sapo",
    "vespo",
    "luspo",
    "rloo",
    "reinforce",
    "prime_rl",
    "ppo",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Clip(_Frozen):
    """PPO's: a ratio that has left the region has no gradient in the direction in which it went."""

    name: Literal["clip"] = "clip"
    epsilon_low: float = Field(default=0.2, ge=0)
    epsilon_high: float = Field(default=0.2, ge=0)
    """DAPO's 0.28 leaves unlikely tokens room to rise."""
    delta: float | None = Field(default=None, gt=1)
    """Cap of the ratio where the advantage is negative and clipping does not hold it: the c = 3 of dual-clip PPO
    (1912.09729), INTELLECT-2's delta = 4 (2505.07291). None: there is none."""

    @model_validator(mode="after")
    def _cap_is_outside(self) -> Self:
        if self.delta is not None and self.delta <= 1 + self.epsilon_high:
            raise ValueError(f"delta {self.delta} lies inside the clip: give one above {1 + self.epsilon_high}")
        return self


class Cispo(_Frozen):
    """The weight is capped and held constant, the gradient is the log-probability's."""

    name: Literal["cispo"] = "cispo"
    ratio_cap: float = Field(default=5.0, gt=0)
    """TRL calls it epsilon_high; 5 in ScaleRL (2510.13786)."""


class Sapo(_Frozen):
    """A soft gate, steeper for negative advantages."""

    name: Literal["sapo"] = "sapo"
    temperature_positive: float = Field(default=1.0, gt=0)
    temperature_negative: float = Field(default=1.05, gt=0)


class Vespo(_Frozen):
    """A weight e^lambda w^k e^(-lambda w) of the sequence's ratio w, held constant."""

    name: Literal["vespo"] = "vespo"
    k_positive: float = Field(default=2.0, ge=0)
    lambda_positive: float = Field(default=3.0, gt=0)
    k_negative: float = Field(default=3.0, ge=0)
    lambda_negative: float = Field(default=2.0, gt=0)


class Reinforce(_Frozen):
    """The plain policy gradient."""

    name: Literal["reinforce"] = "reinforce"


class ProbabilityMask(_Frozen):
    """Tokens whose probability moved too far, in the direction of their advantage, are dropped."""

    name: Literal["probability_mask"] = "probability_mask"
    low: float = Field(default=0.2, ge=0, le=1)
    high: float = Field(default=0.2, ge=0, le=1)
    squared_coefficient: float = Field(default=1e-3, ge=0)
    """Of (log ratio)^2, which all tokens pay."""


Surrogate = Annotated[Clip | Cispo | Sapo | Vespo | Reinforce | ProbabilityMask, Field(discriminator="name")]


class KlTerm(_Frozen):
    """What distance from the reference costs, as a part of the loss. In the reward: `kl_penalised_rewards`."""

    coefficient: float = Field(default=0.04, gt=0)
    """DeepSeekMath's; verl has 0.001, open-instruct 0.05."""
    estimator: KlEstimator = "k3"
    """As a loss: k2's gradient is the KL's on policy, k3's a biased one, k1's is 0 on average, see `kl`."""
    importance_corrected: bool = False
    """Multiply by the ratio, with gradient (DeepSeek-V3.2, 2512.02556): k3's gradient is then the KL's, off policy
    too."""


class PolicyConfig(_Frozen):
    """One algorithm."""

    surrogate: Surrogate = Clip()
    ratio: RatioLevel = "token"
    """Whose ratio new / old, see `ratios`."""
    aggregation: Aggregation = "sequence_mean"
    """What divides sums of token losses, see `aggregation`."""
    max_completion_tokens: int = Field(default=512, ge=1)
    """Of `constant`: the sampler's limit."""
    kl: KlTerm | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.kl is not None and self.kl.estimator == "k1" and not self.kl.importance_corrected:
            raise ValueError(
                "k1 as a loss has a gradient of zero mean, it holds nothing: take k2 or k3, make it "
                "importance_corrected, or put k1 in the reward (kl_penalised_rewards)"
            )
        if self.surrogate.name in ("vespo", "probability_mask") and self.ratio != "token":
            raise ValueError(f"{self.surrogate.name} reads token ratios: set ratio = 'token', not {self.ratio!r}")
        return self


ALGORITHMS: dict[AlgorithmName, PolicyConfig] = {
    "grpo": PolicyConfig(kl=KlTerm()),
    "bnpo": PolicyConfig(aggregation="batch_token_mean"),
    "dapo": PolicyConfig(surrogate=Clip(epsilon_high=0.28), aggregation="token_mean"),
    "dr_grpo": PolicyConfig(aggregation="constant"),
    "gspo": PolicyConfig(surrogate=Clip(epsilon_low=3e-4, epsilon_high=4e-4), ratio="sequence_mean"),
    "gspo_token": PolicyConfig(surrogate=Clip(epsilon_low=3e-4, epsilon_high=4e-4), ratio="sequence_token"),
    "cispo": PolicyConfig(surrogate=Cispo(), aggregation="token_mean"),
    "sapo": PolicyConfig(surrogate=Sapo()),
    "vespo": PolicyConfig(surrogate=Vespo(), aggregation="token_mean"),
    "luspo": PolicyConfig(
        surrogate=Clip(epsilon_low=3e-4, epsilon_high=4e-4), ratio="sequence_mean", aggregation="sequence_sum"
    ),
    "rloo": PolicyConfig(ratio="sequence_sum"),
    "reinforce": PolicyConfig(surrogate=Reinforce(), aggregation="token_mean"),
    "prime_rl": PolicyConfig(surrogate=ProbabilityMask(), aggregation="token_mean"),
    "ppo": PolicyConfig(aggregation="token_mean"),
}
"""Published settings; change one by `model_copy` or in a recipe."""
