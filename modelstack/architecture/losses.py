"""Training losses: next-token cross-entropy and additional losses.

With a large vocabulary the logits are the largest tensor of a training step: 8192 tokens with DeepSeek-V3's
129,280 entries are 4 GB in fp32, and their gradient as much again. So losses take hidden states and the head,
compute logits in chunks of tokens, and recompute them for the gradient, which costs one more pass of the head.
Only sums are kept (the idea of Cut Cross-Entropy, arXiv 2411.09009, and Liger Kernel, 2410.10989, in plain torch).
If all logits together are small, as with a small vocabulary, they are kept and nothing is recomputed. If few
tokens are labelled, as in fine-tuning, the head is applied to those tokens only.

Labels may have weights. A mean is then sum(w * loss) / sum(w), over all micro-batches and ranks of a step. Dynamic
fine-tuning (DFT, 2508.05629) multiplies each token's surprise by the model's own probability, held constant, so
tokens that the model cannot explain have less influence.

z-loss: PaLM, 2204.02311 section 5; it keeps the softmax's normaliser near 1. Multi-token prediction: DeepSeek-V3,
2412.19437 equations 24 and 25. Losses on routing: `moe.losses`; of lightning indexers: `attention.indexer_loss`.

Labels are aligned: `labels_BT[b, t]` is the token to predict at position t, or `IGNORED`.

Letters: B batch, T tokens, N = B * T, P labelled positions, D model width, V vocabulary.
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
"""Number of tokens whose logits exist at once: 0.5 GB in fp32 at DeepSeek-V3's vocabulary."""
LOGITS_KEPT = 2**25
"""Maximum number of logits of a batch that are kept for the gradient instead of recomputed: 128 MB in fp32."""

STEP_DECAY = 0.6
"""Weight of a further step of multi-token prediction, relative to the step before (FastMTP, arXiv 2509.18362)."""

FEW_LABELLED = 0.5
"""Maximum fraction of labelled tokens at which gathering their hidden states is worthwhile."""

TokenLoss = Literal["cross_entropy", "dft"]
"""Loss of a labelled token: -log p, or p * -log p with p held constant."""
Head = Callable[[Tensor], Tensor]
"""Map hidden states [N, D] to logits [N, V]: `CausalLM.logits`."""


@dataclass(frozen=True, slots=True)
class TokenSums:
    """Sums over the labelled tokens; fp32 scalars, with gradients."""

    cross_entropy: Tensor
    """Sum of -log p(label), or of the selected token loss."""
    squared_normaliser: Tensor
    """Sum of logsumexp(logits)^2."""
    n_tokens: Tensor
    """Number of labelled tokens, int64; with weights, the sum of their weights, fp32."""


@dataclass(frozen=True, slots=True)
class Losses:
    """The minimised loss and its parts."""

    total: Tensor
    parts: dict[str, Tensor]
    """Parts by name, each times its coefficient; they add up to `total`."""


def next_token_labels(token_ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
    """Return each position's next token; `IGNORED` at the end of the row and of each packed document."""
    labels = torch.full_like(token_ids_BT, IGNORED)
    labels[:, :-1] = token_ids_BT[:, 1:]
    if documents_BT is not None:
        labels[:, :-1].masked_fill_(documents_BT[:, 1:] != documents_BT[:, :-1], IGNORED)
    return labels


def count_labels(labels_BT: Tensor, weights_BT: Tensor | None = None) -> Tensor:
    """Return the number of labelled tokens, int64, or the sum of their weights, fp32."""
    is_labelled = labels_BT != IGNORED
    return is_labelled.sum() if weights_BT is None else weights_BT.where(is_labelled, 0).sum()


def labelled_places(labels_BT: Tensor) -> Tensor | None:
    """Return the flat positions [P] of the labelled tokens if they are few; None: apply the head to all tokens.

    For labels on the CPU only: on another device, reading the number of positions would block.
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
    """Return the sums of cross-entropy and squared normaliser, computed in chunks of tokens.

    Args:
        hidden_BTD: Input of the head.
        labels_BT: The token to predict at each position, or `IGNORED`.
        head: Computes logits, soft-capped if the model does so.
        tokens_per_chunk: Number of tokens whose logits exist at once.
        tokens_kept: Batches up to this number of tokens keep all logits for the gradient.
        weights_BT: Weight of each label, fp32; None: 1.
        places_P: The labelled positions, see `labelled_places`; None: the head is applied to all tokens.
        token_loss: The loss that is summed as `cross_entropy`.
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
    """Return the mean next-token cross-entropy over the labelled tokens, fp32; 0 if there are none."""
    sums = token_sums(hidden_BTD, labels_BT, head, tokens_per_chunk)
    return sums.cross_entropy / _divisor(sums.n_tokens, None)


def mtp_labels(labels_BT: Tensor, k: int, is_whole_BT: Tensor | None = None) -> Tensor:
    """Return the labels of multi-token prediction number k, [B, T - 1 - k].

    The label at position i is the model's label at position i + k + 1.

    Args:
        labels_BT: The model's labels.
        k: The prediction, from 0.
        is_whole_BT: True where the prediction's inputs belong to one document; other positions are ignored. None:
            all.
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
    """Return the mean over the predictions of their mean cross-entropies, fp32, without the coefficient.

    Modules weigh the same, each further step of the last one `STEP_DECAY` of the step before.

    Args:
        model: The model whose head is applied.
        output: Output of a forward pass `with_mtp`.
        labels_BT: The model's labels.
        n_labels: Divisor of each sum; None: the number of labelled tokens of each prediction.
        weights_BT: Weight of each label of the model, fp32; a prediction uses the weight of the token it predicts.
            None: 1.

    Raises:
        UserError: The forward pass was without multi-token prediction.
    """
    if not output.mtp:
        raise UserError("the output has no multi-token prediction; call the model with with_mtp=True")
    means = []
    for k, ahead in enumerate(output.mtp):
        labels = mtp_labels(labels_BT, k, ahead.is_whole_BT)
        weights = None if weights_BT is None else weights_BT[:, k + 1 :]
        sums = token_sums(
            ahead.hidden_BTD, labels, model.logits, tokens_kept=_tokens_kept(model), weights_BT=weights
        )
        means.append(sums.cross_entropy / _divisor(sums.n_tokens, n_labels))
    losses = torch.stack(means)
    n_further = losses.new_tensor(
        [max(0, k + 1 - model.config.num_nextn_predict_layers) for k in range(len(means))]
    )
    shares = STEP_DECAY**n_further
    return (shares * losses).sum() / shares.sum()


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
    """Return the loss that the model's config defines; a part with coefficient 0 is not computed.

    Args:
        model: The model that made the output. Its head is applied here: the pass can be made `with_logits=False`.
        output: Output of a forward pass without a cache; `with_mtp` if the config has `mtp_loss_coef`.
        labels_BT: The token to predict at each position, or `IGNORED`.
        n_labels: Divisor of sums over tokens; None: the number of labelled tokens of this call, or their weights.
            If gradients of several calls are added, pass the number of all calls; the losses are then added too.
        counted_BT: bool, False for padding, which losses of routers and indexers exclude; None: no padding.
        weights_BT: Weight of each label, fp32; None: 1.
        places_P: The labelled positions, see `labelled_places`; the head is applied to these only. None: all.
        token_loss: Loss of the main model's tokens; multi-token prediction modules use cross-entropy.

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
        # Means over rows and over tokens are weighted by this call's share of all labels.
        share = 1.0 if n_labels is None else sums.n_tokens / n_labels
        parts |= {name: share * loss for name, loss in _losses_of_all_layers(config, output, counted_BT).items()}
    return Losses(torch.stack(list(parts.values())).sum(), parts)


def layer_loss_names(config: ModelConfig) -> list[str]:
    """Return the enabled losses that layers contribute to a forward pass, by the names of `layer_losses`."""
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
        config: Config of the whole model.
        routing: Routing decisions by layer.
        divergences: Indexer divergences by layer; empty if no indexer is trained.
        counted_BT: bool, False for padding.
    """
    losses = routing_losses(config, routing, counted_BT)
    if config.indexer_loss_coef and divergences:
        losses["indexer_loss"] = config.indexer_loss_coef * indexer_loss(divergences, counted_BT)
    return losses


def _losses_of_all_layers(config: ModelConfig, output: ModelOutput, counted_BT: Tensor) -> dict[str, Tensor]:
    """Return the losses of the model's layers and of the multi-token prediction modules (fewer tokens)."""
    L = config.num_hidden_layers
    own = {layer: routing for layer, routing in output.routing.items() if layer < L}
    losses = layer_losses(config, own, output.index_divergence, counted_BT)
    for k in range(config.num_nextn_predict_layers if output.mtp and config.has_experts else 0):
        ahead = routing_losses(config, {L + k: output.routing[L + k]}, counted_BT[:, k + 1 :])
        losses |= {name: losses[name] + loss if name in losses else loss for name, loss in ahead.items()}
    return losses


def _tokens_kept(model: CausalLM) -> int:
    """Return the number of tokens whose logits may be kept, shared by the main model and all predictions ahead."""
    return LOGITS_KEPT // (model.config.vocab_size * (1 + model.config.n_mtp_predictions))


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
