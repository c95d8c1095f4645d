"""Multi-token prediction: see `mtp`.

A module is a norm on the embedding and one on the hidden state, what joins the two, one block, and a norm before
the shared head. DeepSeek-V3 joins with one matrix [D, 2D]. In a model with hyper-connections (V4) one D x D matrix
takes the embedding and one takes each stream, the block's attention is the window alone, and the module collapses
its streams itself.

Letters: D model width, n streams, V vocabulary.
"""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.registry import layers
from modelstack.architecture.counts.residual import hyper_head
from modelstack.architecture.counts.terms import Span, Weights, Work, block_work, matrix_work, norm_weights


def mtp_weights(config: ModelConfig) -> Weights:
    """Return the parameters of all modules; embedding and head are the model's."""
    longer, total = config.with_mtp_layers(), Weights()
    for _, layer, formula in layers(longer, config.num_hidden_layers):
        total += formula.weights(longer, layer)
    around = Weights(matrices=2 * config.hidden_size**2, vectors=3 * norm_weights(config))
    if config.norm_placement == "hyper":
        around += hyper_head(config)
    return sum([around] * config.num_nextn_predict_layers, total)


def mtp_work(config: ModelConfig, span: Span) -> Work:
    """Return the work of all modules over a whole sequence, the shared head on each one's output included.

    Module k has a token less than the one before: there is nothing to look ahead to at the end.
    """
    longer, D, total = config.with_mtp_layers(), config.hidden_size, Work()
    n_joined = 1 + (config.hc_mult if config.norm_placement == "hyper" else 1)
    spans = [Span(span.new - 1 - k, 0, span.attention) for k in range(config.num_nextn_predict_layers)]
    for _, layer, formula in layers(longer, config.num_hidden_layers):
        total += block_work(formula, longer, layer, spans[layer - config.num_hidden_layers])
    for ahead in spans:
        total += Work(2 * ahead.new * (n_joined * D**2 + D * config.vocab_size))
        if config.norm_placement == "hyper":
            total += matrix_work(hyper_head(config), ahead.new)
    return total
