"""Sparse codes: chosen latents are the highest, and products over them equal dense ones, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modelstack.align.sae.codes import (
    Codes,
    Pattern,
    above,
    combination,
    products,
    top_latents,
    top_of_batch,
)

N, D, F = 7, 5, 11


def some_pattern(seed: int = 0) -> Pattern:
    """A pattern in which one token has no latent, and one latent no token."""
    generator = torch.Generator().manual_seed(seed)
    scores_NF = torch.rand(N, F, generator=generator)
    scores_NF[2] = 0
    scores_NF[:, 4] = 0
    return above(scores_NF, torch.full((F,), 0.6))


def mask(pattern: Pattern) -> Tensor:
    return Codes(pattern, torch.ones(len(pattern.latents_M))).dense()


def test_the_highest_latents_of_each_token_are_chosen() -> None:
    scores_NF = torch.randn(N, F, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(N, F).scatter_(1, scores_NF.topk(3).indices, 1)
    assert torch.equal(mask(top_latents(scores_NF, 3)), expected)


@pytest.mark.parametrize("bar", [0.0, 0.3, 0.8, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_highest_of_a_batch_do_not_depend_on_the_guess(bar: float, dtype: torch.dtype) -> None:
    scores_NF = torch.randn(N, F, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = torch.zeros(N * F).scatter_(0, scores_NF.flatten().topk(2 * N).indices, 1).view(N, F)
    assert torch.equal(mask(top_of_batch(scores_NF, 2, bar)), expected)


def test_a_batch_with_few_positive_scores_has_few_pairs() -> None:
    scores_NF = -torch.ones(N, F)
    scores_NF[3, 5] = 1.0
    pattern = top_of_batch(scores_NF, 2, 0.5)
    assert pattern.latents_M.tolist() == [5] and pattern.tokens_M.tolist() == [3]


def test_products_and_combinations_equal_dense_ones() -> None:
    pattern = some_pattern()
    generator = torch.Generator().manual_seed(1)
    x_ND, rows_FD = torch.randn(N, D, generator=generator), torch.randn(F, D, generator=generator)
    values_M = products(x_ND, rows_FD, pattern)
    dense_NF = (x_ND @ rows_FD.T) * mask(pattern)
    torch.testing.assert_close(Codes(pattern, values_M).dense(), dense_NF)
    torch.testing.assert_close(combination(values_M, rows_FD, pattern), dense_NF @ rows_FD)


def test_gradients_are_those_of_finite_differences() -> None:
    pattern = some_pattern()
    generator = torch.Generator().manual_seed(2)
    x_ND, rows_FD = (torch.randn(n, D, generator=generator, dtype=torch.float64).requires_grad_() for n in (N, F))
    values_M = torch.randn(len(pattern.latents_M), generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, rows: products(x, rows, pattern), (x_ND, rows_FD))
    assert torch.autograd.gradcheck(lambda v, rows: combination(v, rows, pattern), (values_M, rows_FD))


def test_the_transposed_pattern_and_parts_hold_the_same_pairs() -> None:
    pattern = some_pattern()
    assert torch.equal(mask(pattern.transposed), mask(pattern).T)
    assert torch.equal(pattern.is_fired_F, mask(pattern).any(0))
    part, places = pattern.within(3, 8)
    expected = mask(pattern)
    expected[:, :3] = expected[:, 8:] = 0
    assert torch.equal(mask(part), expected)
    assert torch.equal(pattern.latents_M[places], part.latents_M)


def test_no_pair_at_all_gives_zeros() -> None:
    pattern = above(torch.zeros(N, F), torch.ones(F))
    rows_FD = torch.ones(F, D, requires_grad=True)
    values_M = products(torch.ones(N, D), rows_FD, pattern)
    found_ND = combination(values_M, rows_FD, pattern)
    found_ND.sum().backward()
    assert len(values_M) == 0 and not found_ND.any()
    assert rows_FD.grad is not None and not rows_FD.grad.any()
