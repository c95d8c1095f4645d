"""Forward and backward passes of a distillation: what takes the place of fine-tuning's in the one loop.

The head makes logits at labelled places alone, some at a time, the teacher's beside the student's; where they are
many they are made anew for the gradient. The loss is a mean over the labelled tokens of the whole step.

Letters: P labelled places of a batch, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import TOKENS_PER_CHUNK
from modelstack.data.batches import Batch
from modelstack.errors import UserError
from modelstack.reasoning.distil.loader import DistilBatch
from modelstack.reasoning.distil.places import labelled_hidden, labels_of
from modelstack.reasoning.distil.stored_teacher import StoredTeacher
from modelstack.reasoning.losses.distillation import (
    ClassicDistillationConfig,
    DistillationConfig,
    classic_distillation_loss,
    distillation_loss,
)
from modelstack.reasoning.losses.rollouts import PolicyLoss
from modelstack.reasoning.losses.top_k_distillation import TopK, top_k_distillation_loss


@dataclass(slots=True)
class DistilPasses:
    """The whole student on one device, its teacher beside it."""

    model: CausalLM
    teacher: CausalLM | StoredTeacher
    loss: DistillationConfig | ClassicDistillationConfig
    tokens_per_chunk: int = TOKENS_PER_CHUNK
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Means over the last step's tokens; `on_policy` is the share of them that the student sampled."""

    def total(self, n: float) -> float:
        """Return `n`: there are no other ranks."""
        return n

    def backward(self, batches: Sequence[Batch], n_labels: float) -> dict[str, float]:
        """Add the gradients of the micro-batches; return the loss.

        Raises:
            UserError: A batch is not one to distil on.
        """
        total = 0.0
        metrics: dict[str, float] = {"on_policy": 0.0}
        for batch in batches:
            if not isinstance(batch, DistilBatch):
                raise UserError("a distillation is of examples: give the run a DistilLoader")
            found, n_tokens = self.batch_loss(batch, n_labels)
            found.loss.backward()
            total += float(found.loss.detach())
            metrics["on_policy"] += n_tokens / n_labels if batch.documents is None else 0.0
            for name, value in found.metrics.items():
                metrics[name] = metrics.get(name, 0.0) + float(value) * n_tokens / n_labels
        self.metrics = metrics
        return {"distillation": total}

    def batch_loss(self, batch: DistilBatch, n_labels: float) -> tuple[PolicyLoss, int]:
        """Return a batch's share of the step's loss with means over its own tokens, and how many these are."""
        device = next(self.model.parameters()).device
        hidden_PD, labels_P = labelled_hidden(self.model, batch), labels_of(batch, device)
        hiddens, labels = hidden_PD.split(self.tokens_per_chunk), labels_P.split(self.tokens_per_chunk)
        total = hidden_PD.new_zeros((), dtype=torch.float32)
        metrics: dict[str, Tensor] = {}
        for chunk in zip(hiddens, labels, self._told(batch, device), strict=True):
            if len(hiddens) == 1:
                found = self._of_chunk(*chunk, n_labels)
            else:
                found = checkpoint(self._of_chunk, *chunk, n_labels, use_reentrant=False, preserve_rng_state=False)
            total = total + found.loss
            for name, value in found.metrics.items():
                share = value * (len(chunk[1]) / len(labels_P))
                metrics[name] = metrics[name] + share if name in metrics else share
        return PolicyLoss(total, metrics), len(labels_P)

    def _told(self, batch: DistilBatch, device: torch.device) -> list[TopK | Tensor]:
        """Return what the teacher says of each chunk: its tokens that were kept, or hidden states for its head."""
        n = self.tokens_per_chunk
        if isinstance(self.teacher, StoredTeacher):
            kept = self.teacher.of(batch, device)
            pairs = zip(kept.token_ids_NK.split(n), kept.log_probs_NK.split(n), strict=True)
            return [TopK(ids_NK, log_probs_NK, kept.temperature) for ids_NK, log_probs_NK in pairs]
        with torch.no_grad():
            return list(labelled_hidden(self.teacher, batch).split(n))

    def _of_chunk(self, hidden_PD: Tensor, labels_P: Tensor, told: TopK | Tensor, n_labels: float) -> PolicyLoss:
        student_PV = self.model.logits(hidden_PD)
        if isinstance(told, TopK):
            assert isinstance(self.loss, DistillationConfig)
            return top_k_distillation_loss(student_PV, told, self.loss.beta, n_labels)
        assert isinstance(self.teacher, CausalLM)
        with torch.no_grad():
            teacher_PV = self.teacher.logits(told)
        if isinstance(self.loss, ClassicDistillationConfig):
            return classic_distillation_loss(student_PV, teacher_PV, labels_P, self.loss, n_labels)
        return distillation_loss(student_PV, teacher_PV, self.loss, n_labels)

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down; return the norm before."""
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), max_norm))

    def settle(self, taken: bool) -> None:
        """Do nothing: balancing biases of experts stay as they were."""
