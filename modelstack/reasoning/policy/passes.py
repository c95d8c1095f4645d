"""Forward and backward passes of a policy gradient: what takes the place of fine-tuning's in the one loop.

Letters: B rows, R tokens of a row behind the shared ones.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.errors import UserError
from modelstack.reasoning.losses.kl import kl_estimate
from modelstack.reasoning.losses.policy import policy_loss
from modelstack.reasoning.losses.policy_config import PolicyConfig
from modelstack.reasoning.losses.rollouts import Rollouts, StepTotals
from modelstack.reasoning.losses.sampler_correction import SamplerCorrection, sampler_weights
from modelstack.reasoning.losses.step_metrics import combined_metrics
from modelstack.reasoning.policy.log_probs import PolicyLogProbs
from modelstack.reasoning.policy.rollout_batch import RolloutBatch


@dataclass(slots=True)
class PolicyPasses:
    """The whole model on one device."""

    log_probs: PolicyLogProbs
    config: PolicyConfig
    correction: SamplerCorrection | None = None
    """How replies are weighted that another engine sampled; None: as if this model had."""
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Of the last step."""

    def total(self, n: float) -> float:
        """Return `n`: there are no other ranks."""
        return n

    def backward(self, batches: Sequence[Batch], n_labels: float) -> dict[str, float]:
        """Add the gradients of the micro-batches; return the loss.

        Raises:
            UserError: A batch is not of rollouts.
        """
        rollouts = [_checked(batch) for batch in batches]
        totals = StepTotals(n_tokens=n_labels, n_sequences=sum(len(batch.ids_BT) for batch in rollouts))
        total = 0.0
        parts: list[tuple[float, Mapping[str, Tensor]]] = []
        for batch in rollouts:
            # Of replies that are all worth the same the gradient is 0, and is not computed.
            teaches = self.config.teaches_equal_rewards or batch.is_informative
            with torch.set_grad_enabled(teaches):
                loss, metrics = self._loss(batch, totals)
            if teaches:
                loss.backward()
            total += float(loss.detach())
            parts.append((1 / len(rollouts), metrics))
        self.metrics = combined_metrics(parts) | _of_replies(rollouts)
        return {"policy": total}

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

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down; return the norm before."""
        return float(nn.utils.clip_grad_norm_(self.log_probs.model.parameters(), max_norm))

    def settle(self, taken: bool) -> None:
        """Do nothing: balancing biases of experts stay as they were."""


def _checked(batch: Batch) -> RolloutBatch:
    if not isinstance(batch, RolloutBatch):
        raise UserError("a policy gradient is of rollouts: give the run a RolloutLoader")
    return batch


@torch.no_grad()
def _of_sampler(
    at_rollout_BR: Tensor, sampler_BR: Tensor, mask_BR: Tensor, weights: Tensor | None
) -> dict[str, Tensor]:
    """Return how far the sampler's log-probabilities were from the trainer's at the rollout, and the weights.

    Of the model itself, reading with a cache one token at a time, that is rounding; of a quantised engine, more.
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


def _of_replies(batches: Sequence[RolloutBatch]) -> dict[str, float]:
    """Return what a step's replies were: rewards and their parts, lengths, groups that teach nothing."""
    values = [value for batch in batches for value in batch.reward_values]
    tried = [value for batch in batches for value in batch.tried_rewards]
    lengths = [int(n) for batch in batches for n in (batch.labels_BT != IGNORED).sum(-1)]
    cut = [is_cut for batch in batches for is_cut in batch.is_truncated]
    found = {
        "reward": statistics.fmean(values) if values else 0.0,
        "reward/sampled": statistics.fmean(tried) if tried else 0.0,
        "reward/deviation": statistics.pstdev(values) if values else 0.0,
        "completions/length": statistics.fmean(lengths),
        "completions/truncated": statistics.fmean(cut),
        "completions/unscorable": 1 - len(values) / len(cut),
        "groups/equal": statistics.fmean(len(set(batch.reward_values)) < 2 for batch in batches),
        "prompts/tried": statistics.fmean(batch.n_tries for batch in batches),
    }
    parts: dict[str, list[float]] = {}
    for batch in batches:
        for reward in batch.rewards:
            for name, value in reward.parts.items():
                if value is not None:
                    parts.setdefault(f"reward/{name}", []).append(value)
    return found | {name: statistics.fmean(of_part) for name, of_part in parts.items()}
