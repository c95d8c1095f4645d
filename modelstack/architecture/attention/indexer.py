"""The lightning indexer: small heads select the compressed entries that a query attends to.

Score of an entry s for a query t: sum over heads of w_th * ReLU(q_th . k_s), with keys from the indexer's own
compressor (DeepSeek-V3.2's indexer on V4's entries; arXiv 2606.19348, section 2.3.1). The selection has no
gradient, so the language-modelling loss does not train the indexer; `indexer_loss` does.

With few heads many scores are exactly 0. torch's `topk` breaks ties in an order that depends on the length, so a
token's selection would change when tokens are appended. Here the most recent of equal entries wins.

Letters: B batch, T tokens, D model width, R query rank, H index heads, d index channels, N entries, k selected.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.architecture.attention.compressor import Compressor, visible_entries
from modelstack.architecture.attention.trailing_rope import rotate_trailing
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import ForwardContext

FLOATS_AT_ONCE = 2**26
"""Maximum number of query-key products computed at once, for the selection and for the loss: 256 MiB in fp32."""


class IndexScorer(nn.Module):
    """Combine the scores of the index heads, weighted by the token."""

    def __init__(self, config: ModelConfig, n_heads: int, head_dim: int) -> None:
        """Create the projection to a weight per head."""
        super().__init__()
        self.weights_proj = nn.Linear(config.hidden_size, n_heads, bias=False)
        self.scale = (n_heads * head_dim) ** -0.5

    def forward(self, q_BTHd: Tensor, keys_BNd: Tensor, x_BTD: Tensor) -> Tensor:
        """Return scores, fp32 [B, T, N]."""
        _, T, H, _ = q_BTHd.shape
        products = q_BTHd.float().flatten(1, 2) @ keys_BNd.float().mT
        weights = self.weights_proj(x_BTD).float().unsqueeze(2) * self.scale
        return (weights @ F.relu(products).unflatten(1, (T, H))).squeeze(2)


class Indexer(Compressor):
    """A compressor for index keys, with queries and a scorer."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        """Create the projections."""
        assert config.index_n_heads and config.index_head_dim and config.index_topk and config.q_lora_rank
        super().__init__(config, layer, config.index_head_dim)
        self.n_heads, self.top_k = config.index_n_heads, config.index_topk
        self.q_b_proj = nn.Linear(config.q_lora_rank, self.n_heads * self.size, bias=False)
        self.scorer = IndexScorer(config, self.n_heads, self.size)

    @torch.no_grad()
    def choose(
        self, x_BTD: Tensor, latent_BTR: Tensor, keys_BNd: Tensor, context: ForwardContext
    ) -> tuple[Tensor, Tensor]:
        """Return the k best entries of each token, [B, T, k], and which of them are visible to it, bool.

        Tokens are processed in blocks, so memory is O(T * k) instead of O(T * N).
        """
        B, N, _ = keys_BNd.shape
        T, k = x_BTD.shape[1], min(self.top_k, N)
        q = self.queries(latent_BTR, context)
        step = max(1, FLOATS_AT_ONCE // max(1, B * self.n_heads * N))
        chosen, seen = [], []
        for start in range(0, T, step):
            end = min(start + step, T)
            n = max(k, (context.n_past + end) // self.rate)  # later entries are invisible to this block
            visible = visible_entries(context, self.rate, n, start, end).expand(B, -1, -1)
            scores = self.scorer(q[:, start:end], keys_BNd[:, :n], x_BTD[:, start:end])
            best = latest_top_k(scores.masked_fill(~visible, float("-inf")), k)
            chosen.append(best)
            seen.append(visible.gather(-1, best))
        return torch.cat(chosen, dim=1), torch.cat(seen, dim=1)

    def queries(self, latent_BTR: Tensor, context: ForwardContext) -> Tensor:
        """Return the rotated queries of all index heads, [B, T, H, d]."""
        q = self.q_b_proj(latent_BTR).unflatten(-1, (self.n_heads, self.size))
        return rotate_trailing(q, context.rotation(self.rope, self.rope_channels))


def latest_top_k(scores: Tensor, k: int) -> Tensor:
    """Return the indices of the k largest values of the last axis; the highest index comes first among equals.

    Scores are mapped to integers of the same order, with the index in the low half, so no two are equal.
    """
    bits = (scores.float() + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    index = torch.arange(scores.shape[-1], device=scores.device)
    return ((ordered << 32) | index).topk(k, dim=-1).indices
