"""Multi-head latent attention: keys and values are computed from one narrow cached vector per token.

DeepSeek-V2, arXiv 2405.04434 section 2.1; unchanged in V3 (2412.19437). For each token the cache stores its latent
c and one rotated key part k_r, shared by all heads. A head's key is [W_k c ; k_r] and its value W_v c. Two
equivalent forms:

- expanded: compute every head's keys and values, then plain attention. Least work if all tokens are new.
- absorbed: (W_k^T q) . c = q . (W_k c), so queries are mapped to the latent space, all heads read the latent as
  key and value, and W_v is applied last. Past tokens are not expanded: the form for decoding.

The norms on the latents have their own epsilon, independent of `rms_norm_eps` (as released).

Letters: B batch, T tokens of this call, S tokens seen, D model width, H heads, n unrotated and r rotated channels
of a key, e channels of a value, c channels of the latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from modelstack.architecture.attention.softmax import MIN_BLOCK_CHANNELS, softmax_attention
from modelstack.architecture.cache import GrowingCache, RaggedLatents
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext
from modelstack.architecture.norms import NORMS
from modelstack.architecture.rope import rotate_half_split, rotate_interleaved, yarn_mscale

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

LATENT_NORM_EPS = 1e-6
"""Epsilon of both inner norms in DeepSeek's and transformers' code."""


class LatentAttention(nn.Module):
    """Layer type `latent_attention`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create the projections; without `q_lora_rank` the queries are projected directly from the input."""
        super().__init__()
        assert config.kv_lora_rank and config.qk_nope_head_dim and config.qk_rope_head_dim and config.v_head_dim
        D, H, bias = config.hidden_size, config.num_attention_heads, config.attention_bias
        self.n_heads, self.latent_size = H, config.kv_lora_rank
        self.plain_size, self.rope_size = config.qk_nope_head_dim, config.qk_rope_head_dim
        self.value_size = config.v_head_dim
        self.key_size = self.plain_size + self.rope_size
        self.rope = config.rope(layer)
        self.interleave = config.rope_interleave
        self.scale = self._softmax_scale()
        norm = NORMS[config.norm_type]
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(D, H * self.key_size, bias=False)
        else:
            self.q_a_proj = nn.Linear(D, config.q_lora_rank, bias=bias)
            self.q_a_layernorm = norm(config.q_lora_rank, LATENT_NORM_EPS)
            self.q_b_proj = nn.Linear(config.q_lora_rank, H * self.key_size, bias=False)
        self.has_query_latent = config.q_lora_rank is not None
        self.kv_a_proj_with_mqa = nn.Linear(D, self.latent_size + self.rope_size, bias=bias)
        self.kv_a_layernorm = norm(self.latent_size, LATENT_NORM_EPS)
        self.kv_b_proj = nn.Linear(self.latent_size, H * (self.plain_size + self.value_size), bias=False)
        self.o_proj = nn.Linear(H * self.value_size, D, bias=config.attention_out_bias)

    def new_cache(self) -> GrowingCache:
        """Return an empty cache for c + r numbers per token."""
        return GrowingCache()

    def forward(
        self, x_BTD: Tensor, context: ForwardContext, cache: GrowingCache | RaggedLatents | None = None
    ) -> Tensor:
        """Mix tokens: [B, T, D] to [B, T, D]."""
        q_plain, q_rope = self._queries(x_BTD, context)
        latents = self._latents(x_BTD, context)
        if isinstance(cache, RaggedLatents):
            y_BHTe = cache.attend(q_plain, q_rope, latents, self._attended)
        else:
            if cache is not None:
                (latents,) = cache.append(latents)
            causal = context.is_plain_causal(None)
            blocks = context.block_mask(None) if self._suits_blocks(context) else None
            mask = None if causal or blocks is not None else context.mask(None, latents.shape[2])
            y_BHTe = self._attended(q_plain, q_rope, latents, causal, mask, blocks)
        return self.o_proj(y_BHTe.transpose(1, 2).flatten(2))

    def _softmax_scale(self) -> float:
        """Return (n + r)^-0.5, times YaRN's m squared: its temperature also applies to the unrotated channels."""
        scale = self.key_size**-0.5
        if self.rope is not None and self.rope.rope_type != "default" and self.rope.mscale_all_dim:
            scale *= yarn_mscale(self.rope.factor, self.rope.mscale_all_dim) ** 2
        return scale

    def _queries(self, x_BTD: Tensor, context: ForwardContext) -> tuple[Tensor, Tensor]:
        """Return the unrotated [B, H, T, n] and the rotated part [B, H, T, r]."""
        if self.has_query_latent:
            q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BTD)))
        else:
            q = self.q_proj(x_BTD)
        q = q.unflatten(-1, (self.n_heads, self.key_size)).transpose(1, 2)
        plain, rope = q.split([self.plain_size, self.rope_size], dim=-1)
        return plain, self._rotated(rope, context)

    def _latents(self, x_BTD: Tensor, context: ForwardContext) -> Tensor:
        """Return the cached vector of each token: [normed c ; rotated k_r], [B, 1, T, c + r]."""
        latent, key = self.kv_a_proj_with_mqa(x_BTD).unsqueeze(1).split([self.latent_size, self.rope_size], dim=-1)
        return torch.cat((self.kv_a_layernorm(latent), self._rotated(key, context)), dim=-1)

    def _rotated(self, x: Tensor, context: ForwardContext) -> Tensor:
        if self.rope is None:
            return x
        if self.interleave:
            return rotate_interleaved(x, context.rotation(self.rope, self.rope_size))
        return rotate_half_split(x, context.half_split_rotation(self.rope, self.rope_size, x.dtype))

    def _suits_blocks(self, context: ForwardContext) -> bool:
        return context.n_past == 0 and min(self.key_size, self.value_size) >= MIN_BLOCK_CHANNELS

    def _attended(
        self,
        q_plain: Tensor,
        q_rope: Tensor,
        latents_B1S: Tensor,
        causal: bool,
        mask: Tensor | None,
        blocks: BlockMask | None = None,
    ) -> Tensor:
        """Return [B, H, T, e], by the form that is less work."""
        if self._absorbs(q_plain.shape[2], latents_B1S.shape[2]):
            return self._absorbed(q_plain, q_rope, latents_B1S, mask)
        key, value = self._expanded(latents_B1S)
        q = torch.cat((q_plain, q_rope), dim=-1)
        return softmax_attention(q, key, value, scale=self.scale, mask=mask, causal=causal, blocks=blocks)

    def _absorbs(self, n_new: int, n_seen: int) -> bool:
        """Whether the absorbed form is less work: there are past tokens and few new ones.

        Per pair of tokens and head, the absorbed form takes 2c + r multiplications and the expanded one n + r + e.
        The absorbed form saves the expansion of the past, c (n + e) per token and head. Both are equal at c (n +
        e) / (2c - n - e) new tokens, 171 in DeepSeek-V3.
        """
        if n_new == n_seen:
            return False
        expanded = self.plain_size + self.value_size
        return n_new * (2 * self.latent_size - expanded) <= self.latent_size * expanded

    def _expanded(self, latents_B1S: Tensor) -> tuple[Tensor, Tensor]:
        """Return each head's own keys [B, H, S, n + r] and values [B, H, S, e]."""
        latent, key_rope = latents_B1S.split([self.latent_size, self.rope_size], dim=-1)
        kv = self.kv_b_proj(latent.squeeze(1))
        kv = kv.unflatten(-1, (self.n_heads, self.plain_size + self.value_size)).transpose(1, 2)
        key_plain, value = kv.split([self.plain_size, self.value_size], dim=-1)
        return torch.cat((key_plain, key_rope.expand(-1, self.n_heads, -1, -1)), dim=-1), value

    def _absorbed(self, q_plain: Tensor, q_rope: Tensor, latents_B1S: Tensor, mask: Tensor | None) -> Tensor:
        """Return [B, H, T, e]; all heads read the latents, as additional queries of one head."""
        B, H, T, _ = q_plain.shape
        per_head = self.kv_b_proj.weight.view(H, self.plain_size + self.value_size, self.latent_size)
        w_key, w_value = per_head.split([self.plain_size, self.value_size], dim=1)
        q = torch.cat((torch.matmul(q_plain, w_key), q_rope), dim=-1)
        mixed = softmax_attention(
            q.reshape(B, 1, H * T, -1),
            latents_B1S,
            latents_B1S[..., : self.latent_size],
            scale=self.scale,
            mask=None if mask is None else mask.repeat(1, 1, H, 1),
        )
        return torch.matmul(mixed.view(B, H, T, -1), w_value.transpose(1, 2))
