"""Which compressed entries a token attends to: all of them (HCA), or those its indexer chooses (CSA).

Heavily compressed and compressed sparse attention of DeepSeek-V4 (arXiv 2606.19348, section 2.3): the branch
beside the sliding window. `shared_kv` attends to both in one softmax.

Letters: B batch, T tokens, D model width, R query rank, N entries, k chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modelstack.architecture.attention.compressor import Compressor, CompressorCache, visible_entries
from modelstack.architecture.attention.indexer import Indexer
from modelstack.architecture.attention.window_and_entries import Entries
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext

IndexStage = Literal["dense", "warm_up", "sparse"]
"""A step of DeepSeek-V3.2's schedule (V4: arXiv 2606.19348 names a short warm-up of the indexer).

- dense: every entry is attended to; the indexer is neither used nor trained.
- warm_up: every entry is attended to; only the indexer moves.
- sparse: the indexer chooses; model and indexer are trained, each by its own loss.
"""


@dataclass(slots=True)
class EntriesCache:
    """Memory of a layer's compressed branch."""

    compressor: CompressorCache
    indexer: CompressorCache | None = None

    def bytes_in_use(self) -> int:
        """Return the bytes remembered."""
        return self.compressor.bytes_in_use() + (self.indexer.bytes_in_use() if self.indexer else 0)


class HeavyCompressor(Compressor):
    """HCA's branch: every visible entry."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Make a compressor to the width of a head."""
        super().__init__(config, layer, config.head_dim)

    def new_cache(self) -> EntriesCache:
        """Return an empty memory."""
        return EntriesCache(CompressorCache(self.rate))

    def forward(
        self, x_BTD: Tensor, latent_BTR: Tensor, context: ForwardContext, cache: EntriesCache | None = None
    ) -> Entries:
        """Return all entries; the query latent is for compressors that choose."""
        rows = self.entries(x_BTD, context, cache.compressor if cache else None)
        return Entries(rows, visible_entries(context, self.rate, rows.shape[1], 0, x_BTD.shape[1]))


class SparseCompressor(Compressor):
    """CSA's branch: the entries that the indexer chooses."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Make a compressor to the width of a head, and the indexer."""
        super().__init__(config, layer, config.head_dim)
        self.indexer = Indexer(config, layer)
        self.n_heads = config.num_attention_heads
        self.has_loss = config.indexer_loss_coef > 0
        self.stage: IndexStage = "sparse"
        """Set by `set_index_stage`."""

    @property
    def trains_indexer(self) -> bool:
        """Whether a forward pass is to leave what the indexer's loss needs."""
        wants_gradient = torch.is_grad_enabled() and self.indexer.q_b_proj.weight.requires_grad
        return self.has_loss and self.stage != "dense" and wants_gradient

    def new_cache(self) -> EntriesCache:
        """Return an empty memory."""
        return EntriesCache(CompressorCache(self.rate), CompressorCache(self.rate))

    def forward(
        self, x_BTD: Tensor, latent_BTR: Tensor, context: ForwardContext, cache: EntriesCache | None = None
    ) -> Entries:
        """Return the entries that each token is offered."""
        rows = self.entries(x_BTD, context, cache.compressor if cache else None)
        with torch.no_grad():
            keys = self.indexer.entries(x_BTD, context, cache.indexer if cache else None)
        N, T = rows.shape[1], x_BTD.shape[1]
        if self.stage != "sparse" or self.indexer.top_k >= N:
            return Entries(rows, visible_entries(context, self.rate, N, 0, T))
        chosen, seen = self.indexer.choose(x_BTD, latent_BTR, keys, context)
        if self.n_heads * N <= chosen.shape[2] * self.size:
            # Logits over all entries are fewer numbers than a copy of the chosen ones for each token.
            return Entries(rows, seen.new_zeros(*chosen.shape[:2], N).scatter(-1, chosen, seen))
        return Entries(rows, seen, chosen)


def set_index_stage(model: nn.Module, stage: IndexStage) -> None:
    """Set what the indexers of a model, or of a pipeline's stage, do in the next passes."""
    for module in model.modules():
        if isinstance(module, SparseCompressor):
            module.stage = stage


def make_compressor(config: ModelConfig, layer: int) -> HeavyCompressor | SparseCompressor | None:
    """Return the compressed branch of a layer; None where the window is all."""
    kind = config.layer_types[layer]
    if kind == "shared_kv_sliding_attention":
        return None
    return (SparseCompressor if kind == "compressed_sparse_attention" else HeavyCompressor)(config, layer)
