"""ORPO: fine-tuning and preference training in one loss, by the odds of two completions (Hong et al., 2403.07691).

With p the geometric mean of a completion's token probabilities, odds(p) = p / (1 - p). The loss is the
cross-entropy of the chosen text plus -log sigmoid of the log odds ratio (the paper's equations 6 and 7). There is
no reference.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from modelstack.preferences.pairs import Pairs, PreferenceLoss, pair_metrics


class OrpoConfig(BaseModel):
    """Configuration of ORPO."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["orpo"] = "orpo"
    ratio_coefficient: float = Field(default=0.1, ge=0)
    """Lambda of the paper, which TRL calls beta; TRL's default is 0.1, the paper's runs have 0.1 to 0.25."""


def orpo_loss(policy: Pairs, chosen_nll: Tensor, config: OrpoConfig | None = None) -> PreferenceLoss:
    """Return cross-entropy - lambda log sigmoid(log odds ratio), the second term as a mean over the pairs.

    Args:
        policy: Log-probabilities of the completions.
        chosen_nll: Cross-entropy of the chosen texts, a scalar. In the paper's code and in TRL it is a token mean
            over prompt and completion; `policy.chosen_nll` is that of the completions.
        config: Configuration; None: the defaults.
    """
    config = config or OrpoConfig()
    log_odds = log_odds_ratio(policy)
    log_sigmoid = F.logsigmoid(log_odds)
    loss = chosen_nll - config.ratio_coefficient * log_sigmoid.mean()
    rewards = (config.ratio_coefficient * x for x in (policy.chosen_per_token, policy.rejected_per_token))
    metrics = pair_metrics(policy, *rewards) | {
        "nll_loss": chosen_nll.detach(),
        "log_odds_ratio": log_sigmoid.detach().mean(),
        "log_odds_chosen": log_odds.detach().mean(),
    }
    return PreferenceLoss(loss, metrics)


def log_odds_ratio(policy: Pairs) -> Tensor:
    """Return log(odds(chosen) / odds(rejected)), [B]."""
    chosen, rejected = policy.chosen_per_token, policy.rejected_per_token
    return (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))


def log1mexp(x: Tensor) -> Tensor:
    """Return log(1 - e^x) for x <= 0; x = 0 is replaced by the next smaller number, so that gradients stay finite.

    Two formulas are used, each accurate on its side of log(1/2) (Maechler, "Accurately computing log(1 -
    exp(-|a|))", 2012).
    """
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    return torch.where(x < -math.log(2), torch.log1p(-x.exp()), torch.log(-torch.expm1(x)))
