"""Planning of a data mix: weights or a temperature, a limit on epochs, and an annealing mix.

A temperature T weights a source by its size to the power 1/T. T = 1 is proportional; larger T favours small
sources (Arivazhagan et al. 2019, arXiv 1907.05019, use 5 for languages). A source is repeated at most `max_epochs`
times: up to four epochs, repeated tokens are worth almost as much as new ones (Muennighoff et al. 2023, arXiv
2305.16264). Tokens that an exhausted source cannot provide are taken from the others in proportion to their
weights. The last part of a training run, while the learning rate decays, may have its own mix of the best sources
(Hu et al. 2024, MiniCPM, arXiv 2404.06395). Both parts count towards the epochs.

The resulting weights are those of a training recipe (`data.weights`, `data.anneal_weights`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, Field

from modelstack.errors import UserError

MAX_EPOCHS = 4.0


class MixRecipe(BaseModel, frozen=True, extra="forbid"):
    """The wanted mix."""

    n_tokens: int = Field(gt=0)
    """Tokens of the whole training run."""
    weights: dict[str, float] | None = None
    """Share of each source; 0 excludes it. None: derived from size and temperature."""
    temperature: float = Field(default=1.0, ge=1)
    """Without weights, a source of size n is weighted by n to the power 1 / temperature."""
    max_epochs: float = Field(default=MAX_EPOCHS, gt=0)
    """Maximum number of passes over a source, in the whole run."""
    anneal_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the tokens, at the end of the run, that has its own mix."""
    anneal_weights: dict[str, float] | None = None
    """Share of each source at the end of the run; required with `anneal_share`."""


@dataclass(frozen=True, slots=True)
class PartPlan:
    """Tokens from each source in one part of a training run."""

    tokens: dict[str, float]

    @property
    def weights(self) -> dict[str, float]:
        """Share of each source in the tokens."""
        total = sum(self.tokens.values())
        return {name: n / total if total else 0.0 for name, n in self.tokens.items()}

    def epochs(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Return the number of passes over each source in this part; `sizes` are the tokens of each source."""
        return {name: n / sizes[name] if sizes[name] else 0.0 for name, n in self.tokens.items()}


@dataclass(frozen=True, slots=True)
class MixPlan:
    """The mix of a whole training run."""

    stable: PartPlan
    anneal: PartPlan | None
    epochs: dict[str, float]
    """Number of passes over each source, both parts together."""


def plan_mix(sizes: Mapping[str, int], recipe: MixRecipe) -> MixPlan:
    """Return the tokens to take from each source. The annealing mix is served first: its sources are scarce.

    Args:
        sizes: Tokens of each source.
        recipe: The wanted mix.

    Raises:
        UserError: The weights do not name every source, or the sources cannot provide enough tokens.
    """
    left = {name: recipe.max_epochs * size for name, size in sizes.items()}
    n_anneal = recipe.n_tokens * recipe.anneal_share
    anneal = None
    if n_anneal:
        if recipe.anneal_weights is None:
            raise UserError("anneal_share is given without anneal_weights; name a weight for each source")
        anneal = _filled(n_anneal, _checked("anneal_weights", recipe.anneal_weights, sizes), left, recipe)
        left = {name: room - anneal.tokens[name] for name, room in left.items()}
    if recipe.weights is None:
        wanted = {name: size ** (1 / recipe.temperature) for name, size in sizes.items()}
    else:
        wanted = _checked("weights", recipe.weights, sizes)
    stable = _filled(recipe.n_tokens - n_anneal, wanted, left, recipe)
    drawn = {name: stable.tokens[name] + (anneal.tokens[name] if anneal else 0.0) for name in sizes}
    return MixPlan(stable, anneal, {name: drawn[name] / size if size else 0.0 for name, size in sizes.items()})


def _filled(
    n_tokens: float, weights: Mapping[str, float], room: Mapping[str, float], recipe: MixRecipe
) -> PartPlan:
    """Distribute tokens by weight, cap each source at its room, and redistribute the rest."""
    tokens = dict.fromkeys(weights, 0.0)
    is_open = {name for name, weight in weights.items() if weight > 0}
    missing = n_tokens
    while missing > n_tokens * 1e-12:
        if not is_open:
            most = n_tokens - missing
            raise UserError(
                f"{n_tokens:,.0f} tokens are wanted, and the sources with a weight give {most:,.0f} in "
                f"max_epochs={recipe.max_epochs:g}; ask for fewer, weigh more sources, or raise max_epochs"
            )
        total = sum(weights[name] for name in is_open)
        offered = {name: missing * weights[name] / total for name in sorted(is_open)}
        full = {name for name, n in offered.items() if tokens[name] + n >= room[name]}
        for name in full or is_open:
            given = max(0.0, room[name] - tokens[name]) if full else offered[name]
            tokens[name] += given
            missing -= given
        is_open -= full
        if not full:
            break
    return PartPlan(tokens)


def _checked(key: str, weights: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
    if set(weights) != set(sizes):
        raise UserError(
            f"{key} names {sorted(weights)}, the data has {sorted(sizes)}; name each source, 0 leaves it out"
        )
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"{key}: weight {weight} of {name!r}; a weight is a number from 0 up")
    return {name: float(weights[name]) for name in sizes}
