"""Losses that a recipe can name, the data that each needs, and whether it needs a reference.

| kind | data | reference |
|---|---|---|
| direct: DPO and its relatives (`direct`) | pairs | yes |
| simpo, cpo (`reference_free`) | pairs | no |
| orpo (`odds_ratio`) | pairs | no |
| kto, apo_zero_unpaired (`unpaired`) | single completions | yes |

Letters: B units, 2B rows, T tokens.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field
from torch import Tensor

from modelstack.preferences.direct import direct_loss
from modelstack.preferences.direct_config import DirectLossConfig
from modelstack.preferences.log_probs import LabelLogProbs
from modelstack.preferences.odds_ratio import OrpoConfig, orpo_loss
from modelstack.preferences.pair_weights import wpo_weights
from modelstack.preferences.pairs import Pairs, PreferenceLoss, pairs_of
from modelstack.preferences.reference_free import CpoConfig, SimpoConfig, cpo_loss, simpo_loss
from modelstack.preferences.units import Form
from modelstack.preferences.unpaired import UnpairedConfig, kl_baseline, unpaired_loss


class Direct(BaseModel, frozen=True, extra="forbid"):
    """Losses on pairs, with the model before training as the reference."""

    name: Literal["direct"] = "direct"
    loss: DirectLossConfig = DirectLossConfig()
    wpo: bool = False
    """Whether pairs are weighted by the probability that the policy itself generates them."""
    ld_alpha: float | None = Field(default=None, ge=0, le=1)
    """LD-DPO: weight of tokens beyond the length of the shorter reply; None: 1."""


Method = Annotated[Direct | SimpoConfig | CpoConfig | OrpoConfig | UnpairedConfig, Field(discriminator="name")]


def form_of(method: Method) -> Form:
    """Return the form of the units that the method needs."""
    return "single" if isinstance(method, UnpairedConfig) else "pairs"


def has_reference(method: Method) -> bool:
    """Return whether the method needs the model before training as a reference."""
    return isinstance(method, Direct | UnpairedConfig)


def loss_of(
    method: Method, log_probs: LabelLogProbs, reference_2B: Tensor | None, is_desirable_B: Tensor
) -> PreferenceLoss:
    """Return the loss of a batch, a mean over its units.

    Args:
        method: The method.
        log_probs: Log-probabilities of 2B rows, the first documents of all units, then the second.
        reference_2B: Sums of the reference over the same replies; None for a method without a reference.
        is_desirable_B: Whether each single completion is desirable; ignored for pairs.
    """
    ld_alpha = method.ld_alpha if isinstance(method, Direct) else None
    policy = pairs_of(log_probs, ld_alpha)
    if isinstance(method, SimpoConfig):
        return simpo_loss(policy, method)
    if isinstance(method, CpoConfig):
        return cpo_loss(policy, method)
    if isinstance(method, OrpoConfig):
        return orpo_loss(policy, policy.chosen_nll, method)
    assert reference_2B is not None  # has_reference
    chosen, rejected = reference_2B.chunk(2)
    if isinstance(method, UnpairedConfig):
        z0 = kl_baseline(policy.rejected, rejected) if method.name == "kto" else None
        return unpaired_loss(policy.chosen, chosen, is_desirable_B, method, z0)
    reference = Pairs(chosen, rejected, policy.n_chosen, policy.n_rejected)
    return direct_loss(policy, reference, method.loss, wpo_weights(log_probs) if method.wpo else None)


def needs_statistics(method: Method) -> bool:
    """Return whether the loss needs entropies and collision probabilities."""
    return isinstance(method, Direct) and method.wpo
