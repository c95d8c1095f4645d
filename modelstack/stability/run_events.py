"""What happened to a run and when, across all its processes: one JSON object a line, never rewritten.

`modelstack.train.metrics` keeps the record of the run that counts, without the steps that were taken again. This
one keeps every step of every process, because what it is for is where the time went (`goodput`). A line is one
write, so a process that is killed leaves whole lines; the next one adds to them. One rank writes it.
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
from modelstack.stability.run_checkpoints import CheckpointStore, Loaded
from modelstack.train.loop import Run
from modelstack.train.step import StepReport

EVENTS_FILE = "events.jsonl"


class _Event(BaseModel, frozen=True, extra="forbid"):
    time: float
    """Seconds since 1970 at the event's end."""


class Started(_Event, frozen=True):
    """A process began."""

    kind: Literal["started"] = "started"


class Stepped(_Event, frozen=True):
    """A step, taken or rejected."""

    kind: Literal["step"] = "step"
    step: int
    """Batches consumed before it."""
    seconds: float
    is_rejected: bool = False


class Saved(_Event, frozen=True):
    """A checkpoint was written, or begun in the background; or it failed."""

    kind: Literal["saved"] = "saved"
    step: int
    seconds: float
    """That the run was blocked."""
    error: str = ""


class Restored(_Event, frozen=True):
    """A checkpoint was read: before the first step of a process to resume, later to roll back."""

    kind: Literal["restored"] = "restored"
    step: int
    """Of the checkpoint."""
    seconds: float
    n_damaged: int = 0
    """Newer checkpoints that were passed over."""


Event = Started | Stepped | Saved | Restored
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


class EventLog:
    """Writes the events of a process; a hook of the run."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Go on with the file, or begin it, with the process's start."""
        self._path = path
        self._clock = clock
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.write(Started(time=clock()))

    def write(self, event: Event) -> None:
        """Add a line."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, (event.model_dump_json() + "\n").encode())
        finally:
            os.close(descriptor)

    def after_step(self, run: Run, report: StepReport) -> None:
        """Note a step."""
        event = Stepped(
            time=self._clock(), step=report.step, seconds=report.seconds, is_rejected=bool(report.rejected)
        )
        self.write(event)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: what was written is in the file."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: what happened stays written, also where the run goes back."""

    def watching(self, store: CheckpointStore) -> CheckpointStore:
        """Return the store with every use of it noted."""
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
        UserError: There is no such file, or a line of it is no event.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; a run writes it where it has an EventLog among its hooks")
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return [_EVENT.validate_json(line) for line in lines]
    except ValidationError as error:
        raise UserError(f"{path} holds a line that is no event: {error}") from error
