"""Hook that writes the metrics of a method's passes, one line a step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from modelstack.files import replacing
from modelstack.train.loop import Run
from modelstack.train.step import StepReport

REWARDS_FILE = "rewards.jsonl"


class HasMetrics(Protocol):
    """Passes that have metrics in addition to losses."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics of the last step."""
        ...


class ValuesHook:
    """Hook that writes the passes' metrics of each step: rewards, margins, lengths."""

    def __init__(self, path: Path, passes: HasMetrics) -> None:
        """Append to a file of JSON lines; lines of an earlier process are read at the first step."""
        self._path = path
        self._passes = passes
        self._last_step: int | None = None
        """Step of the last line; None: the file has not been read yet."""

    def after_step(self, run: Run, report: StepReport) -> None:
        """Write the line of a step, replacing lines of this and later steps that a killed process left."""
        if self._last_step is None or self._last_step >= report.step:
            self._drop_from(report.step)
        record = {"step": report.step} | {name: round(value, 6) for name, value in self._passes.metrics.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._last_step = report.step

    def _drop_from(self, step: int) -> None:
        """Remove the lines of a step and of later steps, and truncated lines."""
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        kept = [line for line in lines if _step_of(line) < step]
        if len(kept) < len(lines):
            with replacing(self._path) as temporary:
                temporary.write_bytes(b"".join(kept))

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: the file itself is the state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: the state is empty."""


def _step_of(line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62  # truncated: treat as a later step, so that it is removed
