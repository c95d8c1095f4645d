"""Actions at pixels of a screenshot: one pixel is one CSS pixel, because the device scale factor is 1."""

from __future__ import annotations

from typing import Literal

from playwright.async_api import Page

from mcp_servers.browser.running import RunningBrowser
from mcp_servers.failures import ToolFailure

Direction = Literal["down", "up", "left", "right"]
Button = Literal["left", "right", "middle"]

# Pages that follow the pointer miss a drag that arrives in one step.
DRAG_STEPS = 10
_TOWARDS = {"down": (0, 1), "up": (0, -1), "right": (1, 0), "left": (-1, 0)}


async def click_at(browser: RunningBrowser, page: Page, *, x: int, y: int, button: Button) -> str:
    """Click at a point."""
    _check(page, x, y)
    await page.mouse.click(x, y, button=button)
    return f"clicked at {x}, {y}" + ("" if button == "left" else f" with the {button} button")


async def move_to(browser: RunningBrowser, page: Page, *, x: int, y: int) -> str:
    """Move the pointer to a point."""
    _check(page, x, y)
    await page.mouse.move(x, y)
    return f"moved the pointer to {x}, {y}"


async def drag(browser: RunningBrowser, page: Page, *, from_x: int, from_y: int, to_x: int, to_y: int) -> str:
    """Press the left button at one point and release it at another."""
    _check(page, from_x, from_y)
    _check(page, to_x, to_y)
    await page.mouse.move(from_x, from_y)
    await page.mouse.down()
    try:
        await page.mouse.move(to_x, to_y, steps=DRAG_STEPS)
    finally:
        await page.mouse.up()
    return f"dragged from {from_x}, {from_y} to {to_x}, {to_y}"


async def scroll_at(
    browser: RunningBrowser, page: Page, *, x: int, y: int, direction: Direction, pixels: int
) -> str:
    """Turn the wheel over a point."""
    _check(page, x, y)
    across, down = _TOWARDS[direction]
    await page.mouse.move(x, y)
    await page.mouse.wheel(across * pixels, down * pixels)
    return f"scrolled {direction}"


async def scroll(browser: RunningBrowser, page: Page, *, direction: Direction, pixels: int) -> str:
    """Turn the wheel over the middle of the page."""
    width, height = _size(page)
    return await scroll_at(browser, page, x=width // 2, y=height // 2, direction=direction, pixels=pixels)


def _check(page: Page, x: int, y: int) -> None:
    width, height = _size(page)
    if not (0 <= x < width and 0 <= y < height):
        raise ToolFailure(f"{x}, {y} is not on the screenshot. x goes to {width - 1}, y to {height - 1}.")


def _size(page: Page) -> tuple[int, int]:
    size = page.viewport_size
    assert size is not None  # given when the context was made
    return size["width"], size["height"]
