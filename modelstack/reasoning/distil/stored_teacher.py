"""Teacher that is evaluated once: the k most likely tokens at every target of every example, stored in a file.

With k = 16 a target needs 128 bytes instead of 4 V. The mass of the other tokens is lost; the losses report it.

Letters: E examples, N targets of all examples, K stored tokens, B rows, P labelled positions of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.measuring import kept_tensors
from modelstack.reasoning.distil.loader import DistilBatch, given_batch
from modelstack.reasoning.distil.places import labelled_hidden
from modelstack.reasoning.losses.top_k_distillation import TopK, top_k_of
from modelstack.sft.tokenised import Tokenised
from modelstack.train.evaluation import in_use

ROWS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class StoredTeacher:
    """Stored tokens of a teacher."""

    token_ids_NK: Tensor
    """Ids of the tokens, [N, K], int64."""
    log_probs_NK: Tensor
    """Log-probabilities of the tokens, [N, K], fp32."""
    offsets: Tensor
    """Position of each example's first target among all targets, and their number, [E + 1]."""
    temperature: float

    def of(self, batch: DistilBatch, device: torch.device) -> TopK:
        """Return the stored tokens at the labels of a batch with given replies, [P, K]."""
        assert batch.documents is not None
        places = torch.cat([torch.arange(int(self.offsets[n]), int(self.offsets[n + 1])) for n in batch.documents])
        return TopK(self.token_ids_NK[places].to(device), self.log_probs_NK[places].to(device), self.temperature)


def kept_teacher(
    file: Path,
    fingerprint: str,
    teacher: Callable[[], CausalLM],
    data: Tokenised,
    *,
    k: int,
    temperature: float,
    told: Callable[[int], object] = lambda n: None,
) -> StoredTeacher:
    """Return a stored teacher from a file with the same fingerprint; otherwise evaluate the teacher and write it.

    Args:
        file: File in the run's folder.
        fingerprint: Fingerprint of teacher, examples, k and temperature.
        teacher: Returns the model; only called without a matching file.
        data: The examples.
        k: Number of tokens to store at each target.
        temperature: Divisor of the logits.
        told: Receives the number of examples done.

    Raises:
        UserError: `k` is larger than the vocabulary.
    """
    kept = kept_tensors(file, fingerprint, lambda: _asked(teacher(), data, k, temperature, told))
    return StoredTeacher(kept["token_ids"].long(), kept["log_probs"], kept["offsets"], temperature)


@torch.no_grad()
def _asked(
    teacher: CausalLM, data: Tokenised, k: int, temperature: float, told: Callable[[int], object]
) -> dict[str, Tensor]:
    found: list[TopK] = []
    counts = [int((data.document(number)[1][1:] > 0).sum()) for number in range(data.n_examples)]
    with in_use(teacher):
        for start in range(0, data.n_examples, ROWS_AT_ONCE):
            numbers = range(start, min(start + ROWS_AT_ONCE, data.n_examples))
            hidden_PD = labelled_hidden(teacher, given_batch(data, list(numbers)))
            kept = top_k_of(teacher.logits(hidden_PD), k, temperature)
            found.append(TopK(kept.token_ids_NK.cpu(), kept.log_probs_NK.cpu(), temperature))
            told(start + len(numbers))
    return {
        "token_ids": torch.cat([each.token_ids_NK for each in found]).int(),
        "log_probs": torch.cat([each.log_probs_NK for each in found]).contiguous(),
        "offsets": torch.tensor([0, *counts]).cumsum(0),
    }
