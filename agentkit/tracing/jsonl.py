"""A trace: the events of one run, one JSON object per line, in a file named after the run.

Deltas are left out, because the response holds their sum. The definitions of the tools are in the first request,
and in each request before which they changed. Every line is passed to the operating system at once, so a killed
process loses at most the event that it was writing. A resumed run continues in its file. Nothing leaves the
machine, and only its owner can read a trace: it holds all results of tools, except secrets of a known form.
Images and other files are stored once beside the traces, under their hash, and a trace refers to them.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from agentkit.basics.json_values import written_json
from agentkit.errors import UserError
from agentkit.events import (
    AgentEvent,
    RewardEvent,
    RunFailedEvent,
    RunFinishedEvent,
    RunResumedEvent,
    RunStartedEvent,
    TextDeltaEvent,
    ThinkingDeltaEvent,
    ToolCallDeltaEvent,
)
from agentkit.file_references import Files, event_with_references
from agentkit.tracing.redaction import redact

TRACE_VERSION = 1
FILES = "files"
"""Folder beside the traces with the files of conversations, each named by the SHA-256 of its bytes."""
TRACE_VARIABLE = "AGENTKIT_TRACE_DIR"
DELTAS = (TextDeltaEvent, ThinkingDeltaEvent, ToolCallDeltaEvent)
"""Events that no trace has."""


class JsonlTrace:
    """A sink for the events of one run."""

    def __init__(self, directory: Path) -> None:
        """Write below `directory`, which is created on the first event."""
        self._directory = directory
        self._file: FileIO | None = None

    def __call__(self, event: AgentEvent) -> None:
        """Write one event.

        Raises:
            UserError: the directory cannot be written.
        """
        if isinstance(event, DELTAS):
            return
        if isinstance(event, (RunStartedEvent, RunResumedEvent)):
            self._open(event.run_id)
        if self._file is None:  # the run failed before it started
            return
        try:
            files: Files = {}
            line = trace_line(event_with_references(event, files), time.time())
            for sha256, data in files.items():
                _store(self._directory / FILES, sha256, data)
            _write(self._file, line)
        finally:
            if isinstance(event, (RunFinishedEvent, RunFailedEvent)):
                self._file.close()
                self._file = None

    def _open(self, run_id: str) -> None:
        path = self._directory / f"{run_id}.jsonl"
        try:
            try:
                self._file = FileIO(path, "a", opener=_private)
            except FileNotFoundError:
                self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._file = FileIO(path, "a", opener=_private)
            if self._file.tell():  # a resumed run
                _drop_cut_line(path)
        except OSError as error:
            raise UserError(f"trace={str(self._directory)!r} cannot be written: {error.strerror}.") from error


def _store(folder: Path, sha256: str, data: bytes) -> None:
    """Store a file under its hash; one that is there is the same."""
    path = folder / sha256
    if path.exists():
        return
    folder.mkdir(exist_ok=True, mode=0o700)
    unnamed = folder / f"{sha256}.{os.getpid()}.{threading.get_ident()}"
    with FileIO(unnamed, "w", opener=_private) as file:
        _write(file, data)
    unnamed.replace(path)


def add_reward(path: Path, event: RewardEvent) -> None:
    """Add the reward of a run to its trace.

    Raises:
        UserError: the trace is missing or cannot be written.
    """
    if not path.is_file():
        raise UserError(f"there is no trace {path}.")
    try:
        _drop_cut_line(path)
        with path.open("ab") as file:
            file.write(trace_line(event, time.time()))
    except OSError as error:
        raise UserError(f"trace {path} cannot be written: {error.strerror}.") from error


def _write(file: FileIO, line: bytes) -> None:
    """Pass a line to the operating system, which may accept it in parts."""
    n_written = file.write(line)
    while n_written < len(line):
        n_written += file.write(line[n_written:])


def trace_line(event: AgentEvent, at: float) -> bytes:
    """Return an event as a line of a trace, without secrets; `at` is its time in seconds since 1970."""
    fields = {name: getattr(event, name) for name in event.__slots__}
    record = {"time": at, "version": TRACE_VERSION, **fields}
    return redact(written_json(record)) + b"\n"


def _drop_cut_line(path: Path) -> None:
    """Remove the partial last line of a killed process, so that the next line is separate."""
    with path.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)


def default_trace_directory() -> Path:
    """Return the command line's folder of traces: AGENTKIT_TRACE_DIR, or one in the user's state directory."""
    import platformdirs

    named = os.environ.get(TRACE_VARIABLE)
    return Path(named).expanduser() if named else Path(platformdirs.user_state_dir("agentkit")) / "traces"


def trace_path(directory: Path, run_id: str) -> Path:
    """Return the file of a run; a unique beginning of the id is enough.

    Raises:
        UserError: no run, or more than one, begins with `run_id`.
    """
    found = sorted(path for path in directory.glob("run_*.jsonl") if path.stem.startswith(run_id))
    if len(found) != 1:
        known = ", ".join(path.stem for path in found[:5]) or "none"
        raise UserError(f"run id {run_id!r} matches {len(found)} traces in {str(directory)!r} ({known}).")
    return found[0]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def read_trace(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a trace as dictionaries; a last line that was cut by a crash is skipped."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)
