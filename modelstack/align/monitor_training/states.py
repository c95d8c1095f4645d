"""Hidden states of given conversations, by the torch model.

Conversations with a common beginning (system text, tools) share its evaluation. The forward pass ends at the last
layer that is read. States are those that the engines give for the same weights (`inference.engine.StateWatch`).

Letters: B rows, T tokens, L layers, D width of the model, P tokens of a prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modelstack.architecture.cache import Cache
from modelstack.architecture.decoder import CausalLM
from modelstack.posttrain.row_loader import PADDING
from modelstack.posttrain.shared_prefix import SharedPrefix, require_shareable

BATCH_TOKENS = 4096


class _Enough(Exception):
    """The last layer that is read was computed."""


@torch.no_grad()
def layer_states(
    model: CausalLM, prefix_P: Sequence[int], rows: Sequence[Sequence[int]], layers: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.float16]]]:
    """Yield the number of each row and the outputs [T, L, D] of layers at its tokens, short rows first.

    Args:
        model: The model.
        prefix_P: Tokens before all rows, at least one.
        rows: Tokens of each row.
        layers: Layers that are read, from 0.

    Raises:
        UserError: The model cannot continue a shared prefix.
    """
    require_shareable(model)
    with _outputs(model, layers) as outputs:
        cache = Cache([SharedPrefix() for _ in model.model.layers])
        _forward(model, torch.tensor([list(prefix_P)]), cache)
        n_prefix = len(prefix_P)
        for numbers in _batches([len(row) for row in rows]):
            T = max(len(rows[number]) for number in numbers)
            ids_BT = torch.full((len(numbers), T), PADDING)
            for b, number in enumerate(numbers):
                ids_BT[b, : len(rows[number])] = torch.tensor(list(rows[number]))
            cache.n_tokens = n_prefix
            _forward(model, ids_BT, cache)
            states_BTLD = torch.stack([outputs[layer] for layer in layers], dim=2).half().numpy()
            for b, number in enumerate(numbers):
                yield number, states_BTLD[b, : len(rows[number])]


def _forward(model: CausalLM, ids_BT: Tensor, cache: Cache) -> None:
    try:
        model(ids_BT, cache=cache, with_logits=False)
    except _Enough:
        cache.n_tokens += ids_BT.shape[1]


@contextmanager
def _outputs(model: CausalLM, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    outputs: dict[int, Tensor] = {}

    def keep(layer: int) -> torch.utils.hooks.RemovableHandle:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            outputs[layer] = output
            if layer == max(layers):
                raise _Enough

        return model.model.layers[layer].register_forward_hook(hook)

    hooks = [keep(layer) for layer in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the numbers of rows of similar length, at most `BATCH_TOKENS` padded tokens together."""
    batch: list[int] = []
    for number in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[number] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
