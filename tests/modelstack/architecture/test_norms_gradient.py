"""RMSNorm's own gradient on a CPU, against autograd's over the composed steps."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from modelstack.architecture.norms import RMSNorm, weightless_rms_norm


def made(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[RMSNorm, Tensor, Tensor]:
    """Return a norm with uneven weights, its input and a gradient."""
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(shape[-1], 1e-6)
    norm.weight.data = torch.randn(shape[-1], generator=generator)
    x, g = (torch.randn(shape, generator=generator).mul(3).to(dtype) for _ in range(2))
    return norm.to(dtype), x.requires_grad_(), g


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_value_is_the_composed_one_to_the_last_bit(dtype: torch.dtype) -> None:
    norm, x, _ = made((2, 7, 3, 16), dtype)

    assert torch.equal(norm(x), norm.weight * weightless_rms_norm(x, norm.eps))


@pytest.mark.parametrize(("shape", "transposed"), [*product([(5, 4, 64), (2, 7, 3, 16)], [False, True])])
def test_the_gradient_is_autograds(shape: tuple[int, ...], transposed: bool) -> None:
    norm, x, g = made(shape, torch.float32)
    seen, g = (x.transpose(0, 1), g.transpose(0, 1)) if transposed else (x, g)
    own = torch.autograd.grad(norm(seen), (x, norm.weight), g)

    exact = norm.double()
    x64 = x.detach().double().requires_grad_()
    seen = x64.transpose(0, 1) if transposed else x64
    expected = torch.autograd.grad(
        exact.weight * (seen * torch.rsqrt(seen.square().mean(-1, keepdim=True) + exact.eps)),
        (x64, exact.weight),
        g.double(),
    )

    for found, wanted in zip(own, expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=2e-6, atol=2e-6)


def test_in_bf16_the_gradient_is_nearer_to_the_exact_one_than_autograds() -> None:
    norm, x, g = made((64, 128), torch.bfloat16)
    own = torch.autograd.grad(norm(x), (x, norm.weight), g)
    composed = torch.autograd.grad(norm.weight * weightless_rms_norm(x, norm.eps), (x, norm.weight), g)
    norm32, x32 = norm.float(), x.detach().float().requires_grad_()
    exact = torch.autograd.grad(norm32(x32), (x32, norm32.weight), g.float())

    for found, autograds, wanted in zip(own, composed, exact, strict=True):
        assert (found - wanted).norm() <= 1.05 * (autograds - wanted).norm()
        assert (found - wanted).norm() <= 4e-3 * wanted.norm()


def test_without_gradients_nothing_is_kept() -> None:
    norm, x, _ = made((5, 64), torch.float32)

    with torch.no_grad():
        assert norm(x).grad_fn is None
    assert norm.requires_grad_(False)(x.detach()).requires_grad is False
