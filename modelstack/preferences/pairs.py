"""Inputs of losses on pairs: log-probabilities of two completions of one prompt, summed over their tokens.

LD-DPO (Liu et al., 2409.06411): in the longer completion, tokens beyond the length of the shorter one are weighted
by alpha, so that length alone does not decide.

Letters: B pairs, T tokens. A batch of pairs has 2B rows: B chosen completions, then B rejected ones in the same
order.
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
    """Log-probabilities of pairs by one model; every tensor is [B]."""

    chosen: Tensor
    """Log-probability log p(chosen | prompt), the sum over its tokens."""
    rejected: Tensor
    n_chosen: Tensor
    """Number of tokens of the chosen completion."""
    n_rejected: Tensor

    @property
    def chosen_per_token(self) -> Tensor:
        """Mean log-probability of the chosen completion's tokens, [B]."""
        return self.chosen / self.n_chosen.clamp(min=1)

    @property
    def rejected_per_token(self) -> Tensor:
        """Mean log-probability of the rejected completion's tokens, [B]."""
        return self.rejected / self.n_rejected.clamp(min=1)

    @property
    def chosen_nll(self) -> Tensor:
        """Cross-entropy of the chosen completions, a mean over all their tokens."""
        return -self.chosen.sum() / self.n_chosen.sum().clamp(min=1)


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """Loss to minimise, and metrics to observe."""

    loss: Tensor
    """Scalar with gradient: the mean over the rows. A micro-batch is weighted by its share of the step's rows."""
    metrics: dict[str, Tensor]
    """Scalars without gradient, with TRL's names."""


def pairs_of(log_probs: LabelLogProbs, ld_alpha: float | None = None) -> Pairs:
    """Return the sums over the completions of 2B rows.

    Args:
        log_probs: Log-probabilities: B rows of chosen completions, then B rows of rejected ones.
        ld_alpha: LD-DPO: weight from 0 to 1 of tokens beyond the length of the shorter completion; None: 1.

    Raises:
        UserError: The number of rows is odd, or `ld_alpha` is not from 0 to 1.
    """
    values_BT, mask_BT = log_probs.log_probs_BT, log_probs.is_label_BT
    if len(values_BT) % 2:
        raise UserError(
            f"a batch of pairs has {len(values_BT)} rows: it needs an even number, chosen rows, then rejected rows"
        )
    if ld_alpha is not None:
        if not 0 <= ld_alpha <= 1:
            raise UserError(f"ld_alpha is {ld_alpha}: it must be from 0 (extra tokens ignored) to 1 (plain DPO)")
        number_BT = mask_BT.cumsum(-1)
        shorter_B = torch.minimum(*mask_BT.sum(-1).chunk(2)).repeat(2)
        values_BT = torch.where(number_BT > shorter_B[:, None], ld_alpha * values_BT, values_BT)
    chosen, rejected = summed(values_BT, mask_BT).chunk(2)
    n_chosen, n_rejected = mask_BT.sum(-1).chunk(2)
    return Pairs(chosen, rejected, n_chosen, n_rejected)


def logistic_loss(z: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return -log sigmoid(z), or with label smoothing e: -(1 - e) log sigmoid(z) - e log sigmoid(-z)."""
    if label_smoothing == 0:
        return -F.logsigmoid(z)
    return -(1 - label_smoothing) * F.logsigmoid(z) - label_smoothing * F.logsigmoid(-z)


def pair_metrics(policy: Pairs, chosen_rewards: Tensor, rejected_rewards: Tensor) -> dict[str, Tensor]:
    """Return means over the pairs: rewards, their margin and accuracy, log-probabilities, lengths.

    A falling `logps/chosen` with a rising `rewards/margins` shows a failing preference loss. Lengths show a length
    bias.
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
