"""What a run measured, one JSON object a line, and the same as TensorBoard events where these are wanted.

The file is the run's record: curves and the report are made of it alone, also for a run that is interrupted. A
line is written with one call of the system at the end of a step, so a process that is killed leaves whole lines
and at most one torn one, which readers drop. A run that goes on cuts off the lines of the steps it will take
again; how long these had taken, and how long nothing ran, stays in the line that says where it began.

`step` is in all lines what it is in `StepReport`: batches consumed before the step. Numbers that are not finite
are null: JSON has no other form for them.
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
"""A number, or None where it was not finite."""


class _Record(BaseModel, frozen=True, extra="forbid"):
    step: int
    time: float = Field(default_factory=time.time)
    """Seconds since 1970, when it was written."""


class StepRecord(_Record, frozen=True):
    """A step, taken or rejected."""

    kind: Literal["step"] = "step"
    n_tokens: int
    """Of the run so far, this step included."""
    losses: dict[str, Finite]
    """By part, coefficients applied; "total" is their sum."""
    gradient_norm: Finite
    """Before clipping."""
    learning_rates: dict[str, float]
    """By role of the optimizer's groups."""
    seconds: float
    """Of the step itself: no evaluation, no checkpoint."""
    tokens_per_second: float
    mfu: float | None = None
    """Model FLOPs over the devices' peak, where that is known."""
    rejected: str = ""
    """Why the step was not taken; empty where it was."""


class EvaluationRecord(_Record, frozen=True):
    """Held-out text, after a step."""

    kind: Literal["evaluation"] = "evaluation"
    n_tokens: int
    """That the model was trained on."""
    loss: Finite
    """Nats per scored token."""
    bits_per_byte: Finite
    low: Finite
    high: Finite
    """95 % interval of `bits_per_byte`: a bootstrap over documents."""
    n_documents: int
    n_bytes: int
    n_scored_tokens: int
    seconds: float


class SpentRecord(_Record, frozen=True):
    """Time that went into something else than steps and evaluations."""

    kind: Literal["spent"] = "spent"
    cause: str
    seconds: float


class EventRecord(_Record, frozen=True):
    """A sentence from the run's guard: a skip, a roll-back, a checkpoint that was not written."""

    kind: Literal["event"] = "event"
    text: str


class StartRecord(_Record, frozen=True):
    """The first step of a process, and when its metrics were set up: of a run's first, or one that goes on."""

    kind: Literal["start"] = "start"
    began: float
    """When the run's first process did."""
    lost_steps: int = 0
    """Taken since the checkpoint, to be taken again."""
    lost_seconds: float = 0.0
    """That these had taken on the clock, with all between them."""
    down_seconds: float = 0.0
    """From the last line before to this one."""


class MemoryRecord(_Record, frozen=True):
    """The most memory that each process had so far."""

    kind: Literal["memory"] = "memory"
    after: Literal["start", "training"]
    """`start`: before the process's first step."""
    peak_bytes: tuple[int, ...]
    """By rank: of its GPU, else resident."""


Record = StepRecord | EvaluationRecord | SpentRecord | EventRecord | StartRecord | MemoryRecord
_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


@dataclass(frozen=True, slots=True)
class Measured:
    """All lines of a run, by kind, in their order."""

    steps: tuple[StepRecord, ...] = ()
    evaluations: tuple[EvaluationRecord, ...] = ()
    spent: tuple[SpentRecord, ...] = ()
    events: tuple[EventRecord, ...] = ()
    starts: tuple[StartRecord, ...] = ()
    memory: tuple[MemoryRecord, ...] = ()

    @property
    def last_time(self) -> float:
        """Return when the last line was written; 0 where there is none."""
        return max((r.time for r in (*self.steps, *self.evaluations, *self.spent, *self.events)), default=0.0)


class Sink(Protocol):
    """Where records go."""

    def begin(self, step: int, since: float) -> None:
        """Forget what is there of this step and later ones; `since` is when the process began."""
        ...

    def write(self, record: Record) -> None:
        """Keep a record."""
        ...

    def close(self) -> None:
        """Write what is held back."""
        ...


class Metrics:
    """The hook that records; other hooks and the guard give it theirs. It goes first among the hooks."""

    def __init__(self, sinks: Sequence[Sink], utilisation: Utilisation | None = None) -> None:
        """Record into sinks; none on ranks that leave it to another."""
        self._sinks = sinks
        self.utilisation = utilisation
        """May be given later: a peak takes a moment to measure."""
        self._step: int | None = None
        self._since = time.time()
        self._early_events: list[str] = []

    def after_step(self, run: Run, report: StepReport) -> None:
        """Record a step."""
        self.add(step_record(run, report, self.utilisation))

    def add(self, record: Record) -> None:
        """Record something; the first record says at which step the process begins."""
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
        """Record a sentence; to be given to the guard as `on_event`. Before the first step it waits for that."""
        if self._step is None:
            self._early_events.append(text)
        else:
            self.add(EventRecord(step=self._step, text=text))

    def close(self) -> None:
        """Write what is held back."""
        for sink in self._sinks:
            sink.close()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the file itself is what is remembered."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up nothing; the first step says how much of the file still holds."""


class JsonLines:
    """The sink that is a file of JSON lines; a full disk costs lines, not the run, and is told of afterwards."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Record into a file, which may be there already."""
        self.path = Path(path)
        self._descriptor: int | None = None
        self._n_lost = 0
        self._lost_why = ""

    def begin(self, step: int, since: float) -> None:
        """Cut off lines of this step and later ones, and a torn last line; say where the process begins.

        Raises:
            UserError: A line that is not the last is broken.
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
        """Append a line, after `begin`."""
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
        """Write a whole line or none of it."""
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
    """The sink that is TensorBoard's event files."""

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
        """Tell TensorBoard to hide what is there of this step and later ones."""
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
        """Write what is held back."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def step_record(run: Run, report: StepReport, utilisation: Utilisation | None = None) -> StepRecord:
    """Return what is recorded of a step."""
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
    """Return the line that a process begins with, with what the cut lines had cost."""
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
    """Read a run's lines; a torn last one is left out.

    Raises:
        UserError: The file is missing, or a line that is not the last is broken.
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
    """Read a run's lines in their order; a torn last one is left out.

    Raises:
        UserError: The file is missing, or a line that is not the last is broken.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"metrics {path} cannot be read: {error}") from error
    return [_parsed(path, number, line) for number, line in enumerate(lines[:-1], 1)]


def scalars(record: Record) -> dict[str, float]:
    """Return a record's finite numbers by name, as TensorBoard shows them."""
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
            f"{path}, line {number} is no record of metrics: {error.errors(include_url=False)[0]['msg']}"
        ) from error


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
