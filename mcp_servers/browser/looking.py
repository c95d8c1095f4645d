"""The page as an outline and as a screenshot."""

from __future__ import annotations

import struct
from contextlib import suppress

from playwright.async_api import Error, Frame, Page

from mcp_servers.browser.outline import outline_lines, page_of_lines
from mcp_servers.browser.policy import Limits
from mcp_servers.browser.references import References
from mcp_servers.browser.results import Outline, Screenshot
from mcp_servers.browser.running import RunningBrowser
from mcp_servers.failures import ToolFailure

# Playwright 1.65 joins the words around a <br> in its tree for models ("5<br>0" becomes "50"), unless the <br> has
# the role of presentation. The script returns the numbers of elements and characters.
_PREPARE = """() => {
    for (const br of document.querySelectorAll('br:not([role])')) br.setAttribute('role', 'none');
    return document.querySelectorAll('*').length + ' ' + document.documentElement.textContent.length;
}"""
_PNG_SIZE = struct.Struct(">II")  # width and height, after the signature and the header chunk's length and type
_PNG_SIZE_OFFSET = 16


async def outline(
    browser: RunningBrowser, page: Page, *, references: References, offset: int, limits: Limits
) -> Outline:
    """Return the outline from line number `offset` on.

    Raises:
        ToolFailure: The page is too large, or the outline is shorter.
    """
    if await page.locator("body, frameset").count() == 0:  # a drawing, or a document emptied by a script
        return Outline(lines=[], first_line=1, total_lines=0, **dict(await browser.account()))
    sizes = [await _prepared(frame) for frame in page.frames]
    n_elements, n_chars = (sum(counts) for counts in zip(*sizes, strict=True))
    if n_elements > limits.max_elements or n_chars > limits.max_page_chars:
        size = f"{n_elements} elements and {n_chars} characters"
        raise ToolFailure(f"The page has {size}, too many for an outline. Use screenshot.")
    tree = await page.aria_snapshot(mode="ai")
    number = references.renew((page, browser.pages.documents_seen))
    lines = outline_lines(tree, number, limits.max_line_chars)
    if offset > max(len(lines), 1):
        raise ToolFailure(f"The outline has {len(lines)} lines; offset {offset} is behind its end.")
    shown = page_of_lines(lines, offset, limits.max_outline_bytes)
    return Outline(lines=shown, first_line=offset, total_lines=len(lines), **dict(await browser.account()))


async def _prepared(frame: Frame) -> tuple[int, int]:
    """Prepare a frame for its outline; return its numbers of elements and characters, which it may misreport."""
    with suppress(Error):  # the frame is just loading
        n_elements, _, n_chars = str(await frame.evaluate(_PREPARE)).partition(" ")
        if n_elements.isdecimal() and n_chars.isdecimal():
            return int(n_elements), int(n_chars)
    return 0, 0


async def screenshot(browser: RunningBrowser, page: Page) -> Screenshot:
    """Return a screenshot of the visible part of the page."""
    png = await page.screenshot(type="png", scale="css")
    width, height = _PNG_SIZE.unpack_from(png, _PNG_SIZE_OFFSET)
    return Screenshot(png, width=width, height=height)
