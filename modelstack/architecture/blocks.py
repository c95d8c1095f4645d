"""Decoder layers: the position of the norms around attention and feed-forward.

Pre-norm: x + f(norm(x)) (llama, Qwen, DeepSeek, gpt-oss). Post-norm inside the residual: x + norm(f(x)) (OLMo 2
and 3). Sandwich: x + norm(f(norm(x))) (Gemma 2 to 4). The norms have the names that transformers uses. The same
name means different positions in different families: in llama, `post_attention_layernorm` stands before the MLP.

The last layer can compute its feed-forward at selected positions only. When few tokens have a label, the other
positions are never read.

Letters: B batch, T tokens, P positions, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from modelstack.architecture.attention.registry import make_attention
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext
from modelstack.architecture.feed_forward import make_feed_forward
from modelstack.architecture.hyper_connections import HyperBlock
from modelstack.architecture.norms import make_norm


class PreNormBlock(nn.Module):
    """x + f(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create attention, feed-forward and two norms."""
        super().__init__()
        self.self_attn = make_attention(config, layer)
        self.mlp = make_feed_forward(config, layer)
        self.input_layernorm = make_norm(config)
        self.post_attention_layernorm = make_norm(config)

    def forward(
        self, x_BTD: Tensor, context: ForwardContext, cache: Any = None, places_P: Tensor | None = None
    ) -> Tensor:
        """Return the new states [B, T, D], or [1, P, D] at the flat positions `places_P` only."""
        x_BTD = at_places(x_BTD + self.self_attn(self.input_layernorm(x_BTD), context, cache), places_P)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD), context)


class PostNormBlock(nn.Module):
    """x + norm(f(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create attention, feed-forward and two norms."""
        super().__init__()
        self.self_attn = make_attention(config, layer)
        self.mlp = make_feed_forward(config, layer)
        self.post_attention_layernorm = make_norm(config)
        self.post_feedforward_layernorm = make_norm(config)

    def forward(
        self, x_BTD: Tensor, context: ForwardContext, cache: Any = None, places_P: Tensor | None = None
    ) -> Tensor:
        """Return the new states [B, T, D], or [1, P, D] at the flat positions `places_P` only."""
        x_BTD = x_BTD + self.post_attention_layernorm(self.self_attn(x_BTD, context, cache))
        x_BTD = at_places(x_BTD, places_P)
        return x_BTD + self.post_feedforward_layernorm(self.mlp(x_BTD, context))


class SandwichBlock(nn.Module):
    """x + norm(f(norm(x)))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create attention, feed-forward and four norms."""
        super().__init__()
        self.self_attn = make_attention(config, layer)
        self.mlp = make_feed_forward(config, layer)
        self.input_layernorm = make_norm(config)
        self.post_attention_layernorm = make_norm(config)
        self.pre_feedforward_layernorm = make_norm(config)
        self.post_feedforward_layernorm = make_norm(config)

    def forward(
        self, x_BTD: Tensor, context: ForwardContext, cache: Any = None, places_P: Tensor | None = None
    ) -> Tensor:
        """Return the new states [B, T, D], or [1, P, D] at the flat positions `places_P` only."""
        y = self.self_attn(self.input_layernorm(x_BTD), context, cache)
        x_BTD = at_places(x_BTD + self.post_attention_layernorm(y), places_P)
        y = self.mlp(self.pre_feedforward_layernorm(x_BTD), context)
        return x_BTD + self.post_feedforward_layernorm(y)


BLOCKS: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "pre": PreNormBlock,
    "post": PostNormBlock,
    "sandwich": SandwichBlock,
    "hyper": HyperBlock,
}


def at_places(x_BTD: Tensor, places_P: Tensor | None) -> Tensor:
    """Return the states at the flat positions `places_P`, [1, P, D]; None: all states unchanged."""
    return x_BTD if places_P is None else x_BTD.flatten(0, 1)[places_P][None]


def make_block(config: ModelConfig, layer: int) -> nn.Module:
    """Return a decoder layer: `forward(x, context, cache) -> x`, and `self_attn.new_cache()`."""
    return BLOCKS[config.norm_placement](config, layer)
