"""The trainer's log-probabilities of sampled replies: with gradient for the loss, and as constants at the rollout.

All replies to a prompt share its tokens. The prompt is therefore processed once, with gradient, and its keys and
values are used for all replies. With eight short replies to a long prompt this saves most of the computation.

Letters: B rows (the replies to a prompt, G in a batch), T tokens of a row, R tokens of a row after the shared
ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from modelstack.architecture.cache import repeated
from modelstack.architecture.decoder import CausalLM
from modelstack.preferences.log_probs import LabelLogProbs
from modelstack.reasoning.losses.masked_log_probs import masked_label_log_probs
from modelstack.reasoning.policy.rollout_batch import RolloutBatch
from modelstack.reasoning.rollouts.reference import Reference


@dataclass(frozen=True, slots=True)
class PolicyLogProbs:
    """Log-probabilities by the model in training, in the precision of the training."""

    model: CausalLM
    temperature: float
    """Temperature of the sampler, so that these are the log-probabilities of the sampling distribution."""
    reference: Reference | None
    """Reference weights of the KL and of the reported distance; None: neither is needed."""
    shares_prompts: bool = True
    """Whether a prompt is processed once for all its replies.

    False for a sharded model, whose gathered layers are freed after each pass.
    """

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
        """Return a batch with the log-probabilities that stay constant while the batch is learnt from.

        Args:
            batch: Batch sampled with the current weights.
            with_old: Whether the policy's own log-probabilities are stored too. They are not needed for a single
                step on a rollout, whose ratio is 1 by definition.
        """
        old_GT = self._whole(batch) if with_old else None
        ref_GT = None
        if self.reference is not None:
            with self.reference.in_place():
                ref_GT = self._whole(batch)
        return replace(batch, old_log_probs_GT=old_GT, ref_log_probs_GT=ref_GT)

    def _whole(self, batch: RolloutBatch) -> Tensor:
        return pad(self.of(batch).log_probs_BT, (batch.n_shared, 0)).cpu()
