"""The worlds that a recipe names: those of its tasks' golds, or others that an installed package offers.

This package knows no servers and starts none. Whoever does, as the MCP bridge, offers worlds by an entry point of
the group `modelstack.worlds`: a function that takes the recipe's options and returns a context manager.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

from pydantic import Field

from modelstack.errors import UserError
from modelstack.reasoning.episodes.episode import EffectWorlds, EpisodePlan, EpisodeWorlds

GROUP = "modelstack.worlds"
OF_GOLDS = "golds"


class EpisodeRecipe(EpisodePlan, frozen=True, extra="forbid"):
    """The table `episodes` of a recipe."""

    worlds: str = OF_GOLDS
    """`golds`: the small worlds that golds by effects name; else what an installed package calls its own."""
    options: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Of those worlds, as their package has them."""


@contextmanager
def opened_worlds(recipe: EpisodeRecipe) -> Iterator[EpisodeWorlds]:
    """Open what a recipe names; left, nothing of it runs any more.

    Raises:
        UserError: Nobody offers such worlds, or the options are not theirs.
    """
    if recipe.worlds == OF_GOLDS:
        if recipe.options:
            raise UserError(f"episodes.options are {sorted(recipe.options)}; worlds of golds have none")
        yield EffectWorlds()
        return
    offered: Mapping[str, Any] = {point.name: point for point in entry_points(group=GROUP)}
    if recipe.worlds not in offered:
        known = ", ".join([OF_GOLDS, *sorted(offered)])
        raise UserError(f"episodes.worlds is {recipe.worlds!r}; there are {known}")
    with offered[recipe.worlds].load()(recipe.options) as worlds:
        yield worlds
