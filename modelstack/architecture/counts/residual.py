"""Counts of norms and hyper-connections around a layer's two sub-blocks, and of the final combination.

See `blocks` and `hyper_connections`. Letters: D model width, n streams, V vocabulary.
"""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.terms import BlockFormula, Span, Weights, Work, norm_weights

CONNECTIONS = 2
"""Hyper-connections per layer: one before attention, one before the feed-forward block."""


def two_norms(config: ModelConfig, layer: int) -> Weights:
    """Return the weights of one norm per sub-block."""
    return Weights(vectors=2 * norm_weights(config))


def four_norms(config: ModelConfig, layer: int) -> Weights:
    """Return the weights of one norm on each side of each sub-block."""
    return Weights(vectors=4 * norm_weights(config))


def hyper_weights(config: ModelConfig, layer: int) -> Weights:
    """Return norms and connections: rows for n inputs, n outputs and n * n residual weights, and three scales."""
    n = config.hc_mult
    rows = (2 + n) * n
    connection = Weights(matrices=rows * n * config.hidden_size, vectors=rows + 3)
    return two_norms(config, layer) + connection + connection


def hyper_mixing(config: ModelConfig, layer: int, span: Span) -> Work:
    """Return the work of multiplying each token's n x n residual matrix with its streams."""
    return Work(span.new * CONNECTIONS * 2 * config.hc_mult**2 * config.hidden_size)


def hyper_head(config: ModelConfig) -> Weights:
    """Return the weights that combine the streams after the last block."""
    n = config.hc_mult
    return Weights(matrices=n * n * config.hidden_size, vectors=n + 1)


RESIDUAL_FORMULAS: dict[str, tuple[str, BlockFormula]] = {
    "pre": ("norms", BlockFormula(two_norms)),
    "post": ("norms", BlockFormula(two_norms)),
    "sandwich": ("norms", BlockFormula(four_norms)),
    "hyper": ("hyper_connections", BlockFormula(hyper_weights, hyper_mixing)),
}
"""Name of the part and its formula, by `norm_placement`: the keys of `blocks.BLOCKS`."""
