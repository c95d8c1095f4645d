"""Divergences of a student from its teacher on held-back examples, and its loss on their replies.

All are computed at the examples' own targets with equal weights. The interval is a bootstrap over examples.

Letters: E examples, P labelled positions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.measuring import ratio
from modelstack.posttrain.stages.record import Measurement
from modelstack.reasoning.distil.loader import given_batch
from modelstack.reasoning.distil.places import labelled_hidden, labels_of
from modelstack.reasoning.losses.distillation import generalised_jsd
from modelstack.sft.tokenised import Tokenised
from modelstack.sft.validation_loss import NAME
from modelstack.train.evaluation import in_use

FORWARD, REVERSE = "KL(teacher, student)", "KL(student, teacher)"


@torch.no_grad()
def measured(student: CausalLM, teacher: CausalLM, data: Tokenised) -> tuple[Measurement, ...]:
    """Return both divergences and the loss of the replies, nats per target token, at temperature 1."""
    sums: dict[str, list[float]] = {FORWARD: [], REVERSE: [], NAME: []}
    n_tokens: list[int] = []
    device = next(student.parameters()).device
    with in_use(student), in_use(teacher):
        for number in range(data.n_examples):
            batch = given_batch(data, [number])
            log_s = torch.log_softmax(student.logits(labelled_hidden(student, batch)).float(), -1)
            log_t = torch.log_softmax(teacher.logits(labelled_hidden(teacher, batch)).float(), -1).to(device)
            labels_P = labels_of(batch, device)
            sums[FORWARD].append(float(generalised_jsd(log_s, log_t, 0.0).sum()))
            sums[REVERSE].append(float(generalised_jsd(log_s, log_t, 1.0).sum()))
            sums[NAME].append(float(F.nll_loss(log_s, labels_P, reduction="sum")))
            n_tokens.append(len(labels_P))
    note = f"nats per target token, {sum(n_tokens):,} tokens"
    return tuple(ratio(name, np.array(values), np.array(n_tokens), note) for name, values in sums.items())
