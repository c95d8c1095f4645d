"""Progress reports and cancellation of long tool calls.

A tool's function does not see the protocol. It calls `report_progress` (on a worker thread) or
`report_progress_async` (on the event loop). Both do nothing outside a call, so the function can be used and tested
alone. Progress is sent only to clients that asked for it. (MCP 2026-07-28, Progress, Cancellation.)
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
    """Send progress reports of the enclosed code to `report`; worker threads started inside inherit it."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


def report_progress(done: float, total: float | None = None, message: str | None = None) -> None:
    """Report from a worker thread, and end the call if it was cancelled.

    Args:
        done: Amount done; grows from report to report.
        total: Final value of `done`, if known.
        message: Description of the current step.

    Raises:
        BaseException: The event loop's cancellation error; do not catch it.
    """
    report = _report.get()
    if report is not None:
        from_thread.check_cancelled()
        from_thread.run(report, done, total, message)


async def report_progress_async(done: float, total: float | None = None, message: str | None = None) -> None:
    """Report from a coroutine; if the call was cancelled, it ends here."""
    report = _report.get()
    if report is not None:
        await report(done, total, message)


async def run_stoppable(call: Callable[[], _Result], stop: Callable[[], None]) -> _Result:
    """Run a blocking call on a worker thread; if the caller is cancelled, `stop` makes it end early.

    Args:
        call: The blocking call.
        stop: Ends the call from outside, for example by killing the process that it waits for.

    Raises:
        Exception: Any exception of `call`.
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
        except Exception as error:  # re-raised below, outside the task group, which would wrap it
            outcome.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_when_cancelled)
        await anyio.to_thread.run_sync(run)
        tasks.cancel_scope.cancel()
    await anyio.lowlevel.checkpoint_if_cancelled()  # the thread was awaited although the call was cancelled
    (result,) = outcome
    if isinstance(result, Exception):
        raise result
    return result
