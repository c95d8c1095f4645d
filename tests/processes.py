"""Processes that a test starts, in milliseconds each (`modelstack.processes`)."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

from torch.multiprocessing.spawn import start_processes

from modelstack.processes import worker_context


def run_on_ranks(work: Callable[..., None], arguments: tuple[Any, ...], n_ranks: int) -> None:
    """Run `work(rank, *arguments)` in `n_ranks` processes and wait for them.

    Raises:
        ProcessExitedException: A process was killed or ended with another status than 0.
        ProcessRaisedException: A process raised.
    """
    start_processes(work, arguments, nprocs=n_ranks, start_method=worker_context().get_start_method())


def start(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start `work(*arguments)` in another process."""
    process = worker_context().Process(target=work, args=arguments)
    process.start()
    return process
