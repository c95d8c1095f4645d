"""Toy models to quantise, with inputs that are correlated and of different sizes, as a trained model's are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.rounded_weight import NumberFormat
from tests.modelstack.architecture.gguf_models import VOCAB_SIZE, toy_config, toy_model

INT4 = NumberFormat("int", 4, "group", 32)
INT5 = NumberFormat("int", 5, "group", 32)
INT8 = NumberFormat("int", 8, "group", 32)
ROWS8 = NumberFormat("int", 8, "channel")
FP8 = {strategy: NumberFormat("float", 8, strategy) for strategy in ("tensor", "channel", "block")}  # pyright: ignore


def toy(family: str = "llama", **keys: Any) -> CausalLM:
    """Return a model of a family in fp32, with an outlier in each norm before attention."""
    model = toy_model(toy_config(family, **keys))
    with torch.no_grad():
        for block in model.model.layers:
            norm = dict(block.named_children()).get("input_layernorm")
            if norm is not None:
                norm.get_parameter("weight")[3] = 12.0
    return model.requires_grad_(False)


def rows(n_rows: int = 8, length: int = 32, seed: int = 0) -> list[Tensor]:
    """Return two batches of random token ids."""
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randint(0, VOCAB_SIZE, (n_rows, length), generator=generator).chunk(2))


def correlated_inputs(n: int = 512, k: int = 64) -> Tensor:
    """Return inputs [n, k] of rank k / 2 plus noise, in scales from 0.1 to 10."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(k // 2, k, generator=generator)
    x = torch.randn(n, k // 2, generator=generator) @ mixing + 0.3 * torch.randn(n, k, generator=generator)
    return x * torch.logspace(-1, 1, k)[torch.randperm(k, generator=generator)]
