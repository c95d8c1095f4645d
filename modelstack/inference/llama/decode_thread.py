"""A thread of its own for `llama_decode` on processors with AMX.

ggml configures a thread's AMX tiles at the thread's first product and never again. PyTorch's bfloat16 and int8
kernels release the tiles when they finish, so ggml's next product on the same thread is an illegal instruction,
which ends the process. On a thread that runs nothing else the configuration stays. OpenMP keeps a team of worker
threads for each thread that starts a parallel region, so the workers are not shared either.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any


class DecodeThread:
    """Calls a function on one thread, which runs nothing else; adds 20 microseconds to a call."""

    def __init__(self, function: Callable[..., int]) -> None:
        """Prepare the thread; it starts with the first call."""
        self._function = function
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llama_decode")

    def __call__(self, *arguments: Any) -> int:
        """Return the function's result, after it has ended even if the caller is interrupted."""
        call = self._executor.submit(self._function, *arguments)
        try:
            return call.result()
        except BaseException:
            wait([call])  # C still reads the batch, which the caller may change once this returns
            raise

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._executor.shutdown()
