"""Tensors and recipes that both mergekit and we merge: small, without equal magnitudes, the same everywhere."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

SHAPES = {"matrix": (6, 9), "vector": (24,)}
NAMES = ("base", "a", "b", "c")


class Case(NamedTuple):
    """One merge in both programs' words."""

    method: str
    parents: tuple[str, ...]
    ours: dict[str, Any]
    """Keys of our recipe."""
    theirs: dict[str, Any]
    """mergekit's parameters."""


def _sums(method: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Case]:
    """Return a method with its defaults, with weights and lambda, and with normalisation the other way round."""
    l1 = {"rescale": "l1"} if method.startswith(("dare", "della")) else {}
    made = {}
    for label, parents, weights, scale, normalize in (
        ("", ("a", "b"), (1.0, 1.0), 1.0, None),
        (" weighted", ("a", "b", "c"), (0.7, -0.4, 1.1), 1.5, None),
        (" normalised", ("a", "b", "c"), (0.5, 0.25, 1.0), 1.0, True),
        (" summed", ("a", "b", "c"), (0.5, 0.25, 1.0), 1.0, False),
    ):
        both = {} if normalize is None else {"normalize": normalize}
        made[f"{method}{label}"] = Case(
            method,
            parents,
            {**ours, **both, **l1, "weights": weights, "scale": scale},
            {**theirs, **both, "weight": weights, "lambda": scale},
        )
    return made


CASES: dict[str, Case] = {
    "linear": Case("linear", ("a", "b"), {}, {"weight": 1.0}),
    "linear weighted": Case(
        "linear", ("a", "b", "c"), {"weights": (0.7, -0.4, 1.1)}, {"weight": [0.7, -0.4, 1.1]}
    ),
    "slerp": Case("slerp", ("a", "b"), {"t": 0.3}, {"t": 0.3}),
    "slerp of near ones": Case("slerp", ("a", "near a"), {"t": 0.6}, {"t": 0.6}),
    "model_stock": Case("model_stock", ("a", "b", "c"), {}, {}),
    **_sums("task_arithmetic", {}, {}),
    **_sums("ties", {"density": 0.4}, {"density": 0.4}),
    **_sums("breadcrumbs", {"density": 0.5, "gamma": 0.1}, {"density": 0.5, "gamma": 0.1}),
    **_sums("breadcrumbs_ties", {"density": 0.5, "gamma": 0.1}, {"density": 0.5, "gamma": 0.1}),
    **_sums("dare_linear", {"density": 0.6}, {"density": 0.6}),
    **_sums("dare_ties", {"density": 0.6}, {"density": 0.6}),
    **_sums("della", {"density": 0.6, "epsilon": 0.2}, {"density": 0.6, "epsilon": 0.2}),
    **_sums("della_linear", {"density": 0.6, "epsilon": 0.2}, {"density": 0.6, "epsilon": 0.2}),
}


def tensors(shape: str) -> dict[str, Tensor]:
    """Return base and parents by name, float64; `near a` is almost parallel to `a`."""
    draw = random.Random(shape)
    size = SHAPES[shape]
    made = {name: _uniform(draw, size, -1.0, 1.0) for name in NAMES}
    made |= {name: made["base"] + 0.3 * made[name] for name in ("a", "b", "c")}
    return made | {"near a": made["a"] + 1e-3 * made["base"]}


def chances(shape: str) -> list[Tensor]:
    """Return what decides on the entries of each parent, between 0 and 1: two programs draw differently."""
    draw = random.Random(f"chances of {shape}")
    return [_uniform(draw, SHAPES[shape], 0.0, 1.0) for _ in NAMES[1:]]


def _uniform(draw: random.Random, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    numbers = [draw.uniform(low, high) for _ in range(torch.Size(shape).numel())]
    return torch.tensor(numbers, dtype=torch.float64).reshape(shape)
