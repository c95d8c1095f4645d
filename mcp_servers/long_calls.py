"""What a long call does besides returning: it says how far it is, and it ends when nobody waits for it.

A tool's function does not see the protocol. It calls `report_progress` (on a worker thread) or
`report_progress_async` (on the event loop); both do nothing outside a call, so that the function can be used and
tested as it is. A client that has not asked for progress is sent none. (MCP 2026-07-28, Progress, Cancellation.)
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio import from_thread

_Result = TypeVar("_Result")
Report = Callable[[float, float | None, str | None], Coroutine[Any, Any, None]]

_report: ContextVar[Report | None] = ContextVar("report", default=None)


@contextmanager
def reporting(report: Report) -> Iterator[None]:
    """Send what the code inside reports to `report`; worker threads started inside see it too."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


def report_progress(done: float, total: float | None = None, message: str | None = None) -> None:
    """Report from a worker thread, and end the call if it was cancelled.

    Args:
        done: Grows from report to report.
        total: Where `done` ends, if that is known.
        message: What is being done.

    Raises:
        BaseException: the event loop's own "cancelled"; let it pass.
    """
    report = _report.get()
    if report is not None:
        from_thread.check_cancelled()
        from_thread.run(report, done, total, message)


async def report_progress_async(done: float, total: float | None = None, message: str | None = None) -> None:
    """Report from a coroutine; a cancelled call ends here by itself."""
    report = _report.get()
    if report is not None:
        await report(done, total, message)


async def run_stoppable(call: Callable[[], _Result], stop: Callable[[], None]) -> _Result:
    """Run a blocking call on a worker thread; where its caller is cancelled, `stop` makes it end early.

    Args:
        call: What to run.
        stop: Ends it from outside, for example by killing the process that it waits for.

    Raises:
        Exception: What `call` raises.
    """
    outcome: list[_Result | Exception] = []

    async def stop_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if not outcome:
                stop()

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:  # goes on below, outside the task group, which would wrap it
            outcome.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_when_cancelled)
        await anyio.to_thread.run_sync(run)
        tasks.cancel_scope.cancel()
    await anyio.lowlevel.checkpoint_if_cancelled()  # the thread was waited for all the same
    (result,) = outcome
    if isinstance(result, Exception):
        raise result
    return result
