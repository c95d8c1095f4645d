"""Attention with separate keys and values: multi-head, grouped-query or multi-query; full or sliding-window.

G = H is multi-head (arXiv 1706.03762), 1 < G < H grouped-query (2305.13245), G = 1 multi-query (1911.02150).
Options: biases, three position encodings (RoPE, ALiBi, none), QK-norm per head (2302.05442) or over the projection
(OLMo 2), sinks, soft-cap, an output gate (Qwen3-Next).

Letters: B batch, T tokens, S tokens seen, D model width, H query heads, G KV heads, d head channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelstack.architecture.attention.softmax import MIN_BLOCK_CHANNELS, softmax_attention
from modelstack.architecture.cache import GrowingCache, RaggedCache, WindowCache
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext
from modelstack.architecture.norms import make_norm
from modelstack.architecture.projections import projected
from modelstack.architecture.rope import alibi_slopes, rotate_half_split, rotate_interleaved


class GroupedQueryAttention(nn.Module):
    """Layer types `full_attention` and `sliding_attention`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create the projections."""
        super().__init__()
        D, d = config.hidden_size, config.head_dim
        self.n_heads, self.n_kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, d
        self.window = config.window(layer)
        self.rope = config.rope(layer)
        self.rope_channels = int(d * self.rope.partial_rotary_factor) if self.rope else 0
        self.rope_interleave = config.rope_interleave
        self.scale = config.attention_scale
        self.softcap = config.attn_logit_softcapping
        self.qk_norm = config.qk_norm
        self.has_gate = config.attn_output_gate
        q_size = self.n_heads * d * (2 if self.has_gate else 1)
        self.q_proj = nn.Linear(D, q_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(D, self.n_kv_heads * d, bias=config.attention_bias)
        self.v_proj = nn.Linear(D, self.n_kv_heads * d, bias=config.attention_bias)
        self.o_proj = nn.Linear(self.n_heads * d, D, bias=config.attention_out_bias)
        if self.qk_norm == "head":
            self.q_norm, self.k_norm = make_norm(config, d), make_norm(config, d)
        elif self.qk_norm == "projection":
            self.q_norm = make_norm(config, self.n_heads * d)
            self.k_norm = make_norm(config, self.n_kv_heads * d)
        self.sinks = nn.Parameter(torch.zeros(self.n_heads)) if config.attention_sinks else None
        self.slopes = (
            alibi_slopes(self.n_heads, config.alibi_bias_max) if config.position_embedding == "alibi" else None
        )

        self.suits_blocks = self.slopes is None and d >= MIN_BLOCK_CHANNELS

    def new_cache(self) -> GrowingCache | WindowCache:
        """Return an empty cache for keys and values."""
        return GrowingCache() if self.window is None else WindowCache(self.window)

    def forward(
        self,
        x_BTD: Tensor,
        context: ForwardContext,
        cache: GrowingCache | WindowCache | RaggedCache | None = None,
    ) -> Tensor:
        """Mix tokens: [B, T, D] to [B, T, D]."""
        B, T, _ = x_BTD.shape
        q, k, v = projected(x_BTD, (self.q_proj, self.k_proj, self.v_proj))
        gate = None
        if self.has_gate:
            q, gate = q.view(B, T, self.n_heads, 2 * self.head_dim).chunk(2, dim=-1)
            gate = gate.reshape(B, T, -1)
        if self.qk_norm == "projection":
            q, k = self.q_norm(q), self.k_norm(k)
        q = q.reshape(B, T, self.n_heads, self.head_dim)
        k = k.view(B, T, self.n_kv_heads, self.head_dim)
        if self.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.view(B, T, self.n_kv_heads, -1).transpose(1, 2)
        if self.rope is not None:
            if self.rope_interleave:
                rotation = context.rotation(self.rope, self.rope_channels)
                q, k = rotate_interleaved(q, rotation), rotate_interleaved(k, rotation)
            else:
                tables = context.half_split_rotation(self.rope, self.rope_channels, q.dtype)
                q, k = rotate_half_split(q, tables), rotate_half_split(k, tables)
        y = self._attended(q, k, v, context, cache)
        y = y.transpose(1, 2).reshape(B, T, -1)
        if gate is not None:
            y = y * torch.sigmoid(gate)
        return self.o_proj(y)

    def _attended(
        self,
        q_BHTd: Tensor,
        k_BGTd: Tensor,
        v_BGTd: Tensor,
        context: ForwardContext,
        cache: GrowingCache | WindowCache | RaggedCache | None,
    ) -> Tensor:
        """Return the attention output [B, H, T, d] over the cache's tokens and the new ones, which are stored."""
        if isinstance(cache, RaggedCache):
            return cache.attend(
                q_BHTd,
                k_BGTd,
                v_BGTd,
                scale=self.scale,
                window=self.window,
                slopes=self.slopes,
                sinks_H=self.sinks,
                softcap=self.softcap,
            )
        if cache is not None:
            k_BGTd, v_BGTd = cache.append(k_BGTd, v_BGTd)
        causal = context.is_plain_causal(self.window)
        blocks = context.block_mask(self.window) if cache is None and self.suits_blocks else None
        return softmax_attention(
            q_BHTd,
            k_BGTd,
            v_BGTd,
            scale=self.scale,
            mask=None if causal or blocks is not None else context.mask(self.window, k_BGTd.shape[2]),
            causal=causal,
            runs=context.runs(self.window) if cache is None else (),
            bias=self._alibi(context, k_BGTd.shape[2]),
            sinks_H=self.sinks,
            softcap=self.softcap,
            blocks=blocks,
        )

    def _alibi(self, context: ForwardContext, n_keys: int) -> Tensor | None:
        """Return -slope * distance, [1, H, T, S]."""
        if self.slopes is None:
            return None
        device = context.token_ids_BT.device
        end = context.n_past + context.n_tokens
        query = torch.arange(context.n_past, end, device=device)[:, None]
        key = torch.arange(end - n_keys, end, device=device)[None, :]
        slopes = torch.tensor(self.slopes, device=device)[None, :, None, None]
        return slopes * (key - query)
