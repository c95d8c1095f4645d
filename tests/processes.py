"""Processes that a test starts, in milliseconds each (`modelstack.processes`)."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.multiprocessing.spawn import start_processes

from modelstack.processes import PRELOADED, worker_context

_POST_TRAININGS = (
    "modelstack.cli",
    "modelstack.preferences.reward.run",
    "modelstack.preferences.run",
    "modelstack.reasoning.distil.run",
    "modelstack.reasoning.policy.run",
    "modelstack.reasoning.ppo.run",
    "modelstack.sft.run",
)
"""Modules whose imports would take 0.7 s in each process that runs one of their commands."""


def run_on_ranks(work: Callable[..., None], arguments: tuple[Any, ...], n_ranks: int) -> None:
    """Run `work(rank, *arguments)` in `n_ranks` processes and wait for them.

    Raises:
        ProcessExitedException: A process was killed or ended with another status than 0.
        ProcessRaisedException: A process raised.
    """
    start_processes(work, arguments, nprocs=n_ranks, start_method=start_method())


def start_method() -> str:
    """Return the method of `multiprocessing` that starts a process with these modules in milliseconds."""
    return _context().get_start_method()


def _context() -> ForkServerContext | SpawnContext:
    context = worker_context()
    if isinstance(context, ForkServerContext):
        context.set_forkserver_preload([*_POST_TRAININGS, *PRELOADED])
    return context


def start(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start `work(*arguments)` in another process."""
    process = _context().Process(target=work, args=arguments)
    process.start()
    return process


def modelstack(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in another process.

    Raises:
        subprocess.TimeoutExpired: It takes longer than five minutes.
    """
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "stdout"), Path(folder, "stderr")
        process = start(_modelstack, words, dict(os.environ), out, err)
        process.join(300)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, 300)
        texts = (file.read_text(encoding="utf-8") for file in (out, err))
        return subprocess.CompletedProcess(words, process.exitcode, *texts)


def _modelstack(arguments: Sequence[str], environment: dict[str, str], out: Path, err: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    run_modelstack(arguments)


def run_modelstack(arguments: Sequence[str]) -> None:
    """Run the command line in this process; a failure exits with its status."""
    from modelstack.cli import app

    try:
        app(list(arguments))
    except SystemExit as done:
        if done.code:
            raise
