"""GPTQ beside its definition, and beside rounding to nearest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modelstack.architecture.rounded_weight import NumberFormat
from modelstack.inference.quantise import gptq
from modelstack.inference.quantise.gptq import round_by_gptq
from modelstack.inference.quantise.rounding import find_scale, round_weight
from tests.modelstack.inference.quantise.quantised_toys import FP8, INT4, ROWS8, correlated_inputs


def weights(k: int = 64) -> Tensor:
    return torch.randn(40, k, generator=torch.Generator().manual_seed(2))


def loss(weight: Tensor, rounded: Tensor, x: Tensor) -> float:
    return float((x @ (weight - rounded).T).square().sum())


def by_definition(weight: Tensor, number_format: NumberFormat, moment: Tensor, damping: float) -> Tensor:
    """Optimal brain quantisation as the paper defines it: after each column, its inverse Hessian is reduced."""
    w, h = weight.double().clone(), moment.double().clone()
    scale = find_scale(weight, number_format, h.diagonal().float(), torch.float32)
    scales = number_format.expanded(scale, tuple(weight.shape)).expand_as(weight).double()
    order = h.diagonal().argsort(descending=True).tolist()
    h += damping * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    inverse = torch.linalg.inv(h)
    left = list(order)
    for j in order:
        q = number_format.nearest((w[:, j] / scales[:, j]).float()).double() * scales[:, j]
        error = (w[:, j] - q) / inverse[j, j]
        w[:, left] -= error[:, None] * inverse[j, left]
        w[:, j] = q
        left.remove(j)
        inverse = inverse - inverse[:, j : j + 1] * inverse[j : j + 1] / inverse[j, j]
    return w.float()


@pytest.mark.parametrize("number_format", [INT4, ROWS8, FP8["channel"]])
def test_it_is_what_the_paper_defines(number_format: NumberFormat) -> None:
    w, x = weights(), correlated_inputs()
    moment = x.T @ x / len(x)
    ours = round_by_gptq(w, number_format, moment, torch.float32).dequantised()
    reference = by_definition(w, number_format, moment, gptq.DAMPING)
    # A weight on the border of two numbers may fall to either side, by the order of sums.
    assert (ours - reference).abs().gt(1e-4).float().mean() < 0.01
    assert loss(w, ours, x) == pytest.approx(loss(w, reference, x), rel=0.02)


@pytest.mark.parametrize("number_format", [INT4, ROWS8, FP8["tensor"], FP8["block"]])
def test_the_error_is_smaller_than_of_the_nearest_numbers(number_format: NumberFormat) -> None:
    w, x = weights(), correlated_inputs()
    moment = x.T @ x / len(x)
    nearest = round_weight(w, number_format, moment.diagonal(), torch.float32).dequantised()
    assert loss(w, round_by_gptq(w, number_format, moment, torch.float32).dequantised(), x) < 0.7 * loss(
        w, nearest, x
    )


def test_independent_inputs_give_the_nearest_numbers() -> None:
    w = weights()
    rounded = round_by_gptq(w, INT4, torch.eye(64), torch.float16)
    nearest = round_weight(w, INT4, None, torch.float16)
    assert torch.equal(rounded.scale, nearest.scale)
    assert torch.equal(rounded.values, nearest.values)


def test_the_size_of_a_block_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = weights(), correlated_inputs()
    moment = x.T @ x / len(x)
    whole = round_by_gptq(w, INT4, moment, torch.float16)
    monkeypatch.setattr(gptq, "BLOCK_COLUMNS", 7)
    parts = round_by_gptq(w, INT4, moment, torch.float16)
    assert (whole.values != parts.values).float().mean() < 0.01


def test_inputs_that_are_always_zero_get_zero_weights() -> None:
    x = correlated_inputs()
    x[:, 5] = 0
    rounded = round_by_gptq(weights(), INT4, x.T @ x / len(x), torch.float16)
    assert not rounded.values[:, 5].any()
    assert rounded.dequantised().isfinite().all()


def test_fewer_inputs_than_columns_are_enough() -> None:
    x = correlated_inputs(n=8)
    assert round_by_gptq(weights(), INT4, x.T @ x / 8, torch.float16).dequantised().isfinite().all()
