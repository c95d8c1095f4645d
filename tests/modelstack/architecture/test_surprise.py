"""Surprise by hand against torch's cross-entropy and autograd over the composed steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.architecture import surprise as module
from modelstack.architecture.surprise import IGNORED, surprise_and_normaliser


def case(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return logits, labels some of which are ignored, and a gradient for each result."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(37, 50, generator=generator).mul(5).to(dtype).requires_grad_()
    labels = torch.randint(0, 50, (37,), generator=generator)
    labels[::5] = IGNORED
    return logits, labels, torch.rand(37, generator=generator), torch.rand(37, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_torchs(dtype: torch.dtype) -> None:
    logits, labels, _, _ = case(dtype)
    surprise, normaliser = surprise_and_normaliser(logits, labels)
    kept = labels != IGNORED

    assert torch.equal(surprise, F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none"))
    torch.testing.assert_close(normaliser[kept], torch.logsumexp(logits.float(), -1)[kept], rtol=1e-6, atol=1e-6)
    assert surprise[~kept].abs().max() == normaliser[~kept].abs().max() == 0
    with torch.no_grad():  # the other way of the same function
        for found, expected in zip(surprise_and_normaliser(logits, labels), (surprise, normaliser), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("numbers_at_once", [1, 50 * 8, 2**19])
def test_gradients_are_autograds_however_the_rows_are_cut(
    numbers_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", numbers_at_once)
    logits, labels, g_surprise, g_normaliser = case(torch.float32)
    found = torch.autograd.grad(surprise_and_normaliser(logits, labels), logits, (g_surprise, g_normaliser))[0]

    exact = logits.detach().double().requires_grad_()
    kept = (labels != IGNORED).double()
    expected = torch.autograd.grad(
        (F.cross_entropy(exact, labels, ignore_index=IGNORED, reduction="none"), torch.logsumexp(exact, -1)),
        exact,
        (g_surprise.double(), g_normaliser.double() * kept),
    )[0]

    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)


def test_in_bf16_only_the_gradient_itself_is_rounded() -> None:
    logits, labels, g, _ = case(torch.bfloat16)
    found = torch.autograd.grad(surprise_and_normaliser(logits, labels)[0], logits, g)[0]
    exact = logits.detach().float().requires_grad_()
    expected = torch.autograd.grad(surprise_and_normaliser(exact, labels)[0], exact, g)[0]

    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected.bfloat16())
