"""Measurements of a run, one JSON object per line, and optionally as TensorBoard events.

The file is the complete record of a run: curves and report are computed from it alone, also for an interrupted
run. A line is written with one system call at the end of a step, so a killed process leaves whole lines and at
most one truncated line, which readers drop. A resumed run removes the lines of the steps that it repeats. Its
start line records how long these steps took and how long the run was down.

`step` has the meaning of `StepReport.step` in all lines: the number of batches consumed before the step. Numbers
that are not finite are stored as null, because JSON cannot represent them.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from modelstack.errors import UserError
from modelstack.files import replacing
from modelstack.train.loop import Run
from modelstack.train.step import StepReport
from modelstack.train.utilisation import Utilisation

METRICS_FILE = "metrics.jsonl"
Finite = Annotated[float | None, BeforeValidator(lambda value: _finite(value))]
"""A number; None if it was not finite."""


class _Record(BaseModel, frozen=True, extra="forbid"):
    step: int
    time: float = Field(default_factory=time.time)
    """Time of writing, in seconds since 1970."""


class StepRecord(_Record, frozen=True):
    """Record of one step, taken or rejected."""

    kind: Literal["step"] = "step"
    n_tokens: int
    """Number of tokens of the run so far, including this step."""
    losses: dict[str, Finite]
    """Losses by part, coefficients applied; "total" is their sum."""
    gradient_norm: Finite
    """Gradient norm before clipping."""
    learning_rates: dict[str, float]
    """Learning rates by role of the optimizer's groups."""
    seconds: float
    """Duration of the step, without evaluation and checkpoint."""
    tokens_per_second: float
    mfu: float | None = None
    """Model FLOPs divided by the devices' peak; None if unknown."""
    rejected: str = ""
    """Reason for a rejected step; empty for a taken one."""


class EvaluationRecord(_Record, frozen=True):
    """Record of an evaluation on held-out text, after a step."""

    kind: Literal["evaluation"] = "evaluation"
    n_tokens: int
    """Number of tokens that the model was trained on."""
    loss: Finite
    """Nats per scored token."""
    bits_per_byte: Finite
    low: Finite
    high: Finite
    """Upper end of the 95 % interval of `bits_per_byte`, from a bootstrap over documents; `low` is the lower end.
    """
    n_documents: int
    n_bytes: int
    n_scored_tokens: int
    seconds: float


class SpentRecord(_Record, frozen=True):
    """Record of time spent on anything but steps and evaluations."""

    kind: Literal["spent"] = "spent"
    cause: str
    seconds: float


class EventRecord(_Record, frozen=True):
    """Message of the run's guard: a skipped step, a roll-back, a failed checkpoint."""

    kind: Literal["event"] = "event"
    text: str


class StartRecord(_Record, frozen=True):
    """Record of the start of a process, at its first step: the run's first process, or one that resumes it."""

    kind: Literal["start"] = "start"
    began: float
    """Start time of the run's first process, in seconds since 1970."""
    lost_steps: int = 0
    """Number of steps after the checkpoint, which are repeated."""
    lost_seconds: float = 0.0
    """Duration of these steps and of everything between them."""
    down_seconds: float = 0.0
    """Seconds between the last line before and this one."""


class MemoryRecord(_Record, frozen=True):
    """Record of the peak memory of each process so far."""

    kind: Literal["memory"] = "memory"
    after: Literal["start", "training"]
    """`start`: measured before the process's first step."""
    peak_bytes: tuple[int, ...]
    """Peak bytes by rank: of its GPU, or resident memory without one."""


Record = StepRecord | EvaluationRecord | SpentRecord | EventRecord | StartRecord | MemoryRecord
_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


@dataclass(frozen=True, slots=True)
class Measured:
    """All records of a run, by kind, in their order."""

    steps: tuple[StepRecord, ...] = ()
    evaluations: tuple[EvaluationRecord, ...] = ()
    spent: tuple[SpentRecord, ...] = ()
    events: tuple[EventRecord, ...] = ()
    starts: tuple[StartRecord, ...] = ()
    memory: tuple[MemoryRecord, ...] = ()

    @property
    def last_time(self) -> float:
        """Time of the last record, in seconds since 1970; 0 without records."""
        return max((r.time for r in (*self.steps, *self.evaluations, *self.spent, *self.events)), default=0.0)


class Sink(Protocol):
    """Destination of records."""

    def begin(self, step: int, since: float) -> None:
        """Delete records of this step and later ones; `since` is the start time of the process."""
        ...

    def write(self, record: Record) -> None:
        """Store a record."""
        ...

    def close(self) -> None:
        """Write buffered records."""
        ...


class Metrics:
    """Hook that records metrics; other hooks and the guard pass it their records. It must be the first hook."""

    def __init__(self, sinks: Sequence[Sink], utilisation: Utilisation | None = None) -> None:
        """Record into sinks; pass none on ranks that do not write."""
        self._sinks = sinks
        self.utilisation = utilisation
        """Can be set later, because measuring a peak takes time."""
        self._step: int | None = None
        self._since = time.time()
        self._early_events: list[str] = []

    def after_step(self, run: Run, report: StepReport) -> None:
        """Record a step."""
        self.add(step_record(run, report, self.utilisation))

    def add(self, record: Record) -> None:
        """Record something; the first record defines the step at which the process begins."""
        if self._step is None:
            for sink in self._sinks:
                sink.begin(record.step, self._since)
            self._step = record.step
            for text in self._early_events:
                self.event(text)
        self._step = record.step
        for sink in self._sinks:
            sink.write(record)

    def event(self, text: str) -> None:
        """Record a message; pass it to the guard as `on_event`.

        Messages before the first step are stored until then.
        """
        if self._step is None:
            self._early_events.append(text)
        else:
            self.add(EventRecord(step=self._step, text=text))

    def close(self) -> None:
        """Write buffered records."""
        for sink in self._sinks:
            sink.close()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the file holds everything."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: the first record determines which lines of the file remain valid."""


class JsonLines:
    """Sink that writes a file of JSON lines.

    If the disk is full, lines are lost and reported later; the run continues.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Record into a file, which may exist."""
        self.path = Path(path)
        self._descriptor: int | None = None
        self._n_lost = 0
        self._lost_why = ""

    def begin(self, step: int, since: float) -> None:
        """Remove lines of this step and later ones, and a truncated last line; write the start record.

        Raises:
            UserError: A line other than the last is broken.
        """
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        records = read_records(self.path) if self.path.exists() else []
        kept = [record for record in records if record.step < step]
        with replacing(self.path) as temporary:
            temporary.write_bytes(b"".join(map(_line, kept)))
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.write(start_record(step, kept, records[len(kept) :], since))

    def write(self, record: Record) -> None:
        """Append a line; requires `begin`."""
        if self._n_lost:
            text = f"{self._n_lost} lines of metrics were not written: {self._lost_why}"
            if not self._append(_line(EventRecord(step=record.step, text=text))):
                self._n_lost += 1
                return
            self._n_lost = 0
        if not self._append(_line(record)):
            self._n_lost += 1

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, line: bytes) -> bool:
        """Write a whole line or nothing; return whether it was written."""
        assert self._descriptor is not None
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):
                raise OSError(f"{written} of {len(line)} bytes were written")
        except OSError as error:
            self._lost_why = str(error)
            os.ftruncate(self._descriptor, size)
            return False
        return True


class TensorBoard:
    """Sink that writes TensorBoard's event files."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Record into a folder.

        Raises:
            UserError: The package `tensorboard` is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                f"TensorBoard events need the package tensorboard ({error}): pip install tensorboard; "
                f"{METRICS_FILE} and the curves are written without it"
            ) from error
        self._new_writer = lambda step: SummaryWriter(str(folder), purge_step=step, flush_secs=10)
        self._writer: Any = None

    def begin(self, step: int, since: float) -> None:
        """Make TensorBoard hide existing records of this step and later ones."""
        self.close()
        self._writer = self._new_writer(step)

    def write(self, record: Record) -> None:
        """Add a record's numbers, or an event's text."""
        if isinstance(record, EventRecord):
            self._writer.add_text("events", record.text, record.step, record.time)
            return
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record.step, record.time)

    def close(self) -> None:
        """Write buffered records."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def step_record(run: Run, report: StepReport, utilisation: Utilisation | None = None) -> StepRecord:
    """Return the record of a step."""
    rates: dict[str, float] = {}
    for n, (group, rate) in enumerate(zip(run.state.optimizer.param_groups, report.learning_rates, strict=True)):
        role = group.get("role", "group")
        rates[role if role not in rates else f"{role} {n}"] = rate
    return StepRecord(
        step=report.step,
        n_tokens=run.state.n_tokens,
        losses=dict(report.losses),
        gradient_norm=report.gradient_norm,
        learning_rates=rates,
        seconds=report.seconds,
        tokens_per_second=report.n_tokens / report.seconds if report.seconds else 0.0,
        mfu=None if utilisation is None else utilisation.mfu(report.n_tokens, report.seconds),
        rejected=report.rejected,
    )


def start_record(step: int, kept: Sequence[Record], cut: Sequence[Record], now: float) -> StartRecord:
    """Return the start record of a process, with the cost of the removed lines."""
    before = [*kept, *cut]
    if not before:
        return StartRecord(step=step, time=now, began=now)
    starts = [record for record in before if isinstance(record, StartRecord)]
    began = starts[0].began if starts else before[0].time
    cut_down = sum(record.down_seconds for record in cut if isinstance(record, StartRecord))
    return StartRecord(
        step=step,
        time=now,
        began=began,
        lost_steps=sum(1 for record in cut if isinstance(record, StepRecord))
        + sum(record.lost_steps for record in cut if isinstance(record, StartRecord)),
        lost_seconds=max(0.0, before[-1].time - (kept[-1].time if kept else began) - cut_down),
        down_seconds=max(0.0, now - before[-1].time) + cut_down,
    )


def read_metrics(path: str | os.PathLike[str]) -> Measured:
    """Read a run's records by kind; a truncated last line is dropped.

    Raises:
        UserError: The file is missing, or a line other than the last is broken.
    """
    records = read_records(path)
    return Measured(
        tuple(record for record in records if isinstance(record, StepRecord)),
        tuple(record for record in records if isinstance(record, EvaluationRecord)),
        tuple(record for record in records if isinstance(record, SpentRecord)),
        tuple(record for record in records if isinstance(record, EventRecord)),
        tuple(record for record in records if isinstance(record, StartRecord)),
        tuple(record for record in records if isinstance(record, MemoryRecord)),
    )


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """Read a run's records in their order; a truncated last line is dropped.

    Raises:
        UserError: The file is missing, or a line other than the last is broken.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"metrics {path} cannot be read: {error}") from error
    return [_parsed(path, number, line) for number, line in enumerate(lines[:-1], 1)]


def scalars(record: Record) -> dict[str, float]:
    """Return a record's finite numbers under their names in TensorBoard."""
    if isinstance(record, StepRecord):
        named: Iterable[tuple[str, float | None]] = (
            *((f"loss/{name}", value) for name, value in record.losses.items()),
            ("gradient_norm", record.gradient_norm),
            *((f"learning_rate/{name}", value) for name, value in record.learning_rates.items()),
            ("speed/tokens_per_second", record.tokens_per_second),
            ("speed/mfu", record.mfu),
            ("rejected", float(bool(record.rejected))),
        )
    elif isinstance(record, EvaluationRecord):
        named = (("held_out/loss", record.loss), ("held_out/bits_per_byte", record.bits_per_byte))
    elif isinstance(record, MemoryRecord):
        named = (("memory/peak_bytes", float(max(record.peak_bytes))),)
    else:
        named = ()
    return {name: value for name, value in named if value is not None}


def _line(record: Record) -> bytes:
    return json.dumps(record.model_dump(), allow_nan=False, ensure_ascii=False).encode() + b"\n"


def _parsed(path: str | os.PathLike[str], number: int, line: bytes) -> Record:
    try:
        return _RECORD.validate_json(line)
    except ValidationError as error:
        raise UserError(
            f"{path}, line {number} is not a valid metrics record: {error.errors(include_url=False)[0]['msg']}"
        ) from error


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
