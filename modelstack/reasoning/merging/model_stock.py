"""Model stock: interpolates from the base to the mean of its children, by the angle between task vectors.

Jang et al., arXiv 2403.19522, section 4: fine-tuned weights lie on a thin shell around a centre. With k children
and a mean cosine c between their task vectors, the point between base and mean that is nearest to the centre is
r mean + (1 - r) base with r = k c / (1 + (k - 1) c). The method has no settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from modelstack.reasoning.merging.linear import linear

_NO_LENGTH = 1e-6
"""Lower bound of a product of lengths in a cosine, which avoids a division by 0."""
_SINGULAR = 1e-6
"""Smallest absolute denominator of r. Below it the vectors cancel, and the base is kept, as in mergekit."""


def model_stock(base: Tensor, parents: Sequence[Tensor]) -> Tensor:
    """Return the merged tensor.

    Args:
        base: Tensor of the common base.
        parents: Tensors of at least two fine-tuned models.
    """
    ratio = interpolation_ratio([parent - base for parent in parents])
    return torch.lerp(base, linear(parents, [1.0] * len(parents)), ratio)


def interpolation_ratio(deltas: Sequence[Tensor]) -> float:
    """Return the ratio r for at least two task vectors."""
    flat = [delta.flatten() for delta in deltas]
    lengths = [float(torch.linalg.vector_norm(each)) for each in flat]
    cosines = [
        max(-1.0, min(1.0, float(flat[i] @ flat[j]) / max(lengths[i] * lengths[j], _NO_LENGTH)))
        for i, j in combinations(range(len(flat)), 2)
    ]
    cosine = sum(cosines) / len(cosines)
    denominator = 1 + (len(flat) - 1) * cosine
    return 0.0 if abs(denominator) < _SINGULAR else len(flat) * cosine / denominator
