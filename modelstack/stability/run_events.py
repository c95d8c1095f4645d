"""Events of a run with their times, across all its processes: an append-only file with one JSON object per line.

`modelstack.train.metrics` records the effective run, without repeated steps. This file keeps every step of every
process, because it shows where time was spent (`goodput`). A line is one write, so a killed process leaves whole
lines, and the next process appends to them. One rank writes it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from modelstack.errors import UserError
from modelstack.files import json_lines
from modelstack.stability.run_checkpoints import CheckpointStore, Loaded
from modelstack.train.loop import Run
from modelstack.train.step import StepReport

EVENTS_FILE = "events.jsonl"


class _Event(BaseModel, frozen=True, extra="forbid"):
    time: float
    """End of the event, in seconds since 1970."""


class Started(_Event, frozen=True):
    """Start of a process."""

    kind: Literal["started"] = "started"


class Stepped(_Event, frozen=True):
    """A step, taken or rejected."""

    kind: Literal["step"] = "step"
    step: int
    """Number of batches consumed before the step."""
    seconds: float
    is_rejected: bool = False


class Saved(_Event, frozen=True):
    """A checkpoint that was written, or started in the background, or failed."""

    kind: Literal["saved"] = "saved"
    step: int
    seconds: float
    """Seconds for which training was blocked."""
    error: str = ""


class Restored(_Event, frozen=True):
    """A checkpoint that was read: before a process's first step for a resume, later for a roll-back."""

    kind: Literal["restored"] = "restored"
    step: int
    """Step of the checkpoint."""
    seconds: float
    n_damaged: int = 0
    """Number of newer checkpoints that were damaged."""


Event = Started | Stepped | Saved | Restored
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


class EventLog:
    """Hook of the run that writes the events of a process."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open the file, appending to an existing one, and record the process's start."""
        self._path = path
        self._clock = clock
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.write(Started(time=clock()))

    def write(self, event: Event) -> None:
        """Append a line."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, (event.model_dump_json() + "\n").encode())
        finally:
            os.close(descriptor)

    def after_step(self, run: Run, report: StepReport) -> None:
        """Record a step."""
        event = Stepped(
            time=self._clock(), step=report.step, seconds=report.seconds, is_rejected=bool(report.rejected)
        )
        self.write(event)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the file holds everything."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: events remain recorded, even if the run returns to an earlier state."""

    def watching(self, store: CheckpointStore) -> CheckpointStore:
        """Return a store that records every use of `store`."""
        return _WatchedStore(store, self, self._clock)


@dataclass(frozen=True, slots=True)
class _WatchedStore:
    inner: CheckpointStore
    log: EventLog
    clock: Callable[[], float]

    @property
    def folder(self) -> Path:
        return self.inner.folder

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        began = self.clock()
        try:
            self.inner.save(step, state)
        except OSError as error:
            now = self.clock()
            self.log.write(Saved(time=now, step=step, seconds=now - began, error=str(error)))
            raise
        now = self.clock()
        self.log.write(Saved(time=now, step=step, seconds=now - began))

    def load(self, like: Mapping[str, Any], *, before: int | None = None) -> Loaded | None:
        began = self.clock()
        loaded = self.inner.load(like, before=before)
        if loaded is not None:
            now = self.clock()
            event = Restored(time=now, step=loaded.step, seconds=now - began, n_damaged=len(loaded.rejected))
            self.log.write(event)
        return loaded

    def wait(self) -> None:
        self.inner.wait()


def read_events(path: Path) -> list[Event]:
    """Return the events of a file, in their order.

    Raises:
        UserError: The file does not exist, or a line is not a valid event.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: name the folder of a training run, which writes it")
    lines = json_lines(path)
    try:
        return [_EVENT.validate_json(line) for line in lines]
    except ValidationError as error:
        raise UserError(f"{path} contains a line that is not a valid event: {error}") from error
