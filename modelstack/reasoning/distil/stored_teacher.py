"""A teacher that was asked once: the k likeliest tokens at every target of every example, kept in a file.

At k = 16 that is 128 bytes a target instead of 4 V; how much is lost is the tail's mass, which the losses report.

Letters: N targets of all examples, K stored tokens, B rows, P labelled places of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.files import replacing
from modelstack.reasoning.distil.loader import DistilBatch, given_batch
from modelstack.reasoning.distil.places import labelled_hidden
from modelstack.reasoning.losses.top_k_distillation import TopK, top_k_of
from modelstack.sft.tokenised import Tokenised
from modelstack.train.evaluation import in_use

ROWS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class StoredTeacher:
    """What is kept of it."""

    token_ids_NK: Tensor
    """int64."""
    log_probs_NK: Tensor
    """fp32."""
    offsets: Tensor
    """Where each example's targets begin, [E + 1]."""
    temperature: float

    def of(self, batch: DistilBatch, device: torch.device) -> TopK:
        """Return what it says at the labels of a batch of given texts, [P, K]."""
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
    """Return a stored teacher, from a file where it holds that of the same fingerprint; else ask it.

    Args:
        file: Beside the run.
        fingerprint: Of teacher, examples, k and temperature.
        teacher: Gives the model, called only where it has to be asked.
        data: The examples.
        k: Tokens to keep at each place.
        temperature: What logits are divided by.
        told: How many examples are done.

    Raises:
        UserError: k is more than the vocabulary.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    if file.exists():
        try:
            with safe_open(file, "pt") as stored:
                if (stored.metadata() or {}).get("fingerprint") == fingerprint:
                    names = ("token_ids", "log_probs", "offsets")
                    token_ids, log_probs, offsets = (stored.get_tensor(name) for name in names)
                    return StoredTeacher(token_ids.long(), log_probs, offsets, temperature)
        except SafetensorError:
            pass  # cut off by a full disk: it is made again
    made = _asked(teacher(), data, k, temperature, told)
    tensors = {"token_ids": made.token_ids_NK.int(), "log_probs": made.log_probs_NK, "offsets": made.offsets}
    with replacing(file) as temporary:
        save_file(tensors, temporary, metadata={"fingerprint": fingerprint})
    return made


@torch.no_grad()
def _asked(
    teacher: CausalLM, data: Tokenised, k: int, temperature: float, told: Callable[[int], object]
) -> StoredTeacher:
    found: list[TopK] = []
    counts = [int((data.document(number)[1][1:] > 0).sum()) for number in range(data.n_examples)]
    with in_use(teacher):
        for start in range(0, data.n_examples, ROWS_AT_ONCE):
            numbers = range(start, min(start + ROWS_AT_ONCE, data.n_examples))
            hidden_PD = labelled_hidden(teacher, given_batch(data, list(numbers)))
            kept = top_k_of(teacher.logits(hidden_PD), k, temperature)
            found.append(TopK(kept.token_ids_NK.cpu(), kept.log_probs_NK.cpu(), temperature))
            told(start + len(numbers))
    offsets = torch.tensor([0, *counts]).cumsum(0)
    return StoredTeacher(
        torch.cat([each.token_ids_NK for each in found]),
        torch.cat([each.log_probs_NK for each in found]).contiguous(),
        offsets,
        temperature,
    )
