"""Worker processes for trainings: fresh ones, without seconds of imports each.

A worker must be a process of its own (torch's threads, random numbers and memory), and must not be a fork of the
caller, because threads do not survive a fork. So workers are forks of a server that has imported torch and
computed nothing. The server's environment is that of its start.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext, SpawnContext

_PRELOADED = ("modelstack.train.run.launch", "torch.distributed.fsdp", "torch.distributed.tensor.parallel")


def worker_context() -> ForkServerContext | SpawnContext:
    """Return the `multiprocessing` context in which workers start in milliseconds; on Windows they are spawned."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context
