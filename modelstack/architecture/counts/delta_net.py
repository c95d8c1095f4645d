"""Counts of Gated DeltaNet: see `attention.delta_net`.

Letters: D model width, Hk and Hv key and value heads, dk and dv their channels, K taps of the convolution, C
tokens of a chunk.
"""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.terms import BlockFormula, Held, Span, Weights, Work, sized

CHUNK = 64
"""C, equal to `attention.delta_net.CHUNK`, which cannot be imported without torch; a test compares the two."""


def weights(config: ModelConfig, layer: int) -> Weights:
    """Return the weights of projections, the convolution's taps, decay and step biases, and the output's norm."""
    D, value_heads = config.hidden_size, sized(config.linear_num_value_heads)
    keys, values = _widths(config)
    matrices = D * (2 * keys + 2 * values) + D * 2 * value_heads + values * D
    vectors = (2 * keys + values) * config.linear_conv_kernel_dim + 2 * value_heads
    return Weights(matrices=matrices, vectors=vectors + sized(config.linear_value_head_dim))


def mixing(config: ModelConfig, layer: int, span: Span) -> Work:
    """Return the work of the convolution and of the recurrence in chunks of C tokens, the last one padded.

    Per chunk and head: k.k and q.k (C^2 dk multiply-adds each), a triangular system with dk + dv right sides (C^2
    / 2 each), scores times updates (C^2 dv), and three products with the state (C dk dv).
    """
    keys, values = _widths(config)
    dk, dv = sized(config.linear_key_head_dim), sized(config.linear_value_head_dim)
    convolution = 2 * span.new * (2 * keys + values) * config.linear_conv_kernel_dim
    C = min(CHUNK, span.new)
    a_chunk = 2 * C * C * (2 * dk + dv) + C * C * (dk + dv) + 2 * 3 * C * dk * dv
    return Work(convolution + -(-span.new // C) * sized(config.linear_num_value_heads) * a_chunk)


def held(config: ModelConfig, layer: int, n_tokens: int) -> Held:
    """Return the state, fp32, and the last K - 1 inputs, which the next convolution needs."""
    if not n_tokens:
        return Held()
    keys, values = _widths(config)
    state = sized(config.linear_key_head_dim) * values
    return Held((2 * keys + values) * (config.linear_conv_kernel_dim - 1), fp32=state)


def _widths(config: ModelConfig) -> tuple[int, int]:
    """Return the total channels of keys and of values."""
    keys = sized(config.linear_num_key_heads) * sized(config.linear_key_head_dim)
    return keys, sized(config.linear_num_value_heads) * sized(config.linear_value_head_dim)


GATED_DELTA_NET = BlockFormula(weights, mixing, held)
