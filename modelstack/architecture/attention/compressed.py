"""Selection of the compressed entries that a token attends to: all (HCA), or those its indexer selects (CSA).

Heavily compressed attention (HCA) and compressed sparse attention (CSA) of DeepSeek-V4 (arXiv 2606.19348, section
2.3) are the branch beside the sliding window. `shared_kv` attends to window and entries in one softmax.

Letters: B batch, T tokens, D model width, R query rank, N entries, k selected.
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
"""Stage of DeepSeek-V3.2's training schedule (for V4, arXiv 2606.19348 mentions a short warm-up of the indexer).

- dense: all entries are attended to; the indexer is neither used nor trained.
- warm_up: all entries are attended to; only the indexer is trained.
- sparse: the indexer selects; model and indexer are trained, each by its own loss.
"""


@dataclass(slots=True)
class EntriesCache:
    """Cache of a layer's compressed branch."""

    compressor: CompressorCache
    indexer: CompressorCache | None = None

    def bytes_in_use(self) -> int:
        """Return the bytes stored."""
        return self.compressor.bytes_in_use() + (self.indexer.bytes_in_use() if self.indexer else 0)


class HeavyCompressor(Compressor):
    """HCA's branch: all visible entries."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create a compressor to the width of a head."""
        super().__init__(config, layer, config.head_dim)

    def new_cache(self) -> EntriesCache:
        """Return an empty cache."""
        return EntriesCache(CompressorCache(self.rate))

    def forward(
        self, x_BTD: Tensor, latent_BTR: Tensor, context: ForwardContext, cache: EntriesCache | None = None
    ) -> Entries:
        """Return all entries. The query latent is ignored: only compressors that select entries use it."""
        rows = self.entries(x_BTD, context, cache.compressor if cache else None)
        return Entries(rows, visible_entries(context, self.rate, rows.shape[1], 0, x_BTD.shape[1]))


class SparseCompressor(Compressor):
    """CSA's branch: the entries that the indexer selects."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create a compressor to the width of a head, and the indexer."""
        super().__init__(config, layer, config.head_dim)
        self.indexer = Indexer(config, layer)
        self.n_heads = config.num_attention_heads
        self.has_loss = config.indexer_loss_coef > 0
        self.stage: IndexStage = "sparse"
        """Current stage; set by `set_index_stage`."""

    @property
    def trains_indexer(self) -> bool:
        """Whether a forward pass must store the data for the indexer's loss."""
        wants_gradient = torch.is_grad_enabled() and self.indexer.q_b_proj.weight.requires_grad
        return self.has_loss and self.stage != "dense" and wants_gradient

    def new_cache(self) -> EntriesCache:
        """Return an empty cache."""
        return EntriesCache(CompressorCache(self.rate), CompressorCache(self.rate))

    def forward(
        self, x_BTD: Tensor, latent_BTR: Tensor, context: ForwardContext, cache: EntriesCache | None = None
    ) -> Entries:
        """Return the entries that each token may attend to."""
        rows = self.entries(x_BTD, context, cache.compressor if cache else None)
        with torch.no_grad():
            keys = self.indexer.entries(x_BTD, context, cache.indexer if cache else None)
        N, T = rows.shape[1], x_BTD.shape[1]
        if self.stage != "sparse" or self.indexer.top_k >= N:
            return Entries(rows, visible_entries(context, self.rate, N, 0, T))
        chosen, seen = self.indexer.choose(x_BTD, latent_BTR, keys, context)
        if self.n_heads * N <= chosen.shape[2] * self.size:
            # Logits over all entries are fewer numbers than a copy of the selected entries for each token.
            return Entries(rows, seen.new_zeros(*chosen.shape[:2], N).scatter(-1, chosen, seen))
        return Entries(rows, seen, chosen)


def set_index_stage(model: nn.Module, stage: IndexStage) -> None:
    """Set the training stage of all indexers of a model, or of a pipeline stage's part of it."""
    for module in model.modules():
        if isinstance(module, SparseCompressor):
            module.stage = stage


def make_compressor(config: ModelConfig, layer: int) -> HeavyCompressor | SparseCompressor | None:
    """Return the compressed branch of a layer; None if the layer has only the window."""
    kind = config.layer_types[layer]
    if kind == "shared_kv_sliding_attention":
        return None
    return (SparseCompressor if kind == "compressed_sparse_attention" else HeavyCompressor)(config, layer)
