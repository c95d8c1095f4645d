"""Losses on pairs without a reference model: CPO, SimPO, AlphaPO.

| name | reward of a completion | source |
|---|---|---|
| cpo | its log-probability; the loss also has the cross-entropy of the chosen one | Xu et al., 2401.08417 |
| simpo | mean log-probability of its tokens; the loss has a target margin gamma | Meng et al., 2405.14734 |
| alpha != 0 | (1 - p^-alpha) / alpha instead of log p, its limit for alpha to 0 | AlphaPO, 2501.03884 |

There is only one model in memory, but no term that keeps the policy near its starting point: use low learning
rates.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from modelstack.preferences.divergences import LARGEST_EXPONENT
from modelstack.preferences.pairs import Pairs, PreferenceLoss, logistic_loss, pair_metrics


class SimpoConfig(BaseModel):
    """Configuration of SimPO."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["simpo"] = "simpo"
    beta: float = Field(default=2.0, gt=0)
    """Factor on the rewards; the paper's runs have 2.0 to 2.5 (10 for Llama 3 v0.2)."""
    gamma: float = Field(default=1.0, ge=0)
    """Target margin, in units of beta times reward; the paper's gamma / beta is 0.3 to 0.55."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of pairs with swapped labels."""
    alpha: float = 0.0
    """Exponent of AlphaPO; 0: rewards are log-probabilities."""
    nll_coefficient: float = Field(default=0.0, ge=0)
    """Coefficient of the chosen completions' cross-entropy; the paper has none."""


class CpoConfig(BaseModel):
    """Configuration of CPO."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["cpo"] = "cpo"
    form: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """Function of the margin; `ipo` uses token means."""
    beta: float = Field(default=0.1, gt=0)
    """Factor on the log-probabilities."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Label smoothing, for `sigmoid`."""
    alpha: float = 0.0
    """Exponent of AlphaPO; 0: rewards are log-probabilities."""
    nll_coefficient: float = Field(default=1.0, ge=0)
    """Coefficient of the chosen completions' cross-entropy."""


def simpo_loss(policy: Pairs, config: SimpoConfig | None = None) -> PreferenceLoss:
    """Return the mean over the pairs of -log sigmoid(beta (r_c - r_r) - gamma), with rewards r per token."""
    config = config or SimpoConfig()
    chosen, rejected = (_reward(x, config.alpha) for x in (policy.chosen_per_token, policy.rejected_per_token))
    per_pair = logistic_loss(config.beta * (chosen - rejected) - config.gamma, config.label_smoothing)
    return _with_nll(per_pair, policy, (config.beta * chosen, config.beta * rejected), config.nll_coefficient)


def cpo_loss(policy: Pairs, config: CpoConfig | None = None) -> PreferenceLoss:
    """Return the mean over the pairs of the loss of `form`, plus the cross-entropy of the chosen completions.

    For `sigmoid` the loss of a pair is -log sigmoid(beta (r_c - r_r)).
    """
    config = config or CpoConfig()
    by_token = config.form == "ipo"
    values = (policy.chosen_per_token, policy.rejected_per_token) if by_token else (policy.chosen, policy.rejected)
    chosen, rejected = (_reward(value, config.alpha) for value in values)
    margin = chosen - rejected
    if config.form == "sigmoid":
        per_pair = logistic_loss(config.beta * margin, config.label_smoothing)
    elif config.form == "hinge":
        per_pair = F.relu(1 - config.beta * margin)
    else:
        per_pair = (margin - 1 / (2 * config.beta)).square()
    return _with_nll(per_pair, policy, (config.beta * chosen, config.beta * rejected), config.nll_coefficient)


def _reward(log_p: Tensor, alpha: float) -> Tensor:
    if alpha == 0:
        return log_p
    return -torch.expm1((-alpha * log_p).clamp(max=LARGEST_EXPONENT)) / alpha


def _with_nll(
    per_pair: Tensor, policy: Pairs, rewards: tuple[Tensor, Tensor], coefficient: float
) -> PreferenceLoss:
    metrics = pair_metrics(policy, *rewards) | {"nll_loss": policy.chosen_nll.detach()}
    loss = per_pair.mean()
    return PreferenceLoss(loss + coefficient * policy.chosen_nll if coefficient else loss, metrics)
