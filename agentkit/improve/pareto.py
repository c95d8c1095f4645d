"""Choice of a parent from the candidates that are best on at least one task (GEPA, Agrawal et al. 2025).

A candidate with the best mean may be stuck; one that alone solves some task has learnt something that the others
lack. So a parent is drawn from the front over tasks, with a probability in proportion to the tasks it is best on.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

Scores = Sequence[Sequence[float]]
"""Scores by candidate and task."""


def front(scores: Scores) -> dict[int, int]:
    """Return the candidates of the front, with the number of tasks on which each is among the best.

    A candidate is left out if on each of its tasks another of the front is as good; of such, the one with the
    lowest mean is left out first.
    """
    n_tasks = len(scores[0])
    best = [max(row[task] for row in scores) for task in range(n_tasks)]
    winners = [{i for i, row in enumerate(scores) if row[task] == best[task]} for task in range(n_tasks)]
    kept = set[int]().union(*winners)
    means = {i: sum(scores[i]) for i in kept}
    for candidate in sorted(kept, key=lambda i: means[i]):
        others = kept - {candidate}
        if all(names & others for names in winners if candidate in names):
            kept = others
    return {i: sum(i in names for names in winners) for i in sorted(kept)}


def drawn_parent(counts: Mapping[int, int], draw: random.Random) -> int:
    """Return a candidate of the front, drawn in proportion to its number of tasks."""
    return draw.choices(list(counts), weights=list(counts.values()))[0]
