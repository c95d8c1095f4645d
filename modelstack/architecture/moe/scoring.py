"""Functions from router logits to scores. A new one is one function and one line in `SCORING`.

softmax: Mixtral, Qwen3-MoE. gpt-oss first selects the k best logits and takes the softmax over these only
(`topk_softmax`). The result equals a softmax over all logits whose selected scores are normalised to sum 1,
because the denominator cancels; so it is implemented as softmax with normalisation always on. sigmoid: DeepSeek-V3
(arXiv 2412.19437, 2.1.2), GLM-4.5, MiniMax-M2, Kimi: scores are independent, so a higher score of one expert does
not lower another. sqrtsoftplus: DeepSeek-V4 (2606.19348, 2.1), which unlike the sigmoid does not saturate.

Letters: N tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def softmax(logits_NE: Tensor) -> Tensor:
    """Return exp(z) / sum exp(z)."""
    return logits_NE.softmax(dim=-1)


def sigmoid(logits_NE: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-z))."""
    return logits_NE.sigmoid()


def sqrtsoftplus(logits_NE: Tensor) -> Tensor:
    """Return sqrt(ln(1 + exp z))."""
    # If the logarithm underflows to 0, the root's slope is infinite, and its product with 0 is NaN.
    return F.softplus(logits_NE).clamp(min=torch.finfo(logits_NE.dtype).tiny).sqrt()


SCORING: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": softmax,
    "topk_softmax": softmax,
    "sigmoid": sigmoid,
    "sqrtsoftplus": sqrtsoftplus,
}
