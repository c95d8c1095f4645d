"""The worlds named in a recipe: those built from the tasks' golds, or those offered by an installed package.

This package starts no servers. A package that does, such as the MCP bridge, offers worlds through an entry point
in the group `modelstack.worlds`: a function that takes the recipe's options and returns a context manager.
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
    """Table `episodes` of a recipe."""

    worlds: str = OF_GOLDS
    """`golds`: small worlds built from effect golds; otherwise a name registered by an installed package."""
    options: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Options of the worlds, defined by their package."""


@contextmanager
def opened_worlds(recipe: EpisodeRecipe) -> Iterator[EpisodeWorlds]:
    """Open the worlds named in a recipe; leaving the context stops everything that they started.

    Raises:
        UserError: No installed package offers worlds of this name, or it rejects the options.
    """
    if recipe.worlds == OF_GOLDS:
        if recipe.options:
            raise UserError(
                f"episodes.options are {sorted(recipe.options)}; worlds = 'golds' takes none: leave them out"
            )
        yield EffectWorlds()
        return
    offered: Mapping[str, Any] = {point.name: point for point in entry_points(group=GROUP)}
    if recipe.worlds not in offered:
        known = ", ".join([OF_GOLDS, *sorted(offered)])
        raise UserError(f"episodes.worlds is {recipe.worlds!r}; known names: {known}")
    with offered[recipe.worlds].load()(recipe.options) as worlds:
        yield worlds
