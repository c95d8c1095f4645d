"""What losses on pairs read: the log-probabilities of two completions of one prompt, summed over their tokens.

LD-DPO (Liu et al., 2409.06411): the tokens of the longer completion past the length of the shorter count by alpha
only, so that length alone does not win.

Letters: B pairs, T tokens. A batch of pairs has 2B rows: the chosen completions, then the rejected, in one order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.errors import UserError
from modelstack.preferences.log_probs import LabelLogProbs, summed


@dataclass(frozen=True, slots=True)
class Pairs:
    """Of one model; every tensor is [B]."""

    chosen: Tensor
    """log p(chosen | prompt): the sum over its tokens."""
    rejected: Tensor
    n_chosen: Tensor
    """Tokens of the chosen completion."""
    n_rejected: Tensor

    @property
    def chosen_per_token(self) -> Tensor:
        """Return the mean log-probability of the chosen completion's tokens, [B]."""
        return self.chosen / self.n_chosen.clamp(min=1)

    @property
    def rejected_per_token(self) -> Tensor:
        """Return the mean log-probability of the rejected completion's tokens, [B]."""
        return self.rejected / self.n_rejected.clamp(min=1)

    @property
    def chosen_nll(self) -> Tensor:
        """Return the cross-entropy of the chosen completions, a mean over all of their tokens."""
        return -self.chosen.sum() / self.n_chosen.sum().clamp(min=1)


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """What is minimised, and what is looked at."""

    loss: Tensor
    """A scalar with gradient: the mean over the rows of the call. Micro-batches are weighted by their share."""
    metrics: dict[str, Tensor]
    """Scalars without gradient, by TRL's names."""


def pairs_of(log_probs: LabelLogProbs, ld_alpha: float | None = None) -> Pairs:
    """Return the sums of a batch of 2B rows.

    Args:
        log_probs: Rows of the chosen completions, then of the rejected.
        ld_alpha: LD-DPO's weight of the tokens past the shorter completion, from 0 to 1; None: 1.

    Raises:
        UserError: The rows are odd in number, or `ld_alpha` is outside.
    """
    values_BT, mask_BT = log_probs.log_probs_BT, log_probs.is_label_BT
    if len(values_BT) % 2:
        raise UserError(
            f"a batch of pairs has chosen, then rejected rows, as many of each; this one has {len(values_BT)}"
        )
    if ld_alpha is not None:
        if not 0 <= ld_alpha <= 1:
            raise UserError(f"ld_alpha is {ld_alpha}; it is a share from 0 (tails do not count) to 1 (plain DPO)")
        number_BT = mask_BT.cumsum(-1)
        shorter_B = torch.minimum(*mask_BT.sum(-1).chunk(2)).repeat(2)
        values_BT = torch.where(number_BT > shorter_B[:, None], ld_alpha * values_BT, values_BT)
    chosen, rejected = summed(values_BT, mask_BT).chunk(2)
    n_chosen, n_rejected = mask_BT.sum(-1).chunk(2)
    return Pairs(chosen, rejected, n_chosen, n_rejected)


def logistic_loss(z: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return -log sigmoid(z), or with doubt e about the label -(1 - e) log sigmoid(z) - e log sigmoid(-z)."""
    if label_smoothing == 0:
        return -F.logsigmoid(z)
    return -(1 - label_smoothing) * F.logsigmoid(z) - label_smoothing * F.logsigmoid(-z)


def pair_metrics(policy: Pairs, chosen_rewards: Tensor, rejected_rewards: Tensor) -> dict[str, Tensor]:
    """Return means over the pairs: rewards, their margin, how often the chosen one's is higher, log-probabilities.

    A falling `logps/chosen` while `rewards/margins` grows is the sign of a preference loss gone wrong; lengths are
    there for length bias.
    """
    values = {
        "rewards/chosen": chosen_rewards,
        "rewards/rejected": rejected_rewards,
        "rewards/margins": chosen_rewards - rejected_rewards,
        "rewards/accuracies": (chosen_rewards > rejected_rewards).float(),
        "logps/chosen": policy.chosen,
        "logps/rejected": policy.rejected,
        "lengths/chosen": policy.n_chosen.float(),
        "lengths/rejected": policy.n_rejected.float(),
    }
    return {name: value.detach().mean() for name, value in values.items()}
