"""Calls of functions that an author wrote, at most a few at once.

A synchronous function runs on a worker thread; a coroutine function runs on the event loop.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread

_Value = TypeVar("_Value")
_Result = TypeVar("_Result")


async def limited_call(
    limiter: anyio.CapacityLimiter,
    finish: Callable[[_Value], _Result],
    function: Callable[..., _Value] | Callable[..., Awaitable[_Value]],
    *arguments: Any,
    **named: Any,
) -> _Result:
    """Return `finish(function(...))`; `finish` runs where the function did, because it takes time too.

    Raises:
        Exception: Any exception of `function` or `finish`.
    """
    if inspect.iscoroutinefunction(function):
        async with limiter:
            return finish(await function(*arguments, **named))
    plain = cast("Callable[..., _Value]", function)
    return await anyio.to_thread.run_sync(lambda: finish(plain(*arguments, **named)), limiter=limiter)
