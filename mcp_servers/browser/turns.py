"""Serialises calls to the browser: one at a time, each with a deadline and a report of events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from playwright.async_api import Error, Page

from mcp_servers.browser.chromium import Settings
from mcp_servers.browser.explaining import explain
from mcp_servers.browser.loading import Loading
from mcp_servers.browser.policy import AllowedOrigins, Limits
from mcp_servers.browser.results import Acted
from mcp_servers.browser.running import RunningBrowser, start_browser
from mcp_servers.failures import ToolFailure

Seen = TypeVar("Seen")
Deed = Callable[[RunningBrowser, Page], Awaitable[str]]
View = Callable[[RunningBrowser, Page], Awaitable[Seen]]

OPEN_FIRST = "Call open first."
NO_ANSWER = "The page does not answer; a script of it may run without end."
ENDED = "The browser has ended, and its page with it."


class Turns:
    """Owner of the browser: starts it at the first `open`, and again at the next one after it has ended."""

    def __init__(self, settings: Settings, allowed: AllowedOrigins, limits: Limits) -> None:
        """Use `settings` whenever a browser is started."""
        self._settings = settings
        self._allowed = allowed
        self._limits = limits
        self._lock = anyio.Lock()
        self._running: RunningBrowser | None = None
        self._why_new = ""
        """Why the browser before is gone; empty if there was none."""

    async def open(self, deed: Deed) -> Acted:
        """Act on the page, or on a new one if none answers."""
        async with self._turn():
            browser = await self._ready_to_open()
            try:
                return await self._done(deed, browser)
            except (Error, ToolFailure):
                if not browser.pages.broken:
                    raise
            # The previous page may have broken while it was left; a page that breaks itself does so again.
            return await self._done(deed, await self._ready_to_open())

    async def act(self, deed: Deed) -> Acted:
        """Act on the page; `deed` returns a description of the action."""
        async with self._turn():
            return await self._done(deed, await self._with_page())

    async def see(self, view: View[Seen]) -> Seen:
        """Return a view of the page."""
        async with self._turn():
            browser = await self._with_page()
            with anyio.fail_after(self._limits.deed_timeout_s):
                return await view(browser, browser.pages.shown)

    async def close(self) -> None:
        """End the browser."""
        running, self._running = self._running, None
        if running is not None:
            await running.close()

    async def _done(self, deed: Deed, browser: RunningBrowser) -> Acted:
        with Loading(browser.context) as loading:
            try:
                with anyio.fail_after(self._limits.deed_timeout_s):
                    done = await self._acted(deed, browser)
                await loading.settled(self._limits.quiet_s, self._limits.settle_s)
                await browser.pages.receive_windows()
            finally:
                browser.pages.happenings.console_errors += loading.console_errors
        return Acted(done=done, **dict(await browser.account()))

    async def _acted(self, deed: Deed, browser: RunningBrowser) -> str:
        page = browser.pages.shown
        try:
            return await deed(browser, page)
        except Error:
            # An action that closes its own window has succeeded; the window may be gone before Playwright confirms
            # it.
            if page.is_closed() and await browser.is_alive():
                return "the window closed over it"
            raise

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        async with self._lock:
            try:
                with anyio.fail_after(self._limits.call_timeout_s):
                    yield
            except TimeoutError as error:
                if self._running is not None:
                    self._running.pages.broken = NO_ANSWER
                raise ToolFailure(await self._with_account(f"{NO_ANSWER} {OPEN_FIRST}")) from error
            except Error as error:
                raise ToolFailure(await self._with_account(await self._explained(error))) from error
            except ToolFailure as failure:
                raise ToolFailure(await self._with_account(str(failure))) from failure

    async def _explained(self, error: Error) -> str:
        if self._running is None:
            return f"Chromium does not start: {explain(error)}"
        if not await self._running.is_alive():
            return f"{self._running.pages.broken or ENDED} {OPEN_FIRST}"
        return f"Not done: {explain(error)}"

    async def _with_account(self, failure: str) -> str:
        """Return the failure with the events, which may explain it."""
        if self._running is None:
            return failure
        try:
            with anyio.fail_after(self._limits.settle_s):
                happened = (await self._running.account()).happened()
        except (Error, TimeoutError):
            return failure
        return "\n".join([failure, *happened])

    async def _with_page(self) -> RunningBrowser:
        browser = self._running
        if browser is None:
            raise ToolFailure(f"No page is open. {OPEN_FIRST} Allowed: {self._allowed}.")
        alive = await browser.is_alive()
        if browser.pages.broken or not alive:
            raise ToolFailure(f"{browser.pages.broken or ENDED} {OPEN_FIRST}")
        await browser.pages.receive_windows()
        if not browser.pages.is_open:
            raise ToolFailure(f"The page was closed. {OPEN_FIRST}")
        return browser

    async def _ready_to_open(self) -> RunningBrowser:
        browser = self._running
        if browser is not None:
            self._why_new = await _why_unusable(browser)
            if self._why_new:
                await self.close()
        if self._running is None:
            browser = self._running = await start_browser(self._settings, self._allowed, self._limits)
            if self._why_new:
                browser.pages.happenings.tell(f"{self._why_new}; this is a new one, without cookies")
                self._why_new = ""
        assert browser is not None
        if not browser.pages.broken:
            await browser.pages.receive_windows()
        if browser.pages.broken or not browser.pages.is_open:
            browser.pages.happenings.tell("the page before did not answer any more; this is a new one")
            await browser.pages.open_first()
        return browser


async def _why_unusable(browser: RunningBrowser) -> str:
    """Return why the next page needs another browser; empty if it does not."""
    if not await browser.is_alive():
        return "the browser had ended"
    return "the browser held too much memory and was ended" if browser.is_full() else ""
