"""Forward and backward passes of a policy gradient: what takes the place of fine-tuning's in the one loop.

Letters: B rows, T tokens.
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
from modelstack.preferences.log_probs import LabelLogProbs, label_log_probs
from modelstack.reasoning.policy import policy_loss
from modelstack.reasoning.policy_config import PolicyConfig
from modelstack.reasoning.rollout_loader import RolloutBatch
from modelstack.reasoning.rollouts import Rollouts, StepTotals


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
    """None: the loss has no KL term."""
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
            loss, metrics = self._loss(batch, totals)
            loss.backward()
            total += float(loss.detach())
            for name, value in metrics.items():
                shares[name] = shares.get(name, 0.0) + float(value) / len(rollouts)
        self.metrics = shares | _of_replies(rollouts)
        return {"policy": total}

    def _loss(self, batch: RolloutBatch, totals: StepTotals) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(self.model.parameters()).device
        found = self._log_probs(batch, device)
        ref_BT = None
        if self.reference is not None:
            with self.reference.in_place(), torch.no_grad():
                ref_BT = self._log_probs(batch, device).log_probs_BT
        sampler_BT = batch.sampler_log_probs_GT.to(device)
        loss = policy_loss(
            Rollouts(
                log_probs_BT=found.log_probs_BT,
                mask_BT=found.is_label_BT,
                advantages=batch.advantages_G.to(device),
                ref_log_probs_BT=ref_BT,
                entropy_BT=found.entropy_BT,
            ),
            self.config,
            totals,
        )
        # The sampler reads with a cache, one token at a time: what rounding makes of that is worth a look.
        apart_BT = (found.log_probs_BT.detach() - sampler_BT).abs().where(found.is_label_BT, 0)
        return loss.loss, loss.metrics | {"sampler_gap/max": apart_BT.max()}

    def _log_probs(self, batch: RolloutBatch, device: torch.device) -> LabelLogProbs:
        hidden_BTD = self.model(batch.ids_BT.to(device), with_logits=False).hidden_BTD
        return label_log_probs(
            hidden_BTD,
            batch.labels_BT.to(device),
            self.model.logits,
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


def _of_replies(batches: Sequence[RolloutBatch]) -> dict[str, float]:
    """Return what a step's replies were: rewards and their parts, lengths, groups that teach nothing."""
    values = [value for batch in batches for value in batch.reward_values]
    lengths = [int(n) for batch in batches for n in (batch.labels_BT != IGNORED).sum(-1)]
    cut = [is_cut for batch in batches for is_cut in batch.is_truncated]
    found = {
        "reward": statistics.fmean(values) if values else 0.0,
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
