"""Forward and backward passes of a preference loss: what takes the place of fine-tuning's in the one loop.

Letters: U units, B of a batch, 2B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from modelstack.architecture.decoder import CausalLM
from modelstack.data.batches import Batch
from modelstack.errors import UserError
from modelstack.preferences.loader import UnitBatch
from modelstack.preferences.log_probs import LabelLogProbs, label_log_probs
from modelstack.preferences.methods import Method, loss_of, needs_statistics
from modelstack.preferences.pairs import PreferenceLoss


def log_probs_of(model: CausalLM, batch: UnitBatch, *, with_statistics: bool = False) -> LabelLogProbs:
    """Return the model's log-probabilities of a batch's replies; the batch lies on the model's device."""
    # Each row is one document, and padding stands behind it: attention needs no mask but the causal one.
    hidden_BTD = model(batch.ids_BT, with_logits=False).hidden_BTD
    return label_log_probs(hidden_BTD, batch.labels_BT, model.logits, with_statistics=with_statistics)


@dataclass(slots=True)
class PreferencePasses:
    """The whole model on one device; the step's loss is a mean over the units of all its micro-batches."""

    model: CausalLM
    method: Method
    is_desirable: Tensor
    """Of the units, bool [U]."""
    reference: Tensor | None
    """Sums of the reference over the units' replies, fp32 [U, 2]."""
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Means over the last step's units."""

    def total(self, n: float) -> float:
        """Return `n`: there are no other ranks."""
        return n

    def backward(self, batches: Sequence[Batch], n_labels: float) -> dict[str, float]:
        """Add the gradients of the micro-batches; return the loss.

        Raises:
            UserError: A batch is not of units.
        """
        n_units = sum(len(batch.ids_BT) // 2 for batch in batches)
        total = 0.0
        sums: dict[str, tuple[float, float]] = {}
        for batch in batches:
            if not isinstance(batch, UnitBatch):
                raise UserError("a preference loss is of units: give the run a UnitLoader")
            share = len(batch.ids_BT) / 2 / n_units
            found = self.losses(batch)
            (found.loss * share).backward()
            total += float(found.loss.detach()) * share
            for name, value in found.metrics.items():
                if not math.isnan(value := float(value)):  # of single completions, of a kind that the batch lacks
                    above, below = sums.get(name, (0.0, 0.0))
                    sums[name] = above + value * share, below + share
        self.metrics = {name: above / below for name, (above, below) in sums.items()}
        return {"preference": total}

    def losses(self, batch: UnitBatch) -> PreferenceLoss:
        """Return a batch's loss with its metrics."""
        device = next(self.model.parameters()).device
        numbers_B = batch.units_B
        log_probs = log_probs_of(self.model, batch.to(device), with_statistics=needs_statistics(self.method))
        reference_2B = None if self.reference is None else self.reference[numbers_B].T.flatten().to(device)
        return loss_of(self.method, log_probs, reference_2B, self.is_desirable[numbers_B].to(device))

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down; return the norm before."""
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), max_norm))

    def settle(self, taken: bool) -> None:
        """Do nothing: balancing biases of experts stay as they were."""
