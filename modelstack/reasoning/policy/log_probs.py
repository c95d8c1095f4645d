"""The trainer's log-probabilities of sampled replies: for the loss, and as constants at the rollout.

The replies to a prompt share it, so it is read once, with its gradient, and its keys and values serve all of them.
With eight short replies to a long prompt this saves most of the work.

Letters: B rows (the G replies to a prompt), T tokens of a row, R those behind the shared ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from modelstack.architecture.decoder import CausalLM
from modelstack.preferences.log_probs import LabelLogProbs
from modelstack.reasoning.losses.masked_log_probs import masked_label_log_probs
from modelstack.reasoning.policy.rollout_batch import RolloutBatch
from modelstack.reasoning.rollouts.reference import Reference
from modelstack.reasoning.sampling.group_sampler import repeated


@dataclass(frozen=True, slots=True)
class PolicyLogProbs:
    """The model in training, in the precision of the training."""

    model: CausalLM
    temperature: float
    """Temperature of the sampler: log-probabilities are of the distribution that was sampled from."""
    reference: Reference | None
    """Weights that the KL, and the reported distance, refer to; None: neither is needed."""
    shares_prompts: bool = True
    """Whether a prompt is read once for all its replies; False for a sharded model, whose layers are freed after
    each pass."""

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    def of(self, batch: RolloutBatch) -> LabelLogProbs:
        """Return the log-probabilities of the labels, [B, R], with gradient."""
        ids_BT, cache, n_read = batch.ids_BT.to(self.device), None, 0
        if batch.n_shared and self.shares_prompts:
            n_read = batch.n_shared
            cache = self.model.new_cache()
            self.model(ids_BT[:1, : batch.n_shared], cache=cache, with_logits=False)
            cache = repeated(cache, len(ids_BT))
        rest = self.model(ids_BT[:, n_read:], cache=cache, with_logits=False)
        return masked_label_log_probs(
            rest.hidden_BTD[:, batch.n_shared - n_read :],
            batch.labels_BT[:, batch.n_shared :].to(self.device),
            self.model.logits,
            batch.legal_P,
            temperature=self.temperature,
            with_statistics=True,
        )

    @torch.no_grad()
    def at_rollout(self, batch: RolloutBatch, *, with_old: bool) -> RolloutBatch:
        """Return a batch with the log-probabilities that stay constant while it is learnt from.

        Args:
            batch: Sampled with the current weights.
            with_old: Whether the policy's own log-probabilities are needed beside the reference's. A rollout that
                is learnt from in one step has the ratio 1 by definition.
        """
        old_GT = self._whole(batch) if with_old else None
        ref_GT = None
        if self.reference is not None:
            with self.reference.in_place():
                ref_GT = self._whole(batch)
        return replace(batch, old_log_probs_GT=old_GT, ref_log_probs_GT=ref_GT)

    def _whole(self, batch: RolloutBatch) -> Tensor:
        return pad(self.of(batch).log_probs_BT, (batch.n_shared, 0)).cpu()
