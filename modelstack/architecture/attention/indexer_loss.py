"""What trains the lightning indexer: KL divergence from where attention went to where the indexer would send it.

The choice of entries has no gradient, so the language-modelling loss leaves the indexer where it started. DeepSeek
trains it beside the model: the target for a token is its attention summed over heads and normalised over entries;
the loss is KL(target || softmax of the index scores), and neither target nor inputs carry a gradient to the model.
First a dense warm-up, the model frozen and every entry attended to; then sparse training, the loss over the chosen
entries only. Here that is one formula: with `index_topk` at or above the number of entries all are chosen.

Published: V4's report (arXiv 2606.19348) says that there is a short indexer warm-up before sparse training. The
loss and the two stages are believed, from V3.2's account. Ours to decide was how V4's other branches count: the
target is the share that an entry has in the one softmax over window, entries and sink, so a head that looks at its
window weighs little. Public trainers for V4 take a softmax over entries alone, where all heads weigh the same.

Letters: B batch, T tokens, D model width, N entries, k of them on offer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelstack.architecture.attention.compressed import SparseCompressor
from modelstack.architecture.attention.shared_kv import SharedKVAttention
from modelstack.architecture.attention.window_and_entries import share_of_entries
from modelstack.architecture.context import ForwardContext


@dataclass(slots=True)
class IndexedLayer:
    """One layer with an indexer, and what it was given in a forward pass."""

    attention: SharedKVAttention
    x_BTD: Tensor
    """Detached."""
    context: ForwardContext


@contextmanager
def indexed_layers(model: nn.Module) -> Iterator[list[IndexedLayer]]:
    """Collect, from forward passes of `model` within the block, what its indexers need for their loss.

    Passes must be without a cache. For the warm-up run them under `torch.no_grad`.
    """
    found: list[IndexedLayer] = []

    def keep(module: nn.Module, inputs: tuple) -> None:
        assert isinstance(module, SharedKVAttention)
        found.append(IndexedLayer(module, inputs[0].detach(), inputs[1]))

    hooks = [
        module.register_forward_pre_hook(keep)
        for module in model.modules()
        if isinstance(module, SharedKVAttention) and isinstance(module.compressor, SparseCompressor)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def indexer_loss(layer: IndexedLayer) -> Tensor:
    """Return the indexer's loss in one layer: the mean of the divergence over tokens that see any entry.

    Only the indexer's own parameters get a gradient. Scores of all entries are kept for it, B * T * N a head.
    """
    attention, x, context = layer.attention, layer.x_BTD, layer.context
    compressor = attention.compressor
    assert isinstance(compressor, SparseCompressor)
    with torch.no_grad():
        latent, q, kv = attention.queries_and_rows(x, context)
        entries = compressor(x, latent, context)
        target = share_of_entries(
            q,
            kv,
            entries,
            attention.sinks,
            scale=attention.scale,
            window=attention.window,
            documents_BS=context.documents_BT,
        )
    indexer = compressor.indexer
    scores = indexer.scores(x, latent, indexer.entries(x, context), context)
    if entries.chosen_BTk is not None:
        scores = scores.gather(-1, entries.chosen_BTk)
    return divergence(scores, target, entries.seen)


def divergence(scores_BTk: Tensor, target_BTk: Tensor, seen_BTk: Tensor) -> Tensor:
    """Return the mean of KL(target || softmax(scores)) over the tokens that see anything; 0 if none does.

    Args:
        scores_BTk: Any real numbers.
        target_BTk: Not negative; normalised here.
        seen_BTk: bool, broadcast: what counts at all.
    """
    seen_BTk = seen_BTk.expand_as(scores_BTk)
    sees_any = seen_BTk.any(dim=-1)
    lowest = torch.finfo(scores_BTk.dtype).min
    log_q = F.log_softmax(scores_BTk.masked_fill(~seen_BTk, lowest), dim=-1)
    target_BTk = target_BTk.masked_fill(~seen_BTk, 0.0)
    total = target_BTk.sum(dim=-1, keepdim=True)
    p = target_BTk / total.clamp(min=torch.finfo(total.dtype).tiny)
    by_token = (torch.xlogy(p, p) - p * log_q.masked_fill(~seen_BTk, 0.0)).sum(dim=-1)
    return (by_token * sees_any).sum() / sees_any.sum().clamp(min=1)
