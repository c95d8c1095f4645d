"""Forward and backward passes of a policy gradient: what takes the place of fine-tuning's in the one loop.

The replies to a prompt share it, so it is read once, with its gradient, and its keys and values stand for all of
them: with eight short replies to a long prompt that is most of the work saved.

Letters: B rows, T tokens of a row, R those behind the shared ones.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch
from modelstack.errors import UserError
from modelstack.preferences.log_probs import LabelLogProbs
from modelstack.reasoning.losses.kl import kl_estimate
from modelstack.reasoning.losses.masked_log_probs import masked_label_log_probs
from modelstack.reasoning.losses.policy import policy_loss
from modelstack.reasoning.losses.policy_config import PolicyConfig
from modelstack.reasoning.losses.rollouts import Rollouts, StepTotals
from modelstack.reasoning.losses.sampler_correction import SamplerCorrection, sampler_weights
from modelstack.reasoning.rollout_loader import RolloutBatch
from modelstack.reasoning.sampling.group_sampler import repeated


class Reference:
    """The trained weights as they are now, to be put in the place of later ones for a moment."""

    def __init__(self, model: nn.Module) -> None:
        """Remember them: of a model with an adapter a few million numbers, else all of it."""
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._values = [parameter.detach().clone() for parameter in self._parameters]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model be the reference."""
        own = [parameter.data for parameter in self._parameters]
        for parameter, value in zip(self._parameters, self._values, strict=True):
            parameter.data = value
        try:
            yield
        finally:
            for parameter, value in zip(self._parameters, own, strict=True):
                parameter.data = value


@dataclass(slots=True)
class PolicyPasses:
    """The whole model on one device."""

    model: CausalLM
    config: PolicyConfig
    temperature: float
    """That of the sampler: log-probabilities are of what was sampled from."""
    reference: Reference | None
    """What the KL term is to, and what the distance from is shown; None: neither is wanted."""
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
        shares: dict[str, float] = {}
        for batch in rollouts:
            # Of replies that are all worth the same the gradient is 0, and is not computed.
            teaches = self.config.kl is not None or batch.is_informative
            with torch.set_grad_enabled(teaches):
                loss, metrics = self._loss(batch, totals)
            if teaches:
                loss.backward()
            total += float(loss.detach())
            for name, value in metrics.items():
                shares[name] = shares.get(name, 0.0) + float(value) / len(rollouts)
        self.metrics = shares | _of_replies(rollouts)
        return {"policy": total}

    def _loss(self, batch: RolloutBatch, totals: StepTotals) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(self.model.parameters()).device
        found = self._log_probs(batch, device)
        own_BR, mask_BR = found.log_probs_BT.detach(), found.is_label_BT
        ref_BR = None
        if self.reference is not None:
            with self.reference.in_place(), torch.no_grad():
                ref_BR = self._log_probs(batch, device).log_probs_BT
        sampler_BR = batch.sampler_log_probs_GT[:, batch.n_shared :].to(device)
        weights = None
        if self.correction is not None:
            weights = sampler_weights(own_BR, sampler_BR, mask_BR, self.correction)
        loss = policy_loss(
            Rollouts(
                log_probs_BT=found.log_probs_BT,
                mask_BT=mask_BR,
                advantages=batch.advantages_G.to(device),
                ref_log_probs_BT=ref_BR,
                correction=weights,
                entropy_BT=found.entropy_BT,
            ),
            self.config,
            totals,
        )
        metrics = loss.metrics | _of_sampler(own_BR, sampler_BR, mask_BR, weights)
        if ref_BR is not None:
            metrics["kl_to_start"] = _mean(kl_estimate(own_BR, ref_BR, "k3"), mask_BR)
        return loss.loss, metrics

    def _log_probs(self, batch: RolloutBatch, device: torch.device) -> LabelLogProbs:
        """Return what the model says of the labels, [B, R]."""
        ids_BT, cache = batch.ids_BT.to(device), None
        if batch.n_shared:
            cache = self.model.new_cache()
            self.model(ids_BT[:1, : batch.n_shared], cache=cache, with_logits=False)
            cache = repeated(cache, len(ids_BT))
        rest = self.model(ids_BT[:, batch.n_shared :], cache=cache, with_logits=False)
        return masked_label_log_probs(
            rest.hidden_BTD,
            batch.labels_BT[:, batch.n_shared :].to(device),
            self.model.logits,
            batch.legal_P,
            temperature=self.temperature,
            with_statistics=True,
        )

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down; return the norm before."""
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), max_norm))

    def settle(self, taken: bool) -> None:
        """Do nothing: balancing biases of experts stay as they were."""


def _checked(batch: Batch) -> RolloutBatch:
    if not isinstance(batch, RolloutBatch):
        raise UserError("a policy gradient is of rollouts: give the run a RolloutLoader")
    return batch


@torch.no_grad()
def _of_sampler(own_BR: Tensor, sampler_BR: Tensor, mask_BR: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
    """Return how far the sampler's log-probabilities are from the trainer's, and what was made of that.

    Of the model itself, reading with a cache one token at a time, that is rounding; of a quantised engine, more.
    """
    apart_BR = (own_BR - sampler_BR).where(mask_BR, 0)
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
