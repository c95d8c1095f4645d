"""Worker processes for trainings: separate processes that start without seconds of imports.

A worker must be a separate process, because of torch's threads, random numbers and memory. It must not be a fork
of the caller, because threads do not survive a fork. Workers are therefore forks of a server that has imported
torch and computed nothing. The server keeps the environment of its start.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext, SpawnContext

PRELOADED = (
    "modelstack.train.run.launch",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "matplotlib.backends.backend_agg",  # curves of each run; 0.5 s
    "matplotlib.figure",
    "modelstack.frozen_imports",
)
"""Modules that the server imports before it is forked, in this order."""


def worker_context() -> ForkServerContext | SpawnContext:
    """Return the `multiprocessing` context for workers that start in milliseconds (on Windows: spawned)."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context
