"""Forward and backward passes of a guard's loss, in which a batch's policy is evaluated once.

The policy takes five times as many tokens as a request. Its keys and values are computed once, with gradients, and
all rows attend to them: the loss equals that of rows with the policy in each (a test compares them).

Letters: B rows, T tokens of a row, P tokens of the policy, N labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.align.guard_training.loader import GuardBatch
from modelstack.architecture.cache import Cache
from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED
from modelstack.posttrain.passes import BatchLoss, TuningPasses
from modelstack.posttrain.shared_prefix import SharedPrefix


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
