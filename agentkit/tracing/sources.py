"""Sources of runs: a folder of traces, or another program's file that a plug-in reads.

A plug-in is an entry point of the group `agentkit.trace_sources`, named after the file's suffix without its dot: a
function that takes the path and returns a `TraceSource`. Inspect logs (`eval`) come with the extra `evals`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path
from typing import Protocol, cast

from agentkit.errors import UserError
from agentkit.events import AgentEvent
from agentkit.tracing.jsonl import trace_path
from agentkit.tracing.reading import RunSummary, read_events, summarise, trace_files
from mcp_servers.distribution import install_command

ENTRY_POINT_GROUP = "agentkit.trace_sources"


class TraceSource(Protocol):
    """A collection of runs."""

    def summaries(self, limit: int) -> Iterator[RunSummary | UserError]:
        """Yield up to `limit` runs, newest first or in the file's order; an unreadable run yields its error."""
        ...

    def events(self, run_id: str) -> Iterator[tuple[float, AgentEvent]]:
        """Yield time (seconds since the epoch) and event of one run, in order.

        Raises:
            UserError: there is no such run, or it cannot be read.
        """
        ...


class TraceFolder:
    """The JSONL traces in a directory."""

    def __init__(self, directory: Path) -> None:
        """Read below `directory`."""
        self._directory = directory

    def summaries(self, limit: int) -> Iterator[RunSummary | UserError]:
        """Yield the newest runs; one bad file does not hide the others."""
        for path in islice(trace_files(self._directory), limit):
            try:
                yield summarise(path)
            except UserError as error:
                yield error

    def events(self, run_id: str) -> Iterator[tuple[float, AgentEvent]]:
        """Yield the events of a run; a unique beginning of its id is enough."""
        return read_events(trace_path(self._directory, run_id))


def trace_source(path: Path) -> TraceSource:
    """Return the runs at `path`: a directory of traces, or a file that a plug-in reads.

    Raises:
        UserError: there is no such file, no plug-in reads it, or the plug-in's packages are not installed.
    """
    readers = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    point = readers.get(path.suffix.removeprefix("."))
    if not path.is_file():
        if point is not None and not path.exists():
            raise UserError(f"{path}: there is no such file.")
        return TraceFolder(path)
    if point is None:
        known = ", ".join(f".{name}" for name in sorted(readers)) or "none"
        raise UserError(f"{path}: traces are read from a folder, or from files that end in: {known}.")
    try:
        make = cast("Callable[[Path], TraceSource]", point.load())
    except ImportError as error:
        install = install_command(*point.extras or ["evals"])
        raise UserError(f"{path}: the reader of such files is not installed ({error}); `{install}`.") from error
    return make(path)
