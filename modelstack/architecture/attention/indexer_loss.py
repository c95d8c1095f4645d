"""The lightning indexer's loss: KL divergence between the attention to each entry and the indexer's scores.

The selection of entries has no gradient, so the language-modelling loss does not train the indexer. DeepSeek
trains it beside the model. The target for a token is its attention, summed over heads and normalised over entries;
the loss is KL(target || softmax of the index scores). Target and inputs are detached, so the model gets no
gradient from it. Training starts with a dense warm-up, in which the model is frozen and all entries are attended
to. Sparse training follows, with the loss over the selected entries only (`compressed.IndexStage`). One formula
serves both stages.

A layer computes its divergences in its own forward pass, where its weights are available even if they are sharded
or recomputed for the gradient. It stores them in the context; `losses.total_loss` adds them up.

Published facts: V4's report (arXiv 2606.19348) mentions a short indexer warm-up before sparse training. The loss
and the two stages are assumed from V3.2's report. The treatment of V4's other branches is our decision: the target
is the share of an entry in the one softmax over window, entries and sink, so a head that attends to its window has
little weight. Public trainers for V4 use a softmax over entries only, in which all heads have the same weight.

Letters: B batch, T tokens, t tokens of a block, D model width, R query rank, H index heads, d index channels, N
entries, k of them available.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from modelstack.architecture.attention.indexer import FLOATS_AT_ONCE, Indexer
from modelstack.architecture.attention.window_and_entries import Entries
from modelstack.architecture.context import ForwardContext, IndexDivergence


def index_divergence(
    indexer: Indexer,
    x_BTD: Tensor,
    latent_BTR: Tensor,
    entries: Entries,
    target: Tensor,
    context: ForwardContext,
) -> IndexDivergence:
    """Return one layer's divergences; only the indexer's own parameters get a gradient.

    If the query-key products, B * T * N per head, are too many, tokens are processed in blocks whose scores are
    recomputed for the gradient.

    Args:
        indexer: The indexer whose scores are compared.
        x_BTD: The layer's input.
        latent_BTR: The queries' latent.
        entries: The available entries.
        target: Attention to each of the entries, [B, T, N] or [B, T, k].
        context: Context of the forward pass.
    """
    x, latent = x_BTD.detach(), latent_BTR.detach()
    keys, q = indexer.entries(x, context), indexer.queries(latent, context)
    B, T, H, _ = q.shape
    seen = entries.seen.expand(B, -1, -1)
    step = max(1, FLOATS_AT_ONCE // max(1, B * H * keys.shape[1]))
    found = []
    for start in range(0, T, step):
        block = slice(start, start + step)
        chosen = None if entries.chosen_BTk is None else entries.chosen_BTk[:, block]
        arguments = (indexer, q[:, block], keys, x[:, block], target[:, block].detach(), seen[:, block], chosen)
        if step >= T:
            found.append(_divergence_of_block(*arguments))
        else:
            found.append(
                checkpoint(_divergence_of_block, *arguments, use_reentrant=False, preserve_rng_state=False)
            )
    return IndexDivergence(torch.cat(found, dim=1), seen.any(dim=-1))


def _divergence_of_block(
    indexer: Indexer,
    q_BtHd: Tensor,
    keys_BNd: Tensor,
    x_BtD: Tensor,
    target: Tensor,
    seen: Tensor,
    chosen_Btk: Tensor | None,
) -> Tensor:
    scores = indexer.scorer(q_BtHd, keys_BNd, x_BtD)
    return divergence(scores if chosen_Btk is None else scores.gather(-1, chosen_Btk), target, seen)


def divergence(scores_BTk: Tensor, target_BTk: Tensor, seen_BTk: Tensor) -> Tensor:
    """Return KL(target || softmax(scores)) of each token, [B, T]; 0 if a token sees nothing.

    Args:
        scores_BTk: Any real numbers.
        target_BTk: Non-negative numbers; normalised here.
        seen_BTk: bool, True for visible entries.
    """
    lowest = torch.finfo(scores_BTk.dtype).min
    log_q = F.log_softmax(scores_BTk.masked_fill(~seen_BTk, lowest), dim=-1)
    target_BTk = target_BTk.masked_fill(~seen_BTk, 0.0)
    total = target_BTk.sum(dim=-1, keepdim=True)
    p = target_BTk / total.clamp(min=torch.finfo(total.dtype).tiny)
    by_token = (torch.xlogy(p, p) - p * log_q.masked_fill(~seen_BTk, 0.0)).sum(dim=-1)
    return by_token * seen_BTk.any(dim=-1)


def indexer_loss(divergences: Mapping[int, IndexDivergence], counted_BT: Tensor) -> Tensor:
    """Return the sum over layers of the mean divergence, fp32, without the coefficient.

    A layer without any visible entry contributes 0.

    Args:
        divergences: Divergences by layer, at least one.
        counted_BT: bool, False for padding. The mean is over counted tokens that see an entry.
    """
    means = []
    for one in divergences.values():
        counts_BT = counted_BT & one.sees_any_BT
        means.append((one.divergence_BT * counts_BT).sum() / counts_BT.sum().clamp(min=1))
    return torch.stack(means).sum()


def indexer_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a model's indexers. Only the indexers' loss trains them."""
    found = (module for module in model.modules() if isinstance(module, Indexer))
    return [parameter for indexer in found for parameter in indexer.parameters()]
