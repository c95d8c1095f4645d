"""The process that evaluates the model behind a supervised server: started, watched, and started again.

The worker is `modelstack serve --worker SOCKET`: the same server, which listens on a Unix socket. It prints a line
of JSON when it is ready, and ends when its standard input does, so it does not outlive the server in front of it.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
from anyio.abc import Process

from modelstack.inference.server.errors import ApiError

logger = logging.getLogger(__name__)

N_FAILED_STARTS = 3
"""Starts in a row without a ready worker after which the server gives up."""
PAUSE_S = 1.0
"""Seconds before a start that follows a failed one."""
RESTART_WAIT_S = 120.0
"""Seconds that a request waits for a new worker."""
END_S = 10.0
"""Seconds that a worker has to end by itself."""


@dataclass(eq=False)
class Worker:
    """A ready worker."""

    process: Process
    client: httpx.AsyncClient
    """Client of its socket."""
    told: dict[str, Any]
    """Line that it printed when it was ready."""
    ended: anyio.Event = field(default_factory=anyio.Event)

    async def has_ended(self) -> bool:
        """Return whether it has ended, after a moment for a process that is ending."""
        with anyio.move_on_after(1.0):
            await self.ended.wait()
        return self.ended.is_set()


class Supervisor:
    """Owner of the worker. Used on one event loop."""

    def __init__(self, arguments: Sequence[str], folder: Path, max_waiting: int) -> None:
        """Supervise a worker.

        Args:
            arguments: Arguments of `modelstack` that serve the model, without `--worker`.
            folder: Private folder for sockets.
            max_waiting: Maximum number of requests that wait for a worker.
        """
        self._arguments, self._folder, self._max_waiting = list(arguments), folder, max_waiting
        self._worker: Worker | None = None
        self._changed = anyio.Event()
        """Set when a worker is ready, or when none will be."""
        self._n_waiting = 0
        self.n_restarts = 0
        self.given_up = anyio.Event()
        """Set when no worker could be started; the standard error of each says why."""

    @property
    def is_ready(self) -> bool:
        """Whether a worker answers requests now."""
        return self._worker is not None

    async def worker(self) -> Worker:
        """Return the ready worker; waits for one that is starting.

        Raises:
            ApiError: Too many requests wait for it, it takes too long, or none can be started.
        """
        if self._worker is None and self._n_waiting >= self._max_waiting:
            message = f"{self._n_waiting} requests wait until the model is loaded again; try again later"
            raise ApiError(429, message)
        self._n_waiting += 1
        try:
            with anyio.move_on_after(RESTART_WAIT_S):
                while self._worker is None and not self.given_up.is_set():
                    await self._changed.wait()
        finally:
            self._n_waiting -= 1
        if self._worker is None:
            raise ApiError(503, "the model is being loaded again; try again later", None, "model_loading")
        return self._worker

    async def first(self) -> dict[str, Any] | None:
        """Return what the first worker tells when it is ready; None: it ended before."""
        await self._changed.wait()
        return None if self._worker is None else self._worker.told

    async def run(self) -> None:
        """Keep a worker running until this is cancelled, or until none can be started."""
        number, n_failed = 0, 0
        while True:
            number += 1
            async with self._started(self._folder / f"{number}.sock") as worker:
                if worker is not None:
                    n_failed = 0
                    self._worker = worker
                    self._changed.set()
                    status = await worker.process.wait()
                    logger.error("the process that evaluates the model ended with status %d", status)
            n_failed += worker is None
            if worker is None and (number == 1 or n_failed == N_FAILED_STARTS):
                self.given_up.set()
                self._changed.set()
                return
            await anyio.sleep(PAUSE_S if worker is None else 0)
            self.n_restarts += 1

    @asynccontextmanager
    async def _started(self, socket: Path) -> AsyncIterator[Worker | None]:
        """Start a worker, and yield it when it is ready; None: it ended before. Ends it when the block is left."""
        command = [sys.executable, "-m", "modelstack", *self._arguments, "--worker", str(socket)]
        process = await anyio.open_process(command, stderr=None, start_new_session=True)
        try:
            told = await _first_line(process)
            if told is None:
                yield None
                return
            # No connection is used twice: the worker could close it at the moment of the second use.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=limits)
            async with httpx.AsyncClient(transport=transport, base_url="http://worker", timeout=None) as client:
                worker = Worker(process, client, told)
                try:
                    yield worker
                finally:
                    self._worker, self._changed = None, anyio.Event()
                    worker.ended.set()
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)
                socket.unlink(missing_ok=True)


async def _first_line(process: Process) -> dict[str, Any] | None:
    """Return what a worker tells when it is ready; None: it ended before."""
    assert process.stdout is not None
    content = b""
    while not content.endswith(b"\n"):
        try:
            content += await process.stdout.receive()
        except anyio.EndOfStream:
            return None
    return json.loads(content)


async def _end(process: Process) -> None:
    """End a process: by the end of its input, and by force if that takes too long."""
    assert process.stdin is not None
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(END_S):
            await process.wait()
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    await process.aclose()
