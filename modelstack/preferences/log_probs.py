"""Log-probabilities of labelled tokens, from hidden states: the input of every loss of post-training.

As in `architecture.losses`, the head computes logits for labelled tokens only, in chunks. With several chunks the
logits are recomputed for the gradient. Labels are already aligned: `labels_BT[b, t]` is the token to predict at
position t, so nothing is shifted after `completion_labels`. Sums over a completion are at least fp32, because a
preference margin is lost in a bf16 sum of 500 tokens.

Letters: B rows, T tokens, P labelled positions, D model width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from modelstack.architecture.losses import TOKENS_PER_CHUNK, Head, next_token_labels
from modelstack.architecture.surprise import IGNORED, surprise_and_normaliser
from modelstack.errors import UserError


@dataclass(frozen=True, slots=True)
class LabelLogProbs:
    """Log-probabilities and statistics at labelled tokens; every tensor is [B, T], 0 where there is no label."""

    log_probs_BT: Tensor
    """log p(label), fp32, with gradient."""
    is_label_BT: Tensor
    """Mask of labelled positions, bool."""
    entropy_BT: Tensor | None = None
    """Entropy -sum p log p over the vocabulary, in nats, fp32, without gradient; None: not requested."""
    log_collision_BT: Tensor | None = None
    """Value of log sum p^2 over the vocabulary, fp32, without gradient; None: not requested."""


def completion_labels(token_ids_BT: Tensor, is_completion_BT: Tensor) -> Tensor:
    """Return aligned labels [B, T]: the next token of each position if it is of the completion, else `IGNORED`.

    Args:
        token_ids_BT: Prompt, completion, padding; int64.
        is_completion_BT: Mask of the tokens to score, bool: tool calls and replies, not tool output.
    """
    labels = next_token_labels(token_ids_BT)
    labels[:, :-1].masked_fill_(~is_completion_BT[:, 1:].bool(), IGNORED)
    return labels


def label_log_probs(
    hidden_BTD: Tensor,
    labels_BT: Tensor,
    head: Head,
    *,
    temperature: float = 1.0,
    with_statistics: bool = False,
    tokens_per_chunk: int = TOKENS_PER_CHUNK,
) -> LabelLogProbs:
    """Return log-probabilities at the labels; logits are computed only there.

    Args:
        hidden_BTD: Input of the head.
        labels_BT: Token to predict at each position, or `IGNORED`.
        head: Computes logits, for example `CausalLM.logits`.
        temperature: Divisor of the logits. For sampled tokens it is the sampler's temperature, the same in policy,
            old policy and reference.
        with_statistics: Whether to return entropies and collision probabilities too.
        tokens_per_chunk: Maximum number of tokens whose logits are in memory at once.

    Raises:
        UserError: The temperature is not above 0.
    """
    if temperature <= 0:
        raise UserError(
            f"temperature is {temperature}: it divides logits, so it must be above 0; 1 leaves them unchanged"
        )
    is_label_BT = labels_BT != IGNORED
    places_P = is_label_BT.flatten().nonzero()[:, 0]
    hiddens = hidden_BTD.flatten(0, 1)[places_P].split(tokens_per_chunk)
    labels = labels_BT.flatten()[places_P].split(tokens_per_chunk)

    def of_chunk(hidden_PD: Tensor, labels_P: Tensor) -> tuple[Tensor, ...]:
        logits_PV = head(hidden_PD)
        logits_PV = logits_PV if temperature == 1.0 else logits_PV / temperature
        surprise_P = surprise_and_normaliser(logits_PV, labels_P)[0]
        return (-surprise_P, *_statistics(logits_PV)) if with_statistics else (-surprise_P,)

    if len(hiddens) == 1:
        found = [of_chunk(hiddens[0], labels[0])]
    else:
        found = [
            checkpoint(of_chunk, *chunk, use_reentrant=False, preserve_rng_state=False)
            for chunk in zip(hiddens, labels, strict=True)
        ]
    columns_P = [torch.cat(column) for column in zip(*found, strict=True)]
    log_probs_BT, *statistics = (_at_places(column_P, places_P, labels_BT) for column_P in columns_P)
    return LabelLogProbs(log_probs_BT, is_label_BT, *statistics)


def summed(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the sums over the masked tokens of each row, [B], at least fp32; other values may be NaN."""
    return values_BT.where(mask_BT.bool(), 0).sum(-1, dtype=torch.promote_types(values_BT.dtype, torch.float32))


@torch.no_grad()
def _statistics(logits_PV: Tensor) -> tuple[Tensor, Tensor]:
    log_p_PV = torch.log_softmax(logits_PV.detach(), dim=-1, dtype=torch.float32)
    return -(log_p_PV.exp() * log_p_PV).sum(-1), (2 * log_p_PV).logsumexp(-1)


def _at_places(values_P: Tensor, places_P: Tensor, like_BT: Tensor) -> Tensor:
    return values_P.new_zeros(like_BT.numel()).index_copy(0, places_P, values_P).view(like_BT.shape)
