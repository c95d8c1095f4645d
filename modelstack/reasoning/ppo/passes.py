"""Forward and backward passes of PPO: the clipped surrogate of the policy, the clipped error of the critic.

Letters: B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.errors import UserError
from modelstack.reasoning.losses.critic import CriticConfig, critic_loss
from modelstack.reasoning.losses.policy import policy_loss
from modelstack.reasoning.losses.policy_config import PolicyConfig
from modelstack.reasoning.losses.rollouts import Rollouts, StepTotals
from modelstack.reasoning.losses.step_metrics import combined_metrics
from modelstack.reasoning.ppo.actor_critic import ActorCritic
from modelstack.reasoning.ppo.experience import policy_log_probs
from modelstack.reasoning.ppo.loader import PpoBatch
from modelstack.train.passes import add_gradients
from modelstack.train.step import count_labels


@dataclass(slots=True)
class PpoPasses:
    """Both models on one device."""

    model: ActorCritic
    policy: PolicyConfig
    critic: CriticConfig
    temperature: float
    """That of the sampler: log-probabilities are of what was sampled from."""
    mix_coefficient: float = 1.0
    """Of the mean loss of the examples that batches have with them."""
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Of the last step, and of the replies that it learnt from."""

    def total(self, n: float) -> float:
        """Return `n`: there are no other ranks."""
        return n

    def backward(self, batches: Sequence[Batch], n_labels: float) -> dict[str, float]:
        """Add the gradients of the micro-batches; return the losses.

        Raises:
            UserError: A batch is not of PPO's loader.
        """
        found = [_checked(batch) for batch in batches]
        totals = StepTotals(n_tokens=n_labels, n_sequences=sum(len(batch.ids_BT) for batch in found))
        losses = {"policy": 0.0, "critic": 0.0}
        parts: list[tuple[float, Mapping[str, Tensor]]] = []
        for batch in found:
            share = float((batch.labels_BT != IGNORED).sum()) / n_labels
            for name, (loss, of_loss) in self._losses(batch, totals).items():
                loss.backward()
                losses[name] += float(loss.detach())
                if share:
                    parts.append((share, of_loss))
        of_step = {key: value for key, value in combined_metrics(parts).items() if math.isfinite(value)}
        self.metrics = of_step | dict(found[0].figures)
        return losses | self._imitated([batch.mix for batch in found if batch.mix is not None])

    def _imitated(self, examples: Sequence[Batch]) -> dict[str, float]:
        """Add the gradients of the examples beside the replies; return their loss, by its coefficient."""
        if not examples:
            return {}
        n_labels = count_labels(examples) / self.mix_coefficient
        parts = [add_gradients(self.model.policy, None, batch, n_labels) for batch in examples]
        return {"mix": sum(float(loss) for part in parts for loss in part.values())}

    def _losses(self, batch: PpoBatch, totals: StepTotals) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
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
        return {"policy": (of_policy.loss, of_policy.metrics), "critic": (of_critic.loss, of_critic.metrics)}

    def clip(self, max_norm: float) -> float:
        """Scale the gradients of each of the two down; return the norm of both before.

        The critic's first errors are large. In one norm they would leave nothing of the policy's gradient.
        """
        parts = (self.model.policy, self.model.critic)
        return math.hypot(*(float(nn.utils.clip_grad_norm_(part.parameters(), max_norm)) for part in parts))

    def settle(self, taken: bool) -> None:
        """Do nothing: balancing biases of experts stay as they were."""


def _checked(batch: Batch) -> PpoBatch:
    if not isinstance(batch, PpoBatch):
        raise UserError("PPO learns from replies with values: give the run a PpoLoader")
    return batch
