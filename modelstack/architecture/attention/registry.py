"""The class for each layer type. A new attention kind is one file in this folder and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from modelstack.architecture.attention.delta_net import GatedDeltaNet
from modelstack.architecture.attention.grouped import GroupedQueryAttention
from modelstack.architecture.attention.latent import LatentAttention
from modelstack.architecture.attention.shared_kv import SharedKVAttention
from modelstack.architecture.config import ModelConfig

ATTENTION: dict[str, Callable[[ModelConfig, int], Any]] = {
    "full_attention": GroupedQueryAttention,
    "sliding_attention": GroupedQueryAttention,
    "latent_attention": LatentAttention,
    "linear_attention": GatedDeltaNet,
    "shared_kv_sliding_attention": SharedKVAttention,
    "compressed_sparse_attention": SharedKVAttention,
    "heavily_compressed_attention": SharedKVAttention,
}


def make_attention(config: ModelConfig, layer: int) -> nn.Module:
    """Return the token mixer of a layer: `forward(x_BTD, context, cache) -> y_BTD` and `new_cache()`."""
    return ATTENTION[config.layer_types[layer]](config, layer)
