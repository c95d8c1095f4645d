"""Choice of a number format per tensor under a size budget, by the predicted divergence of the model's outputs.

To second order, the KL divergence from a model to a changed one is half the squared change of each layer's
outputs, weighted by the Fisher information: E[g^2] with the gradient g of the log-probability of a token that the
model itself draws. With the mean square of each input x, and independent errors, rounding W to W' costs

    KL = 1/2 sum_nk E[g_n^2] (W_nk - W'_nk)^2 E[x_k^2]

per token. One backward pass gives both moments for all tensors, and prices every format of every tensor without
running the model again. (Fisher information for quantisation: e.g. SqueezeLLM, arXiv 2306.07629.) The budget is
spent greedily on the upgrade that saves most divergence per bit.

Layers that an engine computes as one product share a format: queries, keys and values; gate and up.

Letters: B rows, T tokens, N outputs, K inputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from modelstack.architecture.decoder import CausalLM
from modelstack.architecture.projections import SAME_INPUT
from modelstack.architecture.rounded_weight import NumberFormat
from modelstack.errors import UserError
from modelstack.inference.quantise.rounded_model import can_round
from modelstack.inference.quantise.rounding import round_weight


@dataclass(frozen=True, slots=True)
class Choice:
    """Formats of the weights, and what they cost."""

    formats: Mapping[str, NumberFormat]
    """Format by name of the weight."""
    bits_per_weight: float
    """Average over the rounded weights, scales included."""
    predicted_kl: float
    """Predicted divergence in nats per token."""


@dataclass(slots=True)
class _Moments:
    """Sums over tokens of squared inputs and of squared gradients of the outputs of a layer."""

    inputs_K: Tensor
    gradients_N: Tensor


@dataclass(slots=True)
class _Unit:
    """Weights that share a format, with the price of each candidate."""

    names: list[str] = field(default_factory=list[str])
    bits: list[float] = field(default_factory=list[float])
    kl: list[float] = field(default_factory=list[float])
    chosen: int = 0


def choose_formats(
    model: CausalLM,
    candidates: Sequence[NumberFormat],
    bits_per_weight: float,
    batches: Sequence[Tensor],
    *,
    scale_type: torch.dtype = torch.bfloat16,
) -> Choice:
    """Return the formats of least predicted divergence whose average size is within the budget.

    Args:
        model: The model in fp32; its weights are not changed.
        candidates: Formats to choose from.
        bits_per_weight: Maximum average over the linear layers of the blocks, scales included.
        batches: Token ids [B, T].
        scale_type: Type that stores the scales.

    Raises:
        UserError: Even the smallest candidate exceeds the budget, no layer fits the candidates, or the model has
            experts, whose inputs and gradients are not measured.
    """
    if model.config.has_experts:
        raise UserError("formats cannot be chosen for a model with experts; give one --format and no --bits")
    moments, n_tokens = _collect(model, batches)
    weights = {f"{name}.weight": layer.weight for name, layer in _layers(model)}
    fitting = {
        name: weight
        for name, weight in weights.items()
        if all(each.fits(tuple(weight.shape)) for each in candidates)
    }
    if not fitting:
        raise UserError("no layer of this model fits the formats: rows are no multiples of their groups")
    ordered = sorted(candidates, key=lambda each: each.bits_per_weight(_largest(fitting)))
    units: dict[str, _Unit] = {}
    for name, weight in fitting.items():
        unit = units.setdefault(_unit_of(name), _Unit(bits=[0.0] * len(ordered), kl=[0.0] * len(ordered)))
        unit.names.append(name)
        for place, candidate in enumerate(ordered):
            unit.bits[place] += candidate.bits_per_weight(tuple(weight.shape)) * weight.numel()
            unit.kl[place] += _predicted_kl(weight, candidate, moments[name], n_tokens, scale_type)
    n_weights = sum(weight.numel() for weight in fitting.values())
    _spend(list(units.values()), bits_per_weight * n_weights)
    total = sum(unit.bits[unit.chosen] for unit in units.values())
    if total > bits_per_weight * n_weights:
        raise UserError(
            f"{bits_per_weight:g} bits per weight are too few: the smallest format takes {total / n_weights:.2f}, "
            f"scales included"
        )
    return Choice(
        {name: ordered[unit.chosen] for unit in units.values() for name in unit.names},
        total / n_weights,
        sum(unit.kl[unit.chosen] for unit in units.values()),
    )


def _spend(units: Sequence[_Unit], budget: float) -> None:
    """Upgrade units, one at a time, while the next best upgrade fits into the budget."""
    spent = sum(unit.bits[0] for unit in units)
    while True:
        upgrades = [
            ((unit.kl[unit.chosen] - unit.kl[place]) / (unit.bits[place] - unit.bits[unit.chosen]), number, place)
            for number, unit in enumerate(units)
            for place in range(unit.chosen + 1, len(unit.bits))
            if spent + unit.bits[place] - unit.bits[unit.chosen] <= budget
            and unit.kl[place] < unit.kl[unit.chosen]
        ]
        if not upgrades:
            return
        _, number, place = max(upgrades)
        unit = units[number]
        spent += unit.bits[place] - unit.bits[unit.chosen]
        unit.chosen = place


@torch.no_grad()
def _predicted_kl(
    weight: Tensor, candidate: NumberFormat, moments: _Moments, n_tokens: int, scale_type: torch.dtype
) -> float:
    rounded = round_weight(weight, candidate, moments.inputs_K, scale_type).dequantised()
    squares = (weight - rounded).square_()
    return float(moments.gradients_N @ (squares @ moments.inputs_K)) / n_tokens**2 / 2


def _collect(model: CausalLM, batches: Sequence[Tensor]) -> tuple[Mapping[str, _Moments], int]:
    """Return the moments of each layer, and the number of tokens they are sums over."""
    generator = torch.Generator().manual_seed(0)
    n_tokens = 0
    with _hooked(model) as moments:
        for ids in batches:
            logits = model(ids).logits_BTV
            drawn = torch.multinomial(logits.detach().flatten(0, 1).softmax(-1), 1, generator=generator)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), drawn[:, 0], reduction="sum")
            loss.backward()
            n_tokens += ids.numel()
    return moments, n_tokens


@contextmanager
def _hooked(model: CausalLM) -> Iterator[Mapping[str, _Moments]]:
    """Collect moments during backward passes through a model with frozen weights."""
    moments: dict[str, _Moments] = {}
    handles: list[torch.utils.hooks.RemovableHandle] = []
    needed_gradients = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in needed_gradients:
        parameter.requires_grad_(False)

    def count_both(sums: _Moments, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        def count(gradient: Tensor) -> None:
            sums.gradients_N += gradient.flatten(0, -2).square().sum(0)

        sums.inputs_K += inputs[0].detach().flatten(0, -2).square().sum(0)
        output.register_hook(count)

    for name, layer in _layers(model):
        moments[f"{name}.weight"] = _Moments(torch.zeros(layer.in_features), torch.zeros(layer.out_features))
        handles.append(layer.register_forward_hook(partial(count_both, moments[f"{name}.weight"])))
    # Weights are frozen: gradients flow from the embedding on.
    handles.append(
        model.model.embed_tokens.register_forward_hook(lambda _, __, output: output.requires_grad_(True))
    )
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()
        for parameter in needed_gradients:
            parameter.requires_grad_(True)


def _layers(model: CausalLM) -> Iterator[tuple[str, nn.Linear]]:
    for name, layer in model.model.layers.named_modules(prefix="model.layers"):
        if type(layer) is nn.Linear and can_round(tuple(layer.weight.shape)):
            yield name, layer


def _unit_of(name: str) -> str:
    """Return the name of the product that a weight is part of."""
    for fused in SAME_INPUT:
        for part in fused:
            name = re.sub(rf"\.{part}\.weight$", f".{'+'.join(fused)}", name)
    return name


def _largest(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    return tuple(max(weights.values(), key=Tensor.numel).shape)
