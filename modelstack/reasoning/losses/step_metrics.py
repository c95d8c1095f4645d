"""Metrics of a step from those of its micro-batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

EXTREMES = {"/min": min, "/max": max}
"""By the end of a name; all other metrics are means."""


def combined_metrics(parts: Iterable[tuple[float, Mapping[str, Tensor]]]) -> dict[str, float]:
    """Return sums of weighted means, and the extremes of `*/min` and `*/max`.

    Args:
        parts: Weight of each micro-batch, and its metrics; weights of a step add up to 1.
    """
    found: dict[str, float] = {}
    for weight, metrics in parts:
        for name, value in metrics.items():
            extreme = next((choose for end, choose in EXTREMES.items() if name.endswith(end)), None)
            if extreme is None:
                found[name] = found.get(name, 0.0) + weight * float(value)
            else:
                found[name] = extreme(found.get(name, float(value)), float(value))
    return found
