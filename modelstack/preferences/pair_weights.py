"""WPO: pairs are weighted by the probability that the policy itself generates them (Zhou et al., 2406.11827).

Pairs that another model wrote are far from the policy's own samples; the weights make up for that. Weights are
aligned to the model's own confidence (the paper's equation 2, as in TRL): a token with the model's expected
log-probability, log sum p^2, has weight 1.

Letters: B pairs, T tokens; 2B rows, the chosen completions first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelstack.errors import UserError
from modelstack.preferences.log_probs import LabelLogProbs, summed


@torch.no_grad()
def wpo_weights(log_probs: LabelLogProbs, *, aligned: bool = True) -> Tensor:
    """Return the weight of each pair, [B]: e^(mean over chosen tokens + mean over rejected tokens).

    Args:
        log_probs: Log-probabilities of 2B rows.
        aligned: True: the means are of log p - log sum p^2. False: of log p, as in open-instruct, with weights
            below 1.

    Raises:
        UserError: Aligned weights need statistics, which `log_probs` lacks.
    """
    values_BT, mask_BT = log_probs.log_probs_BT, log_probs.is_label_BT
    if aligned:
        if log_probs.log_collision_BT is None:
            raise UserError("aligned WPO weights need log sum p^2: call label_log_probs with with_statistics=True")
        values_BT = values_BT - log_probs.log_collision_BT
    means = summed(values_BT, mask_BT) / mask_BT.sum(-1).clamp(min=1)
    chosen, rejected = means.chunk(2)
    return torch.exp(chosen + rejected)
