"""The losses that a recipe can name, and what each needs: pairs or single completions, a reference or none.

| kind | of | reference |
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
    """Pairs against the model that training began with."""

    name: Literal["direct"] = "direct"
    loss: DirectLossConfig = DirectLossConfig()
    wpo: bool = False
    """Pairs count by how likely the policy is to say them itself."""
    ld_alpha: float | None = Field(default=None, ge=0, le=1)
    """LD-DPO: what tokens past the shorter reply count."""


Method = Annotated[Direct | SimpoConfig | CpoConfig | OrpoConfig | UnpairedConfig, Field(discriminator="name")]


def form_of(method: Method) -> Form:
    """Return what units the method is trained on."""
    return "single" if isinstance(method, UnpairedConfig) else "pairs"


def has_reference(method: Method) -> bool:
    """Return whether the method compares with the model that training began with."""
    return isinstance(method, Direct | UnpairedConfig)


def loss_of(
    method: Method, log_probs: LabelLogProbs, reference_2B: Tensor | None, is_desirable_B: Tensor
) -> PreferenceLoss:
    """Return a batch's loss, a mean over its units.

    Args:
        method: Which.
        log_probs: Of 2B rows, the units' first documents, then their second.
        reference_2B: The reference's sums over the same replies; None for a method without.
        is_desirable_B: Of single completions.
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
    """Return whether the loss reads more of a distribution than the label's probability."""
    return isinstance(method, Direct) and method.wpo
