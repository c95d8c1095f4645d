"""Steering by a feature: its decoder row, scaled, is added to the output of its layer in either engine.

Strength 1 adds the highest value that the feature had on held-out text. The outputs of attention and MLP go into
the same sum, so their features are steered at the output of the layer, too.

Letters: D width of the model, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modelstack.align.guards.weights_file import ClassifierFileError, read_weights, write_weights
from modelstack.align.refusal_direction.find import added
from modelstack.align.refusal_direction.replies import greedy_replies
from modelstack.align.sae.sae_folder import SaeOrigin, SavedSae
from modelstack.errors import UserError
from modelstack.inference.engine import EngineError
from modelstack.inference.steering import Steering
from modelstack.posttrain.base import Base

FORMAT = "modelstack.align.sae_steering/1"
MADE_BY = "modelstack sae steer MODEL --sae FOLDER --feature NUMBER"
_KEY, _LAYER = "steering", "layer."
PROMPTS = ("I think that", "The most important thing is", "Once upon a time", "The reason for this is")
"""Texts that are continued if none is given."""
N_TOKENS, N_PROBABLE = 8, 500
"""Tokens shown whose probability rises and falls most, of the most probable ones in either state."""


@dataclass(frozen=True, slots=True)
class Continued:
    """A text with what the model writes after it."""

    prompt: str
    plain: str
    steered: str


@dataclass(frozen=True, slots=True)
class Changes:
    """Effect of a steering."""

    tokens: tuple[tuple[str, float], ...]
    """Next tokens whose log-probability rises and falls most, averaged over the prompts, with the change."""
    continued: tuple[Continued, ...]


def feature_steering(saved: SavedSae, feature: int, strength: float) -> Steering:
    """Return the steering that moves all tokens along a feature.

    Args:
        saved: The autoencoder.
        feature: Number of the latent.
        strength: 1 moves by the feature's highest value on held-out text; negative: against it.

    Raises:
        UserError: There is no such feature, it never fired, or its layer cannot be steered.
    """
    n_latents = saved.autoencoder.config.n_latents
    if not 0 <= feature < n_latents:
        raise UserError(f"feature {feature} of {n_latents:,}: features are 0 to {n_latents - 1}")
    if saved.origin is None or saved.highest_F is None:
        raise UserError("the autoencoder has no record of its origin and values; `modelstack sae` writes one")
    if saved.origin.hook.layer == 0:
        raise UserError("layer 0 cannot be steered by llama.cpp: train an autoencoder of layer 1 or later")
    highest = float(saved.highest_F[feature])
    if highest <= 0:
        raise UserError(f"feature {feature} never fired on held-out text, so it has no scale: take another one")
    if strength == 0:
        raise UserError("strength 0 changes nothing: give another one")
    row_D = saved.autoencoder.decoder_FO[feature].numpy()
    return Steering({saved.origin.hook.layer: (strength * highest * row_D).astype(np.float32)})


def save_steering(
    path: str | os.PathLike[str], steering: Steering, origin: SaeOrigin, feature: int, strength: float
) -> None:
    """Write a steering with its origin; equal ones give equal bytes."""
    stated = {
        "format": FORMAT,
        "model": origin.model,
        "weights_sha256": origin.weights_sha256,
        "point": origin.hook.point,
        "feature": feature,
        "strength": strength,
    }
    write_weights(path, _KEY, stated, {f"{_LAYER}{layer}": row for layer, row in steering.vectors.items()})


def read_steering(path: str | os.PathLike[str], weights_sha256: str | None = None) -> Steering:
    """Read a steering, the `steering` of an engine.

    Args:
        path: A file of `save_steering`.
        weights_sha256: Hash of the weights that will be steered; None: not checked.

    Raises:
        UserError: The file is missing, broken, or of other weights.
    """
    try:
        stated, arrays = read_weights(path, _KEY, made_by=MADE_BY)
    except ClassifierFileError as error:
        raise UserError(str(error)) from error
    try:
        sha256, model, written = str(stated["weights_sha256"]), str(stated["model"]), stated["format"]
        if written != FORMAT:
            raise ValueError(f"format {written!r}, not {FORMAT!r}")
        steering = Steering({int(name.removeprefix(_LAYER)): row for name, row in arrays.items()})
    except (KeyError, TypeError, ValueError, EngineError) as error:
        raise UserError(f"{path} is no steering ({error}): write it with `{MADE_BY}`") from error
    if weights_sha256 is not None and weights_sha256 != sha256:
        raise UserError(
            f"{path} steers {model!r} with SHA-256 {sha256[:16]}..., the given weights have "
            f"{weights_sha256[:16]}...: a direction means nothing in other weights. Write one for this model"
        )
    return steering


@torch.no_grad()
def changed_by(base: Base, steering: Steering, prompts: Sequence[str], max_tokens: int) -> Changes:
    """Return how a steering changes the next token and the continuation of some texts."""
    ((layer, row),) = steering.vectors.items()
    vocabulary = base.tokenizer.vocabulary
    begin = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
    ids = [[*begin, *base.tokenizer.encode(prompt)] for prompt in prompts]

    def found(state: AbstractContextManager[None]) -> tuple[Tensor, list[str]]:
        with state:
            log_probs_V = torch.stack([_next_log_probs(base, each) for each in ids]).mean(0)
            return log_probs_V, _continued(base, ids, max_tokens)

    plain_V, plain = found(nullcontext())
    steered_V, steered = found(added(base.model, layer, torch.from_numpy(row)))
    change_V = steered_V - plain_V
    # Improbable tokens move most, and are never seen.
    probable = torch.maximum(plain_V, steered_V).topk(min(N_PROBABLE, len(change_V))).indices
    order = probable[change_V[probable].argsort(descending=True)].tolist()
    ends = [*order[:N_TOKENS], *order[-N_TOKENS:]]
    tokens = tuple((vocabulary.decode([token]), float(change_V[token])) for token in ends)
    texts = (Continued(*each) for each in zip(prompts, plain, steered, strict=True))
    return Changes(tokens, tuple(texts))


def _next_log_probs(base: Base, ids: Sequence[int]) -> Tensor:
    logits_BTV = base.model(torch.tensor([list(ids)]), last_only=True).logits_BTV
    return logits_BTV[0, 0].float().log_softmax(-1)


def _continued(base: Base, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[str]:
    vocabulary = base.tokenizer.vocabulary
    replies = greedy_replies(base.model, vocabulary.end_ids, prompts, max_tokens)
    return [vocabulary.decode(list(reply.ids)) for reply in replies]
