"""A run of the browser: tunnel, Playwright's driver, Chromium and its pages, started and ended together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import anyio
from playwright.async_api import BrowserContext, CDPSession, Error, async_playwright

from mcp_servers.browser.chromium import OWN_HOSTS, Settings, launch
from mcp_servers.browser.happenings import plain
from mcp_servers.browser.memory import MemoryGuard
from mcp_servers.browser.pages import Pages
from mcp_servers.browser.policy import AllowedOrigins, Limits, Origin
from mcp_servers.browser.results import Account, Blocked
from mcp_servers.browser.tunnel import Tunnel
from mcp_servers.browser.walls import check_walls

# Chromium ends within a tenth of a second. Parts that are still running then end with the pipe.
CLOSE_TIMEOUT_S = 5.0
PING_TIMEOUT_S = 3.0
MAX_BLOCKED_HOSTS = 20
MAX_SHOWN_URL_CHARS = 1_000


class RunningBrowser:
    """A Chromium with one set of cookies, in memory."""

    def __init__(
        self,
        tunnel: Tunnel,
        session: CDPSession,
        context: BrowserContext,
        pages: Pages,
        guard: MemoryGuard,
        parts: AsyncExitStack,
    ) -> None:
        """Take ownership of the parts from `start_browser`; closing `parts` ends them."""
        self.context = context
        self.pages = pages
        self._tunnel = tunnel
        self._session = session
        self._guard = guard
        self._parts = parts

    async def is_alive(self) -> bool:
        """Return whether Chromium and Playwright's driver still answer."""
        with suppress(Error), anyio.move_on_after(PING_TIMEOUT_S):
            await self._session.send("Browser.getVersion")
            return True
        return False

    def is_full(self) -> bool:
        """Return whether Chromium itself holds so much that the next page would have to end for it."""
        return self._guard.is_main_full()

    async def account(self) -> Account:
        """Return the page's address and the events since the last account."""
        happenings = self.pages.take_happenings()
        refused = self._tunnel.take_traffic().refused
        url, title = await self.pages.address()
        return Account(
            url=plain(url, MAX_SHOWN_URL_CHARS),
            title=plain(title),
            events=happenings.told(),
            blocked=[
                Blocked(host=plain(host), port=port, connections=connections)
                for (host, port), connections in refused.most_common(MAX_BLOCKED_HOSTS)
                if host not in OWN_HOSTS
            ],
            console_errors=happenings.console_errors,
        )

    def why_failed(self, origin: Origin) -> str:
        """Return why the tunnel did not connect to an allowed origin; empty if it did."""
        return self._tunnel.traffic.failed.get((origin.host, origin.port), "")

    async def close(self) -> None:
        """End everything, and wait for it."""
        await self._parts.aclose()


async def start_browser(settings: Settings, allowed: AllowedOrigins, limits: Limits) -> RunningBrowser:
    """Start Chromium with a page.

    Raises:
        playwright.async_api.Error: It does not start.
        ToolFailure: It starts, but bypasses the tunnel.
        TimeoutError: It starts, but does not answer.
    """
    parts = AsyncExitStack()
    try:
        tunnel = Tunnel(allowed)
        parts.push_async_callback(_ended, tunnel.close)
        port = await tunnel.start()
        playwright = await async_playwright().start()
        parts.push_async_callback(_ended, playwright.stop)
        browser = await launch(playwright, settings, port)
        parts.push_async_callback(_ended, browser.close)
        context = await browser.new_context(
            viewport={"width": settings.width, "height": settings.height},
            device_scale_factor=1,
            accept_downloads=False,
            service_workers="block",
            permissions=[],
        )
        context.set_default_timeout(limits.action_timeout_s * 1_000)
        context.set_default_navigation_timeout(limits.load_timeout_s * 1_000)
        await check_walls(context, tunnel, port)
        pages = Pages(context, allowed)
        parts.push_async_callback(_ended, pages.close)
        session = await browser.new_browser_cdp_session()
        guard = MemoryGuard(await _main_process(session), limits.max_memory_bytes, pages.end_for_memory)
        parts.callback(guard.close)
        await pages.open_first()
        return RunningBrowser(tunnel, session, context, pages, guard, parts)
    except BaseException:
        await parts.aclose()
        raise


async def _main_process(session: CDPSession) -> int:
    """Return the id of Chromium's main process."""
    processes = (await session.send("SystemInfo.getProcessInfo"))["processInfo"]
    return next(process["id"] for process in processes if process["type"] == "browser")


async def _ended(close: Callable[[], Awaitable[None]]) -> None:
    """End one part, even in a cancelled call, and even if it has ended already."""
    with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
        with suppress(Error):  # the browser was gone before
            await close()
