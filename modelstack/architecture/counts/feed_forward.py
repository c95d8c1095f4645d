"""Counts of dense MLP and mixture of experts: see `mlp` and `moe`.

An expert is idle for the tokens that are not routed to it: with k of E selected, E - k experts of each layer.

Letters: D model width, I inner width, E experts, k experts selected per token, V vocabulary.
"""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.terms import BlockFormula, Span, Weights, Work, sized

INT64, FP32 = 8, 4


def mlp_weights(config: ModelConfig, size: int) -> Weights:
    """Return the weights of one MLP of inner width `size`."""
    D, inward = config.hidden_size, 2 if config.mlp_gated else 1
    return Weights(matrices=(inward + 1) * D * size, vectors=config.mlp_bias * (inward * size + D))


def dense(config: ModelConfig, layer: int) -> Weights:
    """Return the weights of the MLP of `intermediate_size`."""
    return mlp_weights(config, config.intermediate_size)


def moe(config: ModelConfig, layer: int) -> Weights:
    """Return the weights of router, experts (always gated; with biases in gpt-oss's layout) and shared experts."""
    D, experts = config.hidden_size, sized(config.n_routed_experts)
    width, idle = sized(config.moe_intermediate_size), experts - sized(config.num_experts_per_tok)
    one = Weights(matrices=3 * D * width, vectors=(2 * width + D) * (config.experts_layout == "interleaved"))
    total = Weights(
        matrices=D * experts + experts * one.matrices,
        vectors=config.router_bias * experts + experts * one.vectors,
        idle_matrices=idle * one.matrices,
        idle_vectors=idle * one.vectors,
        buffers={"e_score_correction_bias": (experts, FP32)} if config.score_correction_bias else {},
    )
    if config.n_shared_experts:
        total += mlp_weights(config, width * config.n_shared_experts)
        total += Weights(matrices=config.shared_expert_gate * D)
    return total


def hash_moe(config: ModelConfig, layer: int) -> Weights:
    """Return the weights of `moe`, with a table from token to experts instead of the balancing bias."""
    routed = moe(config.model_copy(update={"score_correction_bias": False}), layer)
    table = config.vocab_size * sized(config.num_experts_per_tok)
    return routed + Weights(buffers={"tid2eid": (table, INT64)})


def weighted_sum(config: ModelConfig, layer: int, span: Span) -> Work:
    """Return the work of the weighted sum of the selected experts' outputs: D multiply-adds each."""
    return Work(2 * span.new * sized(config.num_experts_per_tok) * config.hidden_size)


DENSE, MOE, HASH_MOE = BlockFormula(dense), BlockFormula(moe, weighted_sum), BlockFormula(hash_moe, weighted_sum)
