"""The class for each MLP type. A new feed-forward kind is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.mlp import MLP
from modelstack.architecture.moe.hash_router import HashRouter
from modelstack.architecture.moe.layer import MoE
from modelstack.architecture.moe.router import TopKRouter

FEED_FORWARD: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "dense": lambda config, layer: MLP(config),
    "moe": lambda config, layer: MoE(config, layer, TopKRouter(config)),
    "hash_moe": lambda config, layer: MoE(config, layer, HashRouter(config)),
}


def make_feed_forward(config: ModelConfig, layer: int) -> nn.Module:
    """Return the feed-forward block of a layer: `forward(x_BTD, context) -> y_BTD`."""
    return FEED_FORWARD[config.mlp_layer_types[layer]](config, layer)
