"""The hook that writes what a loss on rewards says of each step."""

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
    """Passes that say more of a step than its loss."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Means over the last step."""
        ...


class RewardsHook:
    """Writes what the passes say of each step: rewards, margins, lengths."""

    def __init__(self, path: Path, passes: HasMetrics) -> None:
        """Append to a file of JSON lines."""
        self._path = path
        self._passes = passes

    def after_step(self, run: Run, report: StepReport) -> None:
        """Write a step's line, in place of lines that a killed process wrote of later steps."""
        record = {"step": report.step} | {name: round(value, 6) for name, value in self._passes.metrics.items()}
        kept = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        if kept and _step_of(kept[-1]) >= report.step:
            kept = [line for line in kept if -1 < _step_of(line) < report.step]
            with replacing(self._path) as temporary:
                temporary.write_bytes(b"".join(kept))
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the file itself is what is remembered."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up nothing."""


def _step_of(line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62  # cut off: to be written anew
