"""DeepSeek-V4's attention over a window and compressed entries; one vector per token is the key and value.

It differs from MLA: low-rank queries with a weightless norm on each head, one normalised KV vector, rotation of
the last channels (reversed on the output), a sink per head, and an output projection in groups of heads through a
low rank (arXiv 2606.19348, section 2.3). Layers differ in the branch beside the window: none, few heavily
compressed entries, or selected lightly compressed ones. Parameter names are transformers'.

Letters: B batch, T tokens, S rows seen in the window branch, D model width, R query rank, H heads, d head
channels, g groups, o rank of a group's output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelstack.architecture.attention.compressed import EntriesCache, SparseCompressor, make_compressor
from modelstack.architecture.attention.indexer_loss import index_divergence
from modelstack.architecture.attention.trailing_rope import rotate_trailing, rotate_trailing_back
from modelstack.architecture.attention.window_and_entries import (
    Entries,
    share_of_entries,
    window_and_entries_attention,
)
from modelstack.architecture.cache import WindowCache
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext
from modelstack.architecture.norms import make_norm, weightless_rms_norm


@dataclass(slots=True)
class SharedKVCache:
    """Rows of the window, and the cache of the compressed branch."""

    window: WindowCache
    entries: EntriesCache | None

    def bytes_in_use(self) -> int:
        """Return the bytes stored."""
        return self.window.bytes_in_use() + (self.entries.bytes_in_use() if self.entries else 0)


class GroupedLinear(nn.Linear):
    """Linear layer with a separate projection for each group of inputs; weight [g * o, inputs of a group]."""

    def __init__(self, n_in: int, n_out: int, n_groups: int) -> None:
        """Create the projections; `n_in` and `n_out` are totals over all groups."""
        super().__init__(n_in // n_groups, n_out, bias=False)
        self.n_groups = n_groups

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, inputs] to [B, T, g * o]."""
        x = x.unflatten(-1, (self.n_groups, -1))
        blocks = self.weight.unflatten(0, (self.n_groups, -1))
        return torch.einsum("btgi,goi->btgo", x, blocks).flatten(2)


class SharedKVAttention(nn.Module):
    """Layer types `shared_kv_sliding_attention`, `compressed_sparse_attention`, `heavily_compressed_attention`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create the projections and the compressed branch."""
        super().__init__()
        D, H, d = config.hidden_size, config.num_attention_heads, config.head_dim
        R, n_groups, o = config.q_lora_rank, config.o_groups, config.o_lora_rank
        rope, window = config.rope(layer), config.window(layer)
        # guaranteed by the config's validation
        assert R and n_groups and o and rope and window and config.qk_rope_head_dim
        self.layer, self.n_heads, self.head_dim, self.window = layer, H, d, window
        self.rope, self.rope_channels = rope, config.qk_rope_head_dim
        self.scale, self.eps = config.attention_scale, config.rms_norm_eps
        self.q_a_proj = nn.Linear(D, R, bias=False)
        self.q_a_norm = make_norm(config, R)
        self.q_b_proj = nn.Linear(R, H * d, bias=False)
        self.kv_proj = nn.Linear(D, d, bias=False)
        self.kv_norm = make_norm(config, d)
        self.o_a_proj = GroupedLinear(H * d, n_groups * o, n_groups)
        self.o_b_proj = nn.Linear(n_groups * o, D, bias=False)
        self.sinks = nn.Parameter(torch.zeros(H))
        self.compressor = make_compressor(config, layer)

    def new_cache(self) -> SharedKVCache:
        """Return an empty cache."""
        return SharedKVCache(WindowCache(self.window), self.compressor.new_cache() if self.compressor else None)

    def forward(self, x_BTD: Tensor, context: ForwardContext, cache: SharedKVCache | None = None) -> Tensor:
        """Mix tokens: [B, T, D] to [B, T, D]."""
        latent, q, kv = self.queries_and_rows(x_BTD, context)
        if cache is not None:
            kv = cache.window.append(kv[:, None])[0][:, 0]
        entries = None
        if self.compressor is not None:
            entries = self.compressor(x_BTD, latent, context, cache.entries if cache else None)
            if cache is None and isinstance(self.compressor, SparseCompressor) and self.compressor.trains_indexer:
                target = self._share_of_entries(q, kv, entries, context)
                context.index_divergence[self.layer] = index_divergence(
                    self.compressor.indexer, x_BTD, latent, entries, target, context
                )
        y = window_and_entries_attention(
            q, kv, entries, self.sinks, scale=self.scale, window=self.window, documents_BS=context.documents_BT
        )
        y = rotate_trailing_back(y, context.rotation(self.rope, self.rope_channels))
        return self.o_b_proj(self.o_a_proj(y.flatten(2)))

    @torch.no_grad()
    def _share_of_entries(
        self, q_BTHd: Tensor, kv_BTd: Tensor, entries: Entries, context: ForwardContext
    ) -> Tensor:
        """Return the attention to each entry, summed over heads: fp32 [B, T, N] or [B, T, k]."""
        return share_of_entries(
            q_BTHd,
            kv_BTd,
            entries,
            self.sinks,
            scale=self.scale,
            window=self.window,
            documents_BS=context.documents_BT,
        )

    def queries_and_rows(self, x_BTD: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor, Tensor]:
        """Return the query latent [B, T, R], queries [B, T, H, d] and KV rows [B, T, d]."""
        rotation = context.rotation(self.rope, self.rope_channels)
        latent = self.q_a_norm(self.q_a_proj(x_BTD))
        q = self.q_b_proj(latent).unflatten(-1, (self.n_heads, self.head_dim))
        q = rotate_trailing(weightless_rms_norm(q, self.eps), rotation)
        kv = self.kv_norm(self.kv_proj(x_BTD)).unsqueeze(2)
        return latent, q, rotate_trailing(kv, rotation).squeeze(2)
