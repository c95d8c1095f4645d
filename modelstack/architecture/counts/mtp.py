"""Multi-token prediction: see `mtp`.

A module is a norm on the embedding and one on the hidden state, what joins the two, one block, and a norm before
the shared head. DeepSeek-V3 joins with one matrix [D, 2D]. In a model with hyper-connections (V4) one D x D matrix
takes the embedding and one takes each stream, the block's attention is the window alone, and the module collapses
its streams itself.

Letters: D model width, n streams, V vocabulary.
"""

from __future__ import annotations

from functools import reduce
from operator import add

from modelstack.architecture.config import DEEPSEEK_V4_KINDS, ModelConfig
from modelstack.architecture.counts.registry import layers
from modelstack.architecture.counts.residual import hyper_head
from modelstack.architecture.counts.terms import Span, Weights, Work, block_work, matrix_work, norm_weights


def mtp_weights(config: ModelConfig) -> Weights:
    """Return the parameters of all modules; embedding and head are the model's."""
    block = _block_config(config)
    one = Weights(matrices=2 * config.hidden_size**2, vectors=3 * norm_weights(config))
    one = reduce(add, (formula.weights(block, layer) for _, layer, formula in layers(block)), one)
    if config.norm_placement == "hyper":
        one += hyper_head(config)
    return reduce(add, [one] * config.num_nextn_predict_layers, Weights())


def mtp_work(config: ModelConfig, span: Span) -> Work:
    """Return the work of all modules over a whole sequence, the shared head on each one's output included."""
    modules = (
        _module_work(config, Span(span.new - 1 - k, 0, span.attention))
        for k in range(config.num_nextn_predict_layers)
    )
    return reduce(add, modules, Work())


def _module_work(config: ModelConfig, span: Span) -> Work:
    block, D = _block_config(config), config.hidden_size
    streams = config.hc_mult if config.norm_placement == "hyper" else 1
    work = Work(2 * span.new * (1 + streams) * D**2 + 2 * span.new * D * config.vocab_size)
    work = reduce(add, (block_work(formula, block, layer, span) for _, layer, formula in layers(block)), work)
    return work + matrix_work(hyper_head(config), span.new) if config.norm_placement == "hyper" else work


def _block_config(config: ModelConfig) -> ModelConfig:
    """Return a model whose one layer is a module's block: `mtp.with_mtp_layers` says which."""
    kind = "shared_kv_sliding_attention" if config.layer_types[-1] in DEEPSEEK_V4_KINDS else config.layer_types[-1]
    return config.with_(
        num_hidden_layers=1,
        layer_types=(kind,),
        mlp_layer_types=("moe" if config.has_experts else "dense",),
        no_rope_layers=config.no_rope_layers[-1:],
    )
