"""Runs one benchmark in a new child process and stores its record.

A new process, because caches, imported modules and threads of one benchmark would affect the next. OpenMP settings
from the environment are replaced by the user's default: all cores that this process may use. The record is written
when the benchmark has ended, so an interrupted run loses only the unfinished benchmark.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evals.speed.machine import Load, Machine, measure_load
from evals.speed.results import BenchmarkResult, write_whole

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Status = Literal["ok", "bound broken", "failed"]
ROOT = Path(__file__).resolve().parents[2]
N_TAIL_LINES = 40
GRACE_S = 5.0
"""Seconds that a child may take to end after SIGTERM."""
_OPENMP = ("OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_")


@dataclass(frozen=True, slots=True)
class Record:
    """Record of one benchmark run: measurements, machine, and status."""

    benchmark: str
    status: Status
    arguments: tuple[str, ...]
    quick: bool
    """Whether this was a short run that only tests that the benchmark works."""
    result: BenchmarkResult | None
    """None if the benchmark failed before it had a result."""
    machine: Machine
    before: Load
    after: Load
    wall_s: float
    exit_code: int
    environment: Mapping[str, str]
    """Settings added to the child's environment."""
    tail: tuple[str, ...]
    """Last printed lines; the log beside the record contains all of them."""
    format: Literal[1] = 1


def run_benchmark(
    name: str,
    module: str,
    arguments: Sequence[str],
    folder: Path,
    machine: Machine,
    *,
    quick: bool,
    on_line: Callable[[str], None],
) -> Record:
    """Run a benchmark, write `NAME.json` and `NAME.log` into `folder`, and return the record.

    `on_line` is called with every printed line. An interrupt ends the child and is raised again.
    """
    result_path = folder / f"{name}.result.json"
    result_path.unlink(missing_ok=True)
    settings = {"OMP_NUM_THREADS": str(machine.cores)}
    command = [sys.executable, "-u", "-m", module, "--result", str(result_path.resolve()), *arguments]
    before, start = measure_load(), time.monotonic()
    tail: deque[str] = deque(maxlen=N_TAIL_LINES)
    exit_code = [0]
    output = lines_of(command, child_environment(os.environ, settings), exit_code)
    with (folder / f"{name}.log").open("w", buffering=1, encoding="utf-8") as log, closing(output):
        for line in output:
            log.write(line)
            tail.append(line.rstrip())
            on_line(line.rstrip())
    wall_s = time.monotonic() - start
    result, problem = _result_of(result_path)
    record = Record(
        benchmark=name,
        status=status_of(result, exit_code[0]),
        arguments=tuple(arguments),
        quick=quick,
        result=result,
        machine=machine,
        before=before,
        after=measure_load(),
        wall_s=wall_s,
        exit_code=exit_code[0],
        environment=settings,
        tail=(*tail, *problem),
    )
    write_whole(folder / f"{name}.json", json.dumps(asdict(record), indent=1) + "\n")
    result_path.unlink(missing_ok=True)
    return record


def status_of(result: BenchmarkResult | None, exit_code: int) -> Status:
    """Return the status of a benchmark: exit status 1 with a broken figure is a broken bound, not a failure."""
    if result is None or exit_code not in (0, 1):
        return "failed"
    if result.broken:
        return "bound broken"
    return "ok" if exit_code == 0 else "failed"


def _result_of(path: Path) -> tuple[BenchmarkResult | None, tuple[str, ...]]:
    """Return a benchmark's result, or None and the reason why it cannot be used."""
    from pydantic import ValidationError

    try:
        return read_result(path), ()
    except FileNotFoundError:
        return None, ("it ended without a result",)
    except ValidationError as error:
        return None, (f"its result cannot be read: {error}",)


def child_environment(ours: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a benchmark: the current one, with `settings` in place of all OpenMP settings."""
    kept = {key: value for key, value in ours.items() if not key.startswith(_OPENMP)}
    path = os.pathsep.join(filter(None, [str(ROOT), ours.get("PYTHONPATH", "")]))
    return {**kept, **settings, "PYTHONPATH": path}


def is_finished(record: Record | None, arguments: Sequence[str], commit: str | None) -> bool:
    """Return whether a successful record with these arguments and this commit makes another run unnecessary."""
    return (
        record is not None
        and record.status != "failed"
        and record.arguments == tuple(arguments)
        and commit is not None
        and record.machine.commit == commit
    )


def read_record(path: Path) -> Record | None:
    """Read a record; None if it is missing or malformed, so that the benchmark runs again."""
    from pydantic import ValidationError

    try:
        return _record_adapter().validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def read_result(path: Path) -> BenchmarkResult:
    """Read a benchmark's result file.

    Raises:
        pydantic.ValidationError: the file does not hold a result.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(BenchmarkResult).validate_json(path.read_bytes())


def lines_of(command: Sequence[str], environment: Mapping[str, str], exit_code: list[int]) -> Generator[str]:
    """Yield the lines that a child prints on both streams, and store its exit status in `exit_code[0]`.

    Closing the generator ends the child and its own child processes.
    """
    # A separate session, so that an interrupt also ends the child's own child processes.
    child = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    assert child.stdout is not None
    try:
        with child.stdout:
            yield from child.stdout
        exit_code[0] = child.wait()
    finally:
        if child.poll() is None:
            _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    """End a child and its own child processes; kill it if it does not react to SIGTERM."""
    os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@cache
def _record_adapter() -> TypeAdapter[Record]:
    from pydantic import TypeAdapter

    return TypeAdapter(Record)
