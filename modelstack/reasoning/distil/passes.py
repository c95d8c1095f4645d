"""Forward and backward passes of a distillation.

The heads of teacher and student compute logits only at labelled positions, in chunks. With several chunks the
logits are recomputed for the gradient. The loss is a mean over the labelled tokens of the whole step.

Letters: P labelled positions of a batch, D model width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import TOKENS_PER_CHUNK
from modelstack.posttrain.passes import BatchLoss, TuningPasses
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


@dataclass
class DistilPasses(TuningPasses):
    """Passes of a student with its teacher; the step's loss is a mean over its labelled tokens."""

    model: CausalLM
    teacher: CausalLM | StoredTeacher
    loss: DistillationConfig | ClassicDistillationConfig
    tokens_per_chunk: int = TOKENS_PER_CHUNK

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The student."""
        return (self.model,)

    def losses_of(self, batch: DistilBatch, n_labels: float, n_rows: float) -> BatchLoss:
        """Return the loss of a batch; the metric `on_policy` is the share of tokens that the student sampled."""
        found, n_tokens = self.batch_loss(batch, n_labels)
        metrics = {"on_policy": float(batch.documents is None), **found.metrics}
        return BatchLoss({"distillation": found.loss}, n_tokens / n_labels, metrics)

    def batch_loss(self, batch: DistilBatch, n_labels: float) -> tuple[PolicyLoss, int]:
        """Return the batch's share of the step's loss, with the batch's mean metrics, and its number of labels."""
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
        """Return the teacher's part of each chunk: its stored tokens, or hidden states for its head."""
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
