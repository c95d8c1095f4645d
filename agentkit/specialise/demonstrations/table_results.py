"""Parts that the scripts for a database share: the look at its tables, and results read."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from agentkit.specialise.demonstrations.script import Step, call, detour, search
from agentkit.specialise.demonstrations.world import World
from modelstack.data.tools.spoken import Scene

MOST_SHOWN = 12
"""Maximum number of rows listed in an answer."""
_P_SEARCH_FIRST = 0.2
"""Probability that only the files are searched first; that step is shown, not trained on."""


def look(
    world: World, now: Scene, p_skip: float = 0.0, *, keyword: str = ""
) -> Generator[Step, Sequence[str], None]:
    """List the tables unless the conversation has shown them.

    Args:
        world: The conversation's world; its servers decide whether files exist as well.
        now: Source of random draws.
        p_skip: Probability of not looking.
        keyword: A word of the request that could also occur in a file; one reply then looks into both places.
    """
    if world.known_tables or now.chance(p_skip):
        return
    is_both = "files" in world.servers and keyword
    if is_both and not now.chance(_P_SEARCH_FIRST):
        yield from search(world, keyword)
        return
    if is_both:
        yield detour("search_text", text=keyword)
    yield call("list_tables")
    world.known_tables = True


def rows_of(found: str) -> list[list[str]]:
    """Return the rows of a result without its heading."""
    return [line.split(" | ") for line in found.splitlines()[1:]]


def short_number(value: str) -> str:
    """Return a number with at most two decimals."""
    number = float(value)
    return str(int(number)) if number.is_integer() else f"{number:.2f}"
