"""Rounding to nearest: searched scales are never worse than llama.cpp's, and FP8 is that of our training."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from modelstack.architecture.rounded_weight import NumberFormat
from modelstack.inference.quantise.rounding import round_weight
from modelstack.train import fp8
from tests.modelstack.inference.quantise.quantised_toys import FP8, INT4, INT8, ROWS8


def weights(n: int = 48, k: int = 128) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, k, generator=generator) * torch.rand(n, 1, generator=generator)


@pytest.mark.parametrize("number_format", [INT4, INT8, NumberFormat("int", 5, "group", 64), ROWS8])
def test_a_searched_scale_beats_the_one_that_covers_the_largest_weight(number_format: NumberFormat) -> None:
    w = weights()
    importance = torch.logspace(-2, 2, w.shape[1])
    n_columns = number_format.group_size or w.shape[1]
    covering = (w.view(len(w), -1, n_columns).abs().amax(-1) / number_format.largest).half().float()
    covering = covering.repeat_interleave(n_columns, -1)
    plain = (w / covering).round().clamp(number_format.smallest, number_format.largest) * covering
    searched = round_weight(w, number_format, importance, torch.float16).dequantised()
    errors = [(w - each) ** 2 @ importance for each in (searched, plain)]
    assert (errors[0] <= errors[1] * (1 + 1e-6)).all()
    assert errors[0].sum() < (0.95 if number_format.bits < 8 else 1.0) * errors[1].sum()


def test_four_bits_are_closer_than_llama_cpps_q4_0_in_every_block() -> None:
    w = weights(64, 256)
    ours = round_weight(w, INT4, None, torch.float16).dequantised()
    kind = gguf.GGMLQuantizationType.Q4_0
    theirs = torch.from_numpy(gguf.dequantize(gguf.quantize(w.numpy(), kind), kind))
    error, reference = (((w - each) ** 2).view(64, -1, 32).sum(-1) for each in (ours, theirs))
    assert (error <= reference + 1e-6).all()
    assert error.sum() < 0.9 * reference.sum()


def test_fp8_blocks_are_those_of_fp8_training() -> None:
    w = weights(200, 300)
    rounded = round_weight(w, FP8["block"], None, torch.float32)
    reference = fp8.quantise(w, fp8.TILE)
    assert torch.equal(rounded.scale, reference.scales)
    assert torch.equal(rounded.dequantised(), fp8.dequantise(reference))


@pytest.mark.parametrize("number_format", [INT4, ROWS8, *FP8.values()])
def test_groups_of_zeros_stay_zero_and_no_scale_is_zero(number_format: NumberFormat) -> None:
    w = weights(32, 128)
    w[3] = 0
    w[:, 32:64] = 0
    rounded = round_weight(w, number_format, None, torch.float16)
    assert (rounded.scale != 0).all()
    assert torch.equal(rounded.dequantised() == 0, rounded.values.float() == 0)
    assert not rounded.dequantised()[3].any()
    assert not rounded.dequantised()[:, 32:64].any()


def test_bits_count_the_scales() -> None:
    assert INT4.bits_per_weight((64, 128)) == 4.5
    assert ROWS8.bits_per_weight((64, 128)) == 8 + 16 / 128
    assert FP8["tensor"].bits_per_weight((64, 128), 32) == 8 + 32 / (64 * 128)


def test_integers_use_the_whole_range() -> None:
    values = round_weight(weights(64, 256), INT4, None, torch.float16).values.numpy()
    assert set(np.unique(values)) == set(range(-8, 8))
