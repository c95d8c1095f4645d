"""Past of one beginning that many rows continue, evaluated once, with gradients if they are wanted.

Letters: B rows, T tokens of a row, P tokens of the prefix, H query heads, G KV heads, d channels of a key, e of a
value.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modelstack.architecture.attention.softmax import causal_mask, softmax_attention
from modelstack.architecture.cache import RaggedCache
from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError


class SharedPrefix(RaggedCache):
    """Keys and values of one prefix, which every row of a later call continues; gradients flow into them."""

    def __init__(self) -> None:
        """Start without a prefix: the first call defines it."""
        self._held: tuple[Tensor, Tensor] | None = None

    def attend(
        self,
        q_1HNd: Tensor,
        k_1GNd: Tensor,
        v_1GNe: Tensor,
        *,
        scale: float,
        window: int | None,
        slopes: Sequence[float] | None,
        sinks_H: Tensor | None,
        softcap: float | None,
    ) -> Tensor:
        """Return the attention output of B rows, [B, H, T, e]: of the prefix itself, or of rows that continue it.

        All queries meet the prefix in one product per head: torch's attention kernels would repeat the prefix for
        each row, and take three times as long.
        """
        if self._held is None:
            self._held = k_1GNd, v_1GNe
            return softmax_attention(q_1HNd, k_1GNd, v_1GNe, scale=scale, causal=True)
        B, H, T, d = q_1HNd.shape
        G = k_1GNd.shape[1]
        past_k, past_v = (held[0] for held in self._held)  # [G, P, *]
        q_BGRTd = q_1HNd.view(B, G, H // G, T, d) * scale
        q_GNd = q_BGRTd.transpose(0, 1).reshape(G, -1, d)
        to_past = (q_GNd @ past_k.transpose(1, 2)).view(G, B, H // G, T, -1).transpose(0, 1)
        to_own = torch.matmul(q_BGRTd, k_1GNd[:, :, None].transpose(-1, -2))
        hidden = ~causal_mask(T, q_1HNd.device)
        logits = torch.cat((to_past, to_own.masked_fill(hidden, float("-inf"))), dim=-1)
        shares = logits.softmax(-1, dtype=torch.float32).to(v_1GNe.dtype)
        P = past_k.shape[1]
        of_past = shares[..., :P].transpose(0, 1).reshape(G, -1, P) @ past_v
        y = of_past.view(G, B, H // G, T, -1).transpose(0, 1) + torch.matmul(shares[..., P:], v_1GNe[:, :, None])
        return y.reshape(B, H, T, -1)

    def bytes_in_use(self) -> int:
        """Return the bytes of the prefix."""
        return sum(tensor.nbytes for tensor in self._held or ())


def require_shareable(model: CausalLM) -> None:
    """Check that a model's layers can continue a shared prefix.

    Raises:
        UserError: A layer is of another kind than full attention.
    """
    config = model.config
    kinds = set(config.layer_types) - {"full_attention"}
    has_more = config.attention_sinks or config.attn_logit_softcapping or config.position_embedding == "alibi"
    if kinds or has_more or not model.can_choose_places:
        raise UserError(
            f"a prefix is shared in models with plain full attention in all layers, without experts; this one has "
            f"{', '.join(sorted(kinds)) or 'experts, several streams, or a bias or sink in its attention'}"
        )
