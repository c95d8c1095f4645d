"""Hidden states of a model at the labelled positions of a batch.

Letters: B rows, T tokens, P labelled positions, D model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.losses import IGNORED
from modelstack.data.batches import Batch


def labelled_hidden(model: CausalLM, batch: Batch) -> Tensor:
    """Return hidden states [P, D] at a batch's labels, row by row; the batch may be on another device."""
    device = next(model.parameters()).device
    # Each row is one document followed by padding, so the causal mask is enough.
    hidden_BTD = model(batch.ids_BT.to(device), with_logits=False).hidden_BTD
    return hidden_BTD.flatten(0, 1)[(batch.labels_BT.to(device) != IGNORED).flatten()]


def labels_of(batch: Batch, device: torch.device) -> Tensor:
    """Return the labels [P] in the order of `labelled_hidden`."""
    labels_BT = batch.labels_BT.to(device)
    return labels_BT[labels_BT != IGNORED]
