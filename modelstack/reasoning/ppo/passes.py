"""Forward and backward passes of PPO: the clipped surrogate of the policy, the clipped error of the critic.

Letters: B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.posttrain.passes import BatchLoss, TuningPasses
from modelstack.reasoning.losses.critic import CriticConfig, critic_loss
from modelstack.reasoning.losses.policy import policy_loss
from modelstack.reasoning.losses.policy_config import PolicyConfig
from modelstack.reasoning.losses.rollouts import Rollouts, StepTotals
from modelstack.reasoning.ppo.actor_critic import ActorCritic
from modelstack.reasoning.ppo.experience import policy_log_probs
from modelstack.reasoning.ppo.loader import PpoBatch
from modelstack.train.passes import add_gradients
from modelstack.train.step import count_labels


@dataclass
class PpoPasses(TuningPasses):
    """Passes of policy and critic over the replies of a step.

    Their gradients are clipped separately: the critic's first errors are large, and with a common norm the
    policy's gradient would almost vanish.
    """

    model: ActorCritic
    policy: PolicyConfig
    critic: CriticConfig
    temperature: float
    """Temperature of the sampler, so that log-probabilities are those of the sampling distribution."""
    mix_coefficient: float = 1.0
    """Coefficient of the mean loss of the examples in the batches."""

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Policy and critic."""
        return (self.model.policy, self.model.critic)

    def backward(self, batches: Sequence[Batch], n_labels: float) -> dict[str, float]:
        """Accumulate the gradients of the replies, then those of the examples; return the losses by name."""
        losses = super().backward(batches, n_labels)
        examples = [batch.mix for batch in batches if isinstance(batch, PpoBatch) and batch.mix is not None]
        if not examples:
            return losses
        n_labels = count_labels(examples) / self.mix_coefficient
        parts = [add_gradients(self.model.policy, None, batch, n_labels) for batch in examples]
        return losses | {"mix": sum(float(loss) for part in parts for loss in part.values())}

    def metrics_of(self, batches: Sequence[PpoBatch]) -> dict[str, float]:
        """Return the metrics of the replies of the step."""
        return dict(batches[0].figures)

    def losses_of(self, batch: PpoBatch, n_labels: float, n_rows: float) -> BatchLoss:
        """Return the losses and metrics of policy and critic."""
        totals = StepTotals(n_tokens=n_labels, n_sequences=n_rows)
        device = self.model.policy.lm_head.weight.device
        ids_BT, labels_BT = batch.ids_BT.to(device), batch.labels_BT.to(device)
        said = policy_log_probs(self.model.policy, ids_BT, labels_BT, self.temperature, with_statistics=True)
        of_policy = policy_loss(
            Rollouts(
                log_probs_BT=said.log_probs_BT,
                mask_BT=said.is_label_BT,
                advantages=batch.advantages_BT.to(device),
                old_log_probs_BT=batch.old_log_probs_BT.to(device),
                entropy_BT=said.entropy_BT,
            ),
            self.policy,
            totals,
        )
        of_critic = critic_loss(
            self.model.critic(ids_BT),
            batch.old_values_BT.to(device),
            batch.returns_BT.to(device),
            said.is_label_BT,
            self.critic,
            totals,
        )
        found = of_policy.metrics | of_critic.metrics
        return BatchLoss(
            {"policy": of_policy.loss, "critic": of_critic.loss},
            float((batch.labels_BT != IGNORED).sum()) / n_labels,
            {name: value for name, value in found.items() if math.isfinite(value)},
        )
