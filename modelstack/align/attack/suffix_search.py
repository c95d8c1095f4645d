"""Search of a suffix that makes a model begin to comply: greedy coordinate gradient (GCG, Zou et al., 2307.15043).

The loss is the cross-entropy of an affirmative beginning of the reply after request and suffix, in the mean over
some requests. Its gradient by the embeddings of the suffix names, for each place, the tokens that would lower it
most; of random candidates with one such token exchanged, the best one is kept. A candidate counts only if its text
is encoded to the same tokens again, as otherwise nobody could type it. It needs the weights: a report on models of
one's own.

Letters: R requests, S tokens of the suffix, D width of the model, V vocabulary, T tokens of a row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.posttrain.row_loader import PADDING
from modelstack.tokenizer.chat import ChatEncoder

AFFIRMATION = "Sure, here is"
FIRST_SUFFIX = " !"
"""Text that the search begins with, repeated."""
BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class SearchedSuffix:
    """Result of a search."""

    text: str
    losses: tuple[float, ...]
    """Loss of the best suffix before the first step and after each."""


@dataclass(frozen=True, slots=True)
class SuffixSearch:
    """Extent of a search."""

    n_tokens: int = 16
    n_steps: int = 50
    n_candidates: int = 64
    top_k: int = 64
    """Tokens per place that candidates are drawn from."""
    seed: int = 0


class _Rows:
    """Requests with a suffix and the affirmation, as rows of tokens."""

    def __init__(self, encoder: ChatEncoder, requests: Sequence[str]) -> None:
        self._encoder = encoder
        opening = encoder.opening_ids("user")
        turn = encoder.encode_turn("user", "a").ids
        self._after = turn[len(opening) + len(encoder.content_ids("a")) :] + encoder.generation_ids("user")
        self._before = [opening + encoder.content_ids(request) for request in requests]
        self._target = encoder.content_ids(AFFIRMATION)

    def of(self, suffixes: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, list[int]]:
        """Return the rows [R * suffixes, T], the places of their targets' logits, and of the suffixes' starts."""
        rows = [[*before, *ids, *self._after, *self._target] for ids in suffixes for before in self._before]
        starts = [len(before) for _ in suffixes for before in self._before]
        T = max(map(len, rows))
        ids_BT = torch.tensor([[*row, *[PADDING] * (T - len(row))] for row in rows])
        n = len(self._target)
        places = torch.tensor([[b * T + len(row) - n - 1 + k for k in range(n)] for b, row in enumerate(rows)])
        return ids_BT, places, starts

    @property
    def target(self) -> Tensor:
        """Tokens of the affirmation."""
        return torch.tensor(self._target)

    def longest(self, n_suffix: int) -> int:
        """Return the number of tokens of the longest row."""
        return max(map(len, self._before)) + n_suffix + len(self._after) + len(self._target)


def search_suffix(
    model: CausalLM,
    encoder: ChatEncoder,
    requests: Sequence[str],
    search: SuffixSearch | None = None,
    told: Callable[[int, int], object] = lambda done, total: None,
) -> SearchedSuffix:
    """Return the best suffix; the same seed and weights give the same one.

    Args:
        model: The model, with its adapter merged.
        encoder: Its chat format.
        requests: Requests that one suffix must serve.
        search: Extent of the search; None: the default.
        told: Callback for the number of finished steps, and of all.

    Raises:
        UserError: There is no request, or the rows do not fit the model's context.
    """
    search = search or SuffixSearch()
    if not requests:
        raise UserError("a search of a suffix needs at least one request")
    rows, draw = _Rows(encoder, requests), random.Random(search.seed)
    if rows.longest(search.n_tokens) > model.config.max_position_embeddings:
        raise UserError(
            f"a request with its suffix has {rows.longest(search.n_tokens):,} tokens, and the model's context "
            f"{model.config.max_position_embeddings:,}: leave the request out"
        )
    legal_V = _typeable(encoder, model.config.vocab_size)
    best = (encoder.content_ids(FIRST_SUFFIX) * search.n_tokens)[: search.n_tokens]
    losses = [float(_losses(model, rows, [best])[0])]
    for step in range(search.n_steps):
        gradient_SV = _gradient(model, rows, best)
        gradient_SV[:, ~legal_V] = torch.inf
        tokens_SK = gradient_SV.topk(min(search.top_k, int(legal_V.sum())), largest=False).indices
        candidates = list(_candidates(encoder, best, tokens_SK.tolist(), search.n_candidates, draw))
        if candidates:
            found = _losses(model, rows, candidates)
            at = int(found.argmin())
            if float(found[at]) < losses[-1]:
                best = candidates[at]
        losses.append(min(losses[-1], float(found.min())) if candidates else losses[-1])
        told(step + 1, search.n_steps)
    return SearchedSuffix(encoder.vocabulary.decode(best), tuple(losses))


def _candidates(
    encoder: ChatEncoder, best: Sequence[int], tokens_SK: list[list[int]], n: int, draw: random.Random
) -> Iterator[list[int]]:
    """Yield distinct suffixes with one token exchanged, whose text is encoded to the same tokens."""
    seen = {tuple(best)}
    for _ in range(n):
        place = draw.randrange(len(best))
        candidate = [*best[:place], draw.choice(tokens_SK[place]), *best[place + 1 :]]
        if tuple(candidate) not in seen:
            seen.add(tuple(candidate))
            if encoder.content_ids(encoder.vocabulary.decode(candidate)) == candidate:
                yield candidate


@torch.no_grad()
def _losses(model: CausalLM, rows: _Rows, suffixes: Sequence[list[int]]) -> Tensor:
    """Return the mean loss of each suffix over the requests."""
    n_rows = len(rows.of(suffixes[:1])[0])
    at_once = max(1, BATCH_TOKENS // (n_rows * rows.longest(len(suffixes[0]))))
    found: list[Tensor] = []
    for start in range(0, len(suffixes), at_once):
        several = suffixes[start : start + at_once]
        ids_BT, places, _ = rows.of(several)
        found.append(_row_losses(model, ids_BT, places, rows.target).view(len(several), n_rows).mean(1))
    return torch.cat(found)


def _row_losses(model: CausalLM, ids_BT: Tensor, places: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy of the target's tokens in each row."""
    states_1PD = model(ids_BT, with_logits=False, places_P=places.flatten()).hidden_BTD
    logits_PV = model.logits(states_1PD)[0].float()
    return F.cross_entropy(logits_PV, target.repeat(len(ids_BT)), reduction="none").view(places.shape).mean(1)


def _gradient(model: CausalLM, rows: _Rows, suffix: list[int]) -> Tensor:
    """Return the change of the loss per unit of each token at each place of the suffix, fp32 [S, V]."""
    ids_BT, places, starts = rows.of([suffix])
    with _embeddings(model) as kept, torch.enable_grad():
        _row_losses(model, ids_BT, places, rows.target).mean().backward()
    gradient_BTD = kept[0].grad
    assert gradient_BTD is not None
    of_suffix_SD = torch.stack(
        [gradient_BTD[b, start : start + len(suffix)] for b, start in enumerate(starts)]
    ).sum(0)
    return of_suffix_SD.float() @ model.model.embed_tokens.weight.detach().float().T


@contextmanager
def _embeddings(model: CausalLM) -> Iterator[list[Tensor]]:
    """Make the embeddings of the next forward pass leaves with gradients, and keep them."""
    kept: list[Tensor] = []

    def leaf(_module: object, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    hook = model.model.embed_tokens.register_forward_hook(leaf)
    try:
        yield kept
    finally:
        hook.remove()


def _typeable(encoder: ChatEncoder, n_vocab: int) -> Tensor:
    """Return which tokens are printable ASCII, bool [V]."""
    vocabulary = encoder.vocabulary
    legal_V = torch.zeros(n_vocab, dtype=torch.bool)
    for token, data in enumerate(vocabulary.token_bytes):
        is_text = bool(data) and data.isascii() and data.decode("ascii").isprintable()
        legal_V[token] = is_text and token not in vocabulary.special_ids
    return legal_V
