"""From rewards to advantages: how much better a completion is than the others of its prompt.

A completion that no verifier could judge has a NaN reward: it counts neither in its group's mean nor in a
deviation, and its advantage is 0. Deviations are unbiased (divisor n - 1) and have 1e-4 added, as TRL's.

GRPO: DeepSeekMath, 2402.03300. Without deviation: Dr. GRPO, 2503.20783. Leave one out: RLOO, 2402.14740. Several
rewards, each normalised before they are added: GDPO, 2601.05242. Groups that teach nothing are dropped: DAPO,
2503.14476 section 3.2.

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
"""Added to deviations: a group of nearly equal rewards must not be blown up."""


def advantages_of(rewards_PG: Tensor, estimator: AdvantageEstimator) -> Tensor:
    """Return the advantages of an algorithm, [P, G].

    Args:
        rewards_PG: NaN where a completion could not be judged.
        estimator: `PolicyConfig.advantage`.

    Raises:
        UserError: It needs a critic.
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
    """Return (R - mean of the group) / (deviation + 1e-4), [P, G].

    Args:
        rewards_PG: NaN where a completion could not be judged.
        scale: Whose deviation: the group's, that of all rewards of the batch, or none.
    """
    centred = rewards_PG - rewards_PG.nanmean(-1, keepdim=True)
    if scale == "group":
        centred = centred / (_deviation(rewards_PG, -1) + EPSILON)
    elif scale == "batch":
        centred = centred / (_deviation(rewards_PG.flatten(), -1) + EPSILON)
    return centred.nan_to_num(0.0)


def leave_one_out_advantages(rewards_PG: Tensor) -> Tensor:
    """Return R - mean of the other rewards of the group, [P, G]; 0 where there is no other."""
    is_judged = ~rewards_PG.isnan()
    others = is_judged.sum(-1, keepdim=True) - 1
    baseline = (rewards_PG.nansum(-1, keepdim=True) - rewards_PG) / others
    return (rewards_PG - baseline).where(is_judged & (others > 0), 0.0)


def summed_rewards(rewards_PGK: Tensor, weights: Sequence[float]) -> Tensor:
    """Return weighted sums, [P, G]: NaN where all rewards are, otherwise those that are NaN count 0.

    Raises:
        UserError: There are not as many weights as rewards.
    """
    weights_K = _weights(rewards_PGK, weights)
    return (rewards_PGK * weights_K).nansum(-1).masked_fill(rewards_PGK.isnan().all(-1), torch.nan)


def decoupled_advantages(rewards_PGK: Tensor, weights: Sequence[float]) -> Tensor:
    """Return weighted sums of each reward's own group advantage, whitened over the batch, [P, G].

    Summed first, rewards of different spread drown each other, and different mixtures become one number.

    Raises:
        UserError: There are not as many weights as rewards.
    """
    mean, deviation = rewards_PGK.nanmean(1, keepdim=True), _deviation(rewards_PGK, 1)
    sums_PG = summed_rewards((rewards_PGK - mean) / (deviation + EPSILON), weights)
    whitened = (sums_PG - sums_PG.nanmean()) / (_deviation(sums_PG.flatten(), -1) + EPSILON)
    return whitened.nan_to_num(0.0)


def informative_groups(rewards_PG: Tensor) -> Tensor:
    """Return which groups have rewards that differ, bool [P]: the others have no gradient and can be refilled."""
    highest = rewards_PG.nan_to_num(-torch.inf).amax(-1)
    return highest > rewards_PG.nan_to_num(torch.inf).amin(-1)


def _deviation(values: Tensor, dim: int) -> Tensor:
    """Return unbiased standard deviations over what is not NaN, with the dimension kept; 0 of one value."""
    n = (~values.isnan()).sum(dim, keepdim=True)
    squares = (values - values.nanmean(dim, keepdim=True)).square().nansum(dim, keepdim=True)
    return (squares / (n - 1).clamp(min=1)).sqrt()


def _weights(rewards_PGK: Tensor, weights: Sequence[float]) -> Tensor:
    if len(weights) != rewards_PGK.shape[-1]:
        raise UserError(f"{len(weights)} weights for {rewards_PGK.shape[-1]} rewards: give one for each")
    return rewards_PGK.new_tensor(weights)
