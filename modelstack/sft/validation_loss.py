"""Loss on the targets of held-back examples: nats per token, with equal weights.

Equal weights make runs with different token weights comparable. The interval is a bootstrap over examples.

Letters: N examples, B rows, T tokens of a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED
from modelstack.data.packing import Piece, Row, plan_rows
from modelstack.errors import UserError
from modelstack.posttrain.measuring import ratio
from modelstack.posttrain.stages.record import Measurement
from modelstack.sft.rendering import Rendered
from modelstack.tokenizer.text_tokenizer import TextTokenizer
from modelstack.train.evaluation import Score, in_use

NAME = "validation loss"


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """N rendered examples to score."""

    ids: tuple[NDArray[np.int64], ...]
    is_target: tuple[NDArray[np.bool_], ...]
    """Mask of the scored ids."""
    n_bytes: NDArray[np.int64]
    """Bytes of each example's targets, [N]."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over ids and masks; losses with the same fingerprint are comparable."""
        digest = hashlib.sha256()
        for part in (array for of_one in zip(self.ids, self.is_target, strict=True) for array in of_one):
            digest.update(len(part).to_bytes(8, "little") + part.tobytes())
        return digest.hexdigest()


def targets_of(rendered: Sequence[Rendered], tokenizer: TextTokenizer) -> Targets:
    """Return the targets of rendered examples.

    Raises:
        UserError: There are no examples.
    """
    if not rendered:
        raise UserError("there are no held-back examples to measure on: name validation files with examples")
    ids = tuple(np.array(one.ids, np.int64) for one in rendered)
    # The first token is not predicted by any other.
    is_target = tuple(np.array([False, *one.labels_at[1:]], np.bool_) for one in rendered)
    n_bytes = [len(tokenizer.decode_bytes(of_one[at].tolist())) for of_one, at in zip(ids, is_target, strict=True)]
    return Targets(ids, is_target, np.array(n_bytes, np.int64))


@torch.no_grad()
def validation_score(model: CausalLM, targets: Targets, row_tokens: int) -> Score:
    """Return a model's score of examples; the model's mode and the random state are unchanged."""
    device = next(model.parameters()).device
    nats = torch.zeros(len(targets.ids), dtype=torch.float64)
    with in_use(model):
        for ids_1T, labels_1T, packed_1T, owner_1T in _rows(targets, row_tokens):
            hidden_1TD = model(ids_1T.to(device), documents_BT=packed_1T.to(device), with_logits=False).hidden_BTD
            at_1T = labels_1T != IGNORED
            logits_nV = model.logits(hidden_1TD[at_1T.to(device)][None])[0].float()
            nats_n = F.cross_entropy(logits_nV, labels_1T[at_1T].to(device), reduction="none")
            nats.index_add_(0, owner_1T[at_1T], nats_n.double().cpu())
    n_tokens = np.array([at.sum() for at in targets.is_target], np.int64)
    return Score(nats.numpy(), n_tokens, targets.n_bytes)


def measurement(score: Score) -> Measurement:
    """Return the loss as a measurement for the stage's card."""
    note = f"nats per target token, {int(score.n_tokens.sum()):,} tokens"
    return ratio(NAME, score.nats, score.n_tokens, note)


def _rows(targets: Targets, row_tokens: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield token ids, labels, numbers of examples within the row, numbers of examples overall, each [1, T]."""
    longest = max(len(ids) for ids in targets.ids)
    pieces = [Piece(number, 0, len(ids)) for number, ids in enumerate(targets.ids)]
    planned, waiting = plan_rows(pieces, max(row_tokens, longest), "best_fit")  # no example is cut
    for row in [*planned, waiting] if waiting else planned:
        yield _tensors(row, targets)


def _tensors(row: Row, targets: Targets) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ids, labels, packed, owner = [], [], [], []
    for number, piece in enumerate(row):
        of_one, at = targets.ids[piece.document], targets.is_target[piece.document]
        ids.append(of_one)
        labels.append(np.append(np.where(at, of_one, IGNORED)[1:], IGNORED))
        packed.append(np.full(len(of_one), number))
        owner.append(np.full(len(of_one), piece.document))
    rows = (torch.from_numpy(np.concatenate(parts))[None] for parts in (ids, labels, packed, owner))
    ids_1T, labels_1T, packed_1T, owner_1T = rows
    return ids_1T, labels_1T, packed_1T, owner_1T
