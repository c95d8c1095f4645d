"""A background event loop for synchronous callers, so that `run_sync` works everywhere.

Notebooks and web servers already run a loop in the calling thread, where a second loop cannot start; a loop in its
own thread always can. The loop is shared, so that connections kept open between calls stay usable.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

T = TypeVar("T")

_lock = threading.Lock()
_stack: ExitStack | None = None
_portal: BlockingPortal | None = None
_owner_pid: int | None = None


def run(function: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function on the background loop and wait for it; interrupting the wait cancels it."""
    from anyio.from_thread import start_blocking_portal

    portal = _shared_portal()
    if portal._event_loop_thread_id == threading.get_ident():  # pyright: ignore[reportPrivateUsage]
        # Called from a coroutine of the background loop itself: waiting for that loop would deadlock.
        with start_blocking_portal() as own:
            return own.call(function)
    future = portal.start_task_soon(function)
    try:
        return future.result()
    except BaseException:
        if not future.done():
            future.cancel()
            _wait_until_stopped(portal)
        raise


def enter(context: AbstractAsyncContextManager[T]) -> AbstractContextManager[T]:
    """Return a synchronous view of `context`, entered and left in one task of the background loop."""
    return _shared_portal().wrap_async_context_manager(context)


@contextmanager
def opened(context: AbstractAsyncContextManager[T]) -> Generator[tuple[T, BlockingPortal]]:
    """Enter `context` on the background loop; yield what it yields, and the way to call functions beside it."""
    from anyio.from_thread import start_blocking_portal

    with ExitStack() as stack:
        portal = _shared_portal()
        if portal._event_loop_thread_id == threading.get_ident():  # pyright: ignore[reportPrivateUsage]
            portal = stack.enter_context(start_blocking_portal())  # see `run`
        yield stack.enter_context(portal.wrap_async_context_manager(context)), portal


def _wait_until_stopped(portal: BlockingPortal) -> None:
    """Wait until the loop has delivered a cancellation."""

    async def nothing() -> None:
        return None

    portal.call(nothing)


def _shared_portal() -> BlockingPortal:
    from anyio.from_thread import start_blocking_portal

    global _portal, _stack, _owner_pid
    with _lock:
        if _portal is None or _owner_pid != os.getpid():  # a forked child has no such thread
            _stack = ExitStack()
            _portal = _stack.enter_context(start_blocking_portal())
            _owner_pid = os.getpid()
            atexit.register(_stop, _owner_pid)
        return _portal


def _stop(pid: int) -> None:
    if _stack is not None and pid == os.getpid():
        _stack.close()
