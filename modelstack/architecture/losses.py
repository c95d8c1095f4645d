"""What a model is trained on: next-token cross-entropy and what is added to it.

The logits of a large vocabulary are the largest tensor of a training step: 8192 tokens of DeepSeek-V3's 129,280 in
fp32 are 4 GB, and as much again for their gradient. So losses take hidden states and the head, make the logits of
some tokens at a time and make them anew for the gradient, which costs the head's pass once more; only sums are
kept (the idea of Cut Cross-Entropy, arXiv 2411.09009, and of Liger Kernel, 2410.10989, in plain torch). Where all
logits together are small, as with a small vocabulary, they stay and nothing is made twice. Where few tokens are
labelled, as in fine-tuning, the head is asked for those alone.

Labels may have weights: a mean is then sum(w * loss) / sum(w), over all micro-batches and ranks of a step. Dynamic
fine-tuning (DFT, 2508.05629) weighs each token's surprise by the model's own probability of it, held constant, so
that tokens that the model cannot explain pull less.

z-loss: PaLM, 2204.02311 section 5; it holds the softmax's normaliser near 1. Multi-token prediction: DeepSeek-V3,
2412.19437 equations 24 and 25. Losses on routing: `moe.losses`; of lightning indexers: `attention.indexer_loss`.

Labels are aligned: `labels_BT[b, t]` is the token that the model should name at position t, or `IGNORED`.

Letters: B batch, T tokens, N = B * T, P places with a label, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from modelstack.architecture.attention.indexer_loss import indexer_loss
from modelstack.architecture.config import ModelConfig
from modelstack.architecture.context import IndexDivergence, Routing
from modelstack.architecture.decoder import CausalLM, ModelOutput
from modelstack.architecture.moe.losses import routing_losses
from modelstack.architecture.surprise import IGNORED, surprise_and_normaliser
from modelstack.errors import UserError

TOKENS_PER_CHUNK = 1024
"""Tokens whose logits exist at once: 0.5 GB in fp32 at DeepSeek-V3's vocabulary."""
LOGITS_KEPT = 2**25
"""Logits of a batch that are kept for the gradient instead of made anew: 128 MB in fp32."""

FEW_LABELLED = 0.5
"""Share of labelled tokens up to which gathering their hidden states pays."""

TokenLoss = Literal["cross_entropy", "dft"]
"""What a labelled token costs: -log p, or p * -log p with p held constant."""
Head = Callable[[Tensor], Tensor]
"""Hidden states [N, D] to logits [N, V]: `CausalLM.logits`."""


@dataclass(frozen=True, slots=True)
class TokenSums:
    """Sums over the labelled tokens; fp32 scalars, with gradients."""

    cross_entropy: Tensor
    """-log p(label), or what else the token loss is."""
    squared_normaliser: Tensor
    """logsumexp(logits)^2."""
    n_tokens: Tensor
    """How many were labelled, int64; where they have weights, the sum of those, fp32."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What is minimised, and its parts."""

    total: Tensor
    parts: dict[str, Tensor]
    """By name, each with its coefficient: they add up to `total`."""


def next_token_labels(token_ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
    """Return each position's next token; `IGNORED` at the end of the row and of each packed document."""
    labels = torch.full_like(token_ids_BT, IGNORED)
    labels[:, :-1] = token_ids_BT[:, 1:]
    if documents_BT is not None:
        labels[:, :-1].masked_fill_(documents_BT[:, 1:] != documents_BT[:, :-1], IGNORED)
    return labels


def count_labels(labels_BT: Tensor, weights_BT: Tensor | None = None) -> Tensor:
    """Return how many tokens are labelled, int64, or the sum of their weights, fp32."""
    is_labelled = labels_BT != IGNORED
    return is_labelled.sum() if weights_BT is None else weights_BT.where(is_labelled, 0).sum()


def labelled_places(labels_BT: Tensor) -> Tensor | None:
    """Return the flat places [P] of the labelled tokens where those are few, None where the head is asked for all.

    For labels on the CPU: on another device the number of places, a shape, would be waited for.
    """
    places_P = (labels_BT.flatten() != IGNORED).nonzero()[:, 0]
    return places_P if 0 < len(places_P) <= FEW_LABELLED * labels_BT.numel() else None


def token_sums(
    hidden_BTD: Tensor,
    labels_BT: Tensor,
    head: Head,
    tokens_per_chunk: int = TOKENS_PER_CHUNK,
    tokens_kept: int = 0,
    *,
    weights_BT: Tensor | None = None,
    places_P: Tensor | None = None,
    token_loss: TokenLoss = "cross_entropy",
) -> TokenSums:
    """Return the sums of cross-entropy and squared normaliser, some tokens' logits at a time.

    Args:
        hidden_BTD: What the head reads.
        labels_BT: The token to name at each position, or `IGNORED`.
        head: Makes logits, soft-capped where the model does so.
        tokens_per_chunk: How many tokens' logits exist at once.
        tokens_kept: Of a batch of no more tokens all logits stay for the gradient.
        weights_BT: How much each label counts, fp32; None: 1.
        places_P: The labelled places, see `labelled_places`; None: the head is asked for all tokens.
        token_loss: What is summed as cross-entropy.
    """
    hidden, labels = hidden_BTD.flatten(0, 1), labels_BT.flatten()
    weights = None if weights_BT is None else weights_BT.flatten()
    if places_P is not None:
        hidden, labels = hidden[places_P], labels[places_P]
        weights = None if weights is None else weights[places_P]
    hiddens = hidden.split(tokens_per_chunk)
    no_weights = (None,) * len(hiddens)
    pieces = zip(
        hiddens,
        labels.split(tokens_per_chunk),
        no_weights if weights is None else weights.split(tokens_per_chunk),
        strict=True,
    )
    if len(hiddens) == 1 or len(labels) <= tokens_kept:
        sums = [_sums(*piece, head, token_loss) for piece in pieces]
    else:
        sums = [
            checkpoint(_sums, *piece, head, token_loss, use_reentrant=False, preserve_rng_state=False)
            for piece in pieces
        ]
    cross_entropy, squared = (torch.stack(column).sum() for column in zip(*sums, strict=True))
    return TokenSums(cross_entropy, squared, count_labels(labels, weights))


def cross_entropy(
    hidden_BTD: Tensor, labels_BT: Tensor, head: Head, tokens_per_chunk: int = TOKENS_PER_CHUNK
) -> Tensor:
    """Return the mean next-token cross-entropy over the labelled tokens, fp32; 0 where there are none."""
    sums = token_sums(hidden_BTD, labels_BT, head, tokens_per_chunk)
    return sums.cross_entropy / _divisor(sums.n_tokens, None)


def mtp_labels(labels_BT: Tensor, k: int, is_whole_BT: Tensor | None = None) -> Tensor:
    """Return the labels of multi-token prediction's module k, [B, T - 1 - k].

    At position i it names what the model should name at i + k + 1.

    Args:
        labels_BT: The model's.
        k: The module, from 0.
        is_whole_BT: Where the module saw one document only; the rest is ignored. None: everywhere.
    """
    labels = labels_BT[:, k + 1 :]
    return labels if is_whole_BT is None else labels.masked_fill(~is_whole_BT, IGNORED)


def mtp_loss(
    model: CausalLM,
    output: ModelOutput,
    labels_BT: Tensor,
    n_labels: Tensor | float | None = None,
    weights_BT: Tensor | None = None,
) -> Tensor:
    """Return the mean over the modules of their mean cross-entropies, fp32, without its coefficient.

    Args:
        model: Whose head is asked.
        output: Of a forward pass `with_mtp`.
        labels_BT: The model's labels.
        n_labels: What each sum is divided by; None: the labelled tokens of each module.
        weights_BT: How much the token that each label names counts, whoever names it; None: 1.

    Raises:
        UserError: The forward pass was without multi-token prediction.
    """
    if not output.mtp:
        raise UserError("the output has no multi-token prediction; call the model with with_mtp=True")
    means = []
    for k, module in enumerate(output.mtp):
        labels = mtp_labels(labels_BT, k, module.is_whole_BT)
        weights = None if weights_BT is None else weights_BT[:, k + 1 :]
        sums = token_sums(
            module.hidden_BTD, labels, model.logits, tokens_kept=_tokens_kept(model), weights_BT=weights
        )
        means.append(sums.cross_entropy / _divisor(sums.n_tokens, n_labels))
    return torch.stack(means).mean()


def total_loss(
    model: CausalLM,
    output: ModelOutput,
    labels_BT: Tensor,
    *,
    n_labels: Tensor | float | None = None,
    counted_BT: Tensor | None = None,
    weights_BT: Tensor | None = None,
    places_P: Tensor | None = None,
    token_loss: TokenLoss = "cross_entropy",
) -> Losses:
    """Return the loss that the model's config asks for: a part with coefficient 0 is not computed.

    Args:
        model: What made the output. Its head is asked here: the pass can be made `with_logits=False`.
        output: Of a forward pass without a cache; `with_mtp` where the config has `mtp_loss_coef`.
        labels_BT: The token to name at each position, or `IGNORED`.
        n_labels: What sums over tokens are divided by; None: the labelled tokens of this call, or their weights.
            When gradients of several calls are added up, those of all of them, and the losses are added up too.
        counted_BT: bool, False for padding, which losses of routers and indexers leave out; None: there is none.
        weights_BT: How much each label counts, fp32; None: 1.
        places_P: Where labels are, see `labelled_places`: the head makes logits there alone. None: everywhere.
        token_loss: What the main model's tokens cost; modules for multi-token prediction have cross-entropy.

    Raises:
        UserError: The config has `mtp_loss_coef` and the forward pass was without multi-token prediction.
    """
    config = model.config
    sums = token_sums(
        output.hidden_BTD,
        labels_BT,
        model.logits,
        tokens_kept=_tokens_kept(model),
        weights_BT=weights_BT,
        places_P=places_P,
        token_loss=token_loss,
    )
    divisor = _divisor(sums.n_tokens, n_labels)
    parts: dict[str, Tensor] = {token_loss: sums.cross_entropy / divisor}
    if config.z_loss_coef:
        parts["z_loss"] = config.z_loss_coef * sums.squared_normaliser / divisor
    if config.mtp_loss_coef:
        parts["mtp_loss"] = config.mtp_loss_coef * mtp_loss(model, output, labels_BT, n_labels, weights_BT)
    if layer_loss_names(config):
        counted_BT = torch.ones_like(labels_BT, dtype=torch.bool) if counted_BT is None else counted_BT
        # Means over rows and over tokens count by this call's share of all labels.
        share = 1.0 if n_labels is None else sums.n_tokens / n_labels
        parts |= {name: share * loss for name, loss in _losses_of_all_layers(config, output, counted_BT).items()}
    return Losses(torch.stack(list(parts.values())).sum(), parts)


def layer_loss_names(config: ModelConfig) -> list[str]:
    """Return the losses that layers leave in a pass and a config asks for, by the names of `layer_losses`."""
    asked = {
        "seq_aux_loss": bool(config.seq_aux_loss_coef) and "moe" in config.mlp_layer_types,
        "router_z_loss": bool(config.router_z_loss_coef) and config.has_experts,
        "indexer_loss": bool(config.indexer_loss_coef) and config.has_indexer,
    }
    return [name for name, is_asked in asked.items() if is_asked]


def layer_losses(
    config: ModelConfig,
    routing: Mapping[int, Routing],
    divergences: Mapping[int, IndexDivergence],
    counted_BT: Tensor,
) -> dict[str, Tensor]:
    """Return the losses of some layers' routers and indexers, each times its coefficient and summed over layers.

    Args:
        config: Of the whole model.
        routing: What the layers routed, by layer.
        divergences: What their indexers left, by layer; none where no indexer is trained.
        counted_BT: bool, False for padding.
    """
    losses = routing_losses(config, routing, counted_BT)
    if config.indexer_loss_coef and divergences:
        losses["indexer_loss"] = config.indexer_loss_coef * indexer_loss(divergences, counted_BT)
    return losses


def _losses_of_all_layers(config: ModelConfig, output: ModelOutput, counted_BT: Tensor) -> dict[str, Tensor]:
    """Return the losses of the model's layers and of the modules ahead: those have fewer tokens."""
    L = config.num_hidden_layers
    own = {layer: routing for layer, routing in output.routing.items() if layer < L}
    losses = layer_losses(config, own, output.index_divergence, counted_BT)
    for k in range(len(output.mtp) if config.has_experts else 0):
        ahead = routing_losses(config, {L + k: output.routing[L + k]}, counted_BT[:, k + 1 :])
        losses |= {name: losses[name] + loss if name in losses else loss for name, loss in ahead.items()}
    return losses


def _tokens_kept(model: CausalLM) -> int:
    """Return how many tokens' logits may stay, of the main model and of all modules ahead together."""
    return LOGITS_KEPT // (model.config.vocab_size * (1 + model.config.num_nextn_predict_layers))


def _divisor(n_here: Tensor, n_labels: Tensor | float | None) -> Tensor | float:
    return torch.where(n_here > 0, n_here, 1) if n_labels is None else n_labels


def _sums(
    hidden_ND: Tensor, labels_N: Tensor, weights_N: Tensor | None, head: Head, token_loss: TokenLoss
) -> tuple[Tensor, Tensor]:
    """Return the sums of the token loss and of the squared normaliser."""
    surprise, normaliser = surprise_and_normaliser(head(hidden_ND), labels_N)
    squared = normaliser.square()
    loss = surprise * (-surprise.detach()).exp() if token_loss == "dft" else surprise
    if weights_N is not None:
        loss, squared = loss * weights_N, squared * weights_N
    return loss.sum(), squared.sum()
