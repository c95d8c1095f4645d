"""Bytes: weights in a storage format, caches, and the arithmetic intensity of a decode step.

Letters: B batch, E experts, k experts selected per token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import lcm

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.flops import decode_flops
from modelstack.architecture.counts.parameters import EMBEDDING, HEAD, count_parameters
from modelstack.architecture.counts.registry import layers
from modelstack.architecture.counts.terms import Weights, sized
from modelstack.errors import UserError

WEIGHT_FORMATS: dict[str, tuple[float, float]] = {
    "fp32": (4, 4),
    "bf16": (2, 2),
    "q8_0": (34 / 32, 4),
    "q4_0": (18 / 32, 4),
}
"""Bytes of a matrix's weight and of a vector's entry. In GGUF's block formats 32 weights share one fp16 scale and
vectors stay fp32. llama.cpp keeps some matrices (routers, the head) in wider types, so a file is slightly larger.
"""


def weight_bytes(config: ModelConfig, storage: str = "bf16", *, mtp: bool = False) -> int:
    """Return the bytes of all weights and buffers in a format of `WEIGHT_FORMATS`.

    Raises:
        UserError: The format is unknown.
    """
    count = count_parameters(config)
    return round(_stored(count.model + count.mtp if mtp else count.model, storage))


def cache_bytes(config: ModelConfig, n_tokens: int, batch: int = 1, value_bytes: int = 2) -> int:
    """Return the bytes of the cache after `n_tokens` of each of `batch` sequences."""
    return batch * sum(cache_bytes_by_kind(config, n_tokens, value_bytes).values())


def cache_bytes_by_kind(config: ModelConfig, n_tokens: int, value_bytes: int = 2) -> Mapping[str, int]:
    """Return the cache bytes of one sequence by layer type, for the types that store anything."""
    found: dict[str, int] = defaultdict(int)
    for part, layer, formula in layers(config):
        if held := formula.held(config, layer, n_tokens).bytes(value_bytes):
            found[part] += held
    return dict(found)


def cache_bytes_per_token(config: ModelConfig, value_bytes: int = 2) -> float:
    """Return the average bytes that one more token adds once windows are full.

    Compressed entries are added once in m tokens, so the average is over a whole period.
    """
    period = lcm(1, *config.compress_rates.values())
    start = period * -(-(config.sliding_window or 1) // period)
    return (
        cache_bytes(config, start + period, 1, value_bytes) - cache_bytes(config, start, 1, value_bytes)
    ) / period


def decode_bytes(
    config: ModelConfig, n_past: int, batch: int = 1, storage: str = "bf16", value_bytes: int = 2
) -> int:
    """Return the bytes read in one decode step: the used weights once per batch, and each sequence's cache.

    Sequences select experts independently and evenly, so E (1 - (1 - k/E)^B) experts are used. B rows are read of
    an embedding table that is only looked up. Sparse attention reads its selected entries.
    """
    parts = count_parameters(config).parts
    model = sum((weights for part, weights in parts.items() if part != EMBEDDING), Weights())
    if parts[HEAD].total:
        model += Weights(matrices=batch * config.hidden_size)
    else:
        model += parts[EMBEDDING]
    cache = sum(
        (formula.read or formula.held)(config, layer, n_past).bytes(value_bytes)
        for _, layer, formula in layers(config)
    )
    return round(_stored(_in_use(config, model, batch), storage)) + batch * cache


def decode_intensity(
    config: ModelConfig, n_past: int, batch: int = 1, storage: str = "bf16", value_bytes: int = 2
) -> float:
    """Return FLOPs per byte read in one decode step of `batch` sequences after `n_past` tokens each.

    If this is below a machine's own ratio, FLOP/s over bytes/s, decoding is limited by memory bandwidth.
    """
    return batch * decode_flops(config, n_past) / decode_bytes(config, n_past, batch, storage, value_bytes)


def _in_use(config: ModelConfig, weights: Weights, batch: int) -> Weights:
    """Return the weights without buffers and without the experts that no sequence of the batch selected."""
    if not config.has_experts:
        return Weights(weights.matrices, weights.vectors)
    missed = (1 - sized(config.num_experts_per_tok) / sized(config.n_routed_experts)) ** (batch - 1)
    return Weights(
        weights.matrices - round(weights.idle_matrices * missed),
        weights.vectors - round(weights.idle_vectors * missed),
    )


def _stored(weights: Weights, storage: str) -> float:
    if storage not in WEIGHT_FORMATS:
        raise UserError(f"storage format {storage!r} is not known; known: {', '.join(WEIGHT_FORMATS)}")
    of_matrices, of_vectors = WEIGHT_FORMATS[storage]
    buffers = sum(entries * size for entries, size in weights.buffers.values())
    return weights.matrices * of_matrices + weights.vectors * of_vectors + buffers
