"""f-DPO: divergences other than the reverse KL between policy and reference (Wang et al., 2309.16240).

With u = p / p_ref, the reward of a completion is beta f'(u) plus a term that depends on the prompt only and
cancels in the margin of a pair. For the reverse KL f'(u) = log u + 1, which gives plain DPO.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.preferences.direct_config import Divergence

LARGEST_EXPONENT = 80.0
"""Largest exponent, so that e^80 is still finite in fp32."""
_IS_REVERSE_KL = 1e-6
"""Distance of alpha from 1 below which the reverse KL is used, because the alpha formula becomes 0 / 0."""


def divergence_scores(log_ratio: Tensor, divergence: Divergence, alpha: float = 0.5) -> Tensor:
    """Return f'(e^x) of log-ratios x = log p - log p_ref, up to a constant, in the shape of x.

    Args:
        log_ratio: Log-ratios of whole completions.
        divergence: Divergence that defines f.
        alpha: Parameter of the alpha divergence.
    """
    if divergence == "forward_kl":
        return -torch.expm1(-log_ratio)
    if divergence == "js_divergence":
        return math.log(2) + F.logsigmoid(log_ratio)
    if divergence == "alpha_divergence" and abs(alpha - 1) >= _IS_REVERSE_KL:
        return torch.expm1(((alpha - 1) * log_ratio).clamp(max=LARGEST_EXPONENT)) / (alpha - 1)
    return log_ratio
