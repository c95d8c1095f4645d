"""Actions on an element of the outline. Playwright waits until it is visible, enabled, still and not covered."""

from __future__ import annotations

from playwright.async_api import Locator, Page

from mcp_servers.browser.happenings import quoted
from mcp_servers.browser.references import References
from mcp_servers.browser.running import RunningBrowser
from mcp_servers.failures import ToolFailure, suggestion

MAX_SHOWN_OPTIONS = 50
FORMS = "Dates are written as 2026-03-01, times as 14:30, both as 2026-03-01T14:30, colours as #ff0000."
MAX_OPTIONS = 5_000
# Kinds of <input> with a chooser: text in a wrong format leaves them empty.
CHOOSERS = frozenset({"color", "date", "datetime-local", "month", "range", "time", "week"})
_KIND_AND_VALUE = "element => typeof element.value === 'string' ? `${element.type}\\n${element.value}` : ''"
_LIST_OPTIONS = """(element, most) => element.tagName !== 'SELECT' ? []
    : Array.from(element.options).slice(0, most).map(option => `${option.text}\\n${option.value}`)"""


async def click(browser: RunningBrowser, page: Page, *, references: References, ref: str) -> str:
    """Click an element."""
    element, what = await references.find(page, ref)
    await element.click()
    return f"clicked {what}"


async def type_text(
    browser: RunningBrowser, page: Page, *, references: References, ref: str, text: str, submit: bool, clear: bool
) -> str:
    """Enter `text` in a field, replacing its content or after it, and press Enter if `submit`."""
    field, what = await references.find(page, ref)
    if clear:
        await field.fill(text)
        kind, held = await _held(field)
        if kind in CHOOSERS and held == "" and text.strip():
            raise ToolFailure(f"{what} does not take {text[:80]!r}. {FORMS}")
        what += f", which holds {quoted(held)}" if held not in (None, text) else ""
    else:
        await field.focus()
        await page.keyboard.press("Control+End")
        await page.keyboard.insert_text(text)
    if submit:
        await field.press("Enter")
    return f"typed into {what}" + (" and pressed Enter" if submit else "")


async def select_option(
    browser: RunningBrowser, page: Page, *, references: References, ref: str, value: str
) -> str:
    """Choose an option of a list by its label, or by its value in the form.

    Raises:
        ToolFailure: The option does not exist, or the element is not a list.
    """
    field, what = await references.find(page, ref)
    options = await _options(field)
    labels, values = [label for label, _ in options], [value for _, value in options]
    if not labels:
        raise ToolFailure(f"{what} is not a list of options that can be chosen by name. Use click.")
    if value in labels:
        await field.select_option(index=labels.index(value))
        return f"chose {quoted(value)} in {what}"
    if value in values:
        await field.select_option(index=values.index(value))
        return f"chose {quoted(labels[values.index(value)])} in {what}"
    shown = ", ".join(quoted(label) for label in labels[:MAX_SHOWN_OPTIONS])
    more = f" and {len(labels) - MAX_SHOWN_OPTIONS} more" if len(labels) > MAX_SHOWN_OPTIONS else ""
    meant = suggestion(value, labels)
    raise ToolFailure(f"{what} has no option {value!r}.{meant} Its options are: {shown}{more}.")


async def _held(field: Locator) -> tuple[str, str | None]:
    """Return the kind of a field and its value; None if it is not a form field."""
    kind, has_value, value = str(await field.evaluate(_KIND_AND_VALUE)).partition("\n")
    return kind, value if has_value else None


async def _options(field: Locator) -> list[tuple[str, str]]:
    """Return the label and value of each option of a list. The page can return arbitrary data to a script."""
    found = await field.evaluate(_LIST_OPTIONS, MAX_OPTIONS)
    texts = [str(text) for text in found] if isinstance(found, list) else []
    pairs = [text.partition("\n") for text in texts[:MAX_OPTIONS]]
    return [(" ".join(label.split()), value) for label, _, value in pairs]
