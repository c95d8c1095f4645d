"""Detects the end of an action's effects: nothing has been loading for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any

from playwright.async_api import BrowserContext, ConsoleMessage, Request

# Requests that stay open indefinitely, or do not affect the page.
NOT_WAITED_FOR = frozenset({"eventsource", "media", "ping", "websocket", "manifest", "cspreport"})
# A page can send requests and errors without limit; beyond this they are ignored until the next call.
MAX_COUNTED = 1_000


class Loading:
    """Requests and console errors of one call; listens while it is an open context."""

    def __init__(self, context: BrowserContext) -> None:
        """Listen to the pages of `context`."""
        self.console_errors = 0
        self._context = context
        self._open: set[Request] = set()
        self._n_requests = 0
        self._changed = asyncio.Event()
        self._listeners: dict[Any, Callable[[Any], None]] = {}

    def __enter__(self) -> Loading:
        self._listeners = {
            "request": self._on_request,
            "requestfinished": self._on_end,
            "requestfailed": self._on_end,
            "console": self._on_console,
            "weberror": self._on_error,
        }
        for event, listener in self._listeners.items():
            self._context.on(event, listener)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ignore(*self._listeners)

    async def settled(self, quiet_s: float, limit_s: float) -> None:
        """Return when nothing was loading for `quiet_s` seconds, at the latest after `limit_s`."""
        clock = asyncio.get_running_loop().time
        end = clock() + limit_s
        quiet = False
        while not quiet and clock() < end:
            self._changed.clear()
            try:
                async with asyncio.timeout_at(min(end, clock() + quiet_s) if not self._open else end):
                    await self._changed.wait()
            except TimeoutError:
                quiet = not self._open

    def _on_request(self, request: Request) -> None:
        self._n_requests += 1
        if self._n_requests > MAX_COUNTED:
            self._open.clear()
            self._ignore("request", "requestfinished", "requestfailed")
        elif request.resource_type not in NOT_WAITED_FOR:
            self._open.add(request)
        self._changed.set()

    def _on_end(self, request: Request) -> None:
        self._open.discard(request)
        self._changed.set()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._on_error(message)

    def _on_error(self, error: object) -> None:
        self.console_errors += 1
        if self.console_errors >= MAX_COUNTED:
            self._ignore("console", "weberror")

    def _ignore(self, *events: Any) -> None:
        for event in events:
            listener = self._listeners.pop(event, None)
            if listener is not None:
                self._context.remove_listener(event, listener)
