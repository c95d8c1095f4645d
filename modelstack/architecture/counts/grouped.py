"""Counts of attention with separate keys and values, full or sliding-window: see `attention.grouped`.

Letters: D model width, H query heads, G KV heads, d head channels, w window.
"""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.terms import BlockFormula, Held, Span, Weights, Work, norm_weights


def weights(config: ModelConfig, layer: int) -> Weights:
    """Return the weights of q, k, v and o, with their biases, norms and sinks."""
    D, d = config.hidden_size, config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    q_size = heads * d * (2 if config.attn_output_gate else 1)
    vectors = config.attention_bias * (q_size + 2 * kv_heads * d) + config.attention_out_bias * D
    if config.qk_norm == "head":
        vectors += 2 * norm_weights(config, d)
    elif config.qk_norm == "projection":
        vectors += norm_weights(config, heads * d) + norm_weights(config, kv_heads * d)
    vectors += config.attention_sinks * heads
    return Weights(matrices=D * (q_size + 2 * kv_heads * d) + heads * d * D, vectors=vectors)


def mixing(config: ModelConfig, layer: int, span: Span) -> Work:
    """Return the work of q.k and p.v: d multiply-adds each for every pair and head."""
    return Work(2 * 2 * span.pairs(config.window(layer)) * config.num_attention_heads * config.head_dim)


def held(config: ModelConfig, layer: int, n_tokens: int) -> Held:
    """Return keys and values: of all tokens, or of the last w - 1 tokens in a window."""
    window = config.window(layer)
    rows = n_tokens if window is None else min(n_tokens, window - 1)
    return Held(rows * 2 * config.num_key_value_heads * config.head_dim)


GROUPED = BlockFormula(weights, mixing, held)
