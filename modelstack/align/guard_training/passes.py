"""Forward and backward passes of a guard's loss, in which a batch's policy is evaluated once.

The policy takes five times as many tokens as a request. Its keys and values are computed once, with gradients, and
all rows attend to them: the loss equals that of rows with the policy in each (a test compares them).

Letters: B rows, T tokens of a row, P tokens of the policy, N labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.align.guard_training.loader import GuardBatch
from modelstack.architecture.attention.softmax import causal_mask, softmax_attention
from modelstack.architecture.cache import Cache, RaggedCache
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED
from modelstack.errors import UserError
from modelstack.posttrain.passes import BatchLoss, TuningPasses


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
            f"a guard is trained on models with plain full attention in all layers, without experts; this one has "
            f"{', '.join(sorted(kinds)) or 'experts, several streams, or a bias or sink in its attention'}"
        )


def states_at(model: CausalLM, batch: GuardBatch, places_N: Tensor) -> Tensor:
    """Return the final states [N, D] at flat places of a batch's rows, after its policy."""
    assert batch.policy_P is not None
    cache = Cache([SharedPrefix() for _ in model.model.layers])
    model(batch.policy_P[None], cache=cache, with_logits=False)
    return model(batch.ids_BT, cache=cache, with_logits=False, places_P=places_N).hidden_BTD[0]


@torch.no_grad()
def unsafe_logits(model: CausalLM, batch: GuardBatch, verdicts: tuple[int, int]) -> Tensor:
    """Return log P(unsafe) - log P(safe) of each row, fp32 [B], read at the verdict's token."""
    batch = batch.to(model.lm_head.weight.device)
    states_BD = states_at(model, batch, _verdict_places(batch))
    weights_2D = model.lm_head.weight[list(verdicts)]
    safe_B, unsafe_B = (states_BD.float() @ weights_2D.float().T).unbind(-1)
    return unsafe_B - safe_B


@dataclass
class GuardPasses(TuningPasses):
    """Passes of a guard: cross-entropy of the answers, and a loss of the order of pairs, as one sum."""

    model: CausalLM
    verdicts: tuple[int, int]
    verdict_weight: float = 1.0
    pair_weight: float = 0.0

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The model."""
        return (self.model,)

    def losses_of(self, batch: GuardBatch, n_labels: float, n_rows: float) -> BatchLoss:
        """Return the losses of a batch's answers and pairs, and how often the verdict is right.

        The step's loss is a mean over its rows, and one over its pairs of a harmful and a harmless row.
        """
        batch = batch.to(self.model.lm_head.weight.device)
        assert batch.weights_BT is not None and batch.unsafe_B is not None and batch.unit_B is not None
        share = len(batch.ids_BT) / n_rows
        is_label_BT = (batch.labels_BT != IGNORED) & (batch.weights_BT > 0)
        places_N = is_label_BT.flatten().nonzero()[:, 0]
        labels_N, weights_N = batch.labels_BT[is_label_BT], batch.weights_BT[is_label_BT]
        states_ND = states_at(self.model, batch, places_N)
        logits_NV = self.model.logits(states_ND[None])[0].float()
        losses_N = F.cross_entropy(logits_NV, labels_N, reduction="none") * weights_N
        is_first_N = torch.isin(places_N, _verdict_places(batch))
        safe_B, unsafe_B = logits_NV[is_first_N][:, list(self.verdicts)].unbind(-1)
        odds_B, is_unsafe_B = unsafe_B - safe_B, batch.unsafe_B
        loss = (self.verdict_weight * losses_N[is_first_N].sum() + losses_N[~is_first_N].sum()) / n_rows
        lead_U = pair_leads(odds_B, is_unsafe_B, batch.unit_B)
        if self.pair_weight and len(lead_U):
            loss = loss + self.pair_weight * F.softplus(-lead_U).mean() * share
        found = odds_B.detach()
        right = ((found > 0) == is_unsafe_B).float()
        metrics = {
            "verdict/right": right.mean(),
            "verdict/unsafe caught": right[is_unsafe_B].mean(),
            "verdict/safe flagged": 1 - right[~is_unsafe_B].mean(),
            "verdict/loss": losses_N[is_first_N].detach().mean(),
            "pairs/right": (lead_U.detach() > 0).float().mean(),
        }
        return BatchLoss({"guard": loss}, share, metrics)


def _verdict_places(batch: GuardBatch) -> Tensor:
    """Return the flat place of each row's verdict, [B]."""
    assert batch.first_B is not None
    B, T = batch.ids_BT.shape
    return torch.arange(B, device=batch.ids_BT.device) * T + batch.first_B


def pair_leads(odds_B: Tensor, is_unsafe_B: Tensor, unit_B: Tensor) -> Tensor:
    """Return the log-odds of the harmful row minus those of the harmless one, of each pair with both, [U]."""

    def summed(values_B: Tensor) -> Tensor:
        return odds_B.new_zeros(int(unit_B.max()) + 1).index_add(0, unit_B, values_B.to(odds_B.dtype))

    has_both_U = (summed(is_unsafe_B) == 1) & (summed(~is_unsafe_B) == 1)
    return summed(torch.where(is_unsafe_B, odds_B, -odds_B))[has_both_U]
