"""Peak memory of each process of a run: after the start, after its first step, and during training.

A start that needs more than a rank's share is visible here before it fails for a larger model. Ranks may differ
(pipeline stages, experts, a tokenizer trained on rank 0), so all are recorded and the largest is displayed.
"""

from __future__ import annotations

import resource
from typing import Any

import torch

from modelstack.architecture.counts.table import quantity
from modelstack.stability.agreement import Ranks
from modelstack.train.evaluation import is_due
from modelstack.train.loop import Run
from modelstack.train.metrics import MemoryRecord, Metrics
from modelstack.train.step import StepReport


class PeakMemory:
    """Hook that records peak memory; every rank has one and calls it at the same steps."""

    def __init__(self, ranks: Ranks, device: torch.device, metrics: Metrics, *, every: int) -> None:
        """Record into `metrics` after the process's first step, then every `every` steps."""
        self._ranks, self._device, self._metrics, self._every = ranks, device, metrics, every
        self._has_trained = False

    def started(self, step: int) -> str:
        """Record the peak of the start, before the step `step`; return a sentence about it."""
        peaks = self._record(step, "start")
        fullest = max(range(len(peaks)), key=peaks.__getitem__)
        of_ranks = f" on the fullest of {len(peaks)} ranks (rank {fullest})" if len(peaks) > 1 else ""
        kind = "of the GPU" if self._device.type == "cuda" else "of the process"
        return f"peak memory {kind} at the start: {quantity(peaks[fullest], 'B')}{of_ranks}"

    def after_step(self, run: Run, report: StepReport) -> None:
        """Record the peak if it is due."""
        if not self._has_trained or is_due(run, self._every):
            self._has_trained = True
            self._record(report.step, "training")

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the peak belongs to one process."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: there is no state."""

    def _record(self, step: int, after: Any) -> tuple[int, ...]:
        peaks = tuple(int(text) for text in self._ranks.texts(str(peak_memory(self._device))))
        self._metrics.add(MemoryRecord(step=step, after=after, peak_bytes=peaks))
        return peaks


def peak_memory(device: torch.device) -> int:
    """Return this process's peak bytes: on its GPU, or resident memory including Python and torch."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
