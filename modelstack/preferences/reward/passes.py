"""Forward and backward passes of a reward model's loss: what takes the place of fine-tuning's in the one loop.

Letters: B pairs, 2B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.preferences.reward.loss import RewardModelConfig, reward_model_loss
from modelstack.preferences.reward.value_model import ValueModel


def rewards_of(model: ValueModel, batch: Batch) -> Tensor:
    """Return the rewards of a batch's rows, each read at its one label, fp32 [rows]."""
    batch = batch.to(model.score.weight.device)
    return model(batch.ids_BT)[batch.labels_BT != IGNORED]


@dataclass(slots=True)
class RewardPasses:
    """The whole model on one device; the step's loss is a mean over the pairs of all its micro-batches."""

    model: ValueModel
    config: RewardModelConfig
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Means over the last step's pairs."""

    def total(self, n: float) -> float:
        """Return `n`: there are no other ranks."""
        return n

    def backward(self, batches: Sequence[Batch], n_labels: float) -> dict[str, float]:
        """Add the gradients of the micro-batches; return the loss."""
        total, metrics = 0.0, dict[str, float]()
        for batch in batches:
            share = len(batch.ids_BT) / n_labels
            chosen_B, rejected_B = rewards_of(self.model, batch).chunk(2)
            found = reward_model_loss(chosen_B, rejected_B, self.config)
            (found.loss * share).backward()
            total += float(found.loss.detach()) * share
            for name, value in found.metrics.items():
                metrics[name] = metrics.get(name, 0.0) + float(value) * share
        self.metrics = metrics
        return {"reward": total}

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down; return the norm before."""
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), max_norm))

    def settle(self, taken: bool) -> None:
        """Do nothing: balancing biases of experts stay as they were."""
