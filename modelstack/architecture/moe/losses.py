"""Losses on routing: DeepSeek's sequence-wise balance loss and the router z-loss.

Sequence-wise loss (DeepSeek-V3, arXiv 2412.19437, 2.1.2; kept in V4, alpha 1e-4): over one sequence of T tokens
f_i = E / (k T) * #{t: i among the k best scores s_t}, P_i = mean_t s_it / sum_j s_jt, loss sum_i f_i P_i, which is
1 if even. The k best are taken from the scores, without bias or groups, so f may differ from the true load; f is a
count and has no gradient. The loss stops single sequences from overloading an expert, which the balancing bias
cannot do, because it sees only sums over the batch. Router z-loss: mean of logsumexp(logits)^2, ST-MoE,
2202.08906, coefficient 1e-3.

A sequence is a row of the batch, even if the row packs several documents: documents can have only a few tokens,
for which no load is even. Padding is excluded; rows of padding only are excluded from the mean.

Letters: B rows, T tokens, N = B * T, E experts, k of them selected.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import Routing


def routing_losses(config: ModelConfig, routing: Mapping[int, Routing], counted_BT: Tensor) -> dict[str, Tensor]:
    """Return the losses that the config enables, each times its coefficient and summed over layers.

    Args:
        config: Config with `seq_aux_loss_coef` and `router_z_loss_coef`; 0 disables a loss.
        routing: Routing of the model's layers, or of some of them (a pipeline stage), by layer.
        counted_BT: bool, False for padding.

    Returns:
        Scalars by name, to be added to the language-modelling loss; empty if nothing was routed. Layers routed
        by a hash have no balance loss, because their assignment is fixed.
    """
    losses: dict[str, Tensor] = {}
    by_hash = {layer for layer, kind in enumerate(config.mlp_layer_types) if kind == "hash_moe"}
    k = config.num_experts_per_tok or 0
    chosen = [r for layer, r in routing.items() if layer not in by_hash]
    if config.seq_aux_loss_coef and chosen:
        parts = [sequence_balance_loss(r.scores_NE, k, counted_BT) for r in chosen]
        losses["seq_aux_loss"] = config.seq_aux_loss_coef * torch.stack(parts).sum()
    if config.router_z_loss_coef and routing:
        parts = [router_z_loss(r.logits_NE, counted_BT) for r in routing.values()]
        losses["router_z_loss"] = config.router_z_loss_coef * torch.stack(parts).sum()
    return losses


def sequence_balance_loss(scores_NE: Tensor, n_chosen: int, counted_BT: Tensor) -> Tensor:
    """Return the mean over rows of sum_i f_i P_i, without alpha.

    Args:
        scores_NE: Non-negative scores of all experts.
        n_chosen: k.
        counted_BT: bool, False for padding; its shape defines the rows.
    """
    B, T = counted_BT.shape
    scores_BTE = scores_NE.view(B, T, -1)
    E = scores_BTE.shape[-1]
    counted_BT1 = counted_BT.unsqueeze(-1).to(scores_NE.dtype)
    n_tokens_B1 = counted_BT1.sum(dim=1).clamp(min=1)
    best = scores_BTE.detach().topk(n_chosen, dim=-1).indices
    is_best_BTE = torch.zeros_like(scores_BTE).scatter(-1, best, 1.0)
    f_BE = (is_best_BTE * counted_BT1).sum(dim=1) * E / (n_chosen * n_tokens_B1)
    share_BTE = scores_BTE / scores_BTE.sum(dim=-1, keepdim=True)
    P_BE = (share_BTE * counted_BT1).sum(dim=1) / n_tokens_B1
    n_rows = counted_BT.any(dim=1).sum().clamp(min=1)
    return (f_BE * P_BE).sum() / n_rows


def router_z_loss(logits_NE: Tensor, counted_BT: Tensor) -> Tensor:
    """Return the mean over tokens of logsumexp(logits)^2, without the coefficient."""
    counted_N = counted_BT.flatten()
    z_N = logits_NE.float().logsumexp(dim=-1).square()
    return (z_N * counted_N).sum() / counted_N.sum().clamp(min=1)
