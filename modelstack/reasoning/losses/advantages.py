"""Advantages from rewards: how much better a completion is than the others for the same prompt.

A completion that no verifier could judge has a NaN reward. It is excluded from the group's mean and deviation,
and its advantage is 0. Deviations are unbiased (divisor n - 1), with 1e-4 added as in TRL.

Sources:
- GRPO: DeepSeekMath, 2402.03300.
- Without division by the deviation: Dr. GRPO, 2503.20783.
- Leave-one-out baseline: RLOO, 2402.14740.
- Several rewards, normalised separately before they are summed: GDPO, 2601.05242.
- Groups without a gradient are dropped: DAPO, 2503.14476 section 3.2.

Letters: P prompts, G completions of each, K rewards of each completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from modelstack.errors import UserError
from modelstack.reasoning.losses.policy_config import AdvantageEstimator

Scale = Literal["group", "batch", "none"]
EPSILON = 1e-4
"""Added to deviations, so that nearly equal rewards do not give very large advantages."""


def advantages_of(rewards_PG: Tensor, estimator: AdvantageEstimator) -> Tensor:
    """Return the advantages for an estimator, [P, G].

    Args:
        rewards_PG: Rewards; NaN for a completion that could not be judged.
        estimator: `PolicyConfig.advantage`.

    Raises:
        UserError: The estimator needs a critic.
    """
    match estimator:
        case "group_normalised":
            return group_advantages(rewards_PG, "group")
        case "group_centred":
            return group_advantages(rewards_PG, "none")
        case "leave_one_out":
            return leave_one_out_advantages(rewards_PG)
        case "critic":
            raise UserError("advantages from a critic are those of tokens: see gae.generalised_advantages")


def group_advantages(rewards_PG: Tensor, scale: Scale = "group") -> Tensor:
    """Return (R - group mean) / (deviation + 1e-4), [P, G].

    Args:
        rewards_PG: Rewards; NaN for a completion that could not be judged.
        scale: Deviation to divide by: the group's, the whole batch's, or none.
    """
    centred = rewards_PG - rewards_PG.nanmean(-1, keepdim=True)
    if scale == "group":
        centred = centred / (_deviation(rewards_PG, -1) + EPSILON)
    elif scale == "batch":
        centred = centred / (_deviation(rewards_PG.flatten(), -1) + EPSILON)
    return centred.nan_to_num(0.0)


def leave_one_out_advantages(rewards_PG: Tensor) -> Tensor:
    """Return R - mean of the group's other rewards, [P, G]; 0 if there is no other reward."""
    is_judged = ~rewards_PG.isnan()
    others = is_judged.sum(-1, keepdim=True) - 1
    baseline = (rewards_PG.nansum(-1, keepdim=True) - rewards_PG) / others
    return (rewards_PG - baseline).where(is_judged & (others > 0), 0.0)


def summed_rewards(rewards_PGK: Tensor, weights: Sequence[float]) -> Tensor:
    """Return weighted sums of rewards, [P, G]: a NaN reward counts as 0, and a sum of only NaN rewards is NaN.

    Raises:
        UserError: The number of weights differs from K.
    """
    weights_K = _weights(rewards_PGK, weights)
    return (rewards_PGK * weights_K).nansum(-1).masked_fill(rewards_PGK.isnan().all(-1), torch.nan)


def decoupled_advantages(rewards_PGK: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the weighted sum of group advantages computed per reward, whitened over the batch, [P, G].

    If rewards are summed first, one with a large spread hides the others, and different combinations give the
    same sum.

    Raises:
        UserError: The number of weights differs from K.
    """
    mean, deviation = rewards_PGK.nanmean(1, keepdim=True), _deviation(rewards_PGK, 1)
    sums_PG = summed_rewards((rewards_PGK - mean) / (deviation + EPSILON), weights)
    whitened = (sums_PG - sums_PG.nanmean()) / (_deviation(sums_PG.flatten(), -1) + EPSILON)
    return whitened.nan_to_num(0.0)


def informative_groups(rewards_PG: Tensor) -> Tensor:
    """Return which groups have unequal rewards, bool [P]; the others have no gradient and can be resampled."""
    highest = rewards_PG.nan_to_num(-torch.inf).amax(-1)
    return highest > rewards_PG.nan_to_num(torch.inf).amin(-1)


def _deviation(values: Tensor, dim: int) -> Tensor:
    """Return unbiased standard deviations that ignore NaN, with the dimension kept; 0 for a single value."""
    n = (~values.isnan()).sum(dim, keepdim=True)
    squares = (values - values.nanmean(dim, keepdim=True)).square().nansum(dim, keepdim=True)
    return (squares / (n - 1).clamp(min=1)).sqrt()


def _weights(rewards_PGK: Tensor, weights: Sequence[float]) -> Tensor:
    if len(weights) != rewards_PGK.shape[-1]:
        raise UserError(f"{len(weights)} weights for {rewards_PGK.shape[-1]} rewards: give one weight per reward")
    return rewards_PGK.new_tensor(weights)
