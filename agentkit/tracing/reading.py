"""Reads traces: the events as objects, and the summary of a run.

A trace may have been edited or come from elsewhere, so every line is validated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentkit.errors import UserError
from agentkit.events import (
    LEFT_EARLY,
    AgentEvent,
    ModelRequestEvent,
    ModelResponseEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunResumedEvent,
    RunStartedEvent,
    SideRequestEvent,
    ToolCallEvent,
)
from agentkit.messages import UserPromptPart
from agentkit.persistence.stored_events import event_adapter
from agentkit.tracing.jsonl import TRACE_VERSION

_STOPPED = ("CancelledError", LEFT_EARLY)
"""Error types of runs that were cancelled, for example by Ctrl-C, or left by the application."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Summary of a run for one line of a list."""

    run_id: str
    started: float
    """Seconds since the epoch."""
    model_name: str
    """Name of the model, with its adapter."""
    prompt: str
    """The user's last message."""
    status: str
    """Status of the result; "failed" after an error, "stopped" after a cancellation, "unfinished" if the
    trace just ends."""
    n_steps: int
    n_tool_calls: int


def read_events(path: Path) -> Iterator[tuple[float, AgentEvent]]:
    """Yield time and event of every line; a last line that was cut by a crash is skipped.

    Raises:
        UserError: a line is not an event of a version that this program knows.
    """
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if line.endswith("\n"):
                yield _event(path, number, line)


def summarise(path: Path) -> RunSummary:
    """Return the summary of a trace.

    Raises:
        UserError: as `read_events`.
    """
    run_id, model_name, prompt, status = path.stem, "", "", "unfinished"
    started = path.stat().st_mtime
    n_steps = n_tool_calls = 0
    for at, event in read_events(path):
        match event:
            case RunStartedEvent():
                run_id, model_name, started = event.run_id, model_of(event), at
            case ModelRequestEvent(messages=messages):
                said = [p.text for m in messages for p in m.parts if isinstance(p, UserPromptPart)]
                prompt = said[-1] if said else prompt
            case RunResumedEvent(step=step):
                n_steps, status = step, "unfinished"
            case ModelResponseEvent():
                n_steps += 1
            case ToolCallEvent():
                n_tool_calls += 1
            case RunFinishedEvent():
                status = event.status
            case RunFailedEvent():
                status = status_of_failure(event)
            case _:
                pass
    return RunSummary(run_id, started, model_name, prompt, status, n_steps, n_tool_calls)


def model_of(event: RunStartedEvent | RunResumedEvent | SideRequestEvent) -> str:
    """Return the name of an event's model, with its adapter."""
    return event.model_name if event.adapter is None else f"{event.model_name} + {event.adapter}"


def status_of_failure(event: RunFailedEvent) -> str:
    """Return the status of a run that ended with an error: "stopped" if nothing failed, else "failed"."""
    return "stopped" if event.error_type in _STOPPED else "failed"


def trace_files(directory: Path) -> list[Path]:
    """Return the traces of a directory, newest first."""
    return sorted(directory.glob("run_*.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True)


def _event(path: Path, number: int, line: str) -> tuple[float, AgentEvent]:
    try:
        record: Any = json.loads(line)
        if record["version"] != TRACE_VERSION:
            raise UserError(
                f"{path}, line {number}: trace version {record['version']!r}; this program reads {TRACE_VERSION}."
            )
        return float(record["time"]), event_adapter().validate_python(record)
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}, line {number} is not an event of a trace: {reason}.") from error
