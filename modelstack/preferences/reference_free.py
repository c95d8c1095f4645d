"""Pairs without a reference model: CPO, SimPO, AlphaPO.

| name | reward of a completion | source |
|---|---|---|
| cpo | its log-probability; plus cross-entropy of the chosen one | Xu et al., 2401.08417 |
| simpo | mean log-probability of its tokens; a target margin gamma | Meng et al., 2405.14734 |
| alpha != 0 | (1 - p^-alpha) / alpha instead of log p; tends to it for alpha to 0 | AlphaPO, 2501.03884 |

One model in memory instead of two, but nothing that holds the policy to where it came from: low learning rates.
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
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["simpo"] = "simpo"
    beta: float = Field(default=2.0, gt=0)
    """The paper's runs have 2.0 to 2.5 (10 for Llama 3 v0.2)."""
    gamma: float = Field(default=1.0, ge=0)
    """Target margin, after multiplication with beta; the paper's gamma / beta is 0.3 to 0.55 there."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    alpha: float = 0.0
    """AlphaPO; 0: log-probabilities."""
    nll_coefficient: float = Field(default=0.0, ge=0)
    """Of cross-entropy of the chosen completions; the paper has none."""


class CpoConfig(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["cpo"] = "cpo"
    form: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """Of the margin; `ipo` is of token means."""
    beta: float = Field(default=0.1, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Of `sigmoid`."""
    alpha: float = 0.0
    """AlphaPO; 0: log-probabilities."""
    nll_coefficient: float = Field(default=1.0, ge=0)
    """Of cross-entropy of the chosen completions."""


def simpo_loss(policy: Pairs, config: SimpoConfig | None = None) -> PreferenceLoss:
    """Return -log sigmoid(beta (r_c - r_r) - gamma), r by token, as a mean over the pairs."""
    config = config or SimpoConfig()
    chosen, rejected = (_reward(x, config.alpha) for x in (policy.chosen_per_token, policy.rejected_per_token))
    per_pair = logistic_loss(config.beta * (chosen - rejected) - config.gamma, config.label_smoothing)
    return _with_nll(per_pair, policy, (config.beta * chosen, config.beta * rejected), config.nll_coefficient)


def cpo_loss(policy: Pairs, config: CpoConfig | None = None) -> PreferenceLoss:
    """Return -log sigmoid(beta (r_c - r_r)), a mean over the pairs, plus the chosen completions' cross-entropy."""
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
