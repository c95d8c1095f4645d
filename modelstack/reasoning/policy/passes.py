"""Forward and backward passes of a policy gradient.

Letters: B rows, R tokens of a row behind the shared ones.
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
    """Weights of replies that another engine sampled; None: the model in training sampled them."""

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The policy."""
        return (self.log_probs.model,)

    def losses_of(self, batch: RolloutBatch, n_labels: float, n_rows: float) -> BatchLoss:
        """Return the loss of a prompt's replies with its metrics."""
        # The gradient of replies with equal rewards is 0, and is not computed.
        with torch.set_grad_enabled(self.config.teaches_equal_rewards or batch.is_informative):
            loss, metrics = self._loss(batch, StepTotals(n_tokens=n_labels, n_sequences=n_rows))
        return BatchLoss({"policy": loss}, len(batch.ids_BT) / n_rows, metrics)

    def metrics_of(self, batches: Sequence[RolloutBatch]) -> dict[str, float]:
        """Return rewards, their parts, and lengths of a step's replies."""
        return _of_replies(batches)

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
    """Return the distance of the sampler's log-probabilities from the trainer's at the rollout, and the weights.

    For the model itself, which samples with a cache, the distance is rounding; for a quantised engine it is
    larger.
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
    """Return rewards and their parts, lengths, and the share of groups with equal rewards."""
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
