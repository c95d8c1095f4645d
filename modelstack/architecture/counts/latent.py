"""Counts of multi-head latent attention: see `attention.latent`.

Letters: D model width, H heads, T new tokens, P tokens before, rq and c channels of the queries' and the key-value
latent, n and r channels of a key without and with rotation, e channels of a value.
"""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.terms import BlockFormula, Held, Span, Weights, Work, norm_weights, sized


def weights(config: ModelConfig, layer: int) -> Weights:
    """Return the weights of queries in one stage or two, latent and its second stage, output, and latent norms."""
    D, heads, rq = config.hidden_size, config.num_attention_heads, config.q_lora_rank
    c, n, r, e = _sizes(config)
    matrices = D * (c + r) + c * heads * (n + e) + heads * e * D
    vectors = norm_weights(config, c) + config.attention_bias * (c + r) + config.attention_out_bias * D
    if rq is None:
        matrices += D * heads * (n + r)
    else:
        matrices += D * rq + rq * heads * (n + r)
        vectors += norm_weights(config, rq) + config.attention_bias * rq
    return Weights(matrices=matrices, vectors=vectors)


def mixing(config: ModelConfig, layer: int, span: Span) -> Work:
    """Return the work of scores and mixes, in the expanded or the absorbed form.

    The absorbed form (past tokens, and few new ones) moves the second stage around the attention: its weights
    still multiply each new token once, and a pair costs c + r for the score and c for the mix. The expanded form
    recomputes keys and values of past tokens.
    """
    c, n, r, e = _sizes(config)
    heads = config.num_attention_heads
    if absorbs(config, span):
        return Work(2 * heads * span.pairs() * (2 * c + r))
    return Work(2 * heads * (span.pairs() * (n + r + e) + span.past * c * (n + e)))


def absorbs(config: ModelConfig, span: Span) -> bool:
    """Whether the absorbed form is less work, by the model's own rule: T (2c - n - e) <= c (n + e)."""
    c, n, _, e = _sizes(config)
    return span.past > 0 and span.new * (2 * c - n - e) <= c * (n + e)


def held(config: ModelConfig, layer: int, n_tokens: int) -> Held:
    """Return latent and rotated key, shared by all heads."""
    c, _, r, _ = _sizes(config)
    return Held(n_tokens * (c + r))


def _sizes(config: ModelConfig) -> tuple[int, int, int, int]:
    return (
        sized(config.kv_lora_rank),
        sized(config.qk_nope_head_dim),
        sized(config.qk_rope_head_dim),
        sized(config.v_head_dim),
    )


LATENT = BlockFormula(weights, mixing, held)
