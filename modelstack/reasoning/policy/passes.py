"""Forward and backward passes of a policy gradient.

Letters: B rows, R tokens of a row after the shared ones.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelstack.architecture.losses import IGNORED
from modelstack.posttrain.passes import BatchLoss, TuningPasses
from modelstack.reasoning.losses.kl import kl_estimate
from modelstack.reasoning.losses.policy import policy_loss
from modelstack.reasoning.losses.policy_config import PolicyConfig
from modelstack.reasoning.losses.rollouts import Rollouts, StepTotals
from modelstack.reasoning.losses.sampler_correction import SamplerCorrection, sampler_weights
from modelstack.reasoning.policy.log_probs import PolicyLogProbs
from modelstack.reasoning.policy.rollout_batch import RolloutBatch


@dataclass
class PolicyPasses(TuningPasses):
    """Passes of a policy gradient over the replies of a step."""

    log_probs: PolicyLogProbs
    config: PolicyConfig
    correction: SamplerCorrection | None = None
    """Correction for replies that another engine sampled; None: the model in training sampled them."""

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The policy."""
        return (self.log_probs.model,)

    def losses_of(self, batch: RolloutBatch, n_labels: float, n_rows: float) -> BatchLoss:
        """Return the loss and metrics of the replies to a prompt."""
        # Replies with equal rewards have gradient 0, which is not computed. Processes with a sharded model compute
        # it nevertheless, because their backward passes must match.
        teaches = self.config.teaches_equal_rewards or batch.is_informative or self.processes.mesh is not None
        with torch.set_grad_enabled(teaches):
            loss, metrics = self._loss(batch, StepTotals(n_tokens=n_labels, n_sequences=n_rows))
        return BatchLoss({"policy": loss}, len(batch.ids_BT) / n_rows, metrics)

    def metrics_of(self, batches: Sequence[RolloutBatch]) -> dict[str, float]:
        """Return rewards, their parts, and lengths of the step's replies."""
        return _of_replies(self.processes.gathered(map(_facts, batches)))

    def _loss(self, batch: RolloutBatch, totals: StepTotals) -> tuple[Tensor, dict[str, Tensor]]:
        said = self.log_probs.of(batch)
        own_BR, mask_BR = said.log_probs_BT.detach(), said.is_label_BT
        behind = slice(batch.n_shared, None)
        sampler_BR = batch.sampler_log_probs_GT[:, behind].to(own_BR.device)
        old_BR, ref_BR = (
            None if each is None else each[:, behind].to(own_BR.device)
            for each in (batch.old_log_probs_GT, batch.ref_log_probs_GT)
        )
        at_rollout_BR = own_BR if old_BR is None else old_BR
        weights = None
        if self.correction is not None:
            weights = sampler_weights(at_rollout_BR, sampler_BR, mask_BR, self.correction)
        if self.config.old_policy == "sampler":
            old_BR = sampler_BR.where(~sampler_BR.isnan(), own_BR)
        loss = policy_loss(
            Rollouts(
                log_probs_BT=said.log_probs_BT,
                mask_BT=mask_BR,
                advantages=batch.advantages_G.to(own_BR.device),
                old_log_probs_BT=old_BR,
                ref_log_probs_BT=ref_BR,
                correction=weights,
                entropy_BT=said.entropy_BT,
            ),
            self.config,
            totals,
        )
        metrics = loss.metrics | _of_sampler(at_rollout_BR, sampler_BR, mask_BR, weights)
        if ref_BR is not None:
            metrics["kl_to_start"] = _mean(kl_estimate(own_BR, ref_BR, "k3"), mask_BR)
            if self.config.has_kl_reward:
                metrics["kl"] = _mean(kl_estimate(at_rollout_BR, ref_BR, "k1"), mask_BR)
        return loss.loss, metrics


@torch.no_grad()
def _of_sampler(
    at_rollout_BR: Tensor, sampler_BR: Tensor, mask_BR: Tensor, weights: Tensor | None
) -> dict[str, Tensor]:
    """Return the gap between the sampler's and the trainer's log-probabilities at the rollout, and the weights.

    If the model itself samples, with a cache, the gap is rounding. For a quantised engine it is larger.
    """
    apart_BR = (at_rollout_BR - sampler_BR).where(mask_BR, 0)
    found = {
        "sampler_gap/max": apart_BR.abs().max(),
        "sampler_gap/mean": _mean(apart_BR.abs(), mask_BR),
        "sampler_gap/kl": _mean(torch.expm1(apart_BR) - apart_BR, mask_BR),
    }
    if weights is not None:
        per_label = weights.expand_as(mask_BR)
        found["correction/mean"] = _mean(per_label, mask_BR)
        found["correction/dropped"] = _mean((per_label == 0).float(), mask_BR)
    return found


def _mean(values_BR: Tensor, mask_BR: Tensor) -> Tensor:
    return values_BR.where(mask_BR, 0).sum() / mask_BR.sum().clamp(min=1)


def _facts(batch: RolloutBatch) -> dict[str, list[float]]:
    """Return the inputs of the metrics of a prompt's replies, as JSON."""
    parts = {f"reward/{name}" for reward in batch.rewards for name in reward.parts}
    return {
        "rewards": batch.reward_values,
        "tried": list(batch.tried_rewards),
        "lengths": (batch.labels_BT != IGNORED).sum(-1).tolist(),
        "truncated": list(batch.is_truncated),
        "equal": [len(set(batch.reward_values)) < 2],
        "tries": [batch.n_tries],
    } | {
        name: [value for reward in batch.rewards if (value := reward.parts.get(name[7:])) is not None]
        for name in sorted(parts)
    }


def _of_replies(batches: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    """Return rewards and their parts, lengths, and the share of groups with equal rewards."""
    facts: dict[str, list[float]] = {}
    for batch in batches:
        for name, values in batch.items():
            facts.setdefault(name, []).extend(values)
    rewards, truncated = facts["rewards"], facts["truncated"]
    return {
        "reward": _average(rewards),
        "reward/sampled": _average(facts["tried"]),
        "reward/deviation": statistics.pstdev(rewards) if rewards else 0.0,
        "completions/length": _average(facts["lengths"]),
        "completions/truncated": _average(truncated),
        "completions/unscorable": 1 - len(rewards) / len(truncated),
        "groups/equal": _average(facts["equal"]),
        "prompts/tried": _average(facts["tries"]),
    } | {name: _average(values) for name, values in facts.items() if name.startswith("reward/") and values}


def _average(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0
