"""The components of an algorithm and the check that they are compatible; `algorithms` has the named ones.

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
    """PPO's clip: a ratio outside the region gets no gradient that would move it further away."""

    name: Literal["clip"] = "clip"
    epsilon_low: float = Field(default=0.2, ge=0)
    epsilon_high: float = Field(default=0.2, ge=0)
    """Distance of the upper bound from 1. DAPO's 0.28 lets unlikely tokens rise further."""
    delta: float | None = Field(default=None, gt=1)
    """Cap of the ratio for negative advantages, which the clip does not bound: c = 3 in dual-clip PPO
    (1912.09729), delta = 4 in INTELLECT-2 (2505.07291). None: no cap."""

    @model_validator(mode="after")
    def _cap_is_outside(self) -> Self:
        if self.delta is not None and self.delta <= 1 + self.epsilon_high:
            raise ValueError(f"delta {self.delta} lies inside the clip: give one above {1 + self.epsilon_high}")
        return self


class Cispo(_Frozen):
    """CISPO: the weight is capped and held constant; the gradient is that of the log-probability."""

    name: Literal["cispo"] = "cispo"
    ratio_cap: float = Field(default=5.0, gt=0)
    """Largest weight; TRL's epsilon_high. 5 in ScaleRL (2510.13786)."""


class Sapo(_Frozen):
    """SAPO: a sigmoid gate, steeper for negative advantages."""

    name: Literal["sapo"] = "sapo"
    temperature_positive: float = Field(default=1.0, gt=0)
    temperature_negative: float = Field(default=1.05, gt=0)


class Vespo(_Frozen):
    """VESPO: the weight e^lambda w^k e^(-lambda w) of the sequence ratio w, held constant."""

    name: Literal["vespo"] = "vespo"
    k_positive: float = Field(default=2.0, ge=0)
    lambda_positive: float = Field(default=3.0, gt=0)
    k_negative: float = Field(default=3.0, ge=0)
    lambda_negative: float = Field(default=2.0, gt=0)


class Reinforce(_Frozen):
    """Plain policy gradient without a ratio."""

    name: Literal["reinforce"] = "reinforce"


class ProbabilityMask(_Frozen):
    """Mask that drops tokens whose probability moved too far in the direction of their advantage."""

    name: Literal["probability_mask"] = "probability_mask"
    low: float = Field(default=0.2, ge=0, le=1)
    high: float = Field(default=0.2, ge=0, le=1)
    squared_coefficient: float = Field(default=1e-3, ge=0)
    """Coefficient of (log ratio)^2, added to the loss of every token."""


Surrogate = Annotated[Clip | Cispo | Sapo | Vespo | Reinforce | ProbabilityMask, Field(discriminator="name")]


class KlTerm(_Frozen):
    """Penalty on the distance from the reference; a recipe may set only the coefficient."""

    coefficient: float = Field(default=0.0, ge=0)
    """Weight of the term. 0: no term, and no reference is needed. DeepSeekMath 0.04, verl 0.001, open-instruct
    0.05."""
    place: KlPlace = "loss"
    """`loss`: a term of each token's loss. `reward`: subtracted from a reply's reward before advantages are
    estimated."""
    estimator: KlEstimator = "k3"
    """KL estimator. In a loss, k2 has the gradient of the KL on policy, k3 a biased one, and k1 a mean of 0; see
    `kl`."""
    importance_corrected: bool = False
    """Multiply by the ratio, with gradient (DeepSeek-V3.2, 2512.02556), which makes k3's gradient that of the KL
    off policy too."""

    @model_validator(mode="after")
    def _form_is_known(self) -> Self:
        if self.place == "reward" and (self.estimator != "k1" or self.importance_corrected):
            raise ValueError(
                "a KL in the reward is the plain sum of k1 (kl_penalised_rewards): set estimator = 'k1'"
            )
        if self.place == "loss" and self.estimator == "k1" and not self.importance_corrected:
            raise ValueError(
                "k1 as a loss has a gradient with mean zero and penalises nothing: take k2 or k3, set "
                "importance_corrected = true, or put k1 in the reward (place = 'reward')"
            )
        return self


class PolicyConfig(_Frozen):
    """Definition of one algorithm; its name fixes all but the surrogate's numbers and the KL coefficient."""

    advantage: AdvantageEstimator = "group_normalised"
    """Estimator of advantages from rewards, see `advantages`."""
    surrogate: Surrogate = Clip()
    ratio: RatioLevel = "token"
    """Level of the ratio new / old, see `ratios`."""
    old_policy: OldPolicy = "trainer"
    """Denominator of the ratio: the trainer's log-probabilities from the time of the rollout, or the sampler's."""
    aggregation: Aggregation = "sequence_mean"
    """Reduction of token losses to a scalar, see `aggregation`."""
    kl: KlTerm = KlTerm()
    max_completion_tokens: int = Field(default=512, ge=1)
    """Sampling limit in tokens; only read by `constant`."""

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
        """Return whether the loss corrects for changes of the policy since the rollout."""
        return not isinstance(self.surrogate, Reinforce)

    @property
    def teaches_equal_rewards(self) -> bool:
        """Return whether replies with advantage 0 have a gradient, from a KL term or from squared log ratios."""
        has_squares = isinstance(self.surrogate, ProbabilityMask) and self.surrogate.squared_coefficient > 0
        return self.kl.coefficient > 0 or has_squares
