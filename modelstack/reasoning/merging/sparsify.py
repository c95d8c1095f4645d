"""Selection of a task vector's entries, by magnitude or at random, with rescaling of the kept ones.

- TIES keeps the largest entries (Yadav et al., arXiv 2306.01708, section 4).
- Breadcrumbs also drops the very largest (Davari and Belilovsky, 2312.06795).
- DARE keeps each entry with the same probability p and divides by it, which preserves the expectation (Yu et
  al., 2311.03099).
- DELLA keeps larger entries with a larger probability and divides each by its own (Deep et al., 2406.11617).

Letters: n entries, p probability of being kept, O rows, I columns.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

Rescale = Literal["probability", "l1", "none"]
"""Compensation for dropped entries. `probability`: divide by p, as in both papers. `l1`: restore the sum of
magnitudes, as in mergekit. `none`: no compensation."""


def keep_largest(delta: Tensor, density: float) -> Tensor:
    """Return a tensor with its int(density n) entries of largest magnitude, at least one, and 0 for the rest."""
    if density >= 1:
        return delta
    kept = _largest(delta.abs().flatten(), max(1, int(density * delta.numel())))
    return delta * kept.view(delta.shape)


def keep_band(delta: Tensor, density: float, gamma: float) -> Tensor:
    """Return a tensor with the int(density n) entries below the int(gamma n) largest, and 0 for the rest.

    If both do not fit, fewer of the largest are dropped: the density takes precedence, as in mergekit.
    """
    if density >= 1:
        return delta
    n = delta.numel()
    n_kept = int(density * n)
    n_small = max(0, n - n_kept - int(gamma * n))
    magnitudes = delta.abs().flatten()
    kept = _largest(magnitudes, n - n_small) & ~_largest(magnitudes, n - n_small - n_kept)
    return delta * kept.view(delta.shape)


def keep_at_random(delta: Tensor, density: float, generator: torch.Generator, rescale: Rescale) -> Tensor:
    """Return a tensor whose entries are each kept with probability `density`, rescaled."""
    if density >= 1:
        return delta
    return _drawn(delta, torch.full((), density, dtype=delta.dtype), generator, rescale)


def keep_by_rank(
    delta: Tensor, density: float, epsilon: float, generator: torch.Generator, rescale: Rescale
) -> Tensor:
    """Return a tensor whose entries are kept with a probability that grows with their rank in the row, rescaled.

    The probability runs from density - epsilon for a row's smallest entry to density + epsilon for its largest;
    both must be within 0 to 1.
    """
    if density >= 1:
        return delta
    return _drawn(delta, rank_probabilities(delta, density, epsilon), generator, rescale)


def rank_probabilities(delta: Tensor, density: float, epsilon: float) -> Tensor:
    """Return each entry's probability, in `delta`'s shape.

    A vector counts as one row, and equal entries rank by position.
    """
    rows = delta.abs().reshape(len(delta), -1) if delta.ndim > 1 else delta.abs().reshape(1, -1)
    n = rows.shape[1]
    if n < 2:
        return torch.full_like(delta, density)
    order = torch.argsort(rows, dim=1, stable=True)
    steps = torch.arange(n, dtype=delta.dtype).expand_as(rows)
    ranks = torch.empty_like(rows).scatter_(1, order, steps)
    return (ranks * (2 * epsilon / (n - 1)) + (density - epsilon)).reshape(delta.shape)


def generator_for(seed: int, name: str, parent: str) -> torch.Generator:
    """Return the random generator for one tensor of one parent, independent of the order of both.

    Args:
        seed: Seed of the recipe.
        name: Name of the tensor.
        parent: Identifier of the parent, independent of its position in the recipe.
    """
    digest = hashlib.sha256(f"{seed}/{name}/{parent}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def _drawn(delta: Tensor, p: Tensor, generator: torch.Generator, rescale: Rescale) -> Tensor:
    kept = delta * (torch.rand(delta.shape, generator=generator, dtype=delta.dtype) < p)
    if rescale == "probability":
        return kept.div_(p)
    if rescale == "l1":
        before, after = (each.abs().sum(dtype=torch.float64) for each in (delta, kept))
        return kept.mul_(float(before / after)) if after > 0 else kept
    return kept


def _largest(magnitudes: Tensor, k: int) -> Tensor:
    """Return the mask of the k largest of n magnitudes, [n]; among equal ones the first are taken."""
    n = len(magnitudes)
    if k <= 0 or k >= n:
        return torch.full((n,), k > 0, dtype=torch.bool)
    least = magnitudes.kthvalue(n - k + 1).values
    kept = magnitudes > least
    n_equal = k - int(kept.sum())
    kept[(magnitudes == least).nonzero().flatten()[:n_equal]] = True
    return kept
