"""The parts that an algorithm is put together from, and the check that they fit; `algorithms` has the named ones.

Letters and formulas: `advantages`, `ratios`, `surrogates`, `kl` and `aggregation`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

RatioLevel = Literal["token", "sequence_mean", "sequence_sum"]
Aggregation = Literal["sequence_mean", "token_mean", "prompt_token_mean", "constant", "sequence_sum"]
KlEstimator = Literal["k1", "k2", "k3"]
AdvantageEstimator = Literal["group_normalised", "group_centred", "leave_one_out", "critic"]
OldPolicy = Literal["trainer", "sampler"]
KlPlace = Literal["loss", "reward"]


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
    """Price of the distance from the reference; only the coefficient varies within an algorithm."""

    coefficient: float = Field(default=0.0, ge=0)
    """0: no term, and no reference is needed. DeepSeekMath has 0.04, verl 0.001, open-instruct 0.05."""
    place: KlPlace = "loss"
    """A term of each token's loss, or subtracted from a reply's reward before advantages are estimated."""
    estimator: KlEstimator = "k3"
    """As a loss: k2's gradient is the KL's on policy, k3's a biased one, k1's is 0 on average, see `kl`."""
    importance_corrected: bool = False
    """Multiply by the ratio, with gradient (DeepSeek-V3.2, 2512.02556): k3's gradient is then the KL's, off policy
    too."""

    @model_validator(mode="after")
    def _form_is_known(self) -> Self:
        if self.place == "reward" and (self.estimator != "k1" or self.importance_corrected):
            raise ValueError(
                "a KL in the reward is the plain sum of k1 (kl_penalised_rewards): set estimator = 'k1'"
            )
        if self.place == "loss" and self.estimator == "k1" and not self.importance_corrected:
            raise ValueError(
                "k1 as a loss has a gradient of zero mean, it holds nothing: take k2 or k3, make it "
                "importance_corrected, or put k1 in the reward (place = 'reward')"
            )
        return self


class PolicyConfig(_Frozen):
    """One algorithm: all of it is fixed by its name but the surrogate's numbers and the KL's coefficient."""

    advantage: AdvantageEstimator = "group_normalised"
    """How rewards become advantages, see `advantages`."""
    surrogate: Surrogate = Clip()
    ratio: RatioLevel = "token"
    """Whose ratio new / old, see `ratios`."""
    old_policy: OldPolicy = "trainer"
    """Denominator of the ratio: the trainer's log-probabilities from the time of the rollout, or the sampler's."""
    aggregation: Aggregation = "sequence_mean"
    """What divides sums of token losses, see `aggregation`."""
    kl: KlTerm = KlTerm()
    max_completion_tokens: int = Field(default=512, ge=1)
    """Of `constant`: the sampler's limit."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.surrogate.name in ("vespo", "probability_mask") and self.ratio != "token":
            raise ValueError(f"{self.surrogate.name} reads token ratios: set ratio = 'token', not {self.ratio!r}")
        return self

    @property
    def has_kl_loss(self) -> bool:
        """Return whether the loss has a KL term."""
        return self.kl.place == "loss" and self.kl.coefficient > 0

    @property
    def has_kl_reward(self) -> bool:
        """Return whether rewards are reduced by the KL."""
        return self.kl.place == "reward" and self.kl.coefficient > 0

    @property
    def uses_ratio(self) -> bool:
        """Return whether the loss corrects for a policy that has moved since the rollout."""
        return not isinstance(self.surrogate, Reinforce)

    @property
    def teaches_equal_rewards(self) -> bool:
        """Return whether replies without advantages have a gradient: that of a KL, or of squared log ratios."""
        has_squares = isinstance(self.surrogate, ProbabilityMask) and self.surrogate.squared_coefficient > 0
        return self.kl.coefficient > 0 or has_squares
