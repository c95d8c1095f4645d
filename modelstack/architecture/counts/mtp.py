"""Counts of multi-token prediction: see `mtp`.

A module has a norm on the embedding, a norm on the hidden state, a projection that joins the two, one block, and a
norm before the shared head. DeepSeek-V3 joins with one matrix [D, 2D]. A model with hyper-connections (V4) has one
D x D matrix for the embedding and one for each stream; the block uses window attention only, and the module
combines its streams itself.

Letters: D model width, n streams, V vocabulary.
"""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.registry import layers
from modelstack.architecture.counts.residual import hyper_head
from modelstack.architecture.counts.terms import Span, Weights, Work, block_work, matrix_work, norm_weights


def mtp_weights(config: ModelConfig) -> Weights:
    """Return the weights of all modules; embedding and head belong to the model."""
    longer, total = config.with_mtp_layers(), Weights()
    for _, layer, formula in layers(longer, config.num_hidden_layers):
        total += formula.weights(longer, layer)
    around = Weights(matrices=2 * config.hidden_size**2, vectors=3 * norm_weights(config))
    if config.norm_placement == "hyper":
        around += hyper_head(config)
    return sum([around] * config.num_nextn_predict_layers, total)


def mtp_work(config: ModelConfig, span: Span) -> Work:
    """Return the work of all predictions over a whole sequence, including the shared head on each output.

    Each processes one token less than the one before, because the last token has no successor.
    """
    longer, D, total = config.with_mtp_layers(), config.hidden_size, Work()
    n_modules = config.num_nextn_predict_layers
    n_joined = 1 + (config.hc_mult if config.norm_placement == "hyper" else 1)
    spans = [Span(span.new - 1 - k, 0, span.attention) for k in range(config.n_mtp_predictions)]
    for _, layer, formula in layers(longer, config.num_hidden_layers):
        module = layer - config.num_hidden_layers
        for ahead in spans[module:] if module == n_modules - 1 else spans[module : module + 1]:
            total += block_work(formula, longer, layer, ahead)
    for ahead in spans:
        total += Work(2 * ahead.new * (n_joined * D**2 + D * config.vocab_size))
        if config.norm_placement == "hyper":
            total += matrix_work(hyper_head(config), ahead.new)
    return total
