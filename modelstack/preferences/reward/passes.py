"""Forward and backward passes of a reward model's loss.

Letters: B pairs, 2B rows, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.posttrain.passes import BatchLoss, TuningPasses
from modelstack.preferences.reward.loss import RewardModelConfig, reward_model_loss
from modelstack.preferences.reward.value_model import ValueModel


def rewards_of(model: ValueModel, batch: Batch) -> Tensor:
    """Return the reward of each row of a batch, read at its only label, fp32 [rows]."""
    batch = batch.to(model.score.weight.device)
    return model(batch.ids_BT)[batch.labels_BT != IGNORED]


@dataclass
class RewardPasses(TuningPasses):
    """Passes of a reward model's loss; the step's loss is a mean over the pairs of all its micro-batches."""

    model: ValueModel
    config: RewardModelConfig

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The model."""
        return (self.model,)

    def losses_of(self, batch: Batch, n_labels: float, n_rows: float) -> BatchLoss:
        """Return the loss of a batch's pairs with its metrics."""
        share = len(batch.ids_BT) / n_rows
        chosen_B, rejected_B = rewards_of(self.model, batch).chunk(2)
        found = reward_model_loss(chosen_B, rejected_B, self.config)
        return BatchLoss({"reward": found.loss * share}, share, found.metrics)
