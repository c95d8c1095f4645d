"""The trainer's log-probabilities of sampled replies: for the loss, and at the rollout for what is held constant.

The replies to a prompt share it, so it is read once, with its gradient, and its keys and values stand for all of
them: with eight short replies to a long prompt that is most of the work saved.

Letters: B rows (the G replies to a prompt), T tokens of a row, R those behind the shared ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from modelstack.architecture.decoder import CausalLM
from modelstack.preferences.log_probs import LabelLogProbs
from modelstack.reasoning.losses.masked_log_probs import masked_label_log_probs
from modelstack.reasoning.policy.rollout_batch import RolloutBatch
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


@dataclass(frozen=True, slots=True)
class PolicyLogProbs:
    """The model in training, in the precision of the training."""

    model: CausalLM
    temperature: float
    """That of the sampler: log-probabilities are of what was sampled from."""
    reference: Reference | None
    """What a KL is to, and what the distance from is shown; None: neither is wanted."""

    @property
    def device(self) -> torch.device:
        """Return where the model lies."""
        return next(self.model.parameters()).device

    def of(self, batch: RolloutBatch) -> LabelLogProbs:
        """Return what the model says of the labels, [B, R], with gradient."""
        ids_BT, cache = batch.ids_BT.to(self.device), None
        if batch.n_shared:
            cache = self.model.new_cache()
            self.model(ids_BT[:1, : batch.n_shared], cache=cache, with_logits=False)
            cache = repeated(cache, len(ids_BT))
        rest = self.model(ids_BT[:, batch.n_shared :], cache=cache, with_logits=False)
        return masked_label_log_probs(
            rest.hidden_BTD,
            batch.labels_BT[:, batch.n_shared :].to(self.device),
            self.model.logits,
            batch.legal_P,
            temperature=self.temperature,
            with_statistics=True,
        )

    @torch.no_grad()
    def at_rollout(self, batch: RolloutBatch, *, with_old: bool) -> RolloutBatch:
        """Return a batch with what is held constant while it is learnt from.

        Args:
            batch: Sampled with the weights as they are now.
            with_old: Whether the policy's own log-probabilities are needed beside the reference's: a rollout that
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
