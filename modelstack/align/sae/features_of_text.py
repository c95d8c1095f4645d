"""Features of an autoencoder as people read them: where each fires in a text, and which tokens it promotes.

Examples are the highest activations, each of another row, and some of every quarter of the highest value: a
feature that looks clear at its peak often means something else below it. Promoted and suppressed tokens are what
the direction of the feature alone gives after the final norm and the head, its logit weights.

Letters: N tokens, F latents, M active pairs, R rows, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelstack.align.sae.autoencoder import Autoencoder
from modelstack.align.sae.reconstruction import density_histogram
from modelstack.align.sae.sae_folder import SaeOrigin
from modelstack.align.sae.state_windows import StateSource
from modelstack.architecture.decoder import CausalLM
from modelstack.data.loader import PackedLoader, PackingConfig
from modelstack.data.shard_writing import SourcedText, write_shards
from modelstack.data.shards import Shards
from modelstack.data.shipped_corpus import SHIPPED_CORPUS
from modelstack.errors import UserError
from modelstack.tokenizer.documents import find_files, sample_documents
from modelstack.tokenizer.text_tokenizer import TextTokenizer

AROUND = 16
"""Tokens shown on each side of an activation."""
N_HIGHEST, N_IN_QUARTER, N_TOKENS = 8, 3, 10
"""Examples at the peak and in each quarter below it, and promoted or suppressed tokens."""
BYTES_OF_TOKEN = 6
"""Bytes of text read for a token; English has about 4."""
ROWS_AT_ONCE = 4
HIGHEST = "highest"
QUARTERS = ("75 to 100 %", "50 to 75 %", "25 to 50 %", "0 to 25 %")
Told = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Example:
    """Activation with the tokens around it."""

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    """Value of the feature at each token."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A latent, as it is shown."""

    number: int
    density: float
    """Share of the tokens at which it fires."""
    highest: float
    """Highest value in the text."""
    examples: tuple[tuple[str, tuple[Example, ...]], ...]
    """Examples by group: the highest ones, then those of each quarter of the highest value."""
    promoted: tuple[tuple[str, float], ...]
    """Tokens with the highest logit weights."""
    suppressed: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """Features of an autoencoder in a text."""

    origin: SaeOrigin
    n_latents: int
    n_tokens: int
    n_alive: int
    densities: tuple[tuple[float, int], ...]
    """Histogram of the densities; see `density_histogram`."""
    features: tuple[Feature, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """All activations in some rows, ordered by latent and place."""

    ids_RT: NDArray[np.int64]
    documents_RT: NDArray[np.int64]
    n_tokens: int
    """Tokens whose states were read."""
    latents_M: NDArray[np.int32]
    places_M: NDArray[np.int64]
    """Place of each activation in the flattened rows."""
    values_M: NDArray[np.float32]

    def of(self, latent: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return places and values of a latent's activations."""
        first, end = np.searchsorted(self.latents_M, [latent, latent + 1])
        return self.places_M[first:end], self.values_M[first:end]


def texts_in(paths: Sequence[str], n_tokens: int) -> list[str]:
    """Return documents with about `n_tokens` tokens; without paths, of the corpus in the package.

    Raises:
        UserError: A path is wrong, or a file is broken.
    """
    files = find_files(paths or [SHIPPED_CORPUS])
    return [each.text for each in sample_documents(files, n_tokens * BYTES_OF_TOKEN, held_out=False, share=0)]


@torch.no_grad()
def activations_in(
    source: StateSource,
    autoencoder: Autoencoder,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    *,
    n_tokens: int,
    row_tokens: int,
    told: Told = lambda done, total: None,
) -> Activations:
    """Return the activations of an autoencoder in texts, of at most about `n_tokens` tokens.

    Raises:
        UserError: There is no text, or no token whose state is read.
    """
    rows: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    found: list[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]]] = []
    n_read, n_places = 0, 0
    device = source.model.lm_head.weight.device
    with tempfile.TemporaryDirectory() as folder:
        write_shards((SourcedText(text, "text") for text in texts), tokenizer, folder)
        shards = Shards(folder, tokenizer)
        loader = PackedLoader(shards, PackingConfig(row_tokens=row_tokens), rows_per_batch=ROWS_AT_ONCE)
        n_wanted = min(n_tokens, shards.n_tokens)
        while n_places < n_wanted:
            batch = next(loader)
            is_read_BT = source.is_read_BT(batch)
            x_ND, _ = source.states(batch.to(device))
            codes = autoencoder.encode(x_ND)
            places_N = n_places + is_read_BT.flatten().nonzero().squeeze(1)
            is_active_M = (codes.values_M > 0).cpu()
            latents_M, tokens_M = codes.pattern.latents_M.cpu(), codes.pattern.tokens_M.cpu()
            found.append(
                (
                    latents_M[is_active_M].int().numpy(),
                    places_N[tokens_M[is_active_M]].numpy(),
                    codes.values_M.cpu()[is_active_M].float().numpy(),
                )
            )
            rows.append((batch.ids_BT.numpy(), batch.documents_BT.numpy()))
            n_read += len(x_ND)
            n_places += batch.n_tokens
            told(min(n_places, n_wanted), n_wanted)
    if not n_read:
        raise UserError("the text holds no token whose state is read: give longer documents")
    latents_M, places_M, values_M = (np.concatenate(each) for each in zip(*found, strict=True))
    order = np.lexsort((places_M, latents_M))
    ids_RT, documents_RT = (np.concatenate(each) for each in zip(*rows, strict=True))
    return Activations(ids_RT, documents_RT, n_read, latents_M[order], places_M[order], values_M[order])


def described(
    activations: Activations,
    origin: SaeOrigin,
    model: CausalLM,
    autoencoder: Autoencoder,
    tokenizer: TextTokenizer,
    *,
    n_features: int,
    chosen: Sequence[int] = (),
) -> FeatureReport:
    """Return the features that fire most often, or those that are named.

    Raises:
        UserError: A named feature does not exist.
    """
    n_latents = autoencoder.config.n_latents
    if beyond := [number for number in chosen if not 0 <= number < n_latents]:
        raise UserError(f"feature {beyond[0]} of {n_latents:,}: features are 0 to {n_latents - 1}")
    counts_F = np.bincount(activations.latents_M, minlength=n_latents)
    most = np.argsort(-counts_F, kind="stable")[:n_features]
    numbers = list(chosen) or [int(number) for number in most if counts_F[number]]
    texts = [data.decode("utf-8", errors="replace") for data in tokenizer.vocabulary.token_bytes]
    weights = [logit_weights(model, autoencoder.decoder_FO[number]) for number in numbers]
    features = [
        _feature(activations, number, counts_F[number] / activations.n_tokens, texts, of_tokens_V)
        for number, of_tokens_V in zip(numbers, weights, strict=True)
    ]
    densities = density_histogram(torch.from_numpy(counts_F / activations.n_tokens))
    n_alive = int((counts_F > 0).sum())
    return FeatureReport(
        origin, n_latents, activations.n_tokens, n_alive, tuple(densities), tuple(sorted(features, key=_number))
    )


def _number(feature: Feature) -> int:
    return feature.number


@torch.no_grad()
def logit_weights(model: CausalLM, direction_D: Tensor) -> Tensor:
    """Return the logits that a direction alone gives after the final norm, [V]."""
    state_D = direction_D.to(model.lm_head.weight)
    return model.lm_head(model.model.norm(state_D[None, None]))[0, 0].float().cpu()


def _feature(
    activations: Activations, number: int, density: float, texts: list[str], weights_V: Tensor
) -> Feature:
    places, values = activations.of(number)
    order = np.argsort(-values, kind="stable")
    highest = float(values[order[0]]) if len(order) else 0.0
    groups = [(HIGHEST, _of_different_rows(activations, places, order)[:N_HIGHEST])]
    for n, name in enumerate(QUARTERS):
        within = order[(values[order] > highest * (3 - n) / 4) & (values[order] <= highest * (4 - n) / 4)]
        spread = (
            np.unique(np.linspace(0, len(within) - 1, N_IN_QUARTER).round().astype(int)) if len(within) else []
        )
        groups.append((name, [int(within[at]) for at in spread]))
    examples = tuple(
        (name, tuple(_example(activations, places, values, at, texts) for at in chosen)) for name, chosen in groups
    )
    up, down = weights_V.topk(min(N_TOKENS, len(texts))), weights_V.topk(min(N_TOKENS, len(texts)), largest=False)
    promoted, suppressed = (
        tuple((texts[at], float(value)) for value, at in zip(each.values, each.indices.tolist(), strict=True))
        for each in (up, down)
    )
    return Feature(number, float(density), highest, examples, promoted, suppressed)


def _of_different_rows(activations: Activations, places: NDArray[np.int64], order: NDArray[np.int64]) -> list[int]:
    """Return the activations in their order, of each row the first alone."""
    rows = places[order] // activations.ids_RT.shape[1]
    _, first = np.unique(rows, return_index=True)
    return order[np.sort(first)].tolist()


def _example(
    activations: Activations,
    places: NDArray[np.int64],
    values: NDArray[np.float32],
    at: int,
    texts: list[str],
) -> Example:
    T = activations.ids_RT.shape[1]
    row, column = divmod(int(places[at]), T)
    columns = np.arange(max(0, column - AROUND), min(T, column + AROUND + 1))
    documents = activations.documents_RT[row]
    columns = columns[documents[columns] == documents[column]]
    found = np.searchsorted(places, row * T + columns).clip(max=len(places) - 1)
    shown = np.where(places[found] == row * T + columns, values[found], 0.0)
    tokens = tuple(texts[token] for token in activations.ids_RT[row, columns].tolist())
    return Example(tokens, tuple(shown.tolist()))
