"""Sparse codes: the few latents that are active at each token, and products that touch only them.

With k of F latents active, all products but the one that chooses the latents cost k / F of their dense form. The
forms of one pattern are dual to each other: `products` (sampled dense-dense) and `combination` (sparse-dense) are
each other's gradient, and the gradient of both by the rows of their weights is a combination over the transposed
pattern. Sums are taken row by row in a fixed order, so results do not depend on timing.

Letters: N tokens, F latents, M active pairs of token and latent, D width of a row.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Pattern:
    """Active pairs of token and latent, ordered by token."""

    starts: Tensor
    """Place of each token's first pair, and the number of pairs at the end, [N + 1], int64."""
    latents_M: Tensor
    """Latent of each pair, int64."""
    n_latents: int

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return len(self.starts) - 1

    @cached_property
    def tokens_M(self) -> Tensor:
        """Token of each pair."""
        tokens_N = torch.arange(self.n_tokens, device=self.starts.device)
        return tokens_N.repeat_interleave(self.starts.diff())

    @cached_property
    def order_M(self) -> Tensor:
        """Places of the pairs ordered by latent, and by token within it."""
        return torch.argsort(self.latents_M, stable=True)

    @cached_property
    def transposed(self) -> Pattern:
        """The pairs ordered by latent: tokens of each latent."""
        latents_M = self.latents_M[self.order_M]
        bounds = torch.arange(self.n_latents + 1, device=latents_M.device)
        return Pattern(torch.searchsorted(latents_M, bounds), self.tokens_M[self.order_M], self.n_tokens)

    @cached_property
    def is_fired_F(self) -> Tensor:
        """Whether each latent is in a pair."""
        fired_F = torch.zeros(self.n_latents, dtype=torch.bool, device=self.starts.device)
        fired_F[self.latents_M] = True
        return fired_F

    def within(self, first: int, end: int) -> tuple[Pattern, Tensor]:
        """Return the pairs of the latents `first` to `end`, and their places among all pairs."""
        places = ((self.latents_M >= first) & (self.latents_M < end)).nonzero().squeeze(1)
        return Pattern(torch.searchsorted(places, self.starts), self.latents_M[places], self.n_latents), places


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """Values of active latents."""

    pattern: Pattern
    values_M: Tensor

    def dense(self) -> Tensor:
        """Return the values with zeros elsewhere, [N, F]."""
        pattern = self.pattern
        dense_NF = self.values_M.new_zeros(pattern.n_tokens, pattern.n_latents)
        dense_NF[pattern.tokens_M, pattern.latents_M] = self.values_M
        return dense_NF


def top_latents(scores_NF: Tensor, k: int) -> Pattern:
    """Return the `k` highest latents of each token."""
    latents_Nk = scores_NF.topk(k, dim=-1, sorted=False).indices
    starts = torch.arange(0, len(scores_NF) * k + 1, k, device=scores_NF.device)
    return Pattern(starts, latents_Nk.flatten(), scores_NF.shape[1])


def top_of_batch(scores_NF: Tensor, k: int, bar: float) -> Pattern:
    """Return the k N highest pairs of the whole batch that are above 0.

    Args:
        scores_NF: Scores.
        k: Pairs for each token, on average.
        bar: Guess of the lowest score that is chosen. A good one saves time; the result does not depend on it.
    """
    flat, n_wanted = scores_NF.detach().flatten(), k * len(scores_NF)
    places = _places(flat > max(bar, 0.0))
    if len(places) < n_wanted and bar > 0:
        places = _places(flat > 0)
    if len(places) > n_wanted:
        places = places[flat[places].topk(n_wanted, sorted=False).indices].sort().values
    return _pattern_at(places, *scores_NF.shape)


def above(scores_NF: Tensor, threshold_F: Tensor) -> Pattern:
    """Return the pairs whose score is above the latent's threshold."""
    return _pattern_at(_places((scores_NF > threshold_F).flatten()), *scores_NF.shape)


def _pattern_at(places: Tensor, n_tokens: int, n_latents: int) -> Pattern:
    bounds = torch.arange(0, n_tokens * n_latents + 1, n_latents, device=places.device)
    return Pattern(torch.searchsorted(places, bounds), places % n_latents, n_latents)


def _places(mask: Tensor) -> Tensor:
    """Return the places of a flat mask; on a CPU by numpy, which takes a quarter of torch's time."""
    if mask.is_cuda:
        return mask.nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def products(x_ND: Tensor, rows_FD: Tensor, pattern: Pattern) -> Tensor:
    """Return the product of token and latent of each pair, [M]: x[token] . rows[latent]."""
    return _Products.apply(x_ND, rows_FD, pattern)  # pyright: ignore[reportReturnType]


def combination(values_M: Tensor, rows_FD: Tensor, pattern: Pattern) -> Tensor:
    """Return the sum of value times row over each token's pairs, [N, D]."""
    return _Combination.apply(values_M, rows_FD, pattern)  # pyright: ignore[reportReturnType]


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, rows_FD: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(x_ND, rows_FD)
        ctx.pattern = pattern
        return _sampled(x_ND, rows_FD, pattern)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_M: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_ND, rows_FD = ctx.saved_tensors
        of_x = _summed(grad_M, rows_FD, ctx.pattern) if ctx.needs_input_grad[0] else None
        of_rows = _summed_by_latent(grad_M, x_ND, ctx.pattern) if ctx.needs_input_grad[1] else None
        return of_x, of_rows, None


class _Combination(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_M: Tensor, rows_FD: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(values_M, rows_FD)
        ctx.pattern = pattern
        return _summed(values_M, rows_FD, pattern)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values_M, rows_FD = ctx.saved_tensors
        of_values = _sampled(grad_ND, rows_FD, ctx.pattern) if ctx.needs_input_grad[0] else None
        of_rows = _summed_by_latent(values_M, grad_ND, ctx.pattern) if ctx.needs_input_grad[1] else None
        return of_values, of_rows, None


def _summed(values_M: Tensor, rows_FD: Tensor, pattern: Pattern) -> Tensor:
    return F.embedding_bag(
        pattern.latents_M,
        rows_FD,
        pattern.starts,
        mode="sum",
        per_sample_weights=values_M.to(rows_FD.dtype),
        include_last_offset=True,
    )


def _summed_by_latent(values_M: Tensor, x_ND: Tensor, pattern: Pattern) -> Tensor:
    return _summed(values_M[pattern.order_M], x_ND.contiguous(), pattern.transposed)


def _sampled(x_ND: Tensor, rows_FD: Tensor, pattern: Pattern) -> Tensor:
    _accept_sparse_rows()
    shape = (pattern.n_tokens, pattern.n_latents)
    empty_M = x_ND.new_zeros(len(pattern.latents_M))
    places = torch.sparse_csr_tensor(pattern.starts, pattern.latents_M, empty_M, shape, check_invariants=False)
    return torch.sparse.sampled_addmm(places, x_ND, rows_FD.T, beta=0.0).values()


@cache
def _accept_sparse_rows() -> None:
    """Build a first sparse tensor, about which torch warns once that its layout is in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)
