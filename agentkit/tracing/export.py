"""Exports training examples from a folder of traces: the good replies of chosen runs, each once, with counts.

Lines are written as `modelstack.data.examples.as_line` writes them, so that equal examples have equal bytes. They
are ordered by the runs' starts, then by step. Runs are read one at a time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from pydantic_core import from_json

from agentkit.errors import UserError
from agentkit.events import RunStartedEvent
from agentkit.tracing.evidence import Reason, run_fault
from agentkit.tracing.examples import Example, examples_of, json_bytes
from agentkit.tracing.jsonl import trace_path
from agentkit.tracing.private_file import private_file
from agentkit.tracing.reading import model_of, read_events, trace_files
from agentkit.tracing.replies import read_run
from mcp_servers.distribution import install_command

SUFFIXES = (".jsonl", ".jsonl.zst")
LONGEST_LINE = 1 << 24
"""Maximum bytes of a line; readers of examples accept no longer one."""
_LEVEL = 10
"""Compression level of zstd, as for other files of examples."""


@dataclass(frozen=True, slots=True)
class RunChoice:
    """Selection of a folder's runs; all given conditions must hold."""

    run_ids: tuple[str, ...] = ()
    """Ids, or unique beginnings of them; empty selects all."""
    model_name: str | None = None
    since: float | None = None
    """Earliest start of a run, in seconds since the epoch."""


@dataclass(slots=True)
class ExportReport:
    """Counts of an export."""

    n_runs: int = 0
    runs_left_out: Counter[str] = field(default_factory=Counter[str])
    n_replies: int = 0
    """Number of replies in the runs that were not left out."""
    replies_left_out: Counter[str] = field(default_factory=Counter[str])
    written: Counter[str] = field(default_factory=Counter[str])
    """Examples by kind."""
    unreadable: list[str] = field(default_factory=list[str])
    """Error of each trace that cannot be read."""

    def cannot_read(self, error: UserError | OSError) -> None:
        """Count a run whose trace cannot be read."""
        self.runs_left_out["trace that cannot be read"] += 1
        self.unreadable.append(str(error))


def export_examples(
    directory: Path,
    out: Path,
    choice: RunChoice | None = None,
    *,
    license_id: str,
    last_only: bool = False,
) -> ExportReport:
    """Write the good replies of a folder's runs to `out`, oldest run first; without any, nothing is written.

    Args:
        directory: Folder of the traces.
        out: A file whose name ends in .jsonl or .jsonl.zst; an existing one is replaced.
        choice: Selection of runs; None takes all.
        license_id: Licence of the examples.
        last_only: Only the last reply of each run.

    Raises:
        UserError: `out` cannot be written, or would be one of the traces; `directory` is a file; no run matches
            `choice`; or a required package is not installed.
    """
    _check(directory, out, license_id)
    report = ExportReport()
    lines = _lines(_chosen(directory, choice or RunChoice(), report), report, license_id, last_only)
    first = next(lines, None)
    if first is None:
        return report
    with private_file(out) as raw, _packed(raw, out) as file:
        file.write(first)
        for line in lines:
            file.write(line)
    return report


def _check(directory: Path, out: Path, license_id: str) -> None:
    """Check the arguments before anything is read."""
    if not out.name.endswith(SUFFIXES):
        raise UserError(
            f"{out} ends neither in .jsonl nor in .jsonl.zst; first comes the file to write, run ids behind it."
        )
    if directory.is_file():
        raise UserError(
            f"{directory} is a file; examples are made from a folder of traces. What an evaluation's log holds is "
            f"for measuring, never for training."
        )
    if out.match("run_*.jsonl") and out.parent.resolve() == directory.resolve():
        raise UserError(f"{out} would be taken for a trace, or replace one; choose another name or folder.")
    if not license_id.strip():
        raise UserError("the licence is empty; name one (an SPDX id, or proprietary).")
    if out.suffix == ".zst":
        try:
            import zstandard  # noqa: F401 # pyright: ignore[reportUnusedImport] - before an hour of reading
        except ImportError as error:
            raise UserError(
                f"{out}: zstandard is not installed; {install_command('train')}, or choose a name in .jsonl."
            ) from error


def _chosen(directory: Path, choice: RunChoice, report: ExportReport) -> list[Path]:
    """Return the traces of the chosen runs, oldest first."""
    paths = [trace_path(directory, run_id) for run_id in choice.run_ids] or trace_files(directory)
    if not paths:
        raise UserError(f"there are no traces in {directory}.")
    chosen: list[tuple[float, str, Path]] = []
    models: set[str] = set()
    for path in dict.fromkeys(paths):
        try:
            started, start = _start(path)
        except (UserError, OSError) as error:
            report.cannot_read(error)
            continue
        models.add(model_of(start))
        if choice.model_name in (None, start.model_name, model_of(start)) and started >= (choice.since or 0.0):
            chosen.append((started, path.name, path))
    report.n_runs = len(chosen) + len(report.unreadable)
    if not report.n_runs:
        raise UserError(f"none of the {len(paths)} runs is as chosen; their models are {sorted(models)}.")
    return [path for _, _, path in sorted(chosen)]


def _start(path: Path) -> tuple[float, RunStartedEvent]:
    at, event = next(read_events(path), (0.0, None))
    if not isinstance(event, RunStartedEvent):
        raise UserError(f"{path} does not begin with the start of a run.")
    return at, event


def _lines(paths: Iterable[Path], report: ExportReport, license_id: str, last_only: bool) -> Iterator[bytes]:
    """Yield the examples of runs as lines, each once; count replies read, left out and written."""
    run_ids: set[str] = set()
    seen: set[bytes] = set()
    for path in paths:
        try:
            run = read_run(path)
        except (UserError, OSError) as error:
            report.cannot_read(error)
            continue
        fault = "second trace of the same run" if run.run_id in run_ids else run_fault(run)
        if fault is not None:
            report.runs_left_out[fault] += 1
            continue
        run_ids.add(run.run_id)
        for example in examples_of(run, license_id, last_only=last_only):
            report.n_replies += 1
            made = example if isinstance(example, Reason) else _line(example, seen)
            if isinstance(made, Reason):
                report.replies_left_out[made] += 1
                continue
            kind, line = made
            report.written[kind] += 1
            yield line


def _line(example: Example, seen: set[bytes]) -> tuple[str, bytes] | Reason:
    """Return an example's kind and line, or the reason if no reader accepts it or its equal was `seen`."""
    content = [example.get(key) for key in ("tools", "messages", "calls", "reply")]
    try:
        line = json_bytes(example) + b"\n"
        from_json(line)  # readers refuse a whole file with deeper nesting than this accepts
    except (ValueError, RecursionError):
        return Reason.UNWRITABLE
    if len(line) > LONGEST_LINE:
        return Reason.UNWRITABLE
    digest = hashlib.sha256(json_bytes(content)).digest()
    if digest in seen:
        return Reason.DUPLICATE
    seen.add(digest)
    return example["kind"], line


class _Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


@contextmanager
def _packed(raw: BinaryIO, out: Path) -> Generator[_Sink]:
    if out.suffix != ".zst":
        yield raw
        return
    import zstandard

    with zstandard.ZstdCompressor(level=_LEVEL).stream_writer(raw, closefd=False) as packed:
        yield packed
