"""WPO: pairs count by how likely the policy is to say them itself (Zhou et al., 2406.11827).

Pairs that another model wrote are far from what the policy samples; weighted by its own probability they are as if
it had sampled them. Aligned to the model's own confidence (the paper's equation 2, TRL's form), a token that is
sampled as likely as one expects under the model, log sum p^2, has weight 1.

Letters: B pairs, T tokens; 2B rows, the chosen completions first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelstack.errors import UserError
from modelstack.preferences.log_probs import LabelLogProbs, summed


@torch.no_grad()
def wpo_weights(log_probs: LabelLogProbs, *, aligned: bool = True) -> Tensor:
    """Return e^(mean over the chosen tokens + mean over the rejected tokens) of what tokens weigh, [B].

    Args:
        log_probs: Of 2B rows.
        aligned: A token weighs log p - log sum p^2, else log p, as in open-instruct; those weights are below 1.

    Raises:
        UserError: Aligned weights were asked for without statistics.
    """
    values_BT, mask_BT = log_probs.log_probs_BT, log_probs.is_label_BT
    if aligned:
        if log_probs.log_collision_BT is None:
            raise UserError("aligned WPO weights need log sum p^2: call label_log_probs with with_statistics=True")
        values_BT = values_BT - log_probs.log_collision_BT
    means = summed(values_BT, mask_BT) / mask_BT.sum(-1).clamp(min=1)
    chosen, rejected = means.chunk(2)
    return torch.exp(chosen + rejected)
