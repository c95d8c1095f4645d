"""A step in a process of its own: its memory ends with it, and a kill takes nothing else along.

The process is a fork of a server that has imported torch (`modelstack.processes`), so it starts in milliseconds.
Its output goes to a log file. It ends with the driver, whatever ended that, and holds a lock while it works. A
driver that is started again therefore waits until the step of the last one has ended.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from rich.console import Console

from modelstack.errors import UserError
from modelstack.pipeline.job import StepJob
from modelstack.pipeline.measuring import measure_step
from modelstack.pipeline.recipe import PipelineRecipe
from modelstack.pipeline.record import StepRecord, StepResult, seal_step
from modelstack.pipeline.steps import BY_NAME
from modelstack.processes import worker_context
from modelstack.run_folder import RunFolder

LOGS = "logs"
LOCK_FOLDER = "logs/step"
WAIT_FOR_LOCK_S = 60.0
LOG_COLUMNS = 100
Outcome = Literal["done", "stopped", "mistake", "full disk", "failed", "killed"]


@dataclass(frozen=True, slots=True)
class Request:
    """Order to a child process."""

    folder: Path
    """Folder of the pipeline, absolute."""
    step: str
    recipe: PipelineRecipe
    models: tuple[str, ...]
    model_paths: dict[str, str]
    record: StepRecord
    """Record without result and files."""
    only_measure: bool = False
    """Whether the step's work is done and only its evaluation is missing."""


@dataclass(frozen=True, slots=True)
class Finished:
    """End of a child."""

    outcome: Outcome
    text: str = ""


def run_step(request: Request, beat: Callable[[str], object], beat_s: float) -> Finished:
    """Run a step in a process and wait for it.

    Args:
        request: The step.
        beat: Called with the last line of the log every `beat_s` seconds.
        beat_s: Seconds between two calls.
    """
    log = log_file(request.folder, request.step)
    log.parent.mkdir(parents=True, exist_ok=True)
    context = worker_context()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(request, theirs))
    process.start()
    theirs.close()
    due = time.monotonic() + beat_s
    try:
        while not ours.poll(0.2):
            if time.monotonic() >= due:
                due = time.monotonic() + beat_s
                beat(last_line(log))
        outcome, text = ours.recv()
        process.join()
        return Finished(outcome, text)
    except EOFError:  # the process ended without a word
        process.join()
        code = process.exitcode or 0
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        return Finished("killed", f"its process ended by {name}")
    except BaseException:
        _stop(process)
        raise
    finally:
        ours.close()


def log_file(folder: Path, step: str) -> Path:
    """Return the log of a step."""
    return folder / LOGS / f"{BY_NAME[step].folder}.log"


def last_line(log: Path, n_bytes: int = 2000) -> str:
    """Return the last line of a log that is not empty."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - n_bytes))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line), "")


def _stop(process: object) -> None:
    """Ask a step to save and stop; end it after a while."""
    terminate, join, kill = (getattr(process, name) for name in ("terminate", "join", "kill"))
    terminate()
    join(30)
    kill()
    join()


def _run(request: Request, pipe: Connection) -> None:
    """Do the step in this process, and report how it ended."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(request.folder)
    log = log_file(Path(), request.step)
    for descriptor in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), descriptor)
    with log.open("a", encoding="utf-8") as stream:
        outcome, text = _attempted(request, Console(file=stream, width=LOG_COLUMNS))
    pipe.send((outcome, text))
    pipe.close()


def _attempted(request: Request, console: Console) -> tuple[Outcome, str]:
    from modelstack.stability.supervisor import TrainingStopped

    try:
        with _Alone():
            return ("done", "") if _do(request, console) else ("stopped", "")
    except (UserError, TrainingStopped, ModuleNotFoundError) as error:
        console.print_exception()
        return "mistake", " ".join(str(error).split())
    except OSError as error:
        console.print_exception()
        return ("full disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mistake"), str(error)
    except Exception as error:  # a defect: the traceback is in the log, and the driver names it
        console.print_exception()
        return "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _do(request: Request, console: Console) -> bool:
    step = BY_NAME[request.step]
    job = StepJob(step, request.recipe, request.models, request.model_paths, console)
    record = request.record
    if not request.only_measure:
        job.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        result = step.work()(job)
        if result is None:
            return False
        record = record.model_copy(
            update={"result": result, "seconds": time.monotonic() - began, "peak_memory_bytes": _peak_bytes()}
        )
        record = seal_step(job.folder, record)
    if step.makes_model:
        measure_step(job, record)
    return True


def _peak_bytes() -> int:
    return 1024 * max(
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


class _Alone:
    """Lock of the process that works; waits for one that is about to end with its driver."""

    def __enter__(self) -> None:
        until = time.monotonic() + WAIT_FOR_LOCK_S
        while True:
            self._held = RunFolder(Path(LOCK_FOLDER)).held()
            try:
                self._held.__enter__()
                return
            except UserError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def __exit__(self, *about: object) -> None:
        self._held.__exit__(None, None, None)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def empty_result() -> StepResult:
    """Return the result that stands in a record until the work is done."""
    return StepResult(what="", content=())
