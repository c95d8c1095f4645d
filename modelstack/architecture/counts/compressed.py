"""DeepSeek-V4's three attention kinds, a window and up to two compressed views of the past; see `attention`.

Letters: D model width, H heads, d head channels (one key-value vector for all heads), rq rank of queries, g output
groups of rank ro, m tokens in one compressed entry, HI and dI heads and channels of the indexer.
"""

from __future__ import annotations

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.counts.terms import BlockFormula, Held, Span, Weights, Work, sized

CSA, HCA = "compressed_sparse_attention", "heavily_compressed_attention"


def window_weights(config: ModelConfig, layer: int) -> Weights:
    """Return the weights of all three kinds: queries in two stages, key-value vector, grouped output, sinks."""
    D, d, heads = config.hidden_size, config.head_dim, config.num_attention_heads
    rq, groups, ro = sized(config.q_lora_rank), sized(config.o_groups), sized(config.o_lora_rank)
    queries = D * rq + rq * heads * d
    # The first output stage is block-diagonal: each group's block reads only its own heads.
    output = groups * ro * (heads * d // groups) + groups * ro * D
    return Weights(matrices=queries + D * d + output, vectors=rq + d + heads)


def sparse_weights(config: ModelConfig, layer: int) -> Weights:
    """Return the weights of window, compressor and indexer; the indexer's selection passes no gradient."""
    compressor = _compressor(config, CSA, config.head_dim, overlap=2)
    keys, queries = _compressor(config, CSA, sized(config.index_head_dim), overlap=2), _index_queries(config)
    choice = Weights(matrices=queries, frozen_matrices=keys.matrices, occasional_matrices=queries)
    return window_weights(config, layer) + compressor + keys + choice


def heavy_weights(config: ModelConfig, layer: int) -> Weights:
    """Return the weights of window and compressor."""
    return window_weights(config, layer) + _compressor(config, HCA, config.head_dim, overlap=1)


def window_mixing(config: ModelConfig, layer: int, span: Span) -> Work:
    """Return the work of scores and mixes with the window's vectors."""
    return _pairs_work(config, span.banded_pairs(sized(config.sliding_window)))


def sparse_mixing(config: ModelConfig, layer: int, span: Span) -> Work:
    """Return the work of the window, of the selected entries and, if entries are selected, of the index scores."""
    rate, top = config.compress_rates[CSA], sized(config.index_topk)
    entries = (span.past + span.new) // rate
    if entries <= top:
        on_offer = span.compressed_pairs(rate)
        mixing = window_mixing(config, layer, span) + _pairs_work(config, on_offer)
        return mixing + _indexer_loss(config, span, on_offer)
    # A masked kernel over all entries computes fewer numbers than a copy of the selected ones for each query.
    masks = span.attention == "full" and config.num_attention_heads * entries <= top * config.head_dim
    chosen = span.compressed_pairs(rate) if masks else span.compressed_pairs(rate, top)
    choice = Work(frozen=_index_scores(config, span) + 2 * span.new * _index_queries(config))
    mixing = window_mixing(config, layer, span) + _pairs_work(config, chosen)
    return mixing + choice + _indexer_loss(config, span, chosen)


def heavy_mixing(config: ModelConfig, layer: int, span: Span) -> Work:
    """Return the work of the window and of all entries."""
    entries = span.compressed_pairs(config.compress_rates[HCA])
    return window_mixing(config, layer, span) + _pairs_work(config, entries)


def window_held(config: ModelConfig, layer: int, n_tokens: int) -> Held:
    """Return the key-value vectors of the last w - 1 tokens."""
    return Held(min(n_tokens, sized(config.sliding_window) - 1) * config.head_dim)


def sparse_held(config: ModelConfig, layer: int, n_tokens: int) -> Held:
    """Return the window, and the entries and unfinished windows of compressor and indexer."""
    rate = config.compress_rates[CSA]
    entries = _view(rate, config.head_dim, n_tokens, overlap=2)
    index = _view(rate, sized(config.index_head_dim), n_tokens, overlap=2)
    return window_held(config, layer, n_tokens) + entries + index


def sparse_read(config: ModelConfig, layer: int, n_tokens: int) -> Held:
    """Return the window, the selected entries and all keys of the indexer."""
    entries = n_tokens // config.compress_rates[CSA]
    chosen = min(entries, sized(config.index_topk)) * config.head_dim
    return window_held(config, layer, n_tokens) + Held(chosen + entries * sized(config.index_head_dim))


def heavy_held(config: ModelConfig, layer: int, n_tokens: int) -> Held:
    """Return the window, the entries and the unfinished window."""
    view = _view(config.compress_rates[HCA], config.head_dim, n_tokens, overlap=1)
    return window_held(config, layer, n_tokens) + view


def _compressor(config: ModelConfig, kind: str, channels: int, overlap: int) -> Weights:
    """Return the weights of projections to content and gate, of position biases and of the entries' norm."""
    wide = overlap * channels
    return Weights(matrices=2 * config.hidden_size * wide, vectors=config.compress_rates[kind] * wide + channels)


def _index_queries(config: ModelConfig) -> int:
    """Return the number of weights of the indexer's queries and of its head weighting."""
    heads = sized(config.index_n_heads)
    return sized(config.q_lora_rank) * heads * sized(config.index_head_dim) + config.hidden_size * heads


def _index_scores(config: ModelConfig, span: Span) -> int:
    """Return the FLOPs of the index scores of all entries."""
    pairs = span.compressed_pairs(config.compress_rates[CSA])
    return 2 * pairs * sized(config.index_n_heads) * (sized(config.index_head_dim) + 1)


def _indexer_loss(config: ModelConfig, span: Span, on_offer: int) -> Work:
    """Return the work of the indexer's loss: its target, and both passes of the indexer on a detached input.

    Args:
        config: The config; with `indexer_loss_coef` 0 there is no work.
        span: The tokens of a training call; with past tokens there is no work.
        on_offer: Number of pairs of queries and the entries that they may attend to.
    """
    if not config.indexer_loss_coef or span.past:
        return Work()
    keys = _compressor(config, CSA, sized(config.index_head_dim), overlap=2).matrices
    projections = 2 * 2 * span.new * (keys + _index_queries(config))
    pairs = span.banded_pairs(sized(config.sliding_window)) + on_offer
    target = 2 * pairs * config.num_attention_heads * config.head_dim
    return Work(training_only=projections + 3 * _index_scores(config, span) + target)


def _pairs_work(config: ModelConfig, pairs: int) -> Work:
    return Work(2 * 2 * pairs * config.num_attention_heads * config.head_dim)


def _view(rate: int, channels: int, n_tokens: int, overlap: int) -> Held:
    """Return entries, content and gate of the unfinished window, and with overlap the last full window's half."""
    entries, unfinished = divmod(n_tokens, rate)
    last = rate if overlap == 2 and entries else 0
    return Held(entries * channels + 2 * unfinished * overlap * channels + 2 * last * channels)


SHARED_KV_SLIDING = BlockFormula(window_weights, window_mixing, window_held)
COMPRESSED_SPARSE = BlockFormula(sparse_weights, sparse_mixing, sparse_held, sparse_read)
HEAVILY_COMPRESSED = BlockFormula(heavy_weights, heavy_mixing, heavy_held)
