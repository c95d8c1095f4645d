"""Applies the recipe's method to one tensor of every parent."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from modelstack.reasoning.merging.linear import linear
from modelstack.reasoning.merging.model_stock import model_stock
from modelstack.reasoning.merging.recipe import ELECT_SIGNS, MergeRecipe
from modelstack.reasoning.merging.slerp import slerp
from modelstack.reasoning.merging.sparsify import (
    generator_for,
    keep_at_random,
    keep_band,
    keep_by_rank,
    keep_largest,
)
from modelstack.reasoning.merging.task_vectors import elected, summed, task_arithmetic


def merged(
    recipe: MergeRecipe, name: str, tensors: Sequence[Tensor], base: Tensor | None, ids: Sequence[str]
) -> Tensor:
    """Return the merged tensor, in the dtype of the parents.

    Args:
        recipe: Method and its settings.
        name: Name of the tensor. It selects the linear rule, and with the seed the random generator.
        tensors: One tensor per parent, fp32 or fp64, all of the same shape.
        base: Tensor of the base; None for methods without a base.
        ids: Identifier of each parent, independent of its position in the recipe.

    Raises:
        UserError: The weights of a mean sum to 0.
    """
    weights = recipe.weight_of_each
    is_plain = any(part in name for part in recipe.linear)
    if recipe.method == "linear":
        return linear(tensors, weights)
    if recipe.method == "slerp":
        first, second = tensors
        if is_plain:
            return linear(tensors, (1 - recipe.t, recipe.t))
        return slerp(first, second, recipe.t, over=recipe.arcs)
    assert base is not None  # `find_parents` ensures it
    if recipe.method == "model_stock":
        return linear(tensors, weights) if is_plain else model_stock(base, tensors)
    if is_plain or recipe.method == "task_arithmetic":
        return task_arithmetic(base, tensors, weights, scale=recipe.scale, normalize=recipe.normalizes)
    deltas = [
        _sparse(recipe, tensor - base, density, name, parent)
        for tensor, density, parent in zip(tensors, recipe.densities, ids, strict=True)
    ]
    combine = elected if recipe.method in ELECT_SIGNS else summed
    return base + combine(deltas, weights, normalize=recipe.normalizes).mul_(recipe.scale)


def _sparse(recipe: MergeRecipe, delta: Tensor, density: float, name: str, parent: str) -> Tensor:
    """Return a task vector with only the entries that the method keeps."""
    draw = partial(generator_for, recipe.seed, name, parent)
    match recipe.method:
        case "ties":
            return keep_largest(delta, density)
        case "breadcrumbs" | "breadcrumbs_ties":
            return keep_band(delta, density, recipe.gamma)
        case "dare_linear" | "dare_ties":
            return keep_at_random(delta, density, draw(), recipe.rescale)
        case _:
            return keep_by_rank(delta, density, recipe.epsilon, draw(), recipe.rescale)
