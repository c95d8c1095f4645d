"""Replies in worker threads, their pieces on the event loop, within limits of number and time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.to_thread

from modelstack.inference.server.errors import ApiError, api_error
from modelstack.inference.server.metrics import Metrics
from modelstack.inference.server.turns import Piece, ServedReply

logger = logging.getLogger(__name__)
Work = Callable[[Callable[[Piece], None], Callable[[], bool]], ServedReply]
"""Writes a reply: receives a callback for pieces and one that tells whether to stop."""
Pieces = AsyncIterator[tuple[int, Piece | ServedReply]]
"""Pieces of replies with the number of their reply."""


def _closing() -> ApiError:
    return ApiError(503, "the server is shutting down; ask another one")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a server."""

    max_running: int = 8
    """Replies that are written at the same time."""
    max_waiting: int = 64
    """Replies that wait for their turn; further requests are refused."""
    reply_timeout_s: float = 600.0
    """Seconds from a request to the end of its reply."""
    body_timeout_s: float = 30.0
    max_body_bytes: int = 8_000_000
    send_timeout_s: float = 30.0
    """Seconds that a client may read nothing of a streamed reply."""


class Replies:
    """Owner of the running and waiting replies."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        """Start without replies."""
        self.limits = limits
        self._metrics = metrics
        self._limiter: anyio.CapacityLimiter | None = None
        self._n_asked = 0
        self.is_closing = False
        """Whether the server ends: no reply begins any more, and running ones stop at their next token."""

    @asynccontextmanager
    async def written(self, works: Sequence[Work]) -> AsyncIterator[Pieces]:
        """Write replies, and yield an iterator over their pieces; each reply ends with a `ServedReply`.

        Leaving the block stops them and waits until their threads have ended.

        Raises:
            ApiError: Too many requests wait, or the server ends. The iterator raises errors of the model, and one
                if the time is up.
        """
        if self.is_closing:
            raise _closing()
        if self._n_asked + len(works) > self.limits.max_running + self.limits.max_waiting:
            raise ApiError(429, f"{self._n_asked} replies are running or waiting already; try again later")
        if self._limiter is None:  # needs a running event loop
            self._limiter = anyio.CapacityLimiter(self.limits.max_running)
        queue = asyncio.Queue[tuple[int, Piece | ServedReply | BaseException]]()
        loop, stopped = asyncio.get_running_loop(), threading.Event()

        def put(index: int, found: Piece | ServedReply | BaseException) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, (index, found))

        def run(index: int, work: Work) -> None:
            try:
                found = None
                if not self._stops(stopped):
                    found = work(partial(put, index), lambda: self._stops(stopped))
                put(index, _closing() if self.is_closing or found is None else found)
            except BaseException as error:
                put(index, error)

        self._n_asked += len(works)
        self._metrics.asked.set(self._n_asked)
        try:
            async with anyio.create_task_group() as tasks:
                for index, work in enumerate(works):
                    tasks.start_soon(self._in_thread, partial(run, index, work))
                try:
                    yield self._received(queue, len(works))
                finally:
                    stopped.set()
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
        finally:
            self._n_asked -= len(works)
            self._metrics.asked.set(self._n_asked)

    async def _in_thread(self, run: Callable[[], None]) -> None:
        await anyio.to_thread.run_sync(run, limiter=self._limiter)

    def _stops(self, stopped: threading.Event) -> bool:
        return stopped.is_set() or self.is_closing

    async def _received(
        self, queue: asyncio.Queue[tuple[int, Piece | ServedReply | BaseException]], n_left: int
    ) -> Pieces:
        ends = anyio.current_time() + self.limits.reply_timeout_s
        while n_left:
            try:
                with anyio.fail_after(max(0.0, ends - anyio.current_time())):
                    index, found = await queue.get()
            except TimeoutError as error:
                raise api_error(error) from error
            if isinstance(found, BaseException):
                known = api_error(found)
                if known.status >= 500:
                    logger.error("a reply failed", exc_info=found)
                raise known from found
            if isinstance(found, ServedReply):
                n_left -= 1
                self._metrics.reply(found)
            yield index, found
