"""Log-probabilities of labels among the tokens that a grammar allowed.

A reply sampled under a grammar is drawn from the softmax over the legal tokens, so its policy gradient must use
the same softmax. With the full softmax the ratio of new to old policy would never be 1, and each step would move
probability between tokens that could not have been sampled. The mask is part of the policy (Huang and Ontanon,
arXiv 2006.14171).

The computation is that of `preferences.log_probs`, with illegal logits set to a very low value. The head
computes logits for a chunk of positions at a time and recomputes them for the gradient, masks included. Between
the two passes only the compact form of a mask is stored.

Letters: B rows, T tokens, P labelled places, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from modelstack.architecture.losses import TOKENS_PER_CHUNK, Head
from modelstack.architecture.surprise import IGNORED
from modelstack.errors import UserError
from modelstack.inference.legal_tokens import LegalTokens
from modelstack.preferences.log_probs import LabelLogProbs, label_log_probs


def masked_label_log_probs(
    hidden_BTD: Tensor,
    labels_BT: Tensor,
    head: Head,
    legal_P: Sequence[LegalTokens | None] | None,
    *,
    temperature: float = 1.0,
    with_statistics: bool = False,
    tokens_per_chunk: int = TOKENS_PER_CHUNK,
) -> LabelLogProbs:
    """Return the log-probability of each label among the tokens that were legal at its position.

    Without legal sets the result equals that of `label_log_probs` exactly.

    Args:
        hidden_BTD: Input of the head.
        labels_BT: Target token at each position, or `IGNORED`.
        head: Computes logits, e.g. `CausalLM.logits`.
        legal_P: Legal tokens at each labelled position, row by row. None as an element allows every token there;
            None as the argument allows every token everywhere.
        temperature: Divisor of the logits, equal to the sampler's.
        with_statistics: Whether to also return entropies and collision probabilities over the legal tokens.
        tokens_per_chunk: Number of tokens whose logits are in memory at once.

    Raises:
        UserError: The number of sets differs from the number of labels, a label is not legal at its position, or
            the temperature is not above 0.
    """
    if legal_P is None or all(legal is None for legal in legal_P):
        return label_log_probs(
            hidden_BTD,
            labels_BT,
            head,
            temperature=temperature,
            with_statistics=with_statistics,
            tokens_per_chunk=tokens_per_chunk,
        )

    is_label_BT = labels_BT != IGNORED
    places_P = is_label_BT.flatten().nonzero()[:, 0]
    labels_P = labels_BT.flatten()[places_P]
    _check(labels_P.tolist(), legal_P)

    def of_chunk(hidden_PD: Tensor, labels_P: Tensor, sets: Sequence[LegalTokens | None]) -> tuple[Tensor, ...]:
        found = label_log_probs(
            hidden_PD[None],
            labels_P[None],
            lambda hidden: _restricted(head(hidden), sets, temperature),
            temperature=temperature,
            with_statistics=with_statistics,
            tokens_per_chunk=len(labels_P),
        )
        columns = (found.log_probs_BT, found.entropy_BT, found.log_collision_BT)
        return tuple(column[0] for column in columns if column is not None)

    hiddens = hidden_BTD.flatten(0, 1)[places_P].split(tokens_per_chunk)
    labels = labels_P.split(tokens_per_chunk)
    sets = [legal_P[first : first + tokens_per_chunk] for first in range(0, len(legal_P), tokens_per_chunk)]
    if len(hiddens) == 1:
        found = [of_chunk(hiddens[0], labels[0], sets[0])]
    else:
        found = [
            checkpoint(of_chunk, *chunk, use_reentrant=False, preserve_rng_state=False)
            for chunk in zip(hiddens, labels, sets, strict=True)
        ]
    log_probs_BT, *statistics = (
        _at_places(torch.cat(column), places_P, labels_BT) for column in zip(*found, strict=True)
    )
    return LabelLogProbs(log_probs_BT, is_label_BT, *statistics)


def _check(labels: Sequence[int], legal_P: Sequence[LegalTokens | None]) -> None:
    if len(labels) != len(legal_P):
        raise UserError(f"{len(legal_P)} sets of legal tokens for {len(labels)} labels; give one each, or None")
    for place, (label, legal) in enumerate(zip(labels, legal_P, strict=True)):
        if legal is not None and not _holds(legal, label):
            raise UserError(
                f"label {label}, number {place + 1} of {len(labels)}, is not among the {legal.count} tokens that "
                f"were legal there; give the sets that the sampler drew from, in the order of the labels"
            )


def _holds(legal: LegalTokens, token: int) -> bool:
    if legal.illegal_V is not None:
        return token < legal.illegal_V.size and not legal.illegal_V[token]
    ids = legal.to_ids()
    place = int(np.searchsorted(ids, token))
    return place < ids.size and int(ids[place]) == token


def _restricted(logits_PV: Tensor, sets: Sequence[LegalTokens | None], temperature: float) -> Tensor:
    """Return logits in which illegal tokens are so low that their probability is 0.

    The values stay finite, so that p log p of an illegal token is 0 rather than NaN. This also holds after
    division by the temperature and after a log-probability is doubled.
    """
    is_illegal_PV = torch.zeros(logits_PV.shape, dtype=torch.bool)
    for row_V, legal in zip(is_illegal_PV.numpy(), sets, strict=True):
        if legal is None:
            continue
        row_V[:] = True  # padded rows of the head beyond the vocabulary are illegal too
        if legal.illegal_V is not None:
            row_V[: legal.illegal_V.size] = legal.illegal_V
        else:
            row_V[legal.to_ids()] = False
    lowest = torch.finfo(logits_PV.dtype).min / 4 * min(1.0, temperature)
    return logits_PV.masked_fill(is_illegal_PV.to(logits_PV.device), lowest)


def _at_places(values_P: Tensor, places_P: Tensor, like_BT: Tensor) -> Tensor:
    return values_P.new_zeros(like_BT.numel()).index_copy(0, places_P, values_P).view(like_BT.shape)
