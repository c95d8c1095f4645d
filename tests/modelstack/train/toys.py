"""Toy models of each family, and random gradients for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.presets.registry import from_hf
from tests.modelstack.architecture.families import FAMILIES
from tests.modelstack.architecture.parity import COMMON


def family_config(model_type: str, **keys: object) -> ModelConfig:
    """Return the toy config of a family."""
    return from_hf({"model_type": model_type} | COMMON | FAMILIES[model_type] | keys)


def family_model(model_type: str, seed: int = 0, **keys: object) -> CausalLM:
    """Return a toy model with torch's own values."""
    torch.manual_seed(seed)
    return CausalLM(family_config(model_type, **keys))


def with_random_gradients(model: nn.Module, seed: int) -> None:
    """Give every parameter a gradient."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.grad_dtype)


def values(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
