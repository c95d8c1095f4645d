"""Surrogates of the policy gradient: one formula each, for the loss of tokens [B, T] or completions [B, 1].

Symbols: A advantage, r ratio new / old at the algorithm's level, l log-probability, sg(.) held constant.
Sources: `policy_config`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modelstack.reasoning.losses.policy_config import Cispo, Clip, ProbabilityMask, Reinforce, Sapo, Vespo

LARGEST_LOG_WEIGHT = 20.0
SMALLEST_LOG_WEIGHT = math.log(1e-8)
"""Bounds of VESPO's log weight of a sequence; both from its code."""


@dataclass(frozen=True, slots=True)
class SurrogateInput:
    """Inputs of the formulas. Log-probabilities and log-ratios are 0 where the mask is False."""

    log_probs_BT: Tensor
    token_log_ratio_BT: Tensor
    ratio: Tensor
    """Ratio e^(log ratio) at the algorithm's level, [B, T] or [B, 1]."""
    advantages: Tensor
    """Advantages, [B, T] or [B, 1]."""
    mask_BT: Tensor
    correction: Tensor | None
    """Sampler correction, [B, T] with 1 where the mask is False, or [B, 1]. The caller multiplies it into the
    losses of formulas that do not read it."""


def clip(x: SurrogateInput, config: Clip) -> Tensor:
    """Return -min(r A, r' A) with r capped at delta and r' clipped to 1 - e_low .. 1 + e_high."""
    r, A = x.ratio, x.advantages
    clipped = r.clamp(1 - config.epsilon_low, 1 + config.epsilon_high)
    return -torch.minimum((r if config.delta is None else r.clamp(max=config.delta)) * A, clipped * A)


def cispo(x: SurrogateInput, config: Cispo) -> Tensor:
    """Return -sg(min(r, cap)) A l."""
    return -x.ratio.clamp(max=config.ratio_cap).detach() * x.advantages * x.log_probs_BT


def sapo(x: SurrogateInput, config: Sapo) -> Tensor:
    """Return -(4 / tau) sigmoid(tau (r - 1)) A with tau chosen by the sign of A."""
    tau = _choose(x.advantages > 0, config.temperature_positive, config.temperature_negative, x.ratio)
    return -4 / tau * torch.sigmoid(tau * (x.ratio - 1)) * x.advantages


def vespo(x: SurrogateInput, config: Vespo) -> Tensor:
    """Return -sg(e^lambda w^k e^(-lambda w)) A l with w the sequence ratio; the sign of A selects k, lambda."""
    A = x.advantages
    is_positive = A >= 0
    k = _choose(is_positive, config.k_positive, config.k_negative, A)
    lam = _choose(is_positive, config.lambda_positive, config.lambda_negative, A)
    log_w_B1 = x.token_log_ratio_BT.detach().clamp(-LARGEST_LOG_WEIGHT, LARGEST_LOG_WEIGHT).sum(-1, keepdim=True)
    if x.correction is not None:
        of_sampler = x.correction.log().clamp(SMALLEST_LOG_WEIGHT, LARGEST_LOG_WEIGHT)
        log_w_B1 = log_w_B1 + of_sampler.sum(-1, keepdim=True)
    log_w_B1 = log_w_B1.clamp(SMALLEST_LOG_WEIGHT, LARGEST_LOG_WEIGHT)
    weight = torch.exp(lam + k * log_w_B1 - lam * log_w_B1.exp())
    return -weight * A * x.log_probs_BT


def reinforce(x: SurrogateInput, config: Reinforce) -> Tensor:
    """Return -A l."""
    return -x.advantages * x.log_probs_BT


def probability_mask(x: SurrogateInput, config: ProbabilityMask) -> Tensor:
    """Return -A r, dropped where p - p_old moved with A past (-low, high), plus c (log r)^2 for every token."""
    log_r, A = x.token_log_ratio_BT, x.advantages
    p = x.log_probs_BT.detach().exp()
    moved = p - (x.log_probs_BT - log_r).detach().exp()
    is_kept = ~torch.where(A > 0, moved > config.high, moved < -config.low)
    return -(is_kept * A * x.ratio) + config.squared_coefficient * log_r.square()


SURROGATES: dict[str, Callable[[SurrogateInput, Any], Tensor]] = {
    "clip": clip,
    "cispo": cispo,
    "sapo": sapo,
    "vespo": vespo,
    "reinforce": reinforce,
    "probability_mask": probability_mask,
}
"""Formulas by the name of their configuration. A new one needs a configuration, a function and a line here."""

USE_CORRECTION = frozenset(("vespo",))
"""Names of surrogates that read the sampler correction themselves."""


def _choose(condition: Tensor, yes: float, no: float, like: Tensor) -> Tensor:
    """Return one of two numbers by a condition, in the dtype of `like`; `torch.where` alone would return fp32."""
    return torch.where(condition, like.new_tensor(yes), like.new_tensor(no))
