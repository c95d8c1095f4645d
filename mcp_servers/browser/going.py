"""Navigation, waiting for text, and keys."""

from __future__ import annotations

from playwright.async_api import Error, Page, Response
from playwright.async_api import TimeoutError as PlaywrightTimeout

from mcp_servers.browser.explaining import explain
from mcp_servers.browser.happenings import quoted
from mcp_servers.browser.policy import AllowedOrigins, Origin
from mcp_servers.browser.running import RunningBrowser
from mcp_servers.failures import ToolFailure

LOADED = "domcontentloaded"
# Time for a document to be parsed completely, after its first bytes have arrived.
READING_MS = 3_000


async def load(browser: RunningBrowser, page: Page, *, url: str, origin: Origin, allowed: AllowedOrigins) -> str:
    """Load a document.

    Raises:
        ToolFailure: It cannot be loaded.
    """
    try:
        response = await _arrived(page, url)
    except Error as error:
        refused = browser.pages.happenings.refused_documents
        if refused:
            there = quoted(refused[-1])
            raise ToolFailure(
                f"{quoted(url)} leads to {there}, which is not allowed. Allowed: {allowed}."
            ) from error
        reason = browser.why_failed(origin)
        raise ToolFailure(f"{origin} {reason}." if reason else f"{quoted(url)}: {explain(error)}") from error
    status = response.status if response is not None else 200
    opened = "opened" if status < 400 else f"opened, but the answer is HTTP {status}"
    try:
        await page.wait_for_load_state(LOADED, timeout=READING_MS)
    except PlaywrightTimeout:  # a slow page, or one whose script was denied a navigation
        return f"{opened}; it is still loading"
    return opened


async def _arrived(page: Page, url: str) -> Response | None:
    try:
        return await page.goto(url, wait_until="commit")
    except Error as error:
        if "interrupted by another navigation" not in str(error):
            raise
    # The previous address's error page arrived only now.
    return await page.goto(url, wait_until="commit")


async def back(browser: RunningBrowser, page: Page) -> str:
    """Go back by one document, or close a window that has no previous one."""
    if await page.go_back(wait_until=LOADED) is not None:
        return "went back"
    if await browser.pages.close_shown():
        return "closed the window"
    raise ToolFailure("There is no page before this one.")


async def wait_for(browser: RunningBrowser, page: Page, *, text: str, seconds: int) -> str:
    """Wait until a text is visible."""
    try:
        await page.get_by_text(text).first.wait_for(state="visible", timeout=seconds * 1_000)
    except PlaywrightTimeout:
        raise ToolFailure(f"{quoted(text)} did not appear within {seconds} s. Call outline.") from None
    return f"{quoted(text)} is there"


async def press_key(browser: RunningBrowser, page: Page, *, key: str) -> str:
    """Press a key or a key combination."""
    await page.keyboard.press(key)
    return f"pressed {quoted(key)}"


async def type_keys(browser: RunningBrowser, page: Page, *, text: str) -> str:
    """Press a key for each character."""
    await page.keyboard.type(text)
    return f"typed {len(text)} characters"
