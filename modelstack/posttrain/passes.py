"""Forward and backward passes of post-training: a method computes the loss of a micro-batch, this module the rest.

The loss of a step is one sum over the micro-batches of all processes, so the loss of a micro-batch is its share of
that sum. FSDP2 sums the gradients.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from modelstack.data.batches import Batch
from modelstack.posttrain.processes import ALONE, Processes
from modelstack.train.parallel.spread_passes import clip_gradients

EXTREMES = {"/min": min, "/max": max}
"""Function that combines metrics with this name ending; all other metrics are averaged."""


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """Losses of one micro-batch."""

    losses: Mapping[str, Tensor]
    """Scalars by name: shares of the step's losses. A loss without gradient is only reported."""
    weight: float
    """Weight of the micro-batch in the averages of the step's metrics."""
    metrics: Mapping[str, Tensor | float]
    """Scalars by name; NaN if the micro-batch has no such value."""


@dataclass
class TuningPasses(ABC):
    """Passes of a model on one device, or sharded over processes."""

    processes: Processes = field(default=ALONE, init=False)
    metrics: dict[str, float] = field(default_factory=dict[str, float], init=False)
    """Metrics of the last step."""

    @property
    @abstractmethod
    def modules(self) -> tuple[nn.Module, ...]:
        """Modules whose gradients are clipped, each by its own norm."""

    @abstractmethod
    def losses_of(self, batch: Any, n_labels: float, n_rows: float) -> BatchLoss:
        """Return the losses of a micro-batch.

        Args:
            batch: From the method's loader.
            n_labels: Labelled tokens of the whole step.
            n_rows: Rows of the whole step.
        """

    def metrics_of(self, batches: Sequence[Any]) -> dict[str, float]:
        """Return metrics that need all micro-batches of a step at once."""
        return {}

    def total(self, n: float) -> float:
        """Return the sum of a number over the processes."""
        return self.processes.total(n)

    def backward(self, batches: Sequence[Batch], n_labels: float) -> dict[str, float]:
        """Accumulate the gradients of this process's micro-batches; return the losses of all processes by name."""
        n_rows = self.total(sum(len(batch.ids_BT) for batch in batches))
        sums: dict[str, float] = {}
        parts: list[tuple[float, dict[str, float]]] = []
        for batch in batches:
            found = self.losses_of(batch, n_labels, n_rows)
            for name, loss in found.losses.items():
                if loss.requires_grad:
                    loss.backward()
                sums[name] = sums.get(name, 0.0) + float(loss.detach())
            parts.append((found.weight, {name: float(value) for name, value in found.metrics.items()}))
        self.metrics = combined_metrics(self.processes.gathered(parts)) | self.metrics_of(batches)
        return {name: self.total(loss) for name, loss in sums.items()}

    def clip(self, max_norm: float) -> float:
        """Clip the gradients of each module; return the total norm before clipping."""
        clip = clip_gradients if self.processes.mesh else nn.utils.clip_grad_norm_
        return math.hypot(*(float(clip(module.parameters(), max_norm)) for module in self.modules))

    def settle(self, taken: bool) -> None:  # noqa: B027 - nothing to settle is the case of every method
        """Do nothing: these methods leave the balancing biases of experts unchanged."""


def combined_metrics(parts: Iterable[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """Return the weighted mean of each metric, or the extreme for names that end in `/min` or `/max`.

    Args:
        parts: Weight and metrics of each micro-batch. NaN values and metrics with weight 0 are left out.
    """
    found: dict[str, float] = {}
    weights: dict[str, float] = {}
    for weight, metrics in parts:
        for name, number in metrics.items():
            if math.isnan(number) or not weight:
                continue
            extreme = next((choose for end, choose in EXTREMES.items() if name.endswith(end)), None)
            if extreme is None:
                found[name] = found.get(name, 0.0) + weight * number
                weights[name] = weights.get(name, 0.0) + weight
            else:
                found[name] = extreme(found.get(name, number), number)
    return {name: value / weights.get(name, 1.0) for name, value in found.items()}
