"""Toy models with adapters whose every number takes part, ours and peft's, with the same weights."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.lora.adapters import add_lora, lora_state
from modelstack.posttrain.lora.config import ALL_LINEAR, LoraConfig
from tests.modelstack.architecture.parity import ours, reference

RANK = 4


def toy_base(**keys: Any) -> CausalLM:
    """Return a poisoned llama, two layers of 64."""
    return ours(reference("llama", **keys))


def toy_config(**keys: Any) -> LoraConfig:
    """Return a small adapter's config."""
    return LoraConfig.model_validate({"rank": RANK, "alpha": 6.0} | keys)


def adapted_model(config: LoraConfig | None = None, **keys: Any) -> CausalLM:
    """Return a toy model with an adapter that is not 0."""
    model = toy_base(**keys)
    add_lora(model, config or toy_config())
    stir(model)
    return model


@torch.no_grad()
def stir(model: CausalLM, seed: int = 3) -> None:
    """Move every number of the adapter."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in lora_state(model).values():
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))


def peft_pair(
    config: LoraConfig, dtype: torch.dtype = torch.float32, *, family: str = "llama", **keys: Any
) -> tuple[CausalLM, nn.Module]:
    """Return our adapted model and peft's, weights and adapters the same."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model, set_peft_model_state_dict

    base = reference(family, **keys).to(dtype)
    model = ours(base) if dtype == torch.float32 else ours(base).to(dtype)
    add_lora(model, config)
    stir(model)
    theirs = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore
        use_rslora=config.scaling == "rslora",
        use_dora=config.dora,
        lora_dropout=config.dropout,
        target_modules=ALL_LINEAR if config.targets == (ALL_LINEAR,) else list(config.targets),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = get_peft_model(base, theirs)  # pyright: ignore
        loaded = set_peft_model_state_dict(peer, lora_state(model))
    assert not loaded.unexpected_keys
    return model, peer


def logits_of(peer: nn.Module, ids: Tensor) -> Tensor:
    """Return the logits of a transformers model, fp32."""
    return peer(input_ids=ids, use_cache=False).logits.float()
