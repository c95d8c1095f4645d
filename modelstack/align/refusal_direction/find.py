"""Finds the direction of refusal: the difference of mean states of harmful and harmless requests (2406.11717).

A candidate is the difference at the last token of the prompt, in the output of each layer. Three numbers choose
among them, on requests that the means do not hold: how much the log-odds of beginning a refusal rise on harmless
requests when the difference is added, how much they fall on harmful ones when the direction is projected out of
all layers, and how little this changes the model otherwise (KL divergence on harmless requests). The last fifth of
the layers is too close to the output tokens, and is left out.

Letters: N requests, L layers, D width of the model, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from modelstack.align.monitor_training.states import layer_states
from modelstack.align.refusal_direction.direction import RefusalDirection
from modelstack.architecture.cache import Cache
from modelstack.architecture.decoder import CausalLM
from modelstack.errors import UserError
from modelstack.inference.sequences import common_prefix_length
from modelstack.posttrain.row_loader import PADDING
from modelstack.posttrain.shared_prefix import SharedPrefix
from modelstack.tokenizer.chat import ChatEncoder

REFUSALS = ("I'm sorry", "I cannot", "I can't", "I won't", "I am sorry", "Sorry", "Unfortunately", "No")
"""Beginnings of refusals, of which the first token counts."""
MAX_KL, USED_LAYERS = 0.1, 0.8
"""Most change of the next token on harmless requests, and share of the layers that are candidates."""
N_VALIDATION = 32
"""Requests of each kind that choose among the layers; the others give the means."""
BATCH = 16


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """Figures of a candidate; changes are of the log-odds of beginning a refusal."""

    layer: int
    size: float
    """Distance of the means."""
    separation: float
    """Area under the curve of harmful and harmless requests along the direction, on requests not in the means."""
    added: float
    """Change on harmless requests when the difference is added."""
    ablated: float
    """Change on harmful requests when the direction is projected out."""
    kl: float
    """KL divergence of the next token on harmless requests when the direction is projected out."""


def find_direction(
    model: CausalLM,
    encoder: ChatEncoder,
    harmful: Sequence[str],
    harmless: Sequence[str],
    *,
    weights_sha256: str,
    told: Callable[[int, int], object] = lambda done, total: None,
) -> RefusalDirection:
    """Return the direction of the best layer, with the figures of all candidates in its card.

    Args:
        model: The model, with its adapter merged.
        encoder: Its chat format.
        harmful: Harmful requests; the first 32 choose among the layers.
        harmless: Harmless requests, as many.
        weights_sha256: Hash of weights and adapter.
        told: Callback for the number of finished layers, and of all.

    Raises:
        UserError: There are too few requests, or no layer leaves the model as it is on harmless ones.
    """
    if min(len(harmful), len(harmless)) < 2 * N_VALIDATION:
        raise UserError(
            f"{len(harmful)} harmful and {len(harmless)} harmless requests: at least {2 * N_VALIDATION} of each "
            f"are needed, {N_VALIDATION} of which choose among the layers"
        )
    layers = list(range(1, max(2, int(USED_LAYERS * model.config.num_hidden_layers))))
    prompts = [[prompt_ids(encoder, text) for text in texts] for texts in (harmful, harmless)]
    everything = [*prompts[0], *prompts[1]]
    n_prefix = min(common_prefix_length(everything[0], ids[:-1]) for ids in everything)
    prefix = everything[0][:n_prefix]
    rows = [[ids[n_prefix:] for ids in each] for each in prompts]
    states = [_last_states(model, prefix, each, layers) for each in rows]
    means = [each[N_VALIDATION:].mean(0) for each in states]
    checked = [each[:N_VALIDATION] for each in rows]
    refusing = sorted({encoder.content_ids(text)[0] for text in REFUSALS})
    plain = [_log_probs(model, prefix, ids) for ids in checked]
    before = [float(_refusal_odds(each, refusing).mean()) for each in plain]
    figures: list[LayerFigures] = []
    for place, layer in enumerate(layers):
        difference_D = means[0][place] - means[1][place]
        size = float(np.linalg.norm(difference_D))
        unit_D = torch.from_numpy(difference_D / size)
        along = [each[:N_VALIDATION, place] @ (difference_D / size) for each in states]
        with added(model, layer, torch.from_numpy(difference_D)):
            odds_added = float(_refusal_odds(_log_probs(model, prefix, checked[1]), refusing).mean())
        with ablated(model, unit_D):
            harmful_ablated, harmless_ablated = (_log_probs(model, prefix, ids) for ids in checked)
        kl = F.kl_div(harmless_ablated, plain[1], reduction="batchmean", log_target=True)
        figures.append(
            LayerFigures(
                layer=layer,
                size=size,
                separation=float((along[0][:, None] > along[1][None]).mean()),
                added=odds_added - before[1],
                ablated=float(_refusal_odds(harmful_ablated, refusing).mean()) - before[0],
                kl=float(kl),
            )
        )
        told(place + 1, len(layers))
    best = _best(figures)
    place = layers.index(best.layer)
    difference_D = means[0][place] - means[1][place]
    return RefusalDirection(
        best.layer,
        (difference_D / best.size).astype(np.float32),
        best.size,
        weights_sha256,
        {
            "n_harmful": len(harmful),
            "n_harmless": len(harmless),
            "refusal_log_odds": {"harmful": before[0], "harmless": before[1]},
            "layers": [asdict(each) for each in figures],
        },
    )


def _best(figures: Sequence[LayerFigures]) -> LayerFigures:
    """Return the layer whose removal lowers refusals most, of those that also raise them and change little."""
    usable = [each for each in figures if each.kl <= MAX_KL and each.added > 0]
    if not usable:
        least = min(figures, key=lambda each: each.kl)
        raise UserError(
            f"no layer has a direction of refusal: projecting it out changes the model by a KL divergence of at "
            f"least {least.kl:.3f} on harmless requests (at most {MAX_KL}), or adding it does not raise refusals. "
            f"Does this model refuse at all?"
        )
    return min(usable, key=lambda each: each.ablated)


def prompt_ids(encoder: ChatEncoder, text: str) -> list[int]:
    """Return the tokens of a prompt with one request, up to the start of the reply."""
    return [*encoder.encode_turn("user", text, previous=None).ids, *encoder.generation_ids("user")]


@contextmanager
def added(model: CausalLM, layer: int, vector_D: Tensor) -> Iterator[None]:
    """Add a vector to the output of a layer, as `inference.steering` does."""
    vector_D = vector_D.to(model.lm_head.weight)
    with _hooked([model.model.layers[layer].register_forward_hook(partial(_plus, vector_D))]):
        yield


@contextmanager
def ablated(model: CausalLM, unit_D: Tensor) -> Iterator[None]:
    """Project a direction out of the embedding and of the output of each block."""
    unit_D = unit_D.to(model.lm_head.weight)
    modules = [model.model.embed_tokens, *model.model.layers]
    with _hooked([module.register_forward_hook(partial(_without, unit_D)) for module in modules]):
        yield


def _plus(vector_D: Tensor, _module: object, _inputs: object, output: Tensor) -> Tensor:
    return output + vector_D


def _without(unit_D: Tensor, _module: object, _inputs: object, output: Tensor) -> Tensor:
    return output - (output @ unit_D)[..., None] * unit_D


@contextmanager
def _hooked(hooks: Sequence[RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _last_states(
    model: CausalLM, prefix: Sequence[int], rows: Sequence[Sequence[int]], layers: Sequence[int]
) -> NDArray[np.float64]:
    """Return the states at the last tokens, [N, L, D]; sums over them are taken in fp64."""
    found = np.empty((len(rows), len(layers), model.config.hidden_size))
    for number, states_TLD in layer_states(model, prefix, rows, layers):
        found[number] = states_TLD[-1]
    return found


@torch.no_grad()
def _log_probs(model: CausalLM, prefix: Sequence[int], rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the log-probabilities of the token after each row, fp32 [N, V], in the order of the rows."""
    cache = Cache([SharedPrefix() for _ in model.model.layers])
    model(torch.tensor([list(prefix)]), cache=cache, with_logits=False)
    # Rows of similar length share a batch, so that less padding is computed.
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    found: list[Tensor] = []
    for start in range(0, len(order), BATCH):
        several = [rows[n] for n in order[start : start + BATCH]]
        T = max(map(len, several))
        ids_BT = torch.tensor([[*ids, *[PADDING] * (T - len(ids))] for ids in several])
        places_P = torch.tensor([b * T + len(ids) - 1 for b, ids in enumerate(several)])
        cache.n_tokens = len(prefix)
        states_1PD = model(ids_BT, cache=cache, with_logits=False, places_P=places_P).hidden_BTD
        found.append(F.log_softmax(model.logits(states_1PD)[0].float(), -1))
    return torch.cat(found)[torch.tensor(order).argsort()]


def _refusal_odds(log_probs_NV: Tensor, refusing: Sequence[int]) -> Tensor:
    p_N = log_probs_NV[:, list(refusing)].exp().sum(-1).clamp(1e-7, 1 - 1e-7)
    return p_N.log() - (1 - p_N).log()
