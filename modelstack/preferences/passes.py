"""Forward and backward passes of a preference loss.

Letters: U units of the data, B units of a batch, 2B rows, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.passes import BatchLoss, TuningPasses
from modelstack.preferences.loader import UnitBatch
from modelstack.preferences.log_probs import LabelLogProbs, label_log_probs
from modelstack.preferences.methods import Method, loss_of, needs_statistics


def log_probs_of(model: CausalLM, batch: UnitBatch, *, with_statistics: bool = False) -> LabelLogProbs:
    """Return the model's log-probabilities of a batch's replies; the batch must be on the model's device."""
    # Each row is one document followed by padding, so the causal mask is enough.
    hidden_BTD = model(batch.ids_BT, with_logits=False).hidden_BTD
    return label_log_probs(hidden_BTD, batch.labels_BT, model.logits, with_statistics=with_statistics)


@dataclass
class PreferencePasses(TuningPasses):
    """Passes of a preference loss; the step's loss is a mean over the units of all its micro-batches."""

    model: CausalLM
    method: Method
    is_desirable: Tensor
    """Whether the chosen or single completion of each unit is desirable, bool [U]."""
    reference: Tensor | None
    """Sums of the reference over the units' two replies, fp32 [U, 2]; None: no reference."""

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The model."""
        return (self.model,)

    def losses_of(self, batch: UnitBatch, n_labels: float, n_rows: float) -> BatchLoss:
        """Return the loss of a batch's units with its metrics."""
        device = next(self.model.parameters()).device
        numbers_B = batch.units_B
        log_probs = log_probs_of(self.model, batch.to(device), with_statistics=needs_statistics(self.method))
        reference_2B = None if self.reference is None else self.reference[numbers_B].T.flatten().to(device)
        found = loss_of(self.method, log_probs, reference_2B, self.is_desirable[numbers_B].to(device))
        share = len(batch.ids_BT) / n_rows
        return BatchLoss({"preference": found.loss * share}, share, found.metrics)
